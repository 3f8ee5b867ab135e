import random
from pathlib import Path

import numpy as np
import pytest
from run_folders import read, write_run

from fmnist.compare import table
from fmnist.compare.table import build_table, find_best
from fmnist.errors import UsageError, UserError


def make(folder: str, *args: float | None, **changes: object) -> Path:
    return write_run(Path(folder), *args, **changes)


def test_seeds_are_grouped_and_ranked_by_mean_validation_accuracy(workdir: Path) -> None:
    draw = random.Random(0)
    scores = {lr: [draw.uniform(0.8, 0.95) for _ in range(4)] for lr in (0.001, 0.01, 0.1)}
    for lr, accuracies in scores.items():
        for seed, acc in enumerate(accuracies):
            make(f"sweeps/lr/{lr},{seed}", acc, seed=seed, optim__lr=lr)
    rows = build_table(read(Path("sweeps"))).rows
    expected = sorted(scores, key=lambda lr: -np.mean(scores[lr]))
    assert [row.best.identity["optim.lr"] for row in rows] == expected
    assert [row.rank for row in rows] == [1, 2, 3]
    for row, lr in zip(rows, expected, strict=True):
        summary = row.scores["val/acc"]
        assert (summary.n, row.n, row.seeds) == (4, 4, [0, 1, 2, 3])
        assert summary.mean == pytest.approx(np.mean(scores[lr]))
        assert summary.sd == pytest.approx(np.std(scores[lr], ddof=1))
        assert row.best.scores["val/acc"] == max(scores[lr])


def test_order_of_reading_changes_nothing(workdir: Path) -> None:
    draw = random.Random(1)
    for i in range(12):
        status = draw.choice(["finished", "finished", "pruned"])
        make(f"runs/{i}", draw.choice([0.9, 0.91]), seed=i % 3, optim__lr=i % 2 + 1, status=status)
    runs = read(Path("runs"))
    first = build_table(runs)
    for _ in range(5):
        again = build_table(draw.sample(runs, len(runs)))
        assert [row.best.label for row in again.rows] == [row.best.label for row in first.rows]
        assert again.keys == first.keys


def test_only_keys_that_differ_are_columns_under_their_shortest_name(workdir: Path) -> None:
    make("runs/a", 0.9, optim__lr=0.1, trainer__accelerator="cpu", data__dir="/here")
    make("runs/b", 0.9, optim__optimizer__weight_decay=0.5, trainer__accelerator="gpu")
    assert build_table(read(Path("runs"))).keys == {
        "optim.lr": "lr",
        "optim.optimizer.weight_decay": "weight_decay",
    }
    make("runs/c", 0.9, augment__flip=False, augment__test_flip=False, metric="x")
    names = build_table(read(Path("runs"))).keys
    assert names["augment.flip"] == "flip"
    assert names["augment.test_flip"] == "test_flip"


def test_short_names_stay_apart() -> None:
    keys = ["optim.schedule.start", "callbacks.start", "start", "model._target_", "a.model"]
    names = table._names(keys)
    assert len(set(names.values())) == len(keys)
    assert names["optim.schedule.start"] == "schedule.start"
    assert names["callbacks.start"] == "callbacks.start"


def test_arguments_that_only_the_model_decides_are_no_columns(workdir: Path) -> None:
    make("runs/cnn", 0.9)
    make("runs/mlp", 0.8, model="mlp")
    assert build_table(read(Path("runs"))).keys == {"model._target_": "model"}
    make("runs/mlp", 0.8, model="mlp", model__widths=[256, 128])  # typed: chosen, not decided
    assert set(build_table(read(Path("runs"))).keys) == {"model._target_", "model.widths"}
    make("runs/mlp", 0.8, model="mlp")
    make("runs/wide", 0.8, model="mlp", model__widths=[7])
    make("runs/drop", 0.8, model__dropout=0.5)
    assert set(build_table(read(Path("runs"))).keys) == {
        "model._target_",
        "model.widths",
        "model.dropout",
    }


def test_what_cannot_be_compared_is_apart_and_has_no_rank(workdir: Path) -> None:
    make("runs/whole", 0.5)
    make("runs/partial", 0.9, partial=True)
    make("runs/tested", 0.95, selected_on="test")
    make("runs/both", 0.96, selected_on="test", partial=True)
    make("runs/unscored", None, scores={"train/acc": 0.99})
    make("runs/pruned", 0.97, status="pruned", epochs_done=2)
    make("runs/odd", 0.98, status="odd")
    rows = build_table(read(Path("runs"))).rows
    assert [(row.best.label[5:], row.section, row.rank) for row in rows] == [
        ("whole", "ranked", 1),
        ("partial", "partial", None),
        ("both", "selected on test", None),
        ("tested", "selected on test", None),
        ("unscored", "no val/acc", None),
        ("pruned", "unfinished", None),
        ("odd", "unfinished", None),
    ]


def test_partial_and_other_data_do_not_enter_a_mean(workdir: Path) -> None:
    make("runs/a", 0.9, seed=0)
    make("runs/b", 0.1, seed=1, partial=True)
    make("runs/c", 0.2, seed=2, data_hash="ee" * 32)
    rows = build_table(read(Path("runs"))).section("ranked")
    assert [(row.scores["val/acc"].mean, row.n) for row in rows] == [(0.9, 1), (0.2, 1)]


def test_run_that_repeats_a_seed_counts_once(workdir: Path) -> None:
    for name, seed, acc in (("a", 0, 0.90), ("b", 0, 0.92), ("c", 1, 0.95)):
        make(f"runs/{name}", acc, seed=seed)
    (row,) = build_table(read(Path("runs"))).rows
    assert (row.n, len(row.runs), row.seeds) == (2, 3, [0, 1])
    assert row.scores["val/acc"].mean == pytest.approx((0.91 + 0.95) / 2)
    assert row.scores["val/acc"].sd == pytest.approx(np.std([0.91, 0.95], ddof=1))


