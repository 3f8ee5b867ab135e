from pathlib import Path

import pytest
from run_folders import read, write_run

from fmnist.compare.captions import common_folder, footer
from fmnist.compare.table import build_table


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["runs/a", "runs/b"], "runs"),
        (["sweeps/x/1", "sweeps/y/2"], "sweeps"),
        (["runs/a", "sweeps/x/1"], ""),
        (["a"], ""),
        (["runs/a"], "runs"),
    ],
)
def test_common_folder(workdir: Path, folders: list[str], expected: str) -> None:
    for folder in folders:
        write_run(Path(folder))
    rows = build_table(read(*map(Path, folders))).rows
    assert common_folder(rows) == expected
    absolute = build_table(read(*(workdir / folder for folder in folders))).rows
    assert common_folder(absolute) == str(workdir / expected)


def test_root_is_no_folder_in_common(workdir: Path) -> None:
    (run,) = read(write_run(Path("runs/a")))
    runs = [run._replace(label="/one/a"), run._replace(label="/two/b")]
    assert common_folder(build_table(runs, each=True).rows) == ""
    assert common_folder(build_table([*runs, run], each=True).rows) == ""
    assert common_folder([]) == ""


def test_footer_tells_what_all_share(workdir: Path) -> None:
    write_run(Path("runs/a"), 0.9)
    write_run(Path("runs/b"), 0.8, optim__lr=1)
    table = build_table(read(Path("runs")))
    assert footer(table, "runs") == ["2 runs in runs, 225,034 parameters, on cpu, commit 0123456"]
    write_run(Path("runs/c"), 0.7, optim__lr=2, num_parameters=1, device=None, commit=None)
    assert footer(build_table(read(Path("runs"))), "") == ["3 runs"]
    write_run(Path("runs/d"), 0.7, seed=1)
    lines = footer(build_table(read(Path("runs"))), "")
    assert "mean ± sd over n seeds" in lines[1]


def test_footer_explains_marks_and_what_is_hidden(workdir: Path) -> None:
    write_run(Path("runs/a"), 0.9, dirty=True)
    write_run(Path("runs/b"), 0.9)
    write_run(Path("runs/c"), None, status="failed")
    lines = footer(build_table(read(Path("runs")), top=1), "runs")
    assert lines[1:] == [
        "runs that repeat a seed count once, by their mean",
        "* with changes that were not committed",
        "not shown: 1 unfinished",
    ]
