"""scripts/train.py as a user types it: a process of its own, on the small data."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT, Run

from fmnist.lock import Lock

FAST = ("data.batch_size=50", "data.val_size=100", "trainer.max_epochs=2")
TRAIN = PROJECT / "scripts" / "train.py"


def on_a_terminal(command: list[str], cwd: Path) -> tuple[int, str]:
    """Run `command` with a pseudo-terminal for stdout and stderr; returns (exit code, output)."""
    main, sub = pty.openpty()
    environment = {
        **os.environ,
        "FMNIST_DATA": str(cwd / "data"),
        "TERM": "xterm",
        "COLUMNS": "100",
    }
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=sub, stderr=sub)
    os.close(sub)
    output = b""
    try:
        while chunk := os.read(main, 4096):
            output += chunk
    except OSError:  # Linux's way to say that the other side has closed
        pass
    os.close(main)
    return process.wait(timeout=60), output.decode()


@pytest.mark.slow
def test_on_a_terminal_a_bar_shows_loss_and_accuracy(small_files: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(PROJECT / "tests" / "small.py"), str(small_files), str(TRAIN)]
    code, output = on_a_terminal(
        [*command, *FAST, "name=tty", "figures=none", "data.batch_size=5"], tmp_path
    )
    assert code == 0, output
    assert re.search(r"Epoch \d/2", output)
    assert re.search(r"loss \d\.\d{3}  acc \d+\.\d%", output)
    assert "test" in output
    assert "Warning" not in output


@pytest.mark.slow
def test_off_a_terminal_one_plain_line_per_epoch_and_never_twice(
    script: Run, tmp_path: Path
) -> None:
    words = (*FAST, "name=plain", "figures=none")
    done = script("train.py", *words)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Data: ")
    assert [line.split()[:2] for line in lines[1:]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert "\x1b" not in done.stdout + done.stderr
    scores = json.loads((tmp_path / "runs" / "plain" / "run.json").read_text())["scores"]
    for split in ("train", "val", "test"):
        accuracy, loss = scores[f"{split}/acc"], scores[f"{split}/loss"]
        assert re.search(rf"{split} +{accuracy:.2%} +{loss:.4f}", done.stdout)
    for word in ("images/s", "225,034 parameters", "runs/plain", "scripts/board.py"):
        assert word in done.stdout

    again = script("train.py", *words)
    assert again.returncode == 0
    assert again.stdout == done.stdout
    assert again.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["trainer.max_epoch=3"],
            "Unknown key trainer.max_epoch. Did you mean trainer.max_epochs?",
        ),
        (["data.val_size=60000"], "data.val_size must be in 0..59999, got 60000."),
        (["experiment=nope"], "Unknown choice experiment=nope."),
        (["seed=0,1"], "seed has several values, which is a sweep: add -m."),
        (["-m", "seed=0,1", "optim.lr=1e-3,-1"], "optim.lr must be > 0, got -1."),
        (["--config-dir", "/nonexistent", "seed=1"], "/nonexistent"),
        (["--resolve"], "--resolve goes with --cfg, as in --cfg job --resolve."),
        (["--package", "model"], "--package goes with --cfg"),
        (["-m", "--cfg", "job", "seed=1,2"], "--cfg shows the config of one run: leave out -m"),
    ],
)
def test_mistake_is_one_line_and_exit_2(
    script: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = script("train.py", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.slow
def test_missing_data_are_exit_1_with_every_way_out(script: Run, tmp_path: Path) -> None:
    done = script("train.py", *FAST, f"data.source={tmp_path}/nowhere")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "nowhere" in done.stderr


@pytest.mark.slow
def test_bug_keeps_its_traceback(script: Run, tmp_path: Path) -> None:
    (tmp_path / "buggy.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self): super().__init__(784, 10)\n"
        "    def forward(self, images):\n"
        "        if self.training: return 1 // 0\n"
        "        return super().forward(images.flatten(1) / 255)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "FMNIST_DATA": str(tmp_path / "d")}
    drop = [f"~model.{name}" for name in ("channels", "hidden", "dropout", "init")]
    done = script("train.py", *FAST, "model._target_=buggy.Net", *drop, "name=b", env=environment)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "ZeroDivisionError" in (tmp_path / "runs" / "b" / "error.txt").read_text()
    assert json.loads((tmp_path / "runs" / "b" / "run.json").read_text())["status"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_the_run_and_the_line_goes_on(
    script: Run, small_files: Path, tmp_path: Path, signum: int, code: int
) -> None:
    words = [*FAST, "trainer.max_epochs=300", "name=stopped", "figures=none"]
    command = [sys.executable, str(PROJECT / "tests" / "small.py"), str(small_files), str(TRAIN)]
    environment = {**os.environ, "FMNIST_DATA": str(tmp_path / "data")}
    process = subprocess.Popen(
        [*command, *words], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            process.send_signal(signum)
            break
    _, rest = process.communicate(timeout=60)
    assert process.returncode == code, rest
    assert "Traceback" not in rest
    record = json.loads((tmp_path / "runs" / "stopped" / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert 2 <= record["epochs_done"] < 300


@pytest.mark.slow
def test_sweep_trains_every_combination(script: Run, tmp_path: Path) -> None:
    words = ("-m", *FAST, "model=cnn,mlp", "seed=0,1", "trainer.max_epochs=1")
    done = script("train.py", *words)
    assert done.returncode == 0, done.stderr
    assert "4 done" in done.stdout
    (sweep,) = [p for p in (tmp_path / "sweeps").iterdir() if p.is_dir()]
    jobs = sorted(p.name for p in sweep.iterdir() if p.is_dir())
    assert jobs == [f"model={m},seed={s}" for m in ("cnn", "mlp") for s in (0, 1)]
    for job in jobs:
        record = json.loads((sweep / job / "run.json").read_text())
        assert record["status"] == "finished"
        assert "test/acc" not in record["scores"]
    with Lock(sweep / jobs[0]):
        record_path = sweep / jobs[0] / "run.json"
        record_path.write_text(record_path.read_text().replace("finished", "running"))
        again = script("train.py", *words)
    assert "epoch" not in again.stderr  # nothing is trained twice
    assert "3 skipped (finished before), 1 running elsewhere" in again.stdout
    assert again.returncode == 0


@pytest.mark.slow
def test_failed_job_costs_itself_alone(script: Run, tmp_path: Path) -> None:
    words = ("-m", *FAST, "trainer.max_epochs=1", "optim/schedule=constant", "optim=sgd")
    done = script("train.py", *words, "optim.lr=1e30,0.01", "name=mixed")
    assert done.returncode == 1
    assert "1 done, 1 failed" in done.stdout
    assert "not finite" in done.stdout
    statuses = {
        p.parent.name: json.loads(p.read_text())["status"]
        for p in (tmp_path / "sweeps" / "mixed").glob("*/run.json")
    }
    assert statuses == {"optim.lr=1e+30": "failed", "optim.lr=0.01": "finished"}


@pytest.mark.slow
def test_multirun_without_an_axis_is_a_single_run(script: Run, tmp_path: Path) -> None:
    done = script("train.py", "-m", *FAST, "name=one", "figures=none")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "one" / "run.json").exists()


def test_help_explains_groups_and_common_commands(script: Run) -> None:
    done = script("train.py", "--help")
    assert done.returncode == 0
    assert done.stdout.count("python scripts/train.py") == 6
    for group in ("data", "augment", "model", "optim", "trainer", "experiment", "debug"):
        assert re.search(rf"^ *{group}\b", done.stdout, re.MULTILINE)


def test_help_is_what_hydra_would_print(script: Run) -> None:
    ours, hydras = script("train.py", "--help"), script("train.py", "--help", "seed=0")
    assert hydras.returncode == 0
    assert ours.stdout.split() == hydras.stdout.split()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], ["--dry-run", "name=a"]])
def test_a_stdout_that_takes_nothing_is_no_bug(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(TRAIN), *words]
    options: dict[str, Any] = {"cwd": tmp_path, "stderr": subprocess.PIPE, "text": True}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, check=False, **options)
    assert done.returncode == 1
    assert done.stderr == "Error: Cannot write the answer on stdout (No space left on device).\n"
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_width_of_the_terminal_that_is_no_number_is_ignored(script: Run, tmp_path: Path) -> None:
    done = script("compare.py", env={**os.environ, "COLUMNS": "\N{SUPERSCRIPT TWO}"})
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["resume.py", "verify_resume.py"])
def test_ctrl_c_during_the_imports_is_no_bug(name: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").touch()
    (tmp_path / "yaml.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    lines = "import signal, sys, runpy\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    lines += f"sys.argv = ['{name}', 'runs/a']\n"
    lines += f"runpy.run_path({str(PROJECT / 'scripts' / name)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", lines],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{PROJECT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


def test_cfg_job_prints_the_config_and_starts_nothing(script: Run, tmp_path: Path) -> None:
    done = script("train.py", "--cfg", "job", "optim.lr=0.5")
    assert done.returncode == 0
    assert "lr: 0.5" in done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_resume_goes_on_and_then_shows_the_result(script: Run, tmp_path: Path) -> None:
    first = script("train.py", *FAST, "trainer.max_epochs=1", "name=x", "figures=none")
    again = script("resume.py", "runs/x")
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    missing = script("resume.py", "runs/nowhere")
    assert missing.returncode == 1
    assert missing.stderr == "Error: runs/nowhere is no run folder: run.json is missing.\n"


@pytest.mark.kill
@pytest.mark.realdata
def test_verify_resume_shows_each_kill_and_that_the_ends_are_equal(
    real_data: Path, tmp_path: Path
) -> None:
    words = ["trainer=smoke", "trainer.max_epochs=2", "model.dropout=0.2", "--kills", "2"]
    done = subprocess.run(
        [sys.executable, str(PROJECT / "scripts" / "verify_resume.py"), *words],
        cwd=tmp_path,
        env={**os.environ, "FMNIST_DATA": str(real_data)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^kill \d: ", done.stdout, re.MULTILINE)) == 2
    assert done.stdout.splitlines()[-1] == "equal: weights, scores, metrics.csv"


@pytest.mark.slow
@pytest.mark.realdata
def test_two_processes_train_like_one(real_data: Path, tmp_path: Path) -> None:
    words = ["trainer.accelerator=cpu", "trainer.limit_train_batches=20", "trainer.max_epochs=2"]
    # Muon magnifies how sums round, as bfloat16 does.
    words += ["optim=adam", "trainer.precision=32-true"]
    outputs = []
    for name in ("one", "two"):
        extra = ["trainer=ddp"] if name == "two" else []
        done = subprocess.run(
            [sys.executable, str(TRAIN), *words, *extra, "figures=none", f"name={name}"],
            cwd=tmp_path,
            env={**os.environ, "FMNIST_DATA": str(real_data)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert [output.count("Results:") for output in outputs] == [1, 1]
    runs = [json.loads((tmp_path / "runs" / n / "run.json").read_text()) for n in ("one", "two")]
    assert [r["num_processes"] for r in runs] == [1, 2]
    for name, score in runs[0]["scores"].items():
        assert runs[1]["scores"][name] == pytest.approx(score, rel=1e-2), name
