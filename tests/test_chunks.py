"""Chunks of steps against Lightning's own loop: bit for bit the same training."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from fmnist import chunks, graphs, models, run
from fmnist.graphs import Replay

FAST = ["data.batch_size=50", "data.val_size=100", "trainer.max_epochs=3", "trainer=cpu"]

MOODY = ["model._target_=test_chunks.Moody"]
MOODY += [f"~model.{key}" for key in ("channels", "hidden", "dropout", "init")]

pytestmark = pytest.mark.usefixtures("small_data", "workdir")


def train(monkeypatch: pytest.MonkeyPatch, plain: bool, *overrides: str) -> Path:
    with monkeypatch.context() as patch:
        if plain:
            patch.setattr(chunks, "why_not", lambda *_: "this test")
        name = "plain" if plain else "chunked"
        return run.train([*FAST, f"name={name}", "figures=none", *overrides]).folder


def same(one: Any, other: Any, where: str = "") -> list[str]:
    """List where two checkpoints differ."""
    if isinstance(one, dict):
        keys = {*one, *other}
        return [d for k in keys for d in same(one.get(k), other.get(k), f"{where}.{k}")]
    if isinstance(one, list | tuple):
        pairs = zip(one, other, strict=True)
        return [d for i, (a, b) in enumerate(pairs) for d in same(a, b, f"{where}[{i}]")]
    equal = torch.equal(one, other) if isinstance(one, torch.Tensor) else repr(one) == repr(other)
    return [] if equal else [f"{where}: {one} != {other}"]


def state(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return loaded


def check_chunks(monkeypatch: pytest.MonkeyPatch, overrides: list[str]) -> None:
    folders = [train(monkeypatch, plain, *overrides) for plain in (True, False)]
    states = [state(folder) for folder in folders]
    for loaded in states:
        for row in loaded["callbacks"]["History"]["rows"]:
            row |= {"images_per_s": 0, "epoch_s": 0}
    assert same(*states) == []
    assert states[1]["global_step"] > 0


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.log_every_n_steps=3", "trainer.check_val_every_n_epoch=2", "optim=adam"],
        ["trainer.precision=32-true", "model.dropout=0.5", "augment=strong"],
        [
            *("optim=adam", "optim.optimizer.weight_decay=0.1"),
            "optim.optimizer.decoupled_weight_decay=true",
        ],
        [*MOODY, "trainer.precision=32-true"],
        ["augment=cutmix", "optim.label_smoothing=0.1"],
        ["callbacks.finetuning.frozen_epochs=1", "optim=adamw", "trainer.log_every_n_steps=4"],
    ],
    ids=" ".join,
)
def test_chunks_train_as_lightnings_loop_does(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    check_chunks(monkeypatch, overrides)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["trainer.log_every_n_steps=1000"],
        ["trainer.gradient_clip_val=0.1"],
        ["trainer.precision=bf16-mixed", "model.dropout=0.5", "augment=strong"],
        ["trainer.precision=bf16-true"],
        ["trainer.limit_train_batches=7"],
        ["trainer.overfit_batches=2"],
        ["data.val_size=0", "optim=sgd"],
        ["optim=muon", "optim.optimizer.weight_decay=0.1"],
        ["optim=adamw", "optim.optimizer.weight_decay=0.1", "optim.label_smoothing=0.1"],
        ["callbacks.early_stopping.patience=1"],
    ],
    ids=lambda overrides: " ".join(overrides) or "defaults",
)
def test_chunks_train_so_under_other_settings_too(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    check_chunks(monkeypatch, overrides)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches"),
        ("trainer.max_steps=5", "trainer.max_steps"),
        ("trainer.max_time=00:01:00:00", "the callback Timer"),
        ("trainer.val_check_interval=0.5", "trainer.val_check_interval"),
        ("trainer.val_check_interval='00:00:01:00'", "trainer.val_check_interval"),
        ("trainer.val_check_interval=5", "trainer.val_check_interval"),
        ("trainer.min_steps=5", "trainer.min_steps"),
        ("trainer.fast_dev_run=true", "trainer.fast_dev_run"),
        (
            "trainer.reload_dataloaders_every_n_epochs=1",
            "trainer.reload_dataloaders_every_n_epochs",
        ),
        ("trainer.profiler=simple", "trainer.profiler"),
        ("callbacks.ema.decay=0.9", "the callback EMAWeightAveraging"),
    ],
)
def test_what_needs_every_step_takes_lightnings_loop_and_says_so(
    capsys: pytest.CaptureFixture[str], override: str, reason: str
) -> None:
    folder = run.train([*FAST, "name=own", "figures=none", override]).folder
    note = f"Note: {reason} needs Lightning's own loop, which is slower."
    assert note in capsys.readouterr().err
    assert note in (folder / "train.log").read_text()


class Moody(nn.Module):
    """A network that uses one of its layers in some steps only."""

    def __init__(self) -> None:
        super().__init__()
        self.net = models.mlp(widths=[16], dropout=0.0, init="torch")
        self.extra = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        if self.training and random.random() < 0.5:
            logits = logits + self.extra(images.flatten(1) / 255)
        return logits


def test_a_slow_network_is_heard_of_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks end early, and the training is the same."""
    plain = train(monkeypatch, True)
    monkeypatch.setattr(chunks.EagerSteps, "MAX_S", 0.0)
    ends: list[int] = []
    advance = chunks.ChunkedLoop.advance

    def watched(self: chunks.ChunkedLoop, fetcher: Any) -> None:
        advance(self, fetcher)
        ends.append(self.batch_idx)

    monkeypatch.setattr(chunks.ChunkedLoop, "advance", watched)
    ours = state(train(monkeypatch, False))
    assert ends == [*range(10)] * 3
    assert same(ours["state_dict"], state(plain)["state_dict"]) == []
    assert same(ours["loops"], state(plain)["loops"]) == []


