"""Runs and sweeps on a real SLURM of two nodes: what preemption, time limits and kills cost."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mini_slurm
import pytest
from conftest import PROJECT
from user import User, assert_equal

from fmnist import record

pytestmark = pytest.mark.slurm

STATUS = str(PROJECT / "scripts" / "status.py")
SLURM = ["hydra/launcher=slurm", "hydra.launcher.cpus=1"]
WAIT = [*SLURM, "hydra.launcher.wait=true"]
SHORT = ["data.batch_size=50", "data.val_size=100", "trainer.max_epochs=2", "trainer=cpu"]
NETWORK = """
import time
import torch

class Net(torch.nn.Module):
    def __init__(self, delay_s, fails=False):
        super().__init__()
        self.delay_s, self.fails = delay_s, fails
        self.dropout, self.layer = torch.nn.Dropout(0.2), torch.nn.Linear(784, 10)

    def forward(self, images):
        if self.training and len(images) > 2:
            time.sleep(self.delay_s)
            if self.fails:
                raise MemoryError
        return self.layer(self.dropout(images.flatten(1) / 255))
"""
MODEL = """
_target_: slow_net.Net
delay_s: 0.1  # seconds of each step
fails: false
"""


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mini_slurm.Cluster]:
    mini_slurm.install()
    if reason := mini_slurm.missing():
        pytest.skip(reason)
    with mini_slurm.running(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def user(tmp_path: Path, small_files: Path, slurm: mini_slurm.Cluster) -> Iterator[User]:
    """Someone on the login node, with a network in the folder and one thread for each process."""
    made = User(tmp_path, small_files)
    made.environment |= slurm.environment | {
        **{name: made.environment[name] for name in ("PYTHONPATH", "FMNIST_DATA", "COLUMNS")},
        "FMNIST_SYSTEM_DIR": str(small_files),
        "OMP_NUM_THREADS": "1",
    }
    (tmp_path / "slow_net.py").write_text(NETWORK)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "slow.yaml").write_text(MODEL)
    yield made
    slurm.run("scancel", "-u", "root")
    until(lambda: not slurm.run("squeue", "-h"), "an empty queue")


SLOW = ["--config-dir", "mine", *SHORT, "model=slow"]


def until(condition: Callable[[], Any], what: str, timeout_s: float = 150) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.1)


def epochs_done(folder: Path) -> int:
    try:
        return int(record.read(folder).data["epochs_done"])
    except ValueError:
        return 0


def is_training(folder: Path, epochs: int = 1) -> Callable[[], bool]:
    """Say when a run has done some epochs and goes on."""
    return lambda: epochs_done(folder) >= epochs and record.read(folder).status == "running"


def is_finished(folder: Path) -> Callable[[], bool]:
    return lambda: (folder / "run.json").exists() and record.read(folder).status == "finished"


def pid(folder: Path) -> int:
    """Return the process that trains now."""
    return int(record.read(folder).data["attempts"][-1]["pid"])


def submit(user: User, *words: str) -> str:
    """Submit and return the job's id."""
    done = user.sweep(*words, *SLURM)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^Submitted .* as (\d+)\.$", done.stdout, re.M)
    assert found, done.stdout
    return found[1]


def status(user: User, name: str) -> str:
    process = user.start(name, script=STATUS)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def alone(user: User, *words: str) -> Path:
    """Make the uninterrupted run, without SLURM."""
    process = user.start(*words, "name=alone", "figures=none")
    _, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    return user.folder / "runs" / "alone"


def assert_like_uninterrupted(user: User, run: str, *words: str) -> None:
    """Compare with a run of the same words that nothing disturbed, and its number of epochs."""
    whole = record.read(alone(user, *words))
    found = record.read(user.folder / run)
    assert_equal(user.weights("runs/alone"), user.weights(run))
    assert found.status == "finished"
    for key in ("epochs_done", "best_epoch"):
        assert found.data[key] == whole.data[key]
    for key in ("val/acc", "val/loss", "train/loss"):
        assert found.scores[key] == whole.scores[key]


