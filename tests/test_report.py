import io
from pathlib import Path

import pytest
from run_folders import write_run

from fmnist import report
from fmnist.compare.table import build_table, find_best
from fmnist.errors import UsageError, UserError


@pytest.fixture
def runs(workdir: Path) -> Path:
    for lr in (0.001, 0.002):
        for seed in range(2):
            folder = Path(f"sweeps/lr/optim.lr={lr},data.batch_size=64,seed={seed}")
            write_run(folder, 0.9 + lr + seed / 100, seed=seed, optim__lr=lr)
    return Path("sweeps")


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_off_a_terminal_every_row_is_one_line(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    report.print_table([runs])
    head, rule, first, second, *rest = printed(capsys)
    assert head.split() == [
        "#",
        "val",
        "acc",
        "%",
        "95",
        "%",
        "CI",
        "n",
        "lr",
        "time",
        "images/s",
        "run",
    ]
    assert set(rule) == {"\N{BOX DRAWINGS LIGHT HORIZONTAL}"}
    assert first.split()[:4] == ["1", "90.70", "±", "0.71"]
    assert first.endswith("optim.lr=0.002,data.batch_size=64,seed=1 +1")
    assert second.split()[0] == "2"
    assert rest[1] == "4 runs in sweeps/lr, 225,034 parameters, on cpu, commit 0123456"
    assert first.index("7,000") == second.index("7,000")


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_what_does_not_fit_stands_below_and_nothing_is_cut(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    write_run(
        Path("sweeps/lr/other"), 0.5, optim__lr=0.5, model="mlp", model__widths=[111, 222, 333]
    )
    report.print_table([runs])
    lines = printed(capsys)
    footer = lines.index("")
    if width >= 60:
        assert max(map(len, lines[:footer])) <= width
    text = "".join("".join(lines[:footer]).split())
    for part in ("0.002", "0.001", "[111,222,333]", "optim.lr=0.001,data.batch_size=64,seed=1+1"):
        assert part in text
    assert "…" not in text


def test_sections_have_titles_and_marks(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    write_run(Path("runs/a"), 0.9)
    write_run(Path("runs/b"), 0.95, partial=True)
    write_run(Path("runs/c"), 0.96, selected_on="test")
    write_run(Path("runs/d"), None, status="failed", error="Bad luck.\nMore.", epochs_done=3)
    report.print_table([Path("runs")])
    text = "\n".join(printed(capsys))
    order = ["90.00", "Partial:", "95.00", "Selected on the test set", "96.00", "Not finished"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    assert "Bad luck." in text
    assert "More." not in text
    assert "3/10" in text


def test_skipped_folders_are_named_on_stderr(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("sweeps/lr/empty").mkdir()
    report.print_table([runs])
    captured = capsys.readouterr()
    assert captured.err == ("Skipped: sweeps/lr/empty is no run folder: run.json is missing.\n")


def test_nothing_readable_and_nothing_that_meets_a_condition_are_errors(runs: Path) -> None:
    Path("empty").mkdir()
    with pytest.raises(UserError, match="There is no readable run in empty"):
        report.print_table([Path("empty")])
    with pytest.raises(UserError, match="None of 4 runs meets lr=7 and seed=0"):
        report.read_runs([runs], ["lr=7", "seed=0"])
    with pytest.raises(UsageError, match="nowhere does not exist"):
        find_best(report.read_runs([Path("nowhere")]))


def test_best_run_is_a_folder(runs: Path) -> None:
    best = find_best(report.read_runs([runs])).folder
    assert best == Path("sweeps/lr/optim.lr=0.002,data.batch_size=64,seed=1")
    assert (best / "run.json").exists()


def test_sides_are_paths_or_conditions(runs: Path) -> None:
    first, second = report.read_sides(["lr=0.002", "lr=0.001"], [runs])
    assert {run.identity["optim.lr"] for run in first} == {0.002}
    assert {run.identity["optim.lr"] for run in second} == {0.001}
    job = "sweeps/lr/optim.lr=0.002,data.batch_size=64,seed=1"  # holds a =, yet is a path
    first, second = report.read_sides([job, "lr=0.001"], [runs])
    assert [run.label for run in first] == [job]
    with pytest.raises(UsageError, match="sweeps/other does not exist"):
        report.read_sides(["sweeps/other", "lr=0.001"], [runs])
    with pytest.raises(UserError, match="None of 4 runs"):
        report.read_sides(["lr=" + "9" * 5000, "lr=0.001"], [runs])


def test_character_that_the_terminal_lacks_costs_nothing_else(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, "ascii", write_through=True))
    report.print_table([runs])
    assert b"90.70 ? 0.71" in raw.getvalue()


def test_brackets_are_text_and_no_markup(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("runs/a"), 0.9, optim__lr="[bold]x[/bold] :smile:")
    write_run(Path("runs/b"), 0.8)
    report.print_rows(build_table(report.read_runs([Path("runs")])))
    assert "[bold]x[/bold] :smile:" in capsys.readouterr().out
