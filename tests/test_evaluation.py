"""Scores of finished runs: measured like the training's, and the test set read once."""

import json
from pathlib import Path
from typing import Any

import pytest

from fmnist import evaluation, record, run
from fmnist.errors import UserError

pytestmark = pytest.mark.usefixtures("small_data", "workdir")

FAST = ["data.batch_size=50", "data.val_size=100", "trainer.max_epochs=1", "trainer=cpu"]


def train(folder: str, *words: str) -> record.Record:
    more = [f"name='{Path(folder).name}'", "figures=none", "checkpoints=best"]
    return run.train([*FAST, *more, *words], folder=Path(folder))


def test_an_evaluation_equals_what_training_would_have_recorded() -> None:
    tested, untested = train("runs/a"), train("runs/b", "test=false")
    assert "test/acc" not in untested.scores
    assert evaluation.evaluate(Path("runs/b")) == {
        name: tested.scores[name] for name in ("test/acc", "test/loss")
    }
    val = evaluation.evaluate(Path("runs/b"), "val")
    assert val == {name: untested.scores[name] for name in ("val/acc", "val/loss")}
    assert set(evaluation.evaluate(Path("runs/b"), "train")) == {"train/acc", "train/loss"}
    kept = json.loads(Path("runs/b/eval-test.json").read_text())
    assert (kept["schema"], kept["split"]) == (1, "test")
    assert "test/acc" not in record.read(Path("runs/b")).scores  # a finished record stays as it is


def test_the_test_set_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    train("runs/a")
    train("runs/b", "test=false")
    first = evaluation.evaluate(Path("runs/b"))
    before = Path("runs/b/eval-test.json").read_bytes()

    def read(*_: Any) -> None:
        raise AssertionError("the test set was read again")

    monkeypatch.setattr(evaluation, "_measure", read)
    assert evaluation.evaluate(Path("runs/b")) == first
    assert Path("runs/b/eval-test.json").read_bytes() == before
    assert evaluation.evaluate(Path("runs/a")) == {
        k: v for k, v in record.read(Path("runs/a")).scores.items() if k.startswith("test/")
    }
    assert not Path("runs/a/eval-test.json").exists()


def test_the_best_of_a_sweep_is_chosen_by_val_acc() -> None:
    for seed in (0, 1, 2):
        train(f"sweeps/s/seed={seed}", f"seed={seed}", "test=false")
    scores = {s: record.read(Path(f"sweeps/s/seed={s}")).scores["val/acc"] for s in (0, 1, 2)}
    best = max(scores, key=lambda seed: scores[seed])
    assert evaluation.choose(Path("sweeps/s")) == (
        Path(f"sweeps/s/seed={best}"),
        ["sweeps/s: best by val/acc"],
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


@pytest.mark.parametrize("text", ["", "{", "[]", '{"scores": {"test/acc": "x"}}', '{"scores": 3}'])
def test_a_damaged_evaluation_is_measured_anew(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/eval-test.json").write_text(text)
    stored = evaluation.stored_scores(record.Record(Path("runs/a"), {"scores": {}}), "test")
    assert stored == {}
