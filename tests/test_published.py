"""A run that validates on the test images, as the Keras notebook does: said, and never ranked."""

from pathlib import Path

import pytest
from killed import check_resumes

from fmnist import proof, record, run
from fmnist.compare import collection, table
from fmnist.errors import UserError

pytestmark = pytest.mark.usefixtures("small_data", "workdir")

WORDS = [
    *("experiment=notebook_as_published", "data.batch_size=50", "trainer=cpu"),
    *("trainer.max_epochs=3", "figures=none"),
]


def test_it_selects_on_test_and_says_so_and_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    done = record.read(check_resumes(WORDS, monkeypatch))
    rows = proof.rows(done.folder)
    assert done.data["selected_on"] == "test"
    assert done.scores["val/acc"] == max(float(row["val/acc"]) for row in rows)
    for name in ("acc", "loss"):  # the same weights on the same images
        assert done.scores[f"val/{name}"] == done.scores[f"test/{name}"]
    assert int(rows[-1]["step"]) == 3 * 600 // 50  # trained on all


def test_it_is_never_ranked() -> None:
    run.train([*WORDS, "trainer.max_epochs=1", "name=published"])
    runs, _ = collection.read_runs([Path("runs")])
    (row,) = table.build_table(runs).rows
    assert (row.rank, row.section) == (None, table.TESTED)
    with pytest.raises(
        UserError, match=r"\(1 selected on the test set do not count\), so none is the best"
    ):
        table.find_best(runs)


def test_its_val_split_cannot_be_asked_for() -> None:
    run.train([*WORDS, "trainer.max_epochs=1", "name=published"])
    model = run.load("runs/published")
    assert model.evaluate("test")["test/acc"] == pytest.approx(model.run.scores["test/acc"])
    with pytest.raises(UserError, match="has no val split: it was validated on the test images"):
        model.evaluate("val")
