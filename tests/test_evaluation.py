"""Scores of finished runs: measured like the training's, and the test set read once."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix as confusion_matrix,
)

from fmnist import CLASSES, evaluation, record, report, reports, run, scores
from fmnist.errors import UserError
from fmnist.model import Model

pytestmark = pytest.mark.usefixtures("small_data", "workdir")

FAST = ["data.batch_size=50", "data.val_size=100", "trainer.max_epochs=1", "trainer=cpu"]


def train(folder: str, *words: str) -> record.Record:
    more = [f"name='{Path(folder).name}'", "figures=none", "checkpoints=best"]
    return run.train([*FAST, *more, *words], folder=Path(folder))


def test_an_evaluation_equals_what_training_would_have_recorded() -> None:
    tested, untested = train("runs/a"), train("runs/b", "test=false")
    assert "test/acc" not in untested.scores
    for split, recorded in (("test", tested), ("val", untested)):
        found = evaluation.evaluate(Path("runs/b"), split)
        assert found["scores"][f"{split}/acc"] == recorded.scores[f"{split}/acc"]
        assert found["scores"][f"{split}/loss"] == pytest.approx(recorded.scores[f"{split}/loss"])
        assert found["notes"] == []
        assert found == json.loads(Path(f"runs/b/eval-{split}.json").read_text())
    assert set(run.load("runs/b").evaluate("train")) == {
        f"train/{name}" for name in ("acc", "loss", "f1", "brier", "ece")
    }
    assert "test/acc" not in record.read(Path("runs/b")).scores  # a finished record stays as it is


def test_a_report_holds_the_whole_evaluation() -> None:
    train("runs/a")
    found = evaluation.evaluate(Path("runs/a"))
    model = run.load("runs/a")
    assert found["scores"] == model.evaluate("test")
    outputs, val = model.outputs("test"), model.outputs("val")
    assert (
        found["confusion"]
        == confusion_matrix(
            torch.from_numpy(outputs.logits), torch.from_numpy(outputs.labels), num_classes=10
        ).tolist()
    )
    assert found["num_images"] == len(outputs.labels) == 200
    scaling = found["calibration"]
    assert (scaling["num_images"], scaling["fitted_on"]) == (100, "val")
    assert scaling["temperature"] == scores.fit_temperature(val.labels, val.logits)
    low, high = found["intervals"]["test/acc"]
    assert low <= found["scores"]["test/acc"] <= high
    names = {path.name for path in Path("runs/a/figures").iterdir()}
    assert names == {
        f"eval-test-{name}.png" for name in ("classes", "confusion", "mistakes", "reliability")
    }


def test_a_split_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    train("runs/a", "test=false")
    first = evaluation.evaluate(Path("runs/a"))
    before = Path("runs/a/eval-test.json").read_bytes()
    outputs = Model.outputs

    def read(*_: Any) -> None:
        raise AssertionError("the test set was read again")

    monkeypatch.setattr(Model, "outputs", read)
    assert evaluation.evaluate(Path("runs/a")) == first
    assert Path("runs/a/eval-test.json").read_bytes() == before
    monkeypatch.setattr(Model, "outputs", outputs)
    state = torch.load("runs/a/checkpoints/best.ckpt", weights_only=True)
    state["state_dict"]["net.dense2.bias"] += 10 * torch.arange(10)
    torch.save(state, "runs/a/checkpoints/best.ckpt")  # another model: measured anew
    second = evaluation.evaluate(Path("runs/a"))
    assert second["scores"]["test/acc"] < first["scores"]["test/acc"]


def test_a_folder_is_a_model_in_another_place(tmp_path: Path) -> None:
    source = tmp_path / "elsewhere" / "data"
    done = train("runs/a", f"data.dir={source}")
    probs = run.load("runs/a").predict(np.zeros((3, 28, 28), np.uint8))
    shutil.copytree("runs/a", tmp_path / "copy")
    shutil.rmtree("runs")
    shutil.rmtree(source)
    (tmp_path / "elsewhere").chmod(0o500)
    assert np.array_equal(
        run.load(tmp_path / "copy").predict(np.zeros((3, 28, 28), np.uint8)), probs
    )
    found = evaluation.evaluate(tmp_path / "copy")
    assert found["scores"]["test/acc"] == done.scores["test/acc"]
    assert not source.exists()


@pytest.mark.slow
def test_without_a_validation_split_there_is_no_temperature() -> None:
    train("runs/a", "data.val_size=0")
    found = evaluation.evaluate(Path("runs/a"))
    assert "calibration" not in found
    assert found["notes"] == [
        "No temperature scaling: runs/a has no val split: data.val_size is 0.",
    ]
    assert found["scores"]["test/ece"] > 0


@pytest.mark.slow
def test_no_temperature_is_fitted_on_the_test_images() -> None:
    done = train("runs/a", "data.val_from=test", "data.val_size=0")
    why = (
        "runs/a has no val split: it was validated on the test images (data.val_from=test). "
        "Ask for test."
    )
    found = evaluation.evaluate(Path("runs/a"))
    assert "calibration" not in found
    assert found["notes"] == [f"No temperature scaling: {why}"]
    assert found["scores"]["test/acc"] == done.scores["val/acc"]
    with pytest.raises(UserError, match=re.escape(why)):
        evaluation.evaluate(Path("runs/a"), "val")


@pytest.mark.slow
def test_another_accuracy_than_recorded_is_said() -> None:
    done = train("runs/a")
    measured = done.scores["test/acc"]
    for recorded, match in ((0.5, "rounding does not explain"), (measured + 0.001, "round diff")):
        done.update(scores=done.scores | {"test/acc": recorded})
        (note,) = evaluation.evaluate(Path("runs/a"))["notes"]
        assert note.startswith(f"run.json recorded test/acc {recorded:.2%}: ")
        assert match in note
        Path("runs/a/eval-test.json").unlink()


@pytest.mark.slow
def test_few_validation_images_give_no_temperature() -> None:
    train("runs/a", "data.val_size=20")
    found = evaluation.evaluate(Path("runs/a"))
    assert "calibration" not in found
    assert found["notes"] == [
        "No temperature scaling: 20 validation images are too few, it takes 100."
    ]


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_does_not_cost_the_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train("runs/a")

    def refuse(path: Path, text: str) -> None:
        raise UserError(f"Cannot write {path}")

    monkeypatch.setattr(record, "write_atomically", refuse)
    with pytest.raises(evaluation.NotKeptError, match="Cannot write runs/a/eval-test") as error:
        evaluation.evaluate(Path("runs/a"))
    assert error.value.report["scores"] == run.load("runs/a").evaluate("test")
    monkeypatch.undo()


def test_the_best_of_a_sweep_is_chosen_by_val_acc() -> None:
    for seed in (0, 1, 2):
        train(f"sweeps/s/seed={seed}", f"seed={seed}", "test=false")
    scores = {s: record.read(Path(f"sweeps/s/seed={s}")).scores["val/acc"] for s in (0, 1, 2)}
    best = max(scores, key=lambda seed: scores[seed])
    assert evaluation.choose(Path("sweeps/s")) == (
        Path(f"sweeps/s/seed={best}"),
        [f"sweeps/s/seed={best}: the best by val/acc in sweeps/s"],
    )
    other = record.read(Path(f"sweeps/s/seed={(best + 1) % 3}"))
    evaluation.evaluate(other.folder)
    third = record.read(Path(f"sweeps/s/seed={(best + 2) % 3}"))
    third.update(status="interrupted")
    chosen, notes = evaluation.choose(Path("sweeps/s"))
    assert chosen == Path(f"sweeps/s/seed={best}")
    assert notes[1:] == [
        "1 of 3 runs have not ended: another one may turn out best.",
        "The test set has been read for 1 more of them: "
        "choosing between such scores would be selection on test.",
    ]


def test_a_run_is_its_own_choice() -> None:
    train("runs/a")
    assert evaluation.choose(Path("runs/a")) == (Path("runs/a"), [])


def test_what_has_not_ended_is_not_tested() -> None:
    train("runs/a", "test=false").update(status="interrupted")
    with pytest.raises(UserError, match="is not finished but interrupted"):
        evaluation.evaluate(Path("runs/a"))


def test_another_split_is_noticed() -> None:
    done = train("runs/a")
    done.update(split_hash="another")
    with pytest.raises(UserError, match="split_hash differs"):
        evaluation.evaluate(Path("runs/a"), "val")


def test_a_report_that_is_not_whole_is_measured_anew() -> None:
    train("runs/a")
    found = evaluation.evaluate(Path("runs/a"))
    scores, path = found["scores"], Path("runs/a/eval-test.json")
    for text in ("", "{", "[]", '{"scores": {}}', "[" * 9999, "\xff"):
        path.write_text(text, encoding="latin-1")
        assert reports.read(Path("runs/a"), "test") is None
    changes: list[dict[str, Any]] = [
        {"schema": 9},
        {"split": "val"},
        {"scores": {name.replace("test", "val"): value for name, value in scores.items()}},
        {"scores": scores | {"test/acc": 0.999}},
        {"scores": scores | {"test/acc": "high"}},
        {"intervals": {"test/acc": [None, 1]}},
        {"classes": [1, 2]},
        {"classes": found["classes"][:9]},
        {"confused": [{}]},
        {"calibration": 5},
        {"confusion": [[1]]},
        {"notes": None},
        {"num_images": 0},
        {"num_images": 10**400},
        {"classes": [row | {"intervals": {}} for row in found["classes"]]},
        {"confusion": [[10**400] * 10] * 10},
    ]
    for change in changes:
        path.write_text(json.dumps(found | change))
        assert reports.read(Path("runs/a"), "test") is None, change
    path.write_text(json.dumps(found))
    assert reports.read(Path("runs/a"), "test") == found
    path.write_text("{")
    assert evaluation.evaluate(Path("runs/a"))["scores"] == scores
    assert reports.read(Path("runs/a"), "test")


@pytest.mark.slow
def test_lost_figures_are_drawn_again() -> None:
    train("runs/a")
    evaluation.evaluate(Path("runs/a"))
    lost = Path("runs/a/figures/eval-test-classes.png")
    before = lost.read_bytes()
    lost.unlink()
    evaluation.evaluate(Path("runs/a"))
    assert lost.read_bytes() == before


def test_damaged_checkpoints_are_told_in_our_words() -> None:
    train("runs/a")
    train("runs/b", "model=mlp")
    path = Path("runs/a/checkpoints/best.ckpt")
    for content, match in (
        (b"", "best.ckpt is damaged or no checkpoint"),
        (b"PK broken", "best.ckpt is damaged or no checkpoint"),
        (Path("runs/b/checkpoints/best.ckpt").read_bytes(), "holds other weights than .*Missing"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=match):
            run.load("runs/a")


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("optim.optimizer._target_", "os.system", "optim.optimizer._target_=os.system"),
        ("model.hidden", "many", "model.hidden"),
        ("model.unheard_of", 1, "Unknown key model.unheard_of"),
    ],
)
def test_a_record_is_checked_before_anything_is_built(key: str, value: Any, match: str) -> None:
    done = train("runs/a")
    config = done.data["config"]
    *sections, last = key.split(".")
    place = config
    for section in sections:
        place = place[section]
    place[last] = value
    done.update(config=config)
    with pytest.raises(UserError, match=match) as error:
        run.load("runs/a")
    assert error.value.exit_code == 1
    assert str(error.value).startswith("runs/a/run.json: ")


@pytest.mark.parametrize("place", ["~nobody_such/data", "/nowhere"])
def test_data_in_a_folder_of_another_machine_are_looked_for_here(place: str) -> None:
    done = train("runs/a")
    config = done.data["config"]
    record.read(done.folder).update(config={**config, "data": {**config["data"], "dir": place}})
    assert evaluation.evaluate(Path("runs/a"))["scores"]["test/acc"] == done.scores["test/acc"]


@pytest.mark.slow
def test_a_key_that_an_older_record_lacks_has_its_default() -> None:
    done = train("runs/a")
    before = run.load("runs/a").evaluate("test")
    del done.data["config"]["model"]["init"], done.data["config"]["callbacks"]
    done.update()
    assert run.load("runs/a").evaluate("test") == before


def test_wrong_arguments_are_named() -> None:
    train("runs/a")
    model = run.load("runs/a")
    with pytest.raises(UserError, match="split must be test, val or train, got 'tset'"):
        model.evaluate("tset")
    with pytest.raises(UserError, match=r"uint8 of shape .*got float64 \(28, 28\)"):
        model.predict(np.zeros((28, 28)))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="batch_size must be a whole number >= 1, got 0"):
        model.predict(np.zeros((28, 28), np.uint8), batch_size=0)


def test_a_network_without_finite_outputs_is_refused() -> None:
    train("runs/a")
    model = run.load("runs/a")
    model.classifier.net.dense2.bias.data[0] = float("nan")  # type: ignore[union-attr,index]
    with pytest.raises(UserError, match="not finite"):
        model.predict(np.zeros((28, 28), np.uint8))


def test_an_evaluation_is_printed_with_its_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 20)
    logits = rng.normal(0, 1, (200, 10)) + 3 * np.eye(10)[labels]
    found = {"split": "test", "best_epoch": 7}
    found |= scores.summarize("test", labels, logits, CLASSES)
    found["calibration"] = scores.recalibrate(labels, logits, labels, logits)
    report.print_evaluation(Path("runs/a"), found)
    text = capsys.readouterr().out
    low, high = found["intervals"]["test/acc"]
    acc = found["scores"]["test/acc"]
    assert text.startswith("runs/a: 200 test images, epoch 7\n")
    assert re.search(rf"accuracy +{acc:.2%} +{100 * low:.2f}\u2013{high:.2%}", text)
    for k, name in enumerate(CLASSES):
        row = next(line for line in text.splitlines() if re.match(rf" {name} +[0-9.]", line))
        assert row.split(name)[1].split()[0] == "20"
        cells = [line for line in text.splitlines() if line.startswith(f" {name}")][1]
        counts = [int(c.replace(".", "0")) for c in cells.split(name)[1].split()]
        assert counts == found["confusion"][k]
    worst = found["confused"][0]
    assert re.search(rf"{worst['true']} . {worst['predicted']} +{worst['count']} ", text)
    assert f"Temperature {found['calibration']['temperature']:.3f}" in text


@pytest.mark.slow
def test_the_script_prints_the_same_twice_and_says_what_is_wrong(
    script: Run, tmp_path: Path
) -> None:
    words = ("data.batch_size=50", "data.val_size=100", "trainer.max_epochs=1", "figures=none")
    assert script("train.py", *words, "name=a").returncode == 0
    (tmp_path / "runs" / "a").rename(tmp_path / "moved")
    first, second = script("eval.py", "moved"), script("eval.py", "moved")
    assert first.returncode == second.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout.startswith("moved: 200 test images, epoch 1\n")
    assert first.stderr == second.stderr == ""
    for place, match in (("nowhere", "nowhere does not exist"), ("data", "no readable run")):
        done = script("eval.py", place)
        assert (done.returncode, done.stdout) == (1 + (place == "nowhere"), ""), done.stderr
        assert done.stderr.count("\n") <= 2
        assert match in done.stderr
    assert script("eval.py", "moved", "--split", "dev").returncode == 2
