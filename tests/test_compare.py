"""scripts/compare.py as a user types it: a process of its own."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT
from run_folders import usual_record, write_history, write_run
from test_scripts import on_a_terminal

SCRIPT = str(PROJECT / "scripts" / "compare.py")


def compare(*words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    command = [sys.executable, *options.pop("flags", ()), SCRIPT, *words]
    defaults = {"env": environment, "capture_output": True, "text": True, "timeout": 60}
    return subprocess.run(command, check=False, **{**defaults, **options})


@pytest.fixture
def sweep(workdir: Path) -> Path:
    for lr in (0.001, 0.003):
        for seed in range(3):
            folder = Path(f"sweeps/lr/optim.lr={lr},seed={seed}")
            write_run(folder, 0.9 + lr * (5 + seed) + seed / 1000, seed=seed, optim__lr=lr)
            write_history(folder, [0.8, 0.9])
    return Path("sweeps/lr")


def test_leaderboard_on_stdout_and_the_rest_on_stderr(sweep: Path) -> None:
    (sweep / "foreign").mkdir()
    done = compare("sweeps")
    assert done.returncode == 0
    assert "1  91.90 ± 0.40" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == "Skipped: sweeps/lr/foreign is no run folder: run.json is missing.\n"


def test_on_a_terminal_the_head_is_bold_and_the_width_kept(sweep: Path) -> None:
    code, output = on_a_terminal([sys.executable, SCRIPT, "sweeps"], Path.cwd())
    assert code == 0
    assert "\x1b[1m" in output
    assert "91.90 ± 0.40" in output


@pytest.mark.parametrize("form", ["--json", "--csv", "--md"])
def test_each_form_is_alone_on_stdout(sweep: Path, form: str) -> None:
    done = compare("sweeps/lr", form, "--where", "lr=0.001", "--top", "1")
    assert (done.returncode, done.stderr) == (0, "")
    if form == "--json":
        assert [row["n"] for row in json.loads(done.stdout)["rows"]] == [3]
    elif form == "--csv":
        (line,) = csv.DictReader(io.StringIO(done.stdout))
        assert float(line["val/acc"]) == pytest.approx(0.907)
    else:
        assert done.stdout.startswith("| # | val acc % |")


def test_files_are_written_beside_the_table(sweep: Path) -> None:
    done = compare("sweeps", "--curves", "a.png", "--html", "b.html", "--each")
    assert done.returncode == 0
    assert done.stderr.splitlines() == ["Wrote a.png", "Wrote b.html"]
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert "<table>" in Path("b.html").read_text("utf-8")
    assert done.stdout.startswith("#")


def test_paired_test_of_two_conditions_and_of_two_paths(sweep: Path) -> None:
    done = compare("sweeps", "--paired", "lr=0.003", "lr=0.001")
    assert done.returncode == 0
    assert "+1.20" in done.stdout
    assert "optim.lr: 0.003 in A, 0.001 in B" in done.stdout
    for seed in range(3):
        write_run(Path(f"other/{seed}"), 0.9, seed=seed, optim__lr=1)
    again = compare("--paired", "sweeps/lr", "other", "--json", "--where", "lr!=0.001")
    assert json.loads(again.stdout)["tests"]["val/acc"]["n"] == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "the following arguments are required: PATH"),
        (["--paired", "lr=1", "lr=2"], 2, "the following arguments are required: PATH"),
        (["nowhere"], 2, "Error: nowhere does not exist."),
        (["sweeps", "--where", "lrr=1"], 2, "Error: Unknown key lrr. Did you mean lr?"),
        (["sweeps", "--top", "0"], 2, "must be a whole number from 1 on, got '0'"),
        (["sweeps", "--csv", "--json"], 2, "not allowed with argument"),
        (["sweeps", "--curves", "a.pdf"], 2, "--curves must name a file that ends in .png"),
        (["sweeps", "--html", "x/a.html"], 2, "--html x/a.html: there is no folder x."),
        (["sweeps", "--paired", "lr=1", "lr=2", "--each"], 2, "--each cannot go with it."),
        (["sweeps", "--paired", "sweeps", "sweeps"], 2, "Leave the other PATHs out."),
        (["sweeps", "--paired", "seed=0", "lr=0.003"], 2, "A and B share sweeps/lr/"),
        (["sweeps", "--where", "seed=0", "--paired", "lr=0.003", "lr=0.001"], 1, "got 1 pair"),
        (["empty"], 1, "Error: There is no readable run in empty."),
    ],
)
def test_mistake_has_its_exit_code_and_no_traceback(
    sweep: Path, words: list[str], code: int, message: str
) -> None:
    Path("empty").mkdir()
    done = compare(*words)
    assert done.returncode == code
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_explains_keys_and_examples() -> None:
    done = compare("--help")
    assert done.returncode == 0
    assert "92% is 0.92" in done.stdout
    assert "--paired lr=0.003 lr=0.001" in done.stdout


def test_reader_that_has_seen_enough_is_no_error(sweep: Path) -> None:
    with subprocess.Popen(
        [sys.executable, SCRIPT, "sweeps", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_thousand_runs_are_ranked_without_a_heavy_library(workdir: Path) -> None:
    # Its seconds are measured by scripts/bench.py --measure answers.
    made = json.dumps(usual_record(0.5, seed=99))
    for i in range(1000):
        folder = Path(f"sweeps/big/{i}")
        folder.mkdir(parents=True)
        lr, acc = f'"lr": {1 + i // 5}', 0.5 + (i * 7919 % 1000) / 2500
        text = made.replace('"lr": 0.003', lr).replace('"val/acc": 0.5', f'"val/acc": {acc}')
        (folder / "run.json").write_text(text.replace('"seed": 99', f'"seed": {i % 5}'))
    done = compare("sweeps")
    assert done.returncode == 0, done.stderr
    ranks = [line.split()[0] for line in done.stdout.splitlines()[2:202]]
    assert ranks == [str(i) for i in range(1, 201)]
    loaded = compare("sweeps", flags=["-X", "importtime"]).stderr
    assert "fmnist.compare.table" in loaded
    for heavy in ("torch", "numpy", "hydra", "matplotlib", "scipy"):
        assert f" {heavy}\n" not in loaded
