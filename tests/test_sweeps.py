"""Sweeps as a user starts, stops and repeats them, each command in a process of its own."""

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
from user import User, assert_equal

from fmnist import lock

SHORT = ["data.batch_size=50", "data.val_size=100", "trainer.max_epochs=2", "trainer=cpu"]
DRAWING = [*SHORT, "augment=strong", "model.dropout=0.3"]
LONG = [*DRAWING, "trainer.max_epochs=8"]
GRID = [*LONG, "optim.lr=1e-3,3e-3", "seed=0,1"]
SEARCH = [
    *[*LONG, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=14"],
    *["hydra.sweeper.n_startup_trials=3", "hydra.sweeper.n_warmup_trials=2"],
    *["optim.lr=tag(log,interval(1e-4,1e-1))", "model.hidden=int(interval(16,64))"],
]
POOL = ["hydra/launcher=pool", "hydra.launcher.workers=2"]
OWN_NETWORK = """
import sys, torch
class Net(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.layer = kind, torch.nn.Linear(784, 10)
    def forward(self, images):
        if len(images) > 2 and self.kind == "exit":
            sys.exit(3)
        if len(images) > 2 and self.kind == "memory":
            raise MemoryError
        if len(images) > 2 and self.kind == "bug":
            return 1 / 0
        return self.layer(images.flatten(1) / 255)
"""


@pytest.fixture
def user(tmp_path: Path, small_files: Path) -> User:
    return User(tmp_path, small_files)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], [*POOL, "hydra.launcher.threads=1"]])
def test_a_job_of_a_sweep_equals_the_same_run_alone(launcher: list[str], user: User) -> None:
    user.environment["OMP_NUM_THREADS"] = "1"
    done = user.sweep(*DRAWING, "optim.lr=1e-3,3e-3", "seed=0,1", "name=s", *launcher)
    assert done.returncode == 0, done.stderr
    assert "4 jobs in sweeps/s: 4 done" in done.stdout
    alone = user.start(*DRAWING, "optim.lr=3e-3", "seed=1", "name=alone", "figures=none")
    alone.communicate(timeout=60)
    assert_equal(user.weights("sweeps/s/optim.lr=0.003,seed=1"), user.weights("runs/alone"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], POOL])
def test_a_failing_job_costs_itself_and_is_tried_again(launcher: list[str], user: User) -> None:
    (user.folder / "mine.py").write_text(OWN_NETWORK)
    (user.folder / "groups" / "model").mkdir(parents=True)
    (user.folder / "groups" / "model" / "net.yaml").write_text("_target_: mine.Net\nkind: ok\n")
    words = ["--config-dir", "groups", "model=net", "model.kind=exit,ok,memory,bug", *SHORT]
    done = user.sweep(*words, "name=s", *launcher)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "4 jobs in sweeps/s: 1 done, 3 failed" in lines
    assert "  failed: model.kind=exit: SystemExit: 3" in lines
    assert any(re.match(r"  failed: model.kind=memory: Out of memory with", x) for x in lines)
    assert "  failed: model.kind=bug: ZeroDivisionError: division by zero" in lines
    assert (user.folder / "sweeps/s/model.kind=bug/error.txt").exists()
    (user.folder / "mine.py").write_text(OWN_NETWORK.replace("> 2", "> 999"))
    again = user.sweep(*words, "name=s", *launcher)
    assert again.returncode == 0
    assert "4 jobs in sweeps/s: 3 done, 1 skipped (finished before)" in again.stdout


@pytest.mark.slow
def test_ctrl_c_stops_the_sweep_and_the_line_completes_it(user: User) -> None:
    words = [*SHORT, "trainer.max_epochs=40", "seed=0,1,2", "name=s"]
    process = user.start("-m", *words)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[2/3]"):
            break
    next(process.stderr)  # an epoch
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "3 jobs in sweeps/s: 1 done, 1 interrupted, 1 not started" in out
    listed = user.sweep(*words, "--dry-run")
    assert re.search(r"done +seed=0 +val/acc", listed.stdout)
    assert re.search(r"interrupted +seed=1 +\d+ of 40 epochs", listed.stdout)
    assert re.search(r"to do +seed=2\n", listed.stdout)
    assert re.search(r"Time left: about \d+ (s|min)", listed.stdout)
    again = user.sweep(*words)
    assert "3 jobs in sweeps/s: 2 done, 1 skipped (finished before)" in again.stdout


