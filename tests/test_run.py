"""Runs from start to end on the small data, in this process."""

import csv
import json
import os
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fmnist import classifier, config, process, record, run
from fmnist.callbacks import Checkpoints
from fmnist.errors import Interrupted, UsageError, UserError
from fmnist.lock import Lock
from fmnist.restoring import resume_point

pytestmark = pytest.mark.usefixtures("small_data", "workdir")

FAST = ["data.batch_size=50", "data.val_size=100", "trainer.max_epochs=2", "trainer=cpu"]
WHOLE = [*FAST, "data.batch_size=25", "optim.lr=0.02"]
EVERYTHING = [  # all that resuming has to carry
    *FAST,
    "trainer.max_epochs=4",
    "augment=strong",
    "augment.cutmix=0.5",
    "model.dropout=0.3",
    "callbacks.early_stopping.patience=3",
    "figures=none",
]


NO_ARGUMENTS = [f"~model.{name}" for name in ("channels", "hidden", "dropout", "init")]


def weights(folder: Path, name: str = "best") -> dict[str, torch.Tensor]:
    path = folder / "checkpoints" / f"{name}.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]  # type: ignore[no-any-return]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("images_per_s", "epoch_s")} for row in table]


def assert_equal_ends(one: Path, other: Path) -> None:
    for name in ("best", "last"):
        a, b = weights(one, name), weights(other, name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    assert rows(one) == rows(other)
    assert record.read(one).scores == record.read(other).scores


def hashes(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def forget_overrides(folder: Path, *keys: str) -> None:
    """Make `folder` that of a run for which `keys` were the defaults."""
    path = folder / "run.json"
    data = json.loads(path.read_text())
    data["overrides"] = [w for w in data["overrides"] if w.partition("=")[0] not in keys]
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "words",
    [
        ["model=cnn_bn"],
        ["model=torchvision", "model.arch=shufflenet_v2_x0_5", "model.size_px=28"],
    ],
)
def test_batch_norm_with_batches_of_one_image_is_explained(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FAST, *words, "data.batch_size=1", "figures=none", "name=one"]
    with pytest.raises(UserError, match=r"got data.batch_size=1\. Set data.batch_size >= 2"):
        run.train(words)
    assert "This is a bug" not in capsys.readouterr().err
    assert not Path("runs/one/error.txt").exists()
    assert record.read(Path("runs/one")).status == "failed"


def test_a_run_of_other_defaults_goes_on_and_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*FAST, "model=mlp", "optim=adam", "augment=none", "figures=none"]
    whole = run.train([*words, "name=whole"])
    update = record.Record.update

    def die(self: record.Record, **fields: Any) -> None:
        update(self, **fields)
        if fields.get("epochs_done") == 1:
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(record.Record, "update", die)
        with pytest.raises(SystemExit):
            run.train([*words, "name=old"])
    forget_overrides(Path("runs/old"), "model", "optim", "augment")
    old = run.resume("runs/old")
    assert [attempt["start_epoch"] for attempt in old.data["attempts"]] == [0, 1]
    assert old.data["config"] == {**whole.data["config"], "name": "old"}
    assert old.scores == whole.scores
    assert run.load("runs/old").evaluate("val")["val/acc"] == whole.scores["val/acc"]


