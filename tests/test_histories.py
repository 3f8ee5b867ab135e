import math
from pathlib import Path

import pytest
from run_folders import read, write_history, write_run

from fmnist.compare.histories import Curves, mean_points, points, read_curves, read_history, view
from fmnist.compare.table import build_table

HEAD = "epoch,step,val/loss,val/acc,lr\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (HEAD, []),
        (f"{HEAD}1,9,0.5,0.8,1\n2,9,0.4,0.9,1\n", [(1, 0.5, 80), (2, 0.4, 90)]),
        (f"{HEAD}1,9,0.5,0.8,1\n2,9,0.4", [(1, 0.5, 80), (2, 0.4, None)]),
        (f"{HEAD}1,9,,0.8,1\n", [(1, None, 80)]),
        (f"{HEAD}x,9,1,1,1\n0,9,1,1,1\n1.5,9,1,1,1\n-1,9,1,1,1\nnan,9,1,1,1\n", []),
        (f"{HEAD}2,9,0.5,0.8,1\n2,9,0.1,0.1,1\n1,9,0.1,0.1,1\n", [(2, 0.5, 80)]),
        (f"{HEAD}1,9,nan,inf,1,extra\n", [(1, math.nan, math.nan)]),
        ("epoch,other\n1,2\n", [(1, None, None)]),
        ("\0\0\udcff binary", []),
    ],
)
def test_what_is_right_in_metrics_csv_is_read(
    tmp_path: Path, text: str, expected: list[tuple[int, float, float]]
) -> None:
    (tmp_path / "metrics.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    found = [(epoch, v.get("val/loss"), v.get("val/acc")) for epoch, v in read_history(tmp_path)]
    assert repr(found) == repr([(e, loss, acc and float(acc)) for e, loss, acc in expected])


def test_missing_history_is_empty(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    (tmp_path / "metrics.csv").mkdir()
    assert read_history(tmp_path) == []


def curves(workdir: Path) -> list[Curves]:
    return read_curves(build_table(read(workdir / "runs")))


def test_rows_have_the_curves_of_their_runs(workdir: Path) -> None:
    for seed in range(2):
        folder = write_run(workdir / f"runs/{seed}", 0.9, seed=seed)
        write_history(folder, [0.5, 0.9 - seed / 10])
    write_run(workdir / "runs/none", 0.8, optim__lr=1)
    folder = write_run(workdir / "runs/dead", None, status="failed", optim__lr=2)
    write_history(folder, [0.1])
    group, dead = curves(workdir)
    assert group.label == "lr=0.003  90.00 ± 0.00 %"
    assert dead.label.endswith("(failed)")
    assert [len(history) for _, history in group.histories] == [2, 2]
    histories = [history for _, history in group.histories]
    assert points(histories[0], "val/acc") == [(1, 50.0), (2, 90.0)]
    assert mean_points(histories, "val/acc") == [(1, 50.0), (2, 85.0)]


def test_mean_is_of_the_epochs_that_all_have(workdir: Path) -> None:
    for seed, accuracies in enumerate([[0.5, 0.6, 0.7], [0.7, 0.8]]):
        write_history(write_run(workdir / f"runs/{seed}", seed=seed), accuracies)
    histories = [history for _, history in curves(workdir)[0].histories]
    assert mean_points(histories, "val/acc") == [(1, pytest.approx(60)), (2, pytest.approx(70))]


def test_up_to_ten_runs_are_all_in_view_and_of_more_not_the_worst_tenth(workdir: Path) -> None:
    for i in range(10):
        folder = write_run(workdir / f"runs/{i}", 0.9, optim__lr=i + 1)
        write_history(folder, [0.1 if i == 9 else 0.8, 0.9])
    shown = view(curves(workdir), "val/acc")
    assert shown == pytest.approx((10, 90, False, 0, 10))
    folder = write_run(workdir / "runs/10", 0.9, optim__lr=11)
    write_history(folder, [0.7, 0.95])
    shown = view(curves(workdir), "val/acc")
    assert shown == pytest.approx((70, 95, False, 1, 11))
    assert shown is not None
    assert shown.note() == "1 of 11 runs leave the plot"
    loss = view(curves(workdir), "val/loss")
    assert loss == pytest.approx((0.05, 0.3, False, 1, 11))


def test_partial_runs_do_not_stretch_the_view(workdir: Path) -> None:
    write_history(write_run(workdir / "runs/a", 0.9), [0.8, 0.9])
    write_history(write_run(workdir / "runs/b", 0.2, partial=True), [0.2])
    assert view(curves(workdir), "val/acc") == pytest.approx((80, 90, False, 1, 2))
    write_run(workdir / "runs/a", 0.9, partial=True)
    assert view(curves(workdir), "val/acc") == pytest.approx((20, 90, False, 0, 2))


def test_loss_that_explodes_is_on_a_log_scale_and_nothing_finite_has_no_view(workdir: Path) -> None:
    folder = write_run(workdir / "runs/a", 0.9)
    (folder / "metrics.csv").write_text(f"{HEAD}1,9,5000,nan,1\n2,9,0.5,nan,1\n")
    assert view(curves(workdir), "val/loss") == (0.5, 5000, True, 0, 1)
    assert view(curves(workdir), "val/acc") is None