def test_test_score_that_some_seeds_have_says_how_many(workdir: Path) -> None:
    make("runs/a", seed=0, scores={"val/acc": 0.9, "test/acc": 0.8})
    make("runs/b", seed=1, scores={"val/acc": 0.9})
    (row,) = build_table(read(Path("runs"))).rows
    assert (row.scores["val/acc"].n, row.scores["test/acc"].n) == (2, 1)


def test_whole_numbers_are_equal_however_written(workdir: Path) -> None:
    make("runs/a", seed=0, optim__lr=1)
    make("runs/b", seed=1, optim__lr=1.0)
    make("runs/c", seed=2, optim__lr=True)
    make("runs/d", seed=2, optim__lr=1, model__channels=[32.0, 64])
    assert sorted(row.n for row in build_table(read(Path("runs"))).rows) == [1, 3]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("val/acc", "bca"),
        ("val/acc:asc", "acb"),
        ("val/loss", "acb"),
        ("loss", None),
        ("val/loss:desc", "bca"),
        ("duration_s", "cab"),
        ("images_per_s", "bac"),
        ("images_per_s:asc", "cab"),
        ("optim.lr", "abc"),
        ("lr:desc", "cba"),
        ("data.source", "bca"),
        ("data.source:desc", "cba"),
        ("device", "bca"),
    ],
)
def test_sort_in_its_natural_direction_with_gaps_last(
    workdir: Path, sort: str, expected: str | None
) -> None:
    numbers = (("a", 0.90, 0.1, 2, None), ("b", 0.92, 0.3, 3, "n"), ("c", 0.91, 0.2, 1, "p"))
    for i, (name, acc, loss, number, source) in enumerate(numbers):
        scores = {"val/acc": acc, "val/loss": loss}
        speed = {"duration_s": number, "images_per_s": number}
        make(f"runs/{name}", scores=scores, optim__lr=i + 1, data__source=source, **speed)
    runs = read(Path("runs"))
    if expected is None:
        with pytest.raises(UsageError, match="loss is ambiguous"):
            build_table(runs, sort=sort)
        return
    rows = build_table(runs, sort=sort).rows
    assert "".join(row.best.label[-1] for row in rows) == expected
    assert {row.best.label[-1]: row.rank for row in rows} == {"b": 1, "c": 2, "a": 3}


def test_sort_that_no_run_has_or_no_direction_is_refused(workdir: Path) -> None:
    runs = read(make("runs/a"))
    with pytest.raises(UsageError, match="Unknown key val/ac. Did you mean val/acc"):
        build_table(runs, sort="val/ac")
    with pytest.raises(UsageError, match="must be asc or desc, got 'up'"):
        build_table(runs, sort="val/acc:up")


def test_top_keeps_the_first_and_counts_the_rest(workdir: Path) -> None:
    for i in range(5):
        make(f"runs/{i}", 0.9 - i / 100, optim__lr=i + 1)
    make("runs/x", 0.99, partial=True)
    make("runs/y", None, status="failed")
    rows = build_table(read(Path("runs")), top=2)
    assert [row.rank for row in rows.rows] == [1, 2]
    assert rows.hidden == {"ranked": 3, "partial": 1, "unfinished": 1}
    assert build_table(read(Path("runs"))).hidden == {}


def test_each_run_alone_on_request(workdir: Path) -> None:
    for seed in range(3):
        make(f"runs/{seed}", 0.9 + seed / 100, seed=seed)
    rows = build_table(read(Path("runs")), each=True).rows
    assert [(row.rank, row.seeds, row.n) for row in rows] == [(1, [2], 1), (2, [1], 1), (3, [0], 1)]


def test_unfinished_runs_stand_alone_in_the_order_of_their_states(workdir: Path) -> None:
    for i, status in enumerate(("failed", "pruned", "interrupted", "failed")):
        make(f"runs/{i}", None, seed=i, status=status)
    rows = build_table(read(Path("runs"))).rows
    assert [row.best.status for row in rows] == ["interrupted", "pruned", "failed", "failed"]


def test_best_run_is_the_finished_one_with_the_highest_accuracy(workdir: Path) -> None:
    make("runs/a", 0.90)
    make("runs/b", 0.92)
    make("runs/pruned", 0.99, status="pruned")
    make("runs/partial", 0.99, partial=True)
    make("runs/tested", 0.99, selected_on="test")
    make("runs/nan", scores={"val/acc": float("nan")})
    assert find_best(read(Path("runs"))).label == "runs/b"


def test_ties_are_broken_by_loss_and_then_by_name(workdir: Path) -> None:
    for name, loss in (("d", 0.3), ("c", 0.2), ("b", 0.2), ("a", 0.25)):
        make(f"runs/{name}", scores={"val/acc": 0.9, "val/loss": loss})
    make("runs/0", scores={"val/acc": 0.9})
    runs = read(Path("runs"))
    for order in (runs, runs[::-1]):
        assert find_best(order).label == "runs/b"
        labels = [row.best.label[-1] for row in build_table(order, each=True).rows]
        assert labels == ["b", "c", "a", "d", "0"]


def test_partial_runs_count_only_where_there_are_no_others(workdir: Path) -> None:
    make("runs/a", 0.3, partial=True)
    make("runs/b", 0.4, partial=True)
    assert find_best(read(Path("runs"))).label == "runs/b"
    make("runs/failed", None, status="failed")
    make("runs/tested", 0.9, selected_on="test")
    with pytest.raises(UserError, match="No run has finished with a val/acc yet"):
        find_best(read(Path("runs/failed"), Path("runs/tested")))
