"""A frozen backbone does not move, a freed one does, and a kill changes nothing of it."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fmnist import build, config, finetuning, models, proof, run
from fmnist.classifier import Classifier
from fmnist.errors import UsageError

FAST = ["data.batch_size=50", "data.val_size=100", "figures=none", "trainer=cpu"]
WORDS = [*FAST, "model=cnn_bn", "optim=adamw", "callbacks=finetuning", "trainer.max_epochs=4"]
NUM_STEPS = 10  # an epoch

pytestmark = pytest.mark.usefixtures("small_data", "workdir")


def settled(*words: str) -> dict[str, Any]:
    return config.settle(config.check(config.compose([*WORDS, *words])))


def net_state(path: Path) -> dict[str, Tensor]:
    loaded = torch.load(path, weights_only=True)["state_dict"]
    return {k.removeprefix("net."): v for k, v in loaded.items() if k.startswith("net.")}


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["optim=sgd", "optim.lr=0.05"], ["optim.decay=all"]])
def test_only_the_last_layer_learns_until_the_rest_is_freed(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    states = [build.net(settled(*words)).state_dict()]
    update = run.record.Record.update

    def keep(self: run.record.Record, **fields: Any) -> None:
        update(self, **fields)
        if "epochs_done" in fields:
            states.append(net_state(self.folder / "checkpoints" / "last.ckpt"))

    monkeypatch.setattr(run.record.Record, "update", keep)
    run.train([*WORDS, *words, "name=a"])
    moved = [
        {key for key in after if not torch.equal(before[key], after[key])}
        for before, after in itertools.pairwise(states)
    ]
    assert moved[0] == moved[1] == {"dense2.weight", "dense2.bias"}
    assert moved[2] == moved[3] == set(states[0]) - {"scale.divisor"}


def test_rates_and_decay_are_those_of_their_group() -> None:
    module = build.classifier(settled("optim.lr=0.01", "callbacks.finetuning.lr_ratio=0.2"))
    groups = module._groups(spares=True)
    given = [(g.get("lr"), g.get("weight_decay"), len(g["params"])) for g in groups]
    assert given == [(0.002, None, 3), (0.002, 0.0, 6), (None, None, 1), (None, 0.0, 1)]
    every = [id(p) for g in groups for p in g["params"]]
    assert groups[2]["params"][0] is models.last_layer(module.net)[1].weight
    assert sorted(every) == sorted(id(p) for p in module.net.parameters())


class Killed(BaseException):
    """Ends a run as a kill would: nothing after it is executed."""


@pytest.fixture
def whole() -> Path:
    """The run that was never killed."""
    return run.train([*WORDS, "name=whole"]).folder


KILLS = {  # after how many steps of each attempt
    "thrice": [NUM_STEPS + 4, NUM_STEPS + 1, NUM_STEPS + 2],
    "frozen": [NUM_STEPS + 4],
    "freeing": [2 * NUM_STEPS],
    "freed": [2 * NUM_STEPS + 4],
    "later": [3 * NUM_STEPS + 1],
}


@pytest.mark.slow
@pytest.mark.parametrize("kills", KILLS.values(), ids=KILLS)
def test_killed_around_the_freeing_equals_uninterrupted(
    whole: Path, monkeypatch: pytest.MonkeyPatch, kills: list[int]
) -> None:
    check_kills(whole, [*WORDS, "name=killed"], kills, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["callbacks.ema.decay=0.9"],
        ["optim=sgd", "optim.lr=0.05", "trainer.gradient_clip_val=1.0"],
        ["model=wide_resnet", "model.depth=10", "model.width=1", "model.dropout=0.5"],
        ["model=transfer", "model.arch=shufflenet_v2_x0_5", "model.size_px=32"],
    ],
    ids=" ".join,
)
def test_so_it_is_under_other_settings(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    words = [*WORDS, *words]
    words += ["model.weights=null"] if "model=transfer" in words else []
    whole = run.train([*words, "name=whole"]).folder
    kills = [NUM_STEPS + 4, NUM_STEPS + 1, NUM_STEPS + 2]
    check_kills(whole, [*words, "name=killed"], kills, monkeypatch)


def check_kills(
    whole: Path, words: list[str], kills: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Classifier.training_step
    for number in kills:
        left = [number]

        def die(self: Classifier, *given: Any, left: list[int] = left) -> Tensor:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return step(self, *given)

        with monkeypatch.context() as patch:
            patch.setattr(Classifier, "training_step", die)
            with pytest.raises(Killed):
                run.train(words)
    killed = run.train(words)
    assert len(killed.data["attempts"]) == len(kills) + 1
    assert proof.differences(whole, killed.folder) == []
    one, other = (
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
        for f in (whole, killed.folder)
    )
    assert one["state"].keys() == other["state"].keys()
    for index, values in one["state"].items():
        for name, value in values.items():
            assert torch.equal(value, other["state"][index][name])


def test_a_frozen_batch_norm_normalises_by_what_it_knows() -> None:
    net = build.net(settled()).train()
    finetuning._set_learning(net, False)
    norms = [layer for layer in net.modules() if isinstance(layer, _BatchNorm)]
    assert norms
    assert not any(layer.training for layer in norms)
    images = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8)
    features = net[:-2]  # less dropout and the last layer
    torch.testing.assert_close(features(images)[:1], features(images[:1]))
    finetuning._set_learning(net, True)
    assert all(layer.training for layer in norms)


@pytest.mark.parametrize(
    "words",
    [
        ["model=wide_resnet", "model.depth=10", "model.width=1", "model.dropout=0.5"],
        ["model=torchvision", "model.arch=efficientnet_b0", "model.size_px=32"],
        ["model=cnn", "model.dropout=0.5"],
    ],
    ids=["dropout", "stochastic depth", "blocks"],
)
def test_the_features_of_an_image_are_the_same_while_frozen(words: list[str]) -> None:
    net = build.net(settled(*words))
    seen: list[Tensor] = []
    head = models.last_layer(net)[1]
    head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    finetuning._set_learning(net, False)
    assert head.training
    _ = net(images), net(images)
    assert torch.equal(seen[0], seen[1])
    finetuning._set_learning(net, True)
    assert all(layer.training for layer in net.modules())
    _ = net(images), net(images)
    assert not torch.equal(seen[2], seen[3])


def test_several_processes_cannot_freeze() -> None:
    with pytest.raises(UsageError, match=r"frozen_epochs must be null or 0 where several proc"):
        run.train([*WORDS, "trainer=ddp", "trainer.accelerator=cpu", "name=a"])
    assert not Path("runs/a").exists()


class Headless(nn.Sequential):
    """A network of one's own that ends in a norm."""

    def __init__(self) -> None:
        super().__init__(Bytes(), nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(10))


class Bytes(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images / 255


def test_a_network_whose_last_layer_is_none_is_explained() -> None:
    own = ["model._target_=test_finetuning.Headless"]
    own += [f"~model.{key}" for key in ("channels", "hidden", "dropout")]
    with pytest.raises(UsageError, match=r"has weights, 3, must be a Linear or Conv2d with 10 out"):
        run.train([*WORDS, *own, "name=a"])


def test_off_it_changes_nothing() -> None:
    values = settled("callbacks=default", "callbacks.finetuning.lr_ratio=0.5")
    module = build.classifier(values)
    assert [len(g["params"]) for g in module._groups(spares=False)] == [11]
    assert not any(isinstance(c, finetuning.Finetuning) for c in build._chosen_callbacks(values))