@pytest.fixture(scope="module")
def finished(small_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole run that several tests look at and none changes."""
    with pytest.MonkeyPatch.context() as patch:
        import small

        from fmnist import sources

        patch.setattr(sources, "FILES", small.checksums(small_files))
        patch.setenv("FMNIST_SYSTEM_DIR", str(small_files))
        patch.setenv("FMNIST_DATA", str(tmp_path_factory.getbasetemp() / "data"))
        patch.chdir(tmp_path_factory.mktemp("finished"))
        run.train([*WHOLE, "name=whole", "note=hello"])
        return Path("runs/whole").resolve()


def test_run_learns(finished: Path) -> None:
    assert record.read(finished).scores["test/acc"] > 0.9


def test_run_leaves_what_the_contract_says(finished: Path) -> None:
    files = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    events = {f for f in files if f.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert files - events == {
        "run.json",
        "metrics.csv",
        "train.log",
        *(f"checkpoints/{name}.ckpt" for name in ("best", "last", "previous")),
        *(
            f"figures/{name}.png"
            for name in (
                "samples",
                "augmented",
                "curves",
                "predictions",
                "mistakes",
                "confusion",
                "reliability",
            )
        ),
    }
    assert (finished.parent / "latest").resolve() == finished


def test_record_tells_what_happened(finished: Path) -> None:
    data = json.loads((finished / "run.json").read_text())
    assert data["schema"] == 1
    assert data["status"] == "finished"
    assert data["epochs_done"] == 2
    assert data["overrides"][-2:] == ["name=whole", "note=hello"]
    assert data["note"] == "hello"
    assert data["seed"] == 0
    assert data["num_parameters"] == 225_034
    assert data["device"] == "cpu"
    assert data["precision"] == process.fastest_precision("cpu")
    assert data["selected_on"] == "val"
    assert data["partial"] is False
    assert data["attempts"][0]["start_epoch"] == 0
    assert data["attempts"][0]["pid"] == os.getpid()
    assert data["duration_s"] > 0
    assert data["images_per_s"] > 0
    assert len(data["split_hash"]) == len(data["data_hash"]) == 64
    assert set(data["scores"]) == {
        f"{s}/{m}" for s in ("train", "val", "test") for m in ("acc", "loss")
    }
    assert data["config"]["test"] is True
    assert "error" not in data


def test_scores_are_those_of_the_best_epoch(finished: Path) -> None:
    data = record.read(finished).data
    table = rows(finished)
    best = max(table, key=lambda row: float(row["val/acc"]))
    assert data["best_epoch"] == int(best["epoch"])
    for name in ("train/acc", "train/loss", "val/acc", "val/loss"):
        assert data["scores"][name] == float(best[name])


def test_tensorboard_has_scalars_images_and_the_config(finished: Path) -> None:
    events = EventAccumulator(str(finished)).Reload()
    tags = events.Tags()
    assert {"train/loss", "train/acc", "val/loss", "val/acc", "lr", "images_per_s"} <= set(
        tags["scalars"]
    )
    assert [e.value for e in events.Scalars("val/acc")] == pytest.approx(
        [float(row["val/acc"]) for row in rows(finished)]
    )
    assert set(tags["images"]) == {
        f"figures/{name}"
        for name in (
            *("samples", "augmented", "curves"),
            *("predictions", "mistakes", "confusion", "reliability"),
        )
    }
    assert "config/text_summary" in tags["tensors"]
    for name, score in record.read(finished).scores.items():
        assert [e.value for e in events.Scalars(f"best/{name}")] == [pytest.approx(score)]


def test_loaded_model_predicts_what_was_recorded(finished: Path, small_files: Path) -> None:
    import small

    images, labels = small.make_images(small.NUM_TEST, seed=2)
    model = run.load(finished)
    probs = model.predict(images)
    assert probs.shape == (small.NUM_TEST, 10)
    assert probs.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert (probs.argmax(axis=1) == labels).mean() == record.read(finished).scores["test/acc"]
    assert model.predict(images[0]).shape == (1, 10)
    assert model.predict(torch.as_tensor(images)[:, None]).shape == (small.NUM_TEST, 10)
    assert model.predict(images[:0]).shape == (0, 10)


def test_wrong_images_are_refused(finished: Path) -> None:
    model = run.load(finished)
    for bad in (
        torch.zeros(2, 28, 28),
        torch.zeros(2, 3, 28, 28, dtype=torch.uint8),
        torch.zeros(2, 1, 32, 32, dtype=torch.uint8),
        None,
    ):
        with pytest.raises(UserError, match="images must be uint8 of shape"):
            model.predict(bad)


def test_model_without_checkpoint_or_with_a_damaged_one_is_an_error(
    finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text((finished / "run.json").read_text())
    with pytest.raises(UserError, match="best.ckpt is missing"):
        run.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"PK broken")
    with pytest.raises(UserError, match="best.ckpt is damaged"):
        run.load(tmp_path)


def test_checkpoints_hold_plain_values_only(finished: Path) -> None:
    for name in ("best", "last", "previous"):
        torch.load(finished / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_finished_run_is_not_trained_again(finished: Path) -> None:
    before = hashes(finished)
    again = run.train([*WHOLE, "name=whole", "note=other"], folder=finished)
    assert again.scores == record.read(finished).scores
    assert hashes(finished) == before


def test_other_config_changes_no_byte(finished: Path) -> None:
    before = hashes(finished)
    with pytest.raises(UsageError, match=r"optim.lr: 0.02, now 0.5"):
        run.train([*FAST, "data.batch_size=25", "optim.lr=0.5"], folder=finished)
    assert hashes(finished) == before


class Killed(BaseException):
    """Ends a run at a chosen moment, as a kill would: nothing after it is executed."""


@pytest.mark.parametrize("moment", ["epoch 1", "epoch 3", "test"])
def test_interrupted_and_resumed_equals_uninterrupted(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run.train([*EVERYTHING, "name=whole"])
    steps = 0
    step = classifier.Classifier.training_step

    def die_in_training(self: Any, batch: Any, index: int) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == int(moment[-1]) * 10 + 4:
            raise Killed
        return step(self, batch, index)

    def die_in_test(self: Any, batch: Any, index: int) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "test":
            patch.setattr(classifier.Classifier, "test_step", die_in_test)
        else:
            patch.setattr(classifier.Classifier, "training_step", die_in_training)
        with pytest.raises(Killed):
            run.train([*EVERYTHING, "name=killed"])
    resumed = run.train([*EVERYTHING, "name=killed"])
    assert_equal_ends(whole.folder, resumed.folder)
    epochs = [a["start_epoch"] for a in resumed.data["attempts"]]
    assert epochs == [0, 4 if moment == "test" else int(moment[-1])]


def test_damaged_checkpoint_falls_back_to_the_one_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run.train([*EVERYTHING, "name=whole"])

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(classifier.Classifier, "test_step", die)
        with pytest.raises(Killed):
            run.train([*EVERYTHING, "name=killed"])
    last = Path("runs/killed/checkpoints/last.ckpt")
    last.write_bytes(last.read_bytes()[:1000])
    resumed = run.train([*EVERYTHING, "name=killed"])
    assert "last.ckpt is damaged" in capsys.readouterr().err
    assert resumed.data["attempts"][-1]["start_epoch"] == 3
    assert_equal_ends(whole.folder, resumed.folder)


def test_resume_point_of_nothing_is_none(tmp_path: Path) -> None:
    assert resume_point(tmp_path, None, print) is None


def test_signal_ends_the_run_as_interrupted_and_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved = Checkpoints._rotate

    def signalled(self: Checkpoints, new: Path, is_best: bool) -> None:
        saved(self, new, is_best)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_rotate", signalled)
        with pytest.raises(Interrupted) as caught:
            run.train([*FAST, "name=stopped"])
    assert caught.value.signum == signal.SIGTERM
    data = record.read(Path("runs/stopped")).data
    assert (data["status"], data["error"], data["epochs_done"]) == ("interrupted", "SIGTERM", 1)
    assert run.train([*FAST, "name=stopped"]).status == "finished"


def test_bug_is_recorded_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(classifier.Classifier, "training_step", broken)
        with pytest.raises(RuntimeError, match="a bug"):
            run.train([*FAST, "name=bug"])
    data = record.read(Path("runs/bug")).data
    assert (data["status"], data["error"]) == ("failed", "RuntimeError: a bug")
    assert "in broken" in Path("runs/bug/error.txt").read_text()
    assert run.train([*FAST, "name=bug"]).status == "finished"


def test_diverging_run_fails_and_keeps_the_last_good_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = classifier.Classifier.training_step

    def diverge(self: classifier.Classifier, batch: Any, index: int) -> torch.Tensor:
        loss = step(self, batch, index)
        if self.current_epoch == 1 and index == 3:
            loss = loss * float("nan")
            self._steps[-1] = (loss.detach(), *self._steps[-1][1:])
        return loss

    monkeypatch.setattr(classifier.Classifier, "training_step", diverge)
    with pytest.raises(UserError, match=r"not finite at epoch 2, step 14"):
        run.train([*FAST, "name=nan"])
    data = record.read(Path("runs/nan")).data
    assert (data["status"], data["epochs_done"]) == ("failed", 1)
    assert "epoch 2, step 14" in data["error"]
    assert all(w.isfinite().all() for w in weights(Path("runs/nan"), "last").values())


def test_seed_zero_is_a_seed() -> None:
    runs = [run.train([*FAST, "figures=none", f"seed={s}", f"name=r{i}"]) for i, s in
            enumerate((0, 0, 1))]  # fmt: skip
    assert rows(runs[0].folder) == rows(runs[1].folder)
    assert rows(runs[0].folder) != rows(runs[2].folder)


def test_last_epoch_is_selected_when_asked_or_without_validation() -> None:
    for name, extra in (("last", "select=last"), ("all", "data.val_size=0")):
        done = run.train([*FAST, f"name={name}", extra, "figures=none"])
        assert done.data["selected_on"] == "last"
        assert done.data["best_epoch"] == 2
        assert ("val/acc" in done.scores) == (name == "last")
        assert "test/acc" in done.scores


def test_unread_test_set_leaves_no_score() -> None:
    done = run.train([*FAST, "name=val", "test=false"])
    assert not any(name.startswith("test/") for name in done.scores)
    assert Path("runs/val/figures/confusion.png").exists()  # of the validation images


def test_auto_means_less_in_a_sweep() -> None:
    plain = config.check(config.compose(FAST))
    done = run.train(config.settle(plain, ["optim.lr"]), folder=Path("sweeps/s/job"))
    assert not any(name.startswith("test/") for name in done.scores)
    files = [p for p in Path("sweeps/s/job").rglob("*") if p.is_file()]
    assert len([f for f in files if "tfevents" not in f.name]) <= 6
    assert sorted(os.listdir("sweeps/s/job/checkpoints")) == ["best.ckpt"]
    repetition = run.train(config.settle(plain, ["seed"]), folder=Path("sweeps/t/job"))
    assert "test/acc" in repetition.scores


def test_early_stopping_ends_the_run() -> None:
    done = run.train(
        [*FAST, "trainer.max_epochs=9", "optim.lr=1e-9", "callbacks=early_stopping", "figures=none"]
    )
    assert done.data["epochs_done"] == 4
    assert done.data["best_epoch"] == 1


def test_checkpoints_none_leaves_none() -> None:
    run.train([*FAST, "checkpoints=none", "figures=curves", "logger=none", "name=bare"])
    assert sorted(os.listdir("runs/bare")) == ["figures", "metrics.csv", "run.json", "train.log"]
    assert os.listdir("runs/bare/figures") == ["curves.png"]


def test_one_override_may_be_a_plain_string() -> None:
    with pytest.raises(UsageError, match="seed must be in"):
        run.train("seed=-1")


def test_smoke_is_partial() -> None:
    done = run.train(["trainer=smoke", "data.val_size=100", "name=smoke", "experiment=notebook"])
    assert done.data["partial"] is True
    assert done.data["epochs_done"] == 1
    assert not Path("runs/smoke/figures").exists()


@pytest.mark.slow
@pytest.mark.parametrize("debug", ["overfit", "profile", "fast"])
def test_debug_modes_work(debug: str) -> None:
    extra = ["trainer.max_epochs=40"] if debug == "overfit" else []
    done = run.train(["data.batch_size=50", "data.val_size=100", f"debug={debug}", *extra])
    assert done.status == "finished"
    if debug == "overfit":
        assert done.scores["train/acc"] == 1.0
    if debug == "profile":
        assert "run_training_batch" in next(done.folder.glob("*profile.txt")).read_text()


@pytest.mark.parametrize(
    "extra",
    [
        ["model=mlp"],
        ["optim=adamw"],
        ["optim=sgd"],
        ["augment=basic", "optim/schedule=cosine"],
        ["trainer.precision=bf16-mixed"],
        ["trainer.gradient_clip_val=1.0", "trainer.accumulate_grad_batches=2"],
        ["trainer.check_val_every_n_epoch=2"],
        ["trainer.val_check_interval=0.5", "metric=val/loss"],
        ["trainer.max_steps=12"],
        ["trainer.fast_dev_run=true"],
        ["trainer.limit_val_batches=0"],
        ["trainer.deterministic=true"],
        ["model._target_=own_net.Net", *NO_ARGUMENTS, "+model.width=8"],
    ],
    ids=lambda extra: extra[0],
)
def test_options_train(extra: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Sequential):\n"
        "    def __init__(self, width):\n"
        "        super().__init__(torch.nn.Flatten(), torch.nn.Linear(784, width),\n"
        "                         torch.nn.Linear(width, 10))\n"
        "    def forward(self, images):\n"
        "        return super().forward(images / 255)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run.train([*FAST, "figures=none", *extra]).status == "finished"


def test_own_class_that_does_not_fit_is_an_error() -> None:
    for target, message in (
        ("torch.nn.Linear", "model._target_=torch.nn.Linear cannot be built: .*in_features"),
        ("torch.nn.Nope", "model._target_=torch.nn.Nope cannot be imported"),
        ("torch.nn.Identity", "Identity must turn images .* into logits"),
        ("torch.nn.Softmax2d", "Softmax2d fails on uint8 images .*, line [0-9]+"),
        ("collections.OrderedDict", "must be a subclass of torch.nn.Module"),
        ("os.system", "must be a subclass of torch.nn.Module"),
    ):
        with pytest.raises(UsageError, match=message):
            run.train([*FAST, f"model._target_={target}", *NO_ARGUMENTS])
    assert not Path("runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_said_before_anything_is_made() -> None:
    with pytest.raises(UsageError, match="trainer.accelerator=gpu needs a CUDA or MPS device"):
        run.train(["trainer=gpu"])
    assert not Path("runs").exists()


def test_lightnings_objection_is_one_line() -> None:
    with pytest.raises(UsageError, match="trainer: "):
        run.train([*FAST, "trainer.strategy=no_such_strategy"])


@pytest.mark.parametrize(
    "word",
    [
        *("trainer.max_time={foo:1}", "trainer.max_time={days:10000000000000}"),
        *("trainer.devices=[0,0]", "trainer.devices=abc", "trainer.devices='-5'"),
        *("trainer.devices='0,'", "trainer.precision=transformer-engine"),
        *("trainer.accelerator=tpu", "trainer.strategy=fsdp"),
    ],
)
def test_arguments_that_lightning_cannot_take_start_nothing(word: str) -> None:
    with pytest.raises(UsageError, match=r"^trainer: \S+"):
        run.train([*FAST, word])
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "word",
    [
        *("val_check_interval=1000000", "limit_train_batches=1e-9", "limit_val_batches=1e-9"),
        "overfit_batches=1e-9",
    ],
)
def test_more_or_fewer_batches_than_there_are_is_a_users_mistake(word: str) -> None:
    with pytest.raises(UserError, match="^trainer: .* Change that argument, under another name"):
        run.train([*FAST, "name=a", "model=mlp", "figures=none", f"trainer.{word}"])
    assert record.read(Path("runs/a")).status == "failed"
    assert not Path("runs/a/error.txt").exists()


@pytest.mark.parametrize("word", ["data.dir='~nobody_such/x'", "data.source='~nobody_such/x'"])
def test_the_home_of_nobody_is_no_place_for_data(word: str) -> None:
    with pytest.raises(UserError, match="must be a path on this machine, got '~nobody_such/x'"):
        run.train([*FAST, word])
    assert not Path("runs").exists()


def test_missing_data_start_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        run.train([*FAST, f"data.source={tmp_path}/nowhere", f"data.dir={tmp_path}/d"])
    assert not Path("runs").exists()


def stop_after_one_epoch(monkeypatch: pytest.MonkeyPatch, *words: str) -> Path:
    """Leave an unfinished run of one epoch; returns its folder."""
    step = classifier.Classifier.training_step

    def die(self: Any, batch: Any, index: int) -> torch.Tensor:
        if self.current_epoch == 1:
            raise Killed
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(classifier.Classifier, "training_step", die)
        with pytest.raises(Killed):
            run.train([*FAST, *words])
    return Path("runs/latest").resolve()


def test_unfinished_run_goes_on_in_a_copied_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("figures=none", "test=false", "optim.lr=0.002")
    whole = run.train([*FAST, *words, "name=whole"])
    stopped = stop_after_one_epoch(monkeypatch, *words)
    moved = tmp_path / "elsewhere" / "copy"
    shutil.copytree(stopped, moved)
    shutil.rmtree(stopped)
    done = run.resume(moved)
    assert [a["start_epoch"] for a in done.data["attempts"]] == [0, 1]
    assert_equal_ends(whole.folder, moved)


def test_the_record_of_an_ended_run_can_be_written_to() -> None:
    done = run.train([*FAST, "model=mlp", "trainer.max_epochs=1", "figures=none", "name=ended"])
    done.update(note="seen")
    assert record.read(done.folder).data["note"] == "seen"


def test_unnamed_run_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stop_after_one_epoch(monkeypatch, "figures=none")
    lines = [line for line in capsys.readouterr().err.splitlines() if "Data:" not in line]
    line = f"If interrupted, go on with: python scripts/resume.py runs/{folder.name}"
    assert lines[0] == line
    assert line in lines[1:]


def test_resuming_under_other_conditions_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stop_after_one_epoch(monkeypatch, "name=other", "figures=none")
    path = folder / "run.json"
    data = json.loads(path.read_text())
    data |= {"precision": "64-true", "num_processes": 2, "commit": "abc"}
    data["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(data))
    assert run.train([*FAST, "name=other", "figures=none"]).status == "finished"
    said = capsys.readouterr().err
    assert "not bit-equal from here: " in said
    for change in (
        "precision was 64-true, is ",
        "num_processes was 2, is 1",
        "torch was",
    ):
        assert change in said
    assert "the code changed since this run began: abc, now " in said


def test_resuming_under_the_same_conditions_is_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_after_one_epoch(monkeypatch, "name=same", "figures=none")
    run.train([*FAST, "name=same", "figures=none"])
    assert "Warning" not in capsys.readouterr().err


def test_record_tells_how_a_resumed_run_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after_one_epoch(monkeypatch, "name=changed", "figures=none", "test=false")
    done = run.train([*FAST, "name=changed", "figures=none", "test=true"])
    assert done.data["config"]["test"] is True
    assert "test/acc" in done.scores
    assert done.data["overrides"][-1] == "test=true"


def test_running_with_a_dead_process_reads_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stop_after_one_epoch(monkeypatch, "name=dead", "figures=none")
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "running"}))
    assert record.read(folder).status == "interrupted"
    with Lock(folder):
        assert record.read(folder).status == "running"


def test_both_checkpoints_damaged_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stop_after_one_epoch(monkeypatch, "name=damaged", "figures=none")
    for name in ("last", "previous"):
        (folder / "checkpoints" / f"{name}.ckpt").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"last.ckpt and previous.ckpt cannot be read. Restore one"):
        run.train([*FAST, "name=damaged", "figures=none"])
    assert record.read(folder).status == "failed"


def test_run_that_ended_between_its_last_two_writes_is_only_completed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fmnist import fit

    def die(*_: Any) -> None:
        raise Killed

    words = [*FAST, "name=almost", "figures=none", "checkpoints=best"]
    with monkeypatch.context() as patch:
        patch.setattr(fit, "_complete", die)
        with pytest.raises(Killed):
            run.train(words)
    scores = record.read(Path("runs/almost")).scores
    monkeypatch.setattr(classifier.Classifier, "training_step", die)
    done = run.train(words)
    assert (done.status, done.scores) == ("finished", scores)
    assert done.data["attempts"][-1]["start_epoch"] == 2


def test_folder_in_use_is_left_alone(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "used"
    shutil.copytree(finished, folder)
    data = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**data, "status": "running"}))
    with Lock(folder):
        before = hashes(folder)
        with pytest.raises(UserError, match=f"is in use by process {os.getpid()} on "):
            run.train(WHOLE, folder=folder)
        assert hashes(folder) == before


@pytest.mark.parametrize("step", ["training_step", "test_step"])
@pytest.mark.parametrize("then", [None, RuntimeError("a bug"), Interrupted(signal.SIGTERM)])
def test_a_run_that_lost_its_folder_leaves_it_to_the_other_one(
    step: str, then: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a long sleep in which a process on another machine went on with it to the end."""
    folder, before = Path("runs/lost"), {}
    ordinary = getattr(classifier.Classifier, step)

    def taken_over(self: Any, *args: Any) -> Any:
        if not before:
            data = json.loads((folder / "run.json").read_text())
            (folder / "run.json").write_text(json.dumps({**data, "status": "finished"}))
            (folder / ".lock").write_text('{"host": "node7", "pid": 41, "token": "t"}')
            before.update(hashes(folder))
            if then:
                raise then
        return ordinary(self, *args)

    monkeypatch.setattr(classifier.Classifier, step, taken_over)
    with pytest.raises(type(then) if then else UserError):
        run.train([*FAST, "figures=none", "name=lost"])
    after = hashes(folder)
    kept = ("run.json", ".lock", "error.txt", "best.ckpt", "last.ckpt")
    assert {k: v for k, v in after.items() if k.endswith(kept)} == {
        k: v for k, v in before.items() if k.endswith(kept)
    }


def test_epoch_cut_short_is_partial_and_its_speed_is_real() -> None:
    done = run.train([*FAST, "trainer.max_steps=13", "figures=none"])
    assert done.data["partial"] is True
    assert done.data["images_per_s"] < 1e7
    assert run.train([*FAST, "trainer.max_steps=20", "figures=none"]).data["partial"] is False


@pytest.mark.parametrize(
    "word", ["trainer.limit_val_batches=0", "trainer.check_val_every_n_epoch=5", "data.val_size=0"]
)
def test_nothing_validated_means_the_last_epoch_is_selected(word: str) -> None:
    done = run.train([*FAST, word, "figures=none"])
    assert (done.data["selected_on"], done.data["best_epoch"]) == ("last", 2)


def test_no_test_batches_means_the_test_set_is_not_read() -> None:
    done = run.train([*FAST, "trainer.limit_test_batches=0"])
    assert not any(name.startswith("test/") for name in done.scores)


def test_missing_best_checkpoint_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(classifier.Classifier, "test_step", die)
        with pytest.raises(Killed):
            run.train([*FAST, "name=best"])
    Path("runs/best/checkpoints/best.ckpt").unlink()
    with pytest.raises(UserError, match="best.ckpt is missing or damaged"):
        run.train([*FAST, "name=best"])


def test_time_of_a_killed_attempt_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stop_after_one_epoch(monkeypatch, "name=time", "figures=none")
    path = folder / "run.json"
    data = json.loads(path.read_text())
    assert data["attempts"][0]["seconds"] > 0
    data["attempts"][0]["seconds"] = 1000.0
    path.write_text(json.dumps(data))
    assert run.train([*FAST, "name=time", "figures=none"]).data["duration_s"] > 1000


def test_key_an_older_record_lacks_counts_as_its_default() -> None:
    done = run.train([*FAST, "name=old", "figures=none"])
    path = done.folder / "run.json"
    data = json.loads(path.read_text())
    del data["config"]["callbacks"]["ema"], data["config"]["augment"]["test_flip"]
    del data["config"]["data"]["val_from"]
    path.write_text(json.dumps(data))
    words = [*FAST, "name=old", "figures=none"]
    assert run.train([*words, "trainer.accumulate_grad_batches=1"]).data == data
    assert run.resume(done.folder).data == data
    with pytest.raises(UsageError, match=r"callbacks.ema.decay: null, now 0.9"):
        run.train([*words, "callbacks.ema.decay=0.9"])


def test_resume_needs_no_file_the_run_was_made_with(tmp_path: Path) -> None:
    from fmnist.command import read_command

    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    words = [*FAST, "experiment=mine", "figures=none", "name=mine"]
    cfg = read_command(words, tmp_path).cfg
    done = run.train(cfg, overrides=words)
    assert run.resume(str(done.folder)).scores == done.scores


def test_config_read_from_a_folder_is_checked() -> None:
    done = run.train([*FAST, "name=evil", "figures=none"])
    path = done.folder / "run.json"
    data = json.loads(path.read_text())
    data["config"]["optim"]["lr"] = -1
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"run.json: optim.lr must be > 0") as caught:
        run.resume(done.folder)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 99 bytes"),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_is_an_error_with_its_remedy(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*_: Any) -> None:
        raise error

    monkeypatch.setattr(classifier.Classifier, "training_step", exhaust)
    with pytest.raises(UserError, match="Out of memory with data.batch_size=50"):
        run.train([*FAST, "name=oom"])
    assert record.read(Path("runs/oom")).status == "failed"
    assert not Path("runs/oom/error.txt").exists()