def test_slurm_array(user: User, slurm: mini_slurm.Cluster) -> None:
    grid = [*SHORT, "augment=strong", "optim.lr=1e-3,3e-3", "seed=0,1", "name=s"]
    submit(user, *grid, "hydra.launcher.throttle=2")
    again = user.sweep(*grid, *SLURM)
    assert "4 tasks wait or run already." in again.stdout
    assert "Submitted" not in again.stdout
    shown = status(user, "s")
    assert shown.startswith("sweeps/s: 4 jobs: ")
    assert "scancel " in shown
    done = user.sweep(*grid, *WAIT)
    assert done.returncode == 0, done.stderr
    assert "4 jobs in sweeps/s: 4 done" in done.stdout
    assert "val acc %" in done.stdout
    for folder in (user.folder / "sweeps" / "s").glob("optim*"):
        assert len(record.read(folder).data["attempts"]) == 1
        assert len([p for p in folder.rglob("*") if p.is_file()]) <= 7
    assert_like_uninterrupted(
        user, "sweeps/s/optim.lr=0.003,seed=1", *grid[:-3], "optim.lr=3e-3", "seed=1"
    )
    larger = user.sweep(*WAIT, *grid, "seed=0,1,2")
    assert larger.returncode == 2, "seed is given twice"
    more = user.sweep(*WAIT, *grid[:-2], "seed=0,1,2", "name=s")
    assert "Submitted 2 tasks of sweeps/s" in more.stdout
    assert "6 jobs in sweeps/s: 2 done, 4 skipped" in more.stdout
    assert "6 finished" in status(user, "s")


def test_slurm_single_run(user: User) -> None:
    done = user.sweep(*WAIT, *SHORT, "note='a \"quoted\" $(touch hacked) `touch hacked`; # note'")
    assert done.returncode == 0, done.stderr
    assert "Submitted 1 task of runs/" in done.stdout
    (run,) = [p for p in (user.folder / "runs").iterdir() if not p.is_symlink()]
    assert record.read(run).status == "finished"
    assert record.read(run).data["note"] == 'a "quoted" $(touch hacked) `touch hacked`; # note'
    assert not (user.folder / "hacked").exists()
    again = user.sweep(*WAIT, *SHORT, record.read(run).data["overrides"][-1], f"name={run.name}")
    assert "Submitted" not in again.stdout
    assert f"Results:     runs/{run.name}" in again.stdout


def test_slurm_failing_job(user: User, slurm: mini_slurm.Cluster) -> None:
    grid = [*SLOW, "model.fails=true,false", "model.delay_s=0", "name=s"]
    done = user.sweep(*grid, *WAIT)
    assert done.returncode == 1
    assert "2 jobs in sweeps/s: 1 done, 1 failed" in done.stdout
    failed = record.read(user.folder / "sweeps/s/model.fails=True")
    assert failed.status == "failed"
    assert "Out of memory" in failed.data["error"]
    assert len(failed.data["attempts"]) == 1, "a failure is not started again"
    job = re.search(r"as (\d+)\.$", done.stdout, re.M)
    assert job
    states = slurm.run("squeue", "-h", "-t", "all", "-r", "-j", job[1], "-o", "%T").split()
    assert sorted(states) == ["COMPLETED", "FAILED"]
    shown = status(user, "s")
    assert "failed: Out of memory" in shown
    assert "Go on:  python scripts/train.py -m " in shown
    log = re.search(r"log: (\S+)", shown)
    assert log
    assert "Out of memory" in (user.folder / log[1]).read_text()
    again = user.sweep(*grid, *WAIT)
    assert "Submitted 1 task of sweeps/s" in again.stdout, "the failed one is tried again"


def test_slurm_kill_task(user: User) -> None:
    words = [*SLOW, "trainer.max_epochs=4", "model.delay_s=0.1"]
    submit(user, *words, "seed=0,1", "name=s")
    folder = user.folder / "sweeps/s/seed=1"
    until(is_training(folder), "an epoch")
    os.kill(pid(folder), signal.SIGKILL)
    until(is_finished(folder), "the end")
    until(is_finished(user.folder / "sweeps/s/seed=0"), "the end of the other one")
    starts = [a["start_epoch"] for a in record.read(folder).data["attempts"]]
    assert len(starts) == 2
    assert starts[1] >= 1
    assert len(record.read(user.folder / "sweeps/s/seed=0").data["attempts"]) == 1
    assert_like_uninterrupted(user, "sweeps/s/seed=1", *words, "seed=1")


def test_slurm_killed_without_progress_fails(user: User) -> None:
    submit(user, *SLOW, "model.delay_s=5", "name=r")
    folder = user.folder / "runs/r"
    for i in range(3):
        until(lambda i=i: _attempts(folder) > i and is_training(folder, 0)(), f"start {i}")
        os.kill(pid(folder), signal.SIGKILL)
    until(lambda: record.read(folder).status == "failed", "the failure")
    assert "Two restarts in a row ended without" in record.read(folder).data["error"]
    assert "failed: Two restarts in a row" in status(user, "r")


