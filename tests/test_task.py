"""What a task of a SLURM job does on each end of its run, with commands that only answer."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm

from fmnist import lock, record, team
from fmnist.errors import Interrupted
from fmnist.launch import Launch
from fmnist.mates import Mates
from fmnist.sweeps import script, task
from fmnist.sweeps.script import Line
from fmnist.sweeps.task import Starts, Task
from fmnist.watch import StopOnSignal

JOB, RUN = "7_3", Path("sweeps/s/a")
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
RECORD = {"schema": 1, "config": {}, "overrides": [], "scores": {}, "attempts": []}


@pytest.fixture
def slurm(tmp_path: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    made = FakeSlurm(tmp_path / "bin", monkeypatch)
    made.answers("scontrol", "JobId=7 PreemptTime=None EndTime=2026-11-28T12:00:00\n")
    return made


def write_record(status: str, epochs_done: int = 0) -> None:
    RUN.mkdir(parents=True, exist_ok=True)
    data = {**RECORD, "status": status, "epochs_done": epochs_done}
    (RUN / "run.json").write_text(json.dumps(data))


def line(program: str) -> list[str]:
    """Return the line of a run that does what `program` says, in Python."""
    made = Path("bin") / "train.py"
    made.write_text(f"import json, os, signal, sys\nfrom pathlib import Path\n{program}")
    return Line(["seed=1"], RUN, None).words([sys.executable, str(made)])


def ends_as(status: str, epochs_done: int, then: str) -> str:
    data = {**RECORD, "status": status, "epochs_done": epochs_done}
    write = f"p = Path({str(RUN)!r}); p.mkdir(parents=True, exist_ok=True)\n"
    return f"{write}(p / 'run.json').write_text({json.dumps(data)!r})\n{then}"


def carry_out(words: list[str], restarts: int = 0, max_restarts: int = 5) -> int:
    handlers = [signal.getsignal(s) for s in (signal.SIGUSR1, signal.SIGTERM)]
    try:
        return Task(words, Path("sweeps/s"), JOB, restarts, max_restarts).carry_out()
    finally:
        for signum, handler in zip((signal.SIGUSR1, signal.SIGTERM), handlers, strict=True):
            signal.signal(signum, handler)


@pytest.mark.parametrize(
    ("status", "then", "code", "requeued"),
    [
        ("finished", "", 0, False),
        ("pruned", "", 0, False),
        ("running", "", 1, False),  # an end that says nothing of being done is none
        ("failed", "sys.exit(1)", 1, False),
        ("running", "sys.exit(2)", 2, False),
        ("failed", KILLED, 137, False),
        ("running", KILLED, 137, True),
        ("interrupted", "sys.exit(143)", 143, True),
        ("running", "sys.exit(137)", 137, True),  # srun's word for a killed process
        ("interrupted", "sys.exit(1)", 1, True),  # one of several processes was killed
        ("running", "sys.exit(1)", 1, False),  # a full disk took no last word
        ("interrupted", "sys.exit(2)", 2, False),
        ("finished", KILLED, 0, False),
    ],
)
def test_only_what_neither_finished_nor_failed_is_requeued(
    status: str, then: str, code: int, requeued: bool, slurm: FakeSlurm
) -> None:
    assert carry_out(line(ends_as(status, 1, then))) == code
    assert ("scontrol requeue 7_3" in slurm.calls) == requeued
    assert (RUN.parent / ".slurm" / "7_3.starts").exists() == requeued


@pytest.mark.parametrize("before", ["interrupted", "running", "failed"])
@pytest.mark.parametrize(
    ("then", "code", "requeued"), [("sys.exit(1)", 1, False), (KILLED, 137, True)]
)
def test_what_ended_before_says_nothing_of_a_start_that_did_not_begin(
    before: str, then: str, code: int, requeued: bool, slurm: FakeSlurm
) -> None:
    write_record(before, 2)
    assert carry_out(line(then)) == code
    assert ("scontrol requeue 7_3" in slurm.calls) == requeued


def test_two_restarts_without_an_epoch_end_as_failed(
    slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    for restarts in range(2):
        assert carry_out(line(KILLED), restarts) == 137
    assert slurm.calls.count("scontrol requeue 7_3") == 2
    assert carry_out(line(KILLED), 2) == 1
    assert slurm.calls.count("scontrol requeue 7_3") == 2
    found = record.read(RUN)  # made from the line: the run did not come to write one
    assert found.status == "failed"
    assert "Two restarts in a row ended without a finished epoch" in found.data["error"]
    assert found.data["seed"] == 1
    assert "time_min" in capsys.readouterr().out


def test_an_epoch_now_and_then_is_progress(slurm: FakeSlurm) -> None:
    for restarts, epochs in enumerate([0, 0, 1, 1, 2]):
        assert carry_out(line(ends_as("running", epochs, KILLED)), restarts) == 137
    assert slurm.calls.count("scontrol requeue 7_3") == 5


def test_restarts_of_slurm_itself_count_too(slurm: FakeSlurm) -> None:
    Starts(Path("sweeps/s/.slurm/7_3.starts")).add(1)
    for _ in range(2):  # preempted twice: there was no time to write more than the start
        Starts(Path("sweeps/s/.slurm/7_3.starts")).add(1)
    write_record("running", 1)
    assert carry_out(line("raise AssertionError"), 3) == 1
    assert record.read(RUN).status == "failed"


def test_starts_of_an_older_job_of_this_number_do_not_count(slurm: FakeSlurm) -> None:
    for _ in range(3):
        Starts(Path("sweeps/s/.slurm/7_3.starts")).add(1)
    write_record("interrupted", 1)
    assert carry_out(line(ends_as("finished", 2, ""))) == 0
    assert record.read(RUN).status == "finished"


def test_a_finished_run_is_never_rewritten(slurm: FakeSlurm) -> None:
    starts = Starts(Path("sweeps/s/.slurm/7_3.starts"))
    for _ in range(3):
        starts.add(10)
    write_record("finished", 10)
    before = (RUN / "run.json").read_bytes()
    assert carry_out(line(""), 9) == 0
    assert (RUN / "run.json").read_bytes() == before


def test_a_busy_controller_is_asked_again(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "RETRY_S", 0.01)
    program = (slurm.folder / "scontrol").read_text()
    once = f"[ -e '{slurm.folder}/asked' ] || {{ touch '{slurm.folder}/asked'; exit 1; }}\n"
    (slurm.folder / "scontrol").write_text(program.replace("#!/bin/sh\n", f"#!/bin/sh\n{once}"))
    assert carry_out(line(KILLED)) == 137
    assert "scontrol requeue 7_3" in slurm.calls


def test_a_restarting_controller_is_waited_for_where_the_slot_goes_on(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(task, "RETRY_S", 0.01)
    program, tries = (slurm.folder / "scontrol").read_text(), slurm.folder / "tries"
    often = f"echo >> '{tries}'; [ $(wc -l < '{tries}') -gt 9 ] || exit 1\n"
    (slurm.folder / "scontrol").write_text(program.replace("#!/bin/sh\n", f"#!/bin/sh\n{often}"))
    assert carry_out(line(KILLED)) == 137
    assert "scontrol requeue 7_3" in slurm.calls
    assert "Asking again for 10 minutes." in capsys.readouterr().out


def test_max_restarts_bounds_both(slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    assert carry_out(line(KILLED), restarts=5, max_restarts=5) == 1
    assert "hydra.launcher.max_restarts=5" in capsys.readouterr().out
    assert carry_out(line("raise AssertionError"), restarts=6, max_restarts=5) == 1
    assert not [call for call in slurm.calls if "requeue" in call]


def test_without_scontrol_the_line_is_to_be_repeated(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workdir / "bin").mkdir()
    monkeypatch.setenv("PATH", "")
    assert carry_out(line(KILLED)) == 137
    said = capsys.readouterr().out
    assert "scontrol is missing on this node" in said
    assert "Type the same line again to go on." in said


def test_a_refusal_of_slurm_is_told(
    slurm: FakeSlurm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "RETRY_S", 0.01)
    monkeypatch.setattr(task, "PATIENCE_S", 0.1)
    slurm.fails("scontrol", "slurm_load_jobs error: Invalid user id")
    assert carry_out(line(KILLED)) == 137
    assert "scontrol failed: slurm_load_jobs error: Invalid user id" in capsys.readouterr().out


def test_a_busy_folder_is_waited_for(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "BUSY_S", 0.1)
    write_record("running")
    holder = lock.Lock(RUN)
    holder.__enter__()
    once = "n = Path('bin/n'); k = n.exists(); n.touch()\nif not k: sys.exit(1)\n"
    program = once + ends_as("finished", 1, "")
    assert carry_out(line(program)) == 0
    holder.__exit__()


PROCESS = [sys.executable, "-P", "-m", "fmnist.sweeps.task", "sweeps/s", "--max-restarts", "5"]


def start(words: list[str], **variables: str) -> "subprocess.Popen[str]":
    """Start a task as the batch script does, as the third of an array."""
    place = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    process = subprocess.Popen(
        PROCESS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **place, **variables},
    )
    assert process.stdin is not None
    process.stdin.write("\n".join(["false", "false", script._line(words)]) + "\n")
    process.stdin.close()
    process.stdin = None
    return process


STOPS = (
    "import time\n"
    "def stop(*_):\n"
    "    {write}\n"
    "    sys.exit(143)\n"
    "signal.signal(signal.SIGTERM, stop)\n"
    "Path('bin/ready').touch()\n"
    "time.sleep(60)"
)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def interrupted_by(signum: int, slurm: FakeSlurm) -> "subprocess.Popen[str]":
    write = ends_as("interrupted", 2, "").replace("\n", "; ").rstrip("; ")
    process = start(line(STOPS.format(write=write)))
    wait_for(Path("bin/ready"))
    process.send_signal(signum)
    return process


@pytest.mark.slow
def test_the_end_of_a_slot_stops_the_run_and_requeues(slurm: FakeSlurm) -> None:
    process = interrupted_by(signal.SIGUSR1, slurm)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "scontrol requeue 7_2" in slurm.calls
    assert "Requeued after 2 epochs; restart 1." in said


@pytest.mark.slow
def test_a_terminated_task_is_left_alone(slurm: FakeSlurm) -> None:
    process = interrupted_by(signal.SIGTERM, slurm)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not [call for call in slurm.calls if "requeue" in call]


@pytest.mark.slow
def test_a_preempted_task_waits_for_slurm(slurm: FakeSlurm) -> None:
    slurm.answers("scontrol", "JobId=7 PreemptTime=2026-11-28T12:00:00\n")
    process = interrupted_by(signal.SIGUSR1, slurm)
    assert process.stdout is not None
    assert any("Preempted:" in said for said in iter(process.stdout.readline, ""))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.kill()
    process.communicate()
    assert not [call for call in slurm.calls if "requeue" in call]


@pytest.mark.slow
def test_outside_a_job_it_is_an_error(workdir: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    done: Any = subprocess.run(
        PROCESS, input="", capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: SLURM_JOB_ID is not set")


SRUN = """#!/bin/sh
trap 'echo passed on' USR2
trap 'echo forced; exit 143' TERM
kill -USR1 $PPID
for i in $(seq 300); do sleep 0.1; done
"""


def test_srun_is_asked_to_pass_the_stop_on_before_it_is_forced(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(task, "INSIST_S", 1.0)
    srun = slurm.folder / "srun"
    srun.write_text(SRUN)
    srun.chmod(0o755)
    assert carry_out([str(srun), *line("")]) == 143
    assert capfd.readouterr().out.split("\n")[:2] == ["passed on", "forced"]
    assert "scontrol requeue 7_3" in slurm.calls


def test_what_srun_passes_on_counts_as_sigterm() -> None:
    mates: Any = Mates(Launch("srun", 0, 2, 0, 0, 1, "127.0.0.1", (), "m"))
    before = [(signum, signal.getsignal(signum)) for signum in (signal.SIGTERM, signal.SIGUSR2)]
    team._heed_sigterm(mates)
    try:
        with pytest.raises(Interrupted, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGUSR2)
        with StopOnSignal() as stop:
            os.kill(os.getpid(), signal.SIGUSR2)
        with pytest.raises(Interrupted, match="SIGTERM"):
            stop.check()
    finally:
        for signum, handler in before:
            signal.signal(signum, handler)


def test_threads_are_those_of_the_task(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    carry_out(line("print('threads', os.environ['OMP_NUM_THREADS'], flush=True)"))
    assert "threads 3" in capfd.readouterr().out