@pytest.mark.slow
def test_a_killed_worker_costs_its_own_job(user: User) -> None:
    words = [*SHORT, "trainer.max_epochs=60", "seed=0,1,2,3", "name=s", *POOL]
    process = user.start("-m", *words)
    held = user.folder / "sweeps/s/seed=0/.lock"
    deadline = time.monotonic() + 60
    while not (held.exists() and "epoch" in held.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(json.loads(held.read_text())["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "4 jobs in sweeps/s: 3 done, 1 failed" in out
    assert "  failed: seed=0: Its process was killed by SIGKILL." in out
    assert "4 jobs in sweeps/s: 1 done, 3 skipped" in user.sweep(*words).stdout


@pytest.mark.slow
def test_the_end_of_a_killed_pool_ends_its_workers(user: User) -> None:
    process = user.start("-m", *SHORT, "trainer.max_epochs=500", "seed=0,1", "name=s", *POOL)
    folders = [user.folder / f"sweeps/s/seed={i}" for i in (0, 1)]
    deadline = time.monotonic() + 60
    while not all(map(lock.is_held, folders)) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while any(map(lock.is_held, folders)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(lock.is_held, folders))
    assert {status for status, *_ in user.table("s").values()} == {"interrupted"}


@pytest.mark.slow
def test_two_processes_train_the_jobs_of_a_sweep_like_one(user: User) -> None:
    """Each job starts the second process itself; nothing repeats the sweep."""
    user.environment["OMP_NUM_THREADS"] = "1"
    words = [*SHORT, "seed=0,1", "model=mlp", "trainer.precision=32-true"]
    alone, both = user.sweep(*words, "name=one"), user.sweep(
        *words, "name=two", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"
    )  # fmt: skip
    assert (alone.returncode, both.returncode) == (0, 0), both.stderr
    one, two = user.table("one"), user.table("two")
    assert one.keys() == two.keys() == {"seed=0", "seed=1"}
    for job in one:
        assert two[job][1] == pytest.approx(one[job][1], rel=1e-3)


@pytest.mark.slow
def test_a_hundred_jobs_hold_neither_memory_nor_files(user: User) -> None:
    """Their seconds are measured by `scripts/bench.py --measure sweep`."""
    user.environment["OMP_NUM_THREADS"] = "1"
    process = user.start("-m", *SHORT, "trainer.max_epochs=1", "seed=range(101)", "name=s")
    assert process.stderr is not None
    seen = []  # of every tenth job: resident kB, open files
    for line in process.stderr:
        if re.match(r"\[\d*1/101\]", line):
            status = Path(f"/proc/{process.pid}/status").read_text()
            resident = re.search(r"VmRSS:\s+(\d+) kB", status)
            assert resident is not None
            files = len(os.listdir(f"/proc/{process.pid}/fd"))
            seen.append((int(resident[1]), files))
    process.communicate(timeout=60)
    assert process.returncode == 0
    sizes, files = zip(*seen, strict=True)
    assert len(sizes) == 11
    assert sizes[-1] < 1.06 * sizes[2]
    assert files[-1] == files[2]


@pytest.mark.kill
@pytest.mark.parametrize(
    ("kind", "seed"),
    [("grid", 1), ("grid", 2), ("search", 1), ("search", 2), ("search", 3), ("pool", 1)],
)
def test_a_killed_sweep_repeated_gives_the_same_table(kind: str, seed: int, user: User) -> None:
    """Stopped at random moments by kill -9, Ctrl-C, SIGTERM and a closed terminal."""
    words = {"grid": GRID, "search": SEARCH, "pool": [*GRID, *POOL]}[kind]
    whole = user.sweep(*words, "name=whole")
    assert whole.returncode == 0, whole.stderr
    rng = random.Random(seed)
    signals = [signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    ends = []
    for _ in range(5):
        signum, num_lines = rng.choice(signals), rng.randint(0, 4)
        after_s = rng.uniform(0, 0.1) if num_lines else rng.uniform(0.3, 3)  # 0: while importing
        ends.append(user.stop(signum, num_lines, after_s, *words, "name=killed"))
    last = user.sweep(*words, "name=killed")
    print(f"{kind} {seed}: ends {ends}, {last.stdout.strip().splitlines()[0]}")
    assert any(ends), "nothing was interrupted"
    assert set(ends) <= {0, -9, 130, 143, -15, -1}
    assert last.returncode == 0, last.stderr
    assert user.table("killed") == user.table("whole")
    for job in user.table("whole"):
        assert_equal(user.weights(f"sweeps/whole/{job}"), user.weights(f"sweeps/killed/{job}"))