def _attempts(folder: Path) -> int:
    try:
        return len(record.read(folder).data["attempts"])
    except ValueError:
        return 0


def test_slurm_requeue(user: User, slurm: mini_slurm.Cluster) -> None:
    words = [*SLOW, "trainer.max_epochs=4", "name=r"]
    job = submit(user, *words)
    folder = user.folder / "runs" / "r"
    until(is_training(folder), "an epoch")
    slurm.run("scontrol", "requeue", job)
    until(is_finished(folder), "the end")
    assert len(record.read(folder).data["attempts"]) == 2
    assert_like_uninterrupted(user, "runs/r", *words[:-1])


def test_slurm_preempt(user: User, slurm: mini_slurm.Cluster) -> None:
    words = [*SLOW, "trainer.max_epochs=6", "model.delay_s=0.2", "name=r"]
    job = submit(user, *words)
    folder = user.folder / "runs" / "r"
    until(is_training(folder), "an epoch")
    urgent = ["--nodes=2", "--exclusive", "--partition=high", "--time=1", "--wrap=sleep 2"]
    slurm.run("sbatch", "--output=/dev/null", *urgent)
    until(is_finished(folder), "the end")
    run = record.read(folder)
    assert len(run.data["attempts"]) == 2
    log = "".join(path.read_text() for path in (folder / ".slurm").glob("*.log"))
    assert "Preempted: SLURM starts this task again." in log
    shown = slurm.run("scontrol", "show", "job", "-o", job)
    assert "Restarts=1" in shown
    assert_like_uninterrupted(user, "runs/r", *words[:-1])


def test_slurm_time_limit(user: User, slurm: mini_slurm.Cluster) -> None:
    """Three slots of a minute, of which SLURM takes up to half for its own clock."""
    words = [*SLOW, "trainer.max_epochs=100", "name=r"]
    job = submit(user, *words, "hydra.launcher.time_min=1", "hydra.launcher.stop_s=10")
    folder = user.folder / "runs" / "r"
    until(is_finished(folder), "the end", timeout_s=400)
    assert len(record.read(folder).data["attempts"]) >= 3
    show = ["scontrol", "show", "job", "-o", job]
    until(lambda: "JobState=COMPLETED" in slurm.run(*show), "the end of the job")
    starts = [a["start_epoch"] for a in record.read(folder).data["attempts"]]
    assert starts == sorted(set(starts)), "each slot came further"


def test_slurm_node_loss(user: User, slurm: mini_slurm.Cluster) -> None:
    words = [*SLOW, "trainer.max_epochs=5", "model.delay_s=0.2", "name=r"]
    job = submit(user, *words)
    folder = user.folder / "runs" / "r"
    until(is_training(folder), "an epoch")
    node = slurm.run("squeue", "-h", "-j", job, "-o", "%N").strip()
    slurm.lose_node(node)
    until(is_finished(folder), "the end on the other node")
    assert len(record.read(folder).data["attempts"]) == 2
    slurm.start_node(node)
    slurm.wait_for_nodes("idle")
    assert_like_uninterrupted(user, "runs/r", *words[:-1])


def test_slurm_ddp_rank_kill(user: User, slurm: mini_slurm.Cluster) -> None:
    """Two processes on two nodes, of which the second is killed."""
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=4"]
    nodes = ["trainer.devices=1", "trainer.num_nodes=2"]
    setup = "hydra.launcher.setup=['export MASTER_ADDR=127.0.0.1']"  # their names do not resolve
    job = submit(user, *SLOW, *ddp, *nodes, "name=r", setup)
    folder = user.folder / "runs" / "r"
    until(is_training(folder), "an epoch")
    os.kill(_rank(1, job, slurm), signal.SIGKILL)
    until(is_finished(folder), "the end")
    assert len(record.read(folder).data["attempts"]) == 2
    assert record.read(folder).data["num_processes"] == 2
    assert_like_uninterrupted(user, "runs/r", *SLOW, *ddp, "trainer.devices=2")