@pytest.mark.slow
def test_what_a_graph_cannot_repeat_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str | None] = []
    choose = chunks.ChunkedLoop._choose

    def note(self: chunks.ChunkedLoop, module: Any, batches: Any) -> Any:
        said.append(graphs.why_not(self.trainer, module))
        return choose(self, module, batches)

    monkeypatch.setattr(chunks.ChunkedLoop, "_choose", note)
    cases = {
        "trainer.precision=32-true": None,
        "model=mlp": None,
        "experiment=speedrun trainer=cpu model.channels=[8,8,8]": None,
        "optim=sgd": "this optimizer",
        "trainer.gradient_clip_val=1.0": "trainer.gradient_clip_val",
        "trainer.detect_anomaly=true": "trainer.detect_anomaly",
        " ".join(MOODY): "a network of your own",
    }
    for number, override in enumerate(cases):
        words = [f"name=case{number}", "trainer.max_epochs=1", "figures=none", *override.split()]
        run.train([*FAST, *words])
    assert said == [*cases.values()]


def test_nothing_is_said_of_an_ordinary_run(capsys: pytest.CaptureFixture[str]) -> None:
    run.train([*FAST, "name=ordinary", "figures=none"])
    assert "Note" not in capsys.readouterr().err


def test_a_callback_that_sees_batches_is_found() -> None:
    class Watch(pl.Callback):
        def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None: ...

    class Quiet(pl.Callback):
        def on_train_epoch_end(self, *_: Any) -> None: ...

    assert chunks._has_hooks_of_steps(Watch())
    assert not chunks._has_hooks_of_steps(Quiet())


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Train as on a GPU, less the capture itself: what `record` returns is called on the CPU."""

    def train_graphed(record: Callable[[Replay], Replay], *overrides: str) -> Path:
        def choose(self: chunks.ChunkedLoop, module: Any, batches: Any) -> graphs.GraphedSteps:
            return graphs.GraphedSteps(self.trainer, module, batches, self._say, record)

        with monkeypatch.context() as patch:
            patch.setattr(chunks.ChunkedLoop, "_choose", choose)
            return run.train([*FAST, "name=graphed", "figures=none", *overrides]).folder

    return train_graphed


@pytest.mark.parametrize(
    ("optimizer", "augment"), [("adam", "strong"), ("adamw", "cutmix"), ("muon", "flip")]
)
def test_steps_of_a_graph_are_the_steps_without(
    monkeypatch: pytest.MonkeyPatch, graphed: Callable[..., Path], optimizer: str, augment: str
) -> None:
    recorded = []

    def record(step: Replay) -> Replay:
        recorded.append(step)
        return step

    words = [f"optim={optimizer}", f"augment={augment}", "model.dropout=0.2"]
    words += ["trainer.precision=32-true"]
    eager = state(train(monkeypatch, False, *words))
    ours = state(graphed(record, "trainer.log_every_n_steps=4", *words))
    assert len(recorded) == 1
    atol = 1e-2 if optimizer == "muon" else 1e-3  # the smallest gradients move weights as far
    for name, weights in eager["state_dict"].items():  # rates are float32 on a device
        torch.testing.assert_close(ours["state_dict"][name], weights, rtol=1e-3, atol=atol)
    assert same(eager["loops"], ours["loops"]) == []
    schedulers = [s["lr_schedulers"][0] for s in (eager, ours)]
    groups = [s["optimizer_states"][0]["param_groups"][0] for s in (eager, ours)]
    for key, (one, other) in {"_last_lr": schedulers, "lr": groups}.items():
        assert one.pop(key) == pytest.approx(other.pop(key))
        assert same(one, other) == []
    rows, other_rows = (s["callbacks"]["History"]["rows"] for s in (eager, ours))
    near = 1e-2 if optimizer == "muon" else 1e-4  # its differences may tip an image or two of 500
    for row, other in zip(rows, other_rows, strict=True):
        for key in ("train/acc", "train/loss", "lr"):
            assert row[key] == pytest.approx(other[key], rel=near)


def test_a_graph_is_made_anew_when_the_backbone_is_freed(
    monkeypatch: pytest.MonkeyPatch, graphed: Callable[..., Path]
) -> None:
    recorded = []

    def record(step: Replay) -> Replay:
        recorded.append(step)
        return step

    words = ["callbacks.finetuning.frozen_epochs=1", "optim=adamw", "trainer.precision=32-true"]
    eager = state(train(monkeypatch, False, *words))
    ours = state(graphed(record, *words))
    assert len(recorded) == 2
    for name, weights in eager["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], weights, rtol=1e-3, atol=1e-3)


def test_a_network_that_cannot_be_recorded_trains_without(
    capsys: pytest.CaptureFixture[str], graphed: Callable[..., Path]
) -> None:
    def record(step: Replay) -> Replay:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    folder = graphed(record)
    note = "without a CUDA graph, which is slower: operation not permitted when stream is capturing"
    assert capsys.readouterr().err.count(note) == 1
    assert state(folder)["global_step"] == 30


def test_a_run_goes_on_from_a_checkpoint_of_graphed_steps(
    monkeypatch: pytest.MonkeyPatch, graphed: Callable[..., Path]
) -> None:
    folder = graphed(lambda step: step, "trainer.precision=32-true")
    whole = state(folder)
    data = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(data | {"status": "interrupted", "scores": {}}))
    shutil.copy(folder / "checkpoints" / "previous.ckpt", folder / "checkpoints" / "last.ckpt")
    run.resume(folder)  # without a graph
    for name, weights in whole["state_dict"].items():
        torch.testing.assert_close(state(folder)["state_dict"][name], weights, rtol=1e-3, atol=1e-3)
