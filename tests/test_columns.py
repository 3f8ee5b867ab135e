from pathlib import Path

from run_folders import read, write_run

from fmnist.compare.captions import common_folder
from fmnist.compare.columns import Column, make_columns, row_labels
from fmnist.compare.table import build_table


def columns(*paths: str, section: str = "ranked", more: bool = False) -> dict[str, Column]:
    table = build_table(read(*map(Path, paths)))
    rows = table.section(section)
    made = make_columns(table, rows, common_folder(table.rows), more)
    assert all(len(column.texts) == len(column.values) == len(rows) for column in made)
    return {column.title: column for column in made}


def test_seeds_are_shown_as_mean_sd_interval_and_number(workdir: Path) -> None:
    for seed, acc in enumerate((0.90, 0.91, 0.92)):
        write_run(Path(f"runs/{seed}"), acc, seed=seed)
    write_run(Path("runs/other"), 0.8, optim__lr=1)
    shown = columns("runs")
    assert shown["val acc %"].texts == ["91.00 ± 1.00", "80.00"]
    # 2.484 = 4.303 / sqrt(3), of a t table
    assert shown["95 % CI"].texts == ["88.52\N{EN DASH}93.48", "-"]
    assert shown["n"].texts == ["3", "1"]
    assert shown["run"].texts == ["2 +2", "other"]
    assert shown["lr"].texts == ["0.003", "1"]
    assert "parameters" not in shown


def test_single_runs_show_their_seed_and_no_interval(workdir: Path) -> None:
    write_run(Path("runs/a"), 0.9, optim__lr=0.1, seed=3)
    write_run(Path("runs/b"), 0.8, seed=4)
    shown = columns("runs")
    assert shown["seed"].texts == ["3", "4"]
    assert not {"95 % CI", "n"} & shown.keys()


def test_numbers_are_short_where_that_keeps_them_apart(workdir: Path) -> None:
    for i, lr in enumerate((0.00123456789, 0.00223456789)):
        write_run(Path(f"runs/{i}"), 0.9 - i / 10, optim__lr=lr)
    assert columns("runs")["lr"].texts == ["0.001235", "0.002235"]
    write_run(Path("runs/2"), 0.7, optim__lr=0.00123456788)
    assert columns("runs")["lr"].texts == ["0.00123456789", "0.00223456789", "0.00123456788"]


def test_targets_are_told_by_their_last_part_unless_that_is_the_same(workdir: Path) -> None:
    write_run(Path("runs/a"), 0.9)
    write_run(Path("runs/b"), 0.8, model="mlp")
    assert columns("runs")["model"].texts == ["cnn", "mlp"]
    write_run(Path("runs/c"), 0.7, model___target_="mine.models.cnn")
    assert columns("runs")["model"].texts == [
        "fmnist.models.cnn",
        "fmnist.models.mlp",
        "mine.models.cnn",
    ]


def test_key_that_a_run_lacks_is_a_dash_and_null_is_null(workdir: Path) -> None:
    write_run(Path("runs/a"), 0.9, model="mlp", model__widths=[5])
    write_run(Path("runs/b"), 0.8, model="mlp", model__widths=None)
    write_run(Path("runs/c"), 0.7)
    shown = columns("runs")["widths"]
    assert shown.texts == ["[5]", "null", "-"]
    assert shown.values == ["[5]", "null", None]


def test_facts_are_columns_only_where_they_differ(workdir: Path) -> None:
    write_run(Path("runs/a"), 0.9, num_parameters=10, device="cpu")
    write_run(Path("runs/b"), 0.8, num_parameters=2000, commit="f" * 40, dirty=True, optim__lr=1)
    shown = columns("runs")
    assert shown["parameters"].texts == ["10", "2,000"]
    assert shown["commit"].texts == ["0123456", "fffffff*"]
    assert "device" not in shown


def test_unfinished_runs_tell_what_they_are(workdir: Path) -> None:
    error = "Out of memory.\nTake a smaller one."
    write_run(Path("runs/a"), None, status="failed", error=error, epochs_done=2)
    write_run(Path("runs/b"), 0.5, status="pruned", epochs_done=3, seed=1)
    write_run(Path("runs/c"), None, status="running", epochs_done=4, seed=2)
    shown = columns("runs", section="unfinished")
    assert shown["status"].texts == ["interrupted", "pruned", "failed"]
    assert shown["epochs"].texts == ["4/10", "3/10", "2/10"]
    assert shown["reason"].texts == ["-", "-", "Out of memory."]
    assert shown["val acc %"].texts == ["-", "50.00", "-"]


def test_partial_runs_are_marked_wherever_they_are(workdir: Path) -> None:
    write_run(Path("runs/a"), 0.5, status="pruned", partial=True)
    write_run(Path("runs/b"), 0.4, status="pruned", seed=1)
    write_run(Path("runs/c"), 0.5, selected_on="test", partial=True)
    write_run(Path("runs/d"), 0.4, partial=True)
    assert columns("runs", section="unfinished")["partial"].texts == ["true", "false"]
    assert columns("runs", section="selected on test")["partial"].texts == ["true"]
    assert "partial" not in columns("runs", section="partial")


def test_what_the_rows_are_sorted_by_is_shown(workdir: Path) -> None:
    write_run(Path("runs/a"), 0.9, best_epoch=7, data__source="/x")
    write_run(Path("runs/b"), 0.8, best_epoch=9, optim__lr=1)
    runs = read(Path("runs"))
    for key, texts in (
        ("best_epoch", ["7", "9"]),
        ("data.source", ["/x", "-"]),
        ("val/loss", ["0.1000", "0.2000"]),
        ("train/acc", ["-", "-"]),
    ):
        table = build_table(runs, sort=key)
        shown = {c.key: c for c in make_columns(table, table.rows, "runs")}
        assert shown[key].texts == texts


def test_page_shows_loss_and_notes_too(workdir: Path) -> None:
    write_run(Path("runs/a"), 0.9, note="best so far")
    shown = columns("runs", more=True)
    assert shown["val loss"].texts == ["0.1000"]
    assert shown["note"].texts == ["best so far"]
    assert "note" not in columns("runs")


def test_labels_tell_rows_apart(workdir: Path) -> None:
    for i, (lr, seed) in enumerate([(1, 0), (1, 1), (2, 0)]):
        write_run(Path(f"runs/{i}"), 0.9 - i / 10, optim__lr=lr, seed=seed)
    write_run(Path("runs/x"), None, status="failed", optim__lr=2, seed=1)
    write_run(Path("runs/y"), None, status="failed", optim__lr=2, seed=1)
    labels = row_labels(build_table(read(Path("runs"))))
    assert labels == ["lr=1", "lr=2", "lr=2 (runs/x)", "lr=2 (runs/y)"]
    assert row_labels(build_table(read(Path("runs/0")))) == ["runs/0"]