def test_slurm_ddp_slot_end(user: User, slurm: mini_slurm.Cluster) -> None:
    """SLURM's word that the slot ends, to a batch job of two processes on two nodes."""
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=4"]
    nodes = ["trainer.devices=1", "trainer.num_nodes=2"]
    setup = "hydra.launcher.setup=['export MASTER_ADDR=127.0.0.1']"
    job = submit(user, *SLOW, *ddp, *nodes, "name=r", setup)
    folder = user.folder / "runs" / "r"
    until(is_training(folder), "an epoch")
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    until(lambda: record.read(folder).data["status"] != "running", "the stop at a batch")
    stopped = record.read(folder).data
    assert (stopped["status"], stopped["error"]) == ("interrupted", "SIGTERM")
    until(lambda: not (folder / ".lock").exists(), "the free folder")
    until(is_finished(folder), "the end")
    assert len(record.read(folder).data["attempts"]) == 2
    log = "".join(path.read_text() for path in (folder / ".slurm").glob("*.log"))
    assert "forcing job termination" not in log
    assert "Requeued after" in log
    assert_like_uninterrupted(user, "runs/r", *SLOW, *ddp, "trainer.devices=2")


def _rank(rank: int, job: str, slurm: mini_slurm.Cluster) -> int:
    """Return the process of a rank of a job."""
    conf = f"SLURM_CONF={slurm.environment['SLURM_CONF']}"
    marks = {f"SLURM_PROCID={rank}".encode(), f"SLURM_JOB_ID={job}".encode(), conf.encode()}
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            program, *words = path.with_name("cmdline").read_bytes().split(b"\0")
            is_it = marks <= set(path.read_bytes().split(b"\0"))
            if is_it and b"--folder" in words and not program.endswith(b"srun"):
                return int(path.parent.name)
    raise AssertionError(f"no rank {rank}")


def test_slurm_driver_kill(user: User) -> None:
    grid = [*SLOW, "trainer.max_epochs=3", "seed=0,1,2", "name=s"]
    driver = user.start("-m", *grid, *WAIT)
    until(is_training(user.folder / "sweeps/s/seed=0"), "an epoch")
    driver.kill()
    driver.communicate()
    done = user.sweep(*grid, *WAIT)
    assert done.returncode == 0, done.stderr
    assert "Submitted" not in done.stdout, "the jobs went on"
    assert set(user.table("s")) == {"seed=0", "seed=1", "seed=2"}
    for folder in (user.folder / "sweeps" / "s").glob("seed*"):
        assert len(record.read(folder).data["attempts"]) == 1


def test_slurm_cancel_is_no_success(user: User, slurm: mini_slurm.Cluster) -> None:
    job = submit(user, *SLOW, "trainer.max_epochs=50", "name=r")
    folder = user.folder / "runs" / "r"
    until(is_training(folder), "an epoch")
    after = slurm.run(
        *["sbatch", "--parsable", f"--dependency=afterok:{job}", "--output=/dev/null"],
        "--wrap=true",
    ).strip()
    slurm.run("scancel", job)
    until(lambda: "r" not in slurm.run("squeue", "-h", "-o", "%j").split(), "the end")
    assert record.read(folder).status == "interrupted"
    shown = slurm.run("scontrol", "show", "job", "-o", job)
    assert "JobState=CANCELLED" in shown
    assert "Restarts=0" in shown
    assert "JobState=PENDING" in slurm.run("scontrol", "show", "job", "-o", after)
    assert "Go on:  python scripts/train.py -m " in status(user, "r")


def test_slurm_optuna_workers(user: User) -> None:
    search = [
        *SLOW,
        *["hydra/sweeper=optuna", "hydra.sweeper.n_trials=8", "hydra.sweeper.n_startup_trials=4"],
        *["hydra.sweeper.pruner=none", "optim.lr=tag(log,interval(1e-4,1e-1))", "name=s"],
    ]
    waiting = user.start("-m", *search, *WAIT, "hydra.launcher.workers=2")
    folders = user.folder / "sweeps" / "s"
    until(lambda: len(list(folders.glob("*/run.json"))) > 2, "a third trial")
    running = [f.parent for f in folders.glob("*/run.json") if is_training(f.parent, 0)()]
    until(lambda: any(is_training(f)() for f in running), "an epoch")
    os.kill(pid(next(f for f in running if is_training(f)())), signal.SIGKILL)
    out, err = waiting.communicate(timeout=200)
    assert waiting.returncode == 0, out + err
    assert "Submitted 2 tasks of sweeps/s" in out
    assert "8 jobs in sweeps/s: 8 done" in out
    assert "val acc %" in out
    table = user.table("s")
    assert len(table) == 8
    assert {kind for kind, *_ in table.values()} == {"finished"}
    assert all(epochs == 2 for *_, epochs in table.values()), "nothing was trained twice"
