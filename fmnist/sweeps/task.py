"""A task of a SLURM job: run its line, and see to it that the run goes on until it is done.

`python -m fmnist.sweeps.task FOLDER --max-restarts N`, in a batch job, with one line for each task
on stdin (see script.py). SLURM itself starts a task again after preemption and the loss of a node.
Here that is done in every other case that is no failure: the slot ends, a process is killed.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Literal, TypeVar

from fmnist import config as configs
from fmnist import lock, record
from fmnist.command import read_command
from fmnist.errors import UserError, exit_codes
from fmnist.sweeps import plan, scheduler, script

BUSY_S = 10.0  # between two looks at a folder in which another process still works
TRIES, RETRY_S = 4, 5.0  # of a question to SLURM; seconds between two
PATIENCE_S = 600.0  # with a controller that restarts, where the slot does not end
INSIST_S = 30.0  # until a srun that did not end is told to kill its processes
SLOT_ENDS, TERMINATED = signal.SIGUSR1, signal.SIGTERM
Answer = TypeVar("Answer")
Next = Literal["done", "failed", "leave", "requeue", "stalled", "exhausted"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the sweep, or of the run")
    parser.add_argument("--max-restarts", type=int, required=True)
    args = parser.parse_args()
    with exit_codes():
        job, index, restarts = scheduler.place()
        words = shlex.split(sys.stdin.read().splitlines()[index])
        sys.exit(Task(words, args.folder, job, restarts, args.max_restarts).carry_out())


class Task:
    """One line of a job, from the start in this slot to what becomes of it at its end."""

    def __init__(
        self, words: Sequence[str], folder: Path, job: str, restarts: int, max_restarts: int
    ) -> None:
        self.words = list(words)
        self.place = script.line(words).folder  # None for a worker of a search
        self.folder = self.place or folder
        self.job = job
        self.restarts = restarts
        self.max_restarts = max_restarts
        self.starts = Starts(folder / script.FOLDER / f"{job}.starts")
        self.signum: int | None = None  # the first one
        self._written: int | None = None  # when the record was, before the line began
        self._child: subprocess.Popen[bytes] | None = None

    def carry_out(self) -> int:
        """Run the line; returns the exit code of the job, 0 only where all is done."""
        for signum in (SLOT_ENDS, TERMINATED):
            signal.signal(signum, self._stop)
        if self.restarts == 0:
            self.starts.clear()  # of an older job: ids begin anew where SLURM was set up again
        if not (self.place and plan.state(self.place).has_ended):
            if self.starts.is_stalled(self.epochs_done()):  # the restart before was SLURM's own
                return self._give_up()
            if self.restarts > self.max_restarts:
                return self._end_exhausted()
        self.starts.add(self.epochs_done())
        code = self._run()
        while code == 1 and self.signum is None and self._is_busy():
            _say(f"{self.folder} is still in use; looking again in {BUSY_S:.0f} s.")
            time.sleep(BUSY_S)
            code = self._run()
        return self._conclude(code)

    def epochs_done(self) -> int:
        """Return how far the run has come, or all runs of the sweep that a worker is of."""
        folders = [self.place] if self.place else _runs(self.folder)
        return sum(plan.state(folder).epochs_done for folder in folders)

    def next(self, code: int, status: str | None) -> Next:
        """Say what follows on a line that ended with `code` and left a run in `status`.

        A negative `code` is a signal. `status` is None for a worker.
        """
        if status in record.ENDED:
            return "done"
        if code == 0:
            return "done" if status is None else "failed"
        was_killed = code < 0 or code > 128 or (code == 1 and status == "interrupted")
        if status == "failed" or not was_killed:
            return "failed"
        if self.signum == TERMINATED:
            return "leave"  # to whoever ended it: a user, or SLURM, which starts it again by itself
        if self.starts.is_stalled(self.epochs_done()):
            return "stalled"
        return "exhausted" if self.restarts >= self.max_restarts else "requeue"

    def _run(self) -> int:
        self._written = self._stamp()
        if self.signum is not None:
            return 128 + TERMINATED
        environment = dict(os.environ)
        if processors := environment.get("SLURM_CPUS_PER_TASK"):
            environment.setdefault("OMP_NUM_THREADS", processors)  # not those of the whole node
        self._child = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, env=environment)
        if self.signum is not None:  # between the two lines
            self._end_child()
        return self._child.wait()

    def _status(self) -> str | None:
        """Return what the line left in the record, None for a worker.

        What stood there before it says nothing of how it ended: it may have failed before it began.
        `running` is not looked into: a run that lost one of its processes says `interrupted`.
        """
        if self.place is None:
            return None
        status = _recorded(self.place)
        return status if status in record.ENDED or self._stamp() != self._written else "to do"

    def _stamp(self) -> int | None:
        """Return when the record was written."""
        return lock.stamp(self.place / record.RECORD) if self.place else None

    def _stop(self, signum: int, _: FrameType | None) -> None:
        """Ask the run to stop at a safe point."""
        self.signum = self.signum or signum
        if self._child is not None and self._child.poll() is None:
            self._end_child()

    def _end_child(self) -> None:
        """Send SIGTERM, which srun would answer by killing its processes, so it passes USR2 on."""
        assert self._child is not None
        if Path(self.words[0]).name != "srun":
            self._child.terminate()
            return
        self._child.send_signal(signal.SIGUSR2)
        insist = threading.Timer(INSIST_S, self._child.terminate)  # nothing, once it has ended
        insist.daemon = True
        insist.start()

    def _is_busy(self) -> bool:
        """Say whether another process, of a node that SLURM gave up, still works on the run."""
        return self.place is not None and lock.is_held(self.place)

    def _conclude(self, code: int) -> int:
        decision = self.next(code, self._status())
        exit_code = 128 - code if code < 0 else code
        if decision == "done":
            self.starts.clear()
            return 0
        if decision == "failed":
            self.starts.clear()
            return exit_code or 1
        in_time = decision == "requeue" and self.signum is None
        patience_s = PATIENCE_S if in_time else 0.0
        try:
            self._wait_if_preempted(patience_s)
            if decision == "stalled":
                return self._give_up()
            if decision == "exhausted":
                return self._end_exhausted()
            if decision == "requeue":
                self._requeue(patience_s)
        except UserError as error:
            _say(f"{error} Type the same line again to go on.")
        return exit_code

    def _wait_if_preempted(self, patience_s: float) -> None:
        """Let SLURM end a task that it preempts: one that ends by itself is not started again."""
        if not scheduler.has("scontrol"):
            return
        if self._patiently(lambda: scheduler.is_preempted(self.job), patience_s):
            _say("Preempted: SLURM starts this task again.")
            while True:
                signal.pause()

    def _requeue(self, patience_s: float) -> None:
        """Start again, in the next slot."""
        if not scheduler.has("scontrol"):
            raise UserError("scontrol is missing on this node, so the task cannot start again.")
        self._patiently(lambda: scheduler.requeue(self.job), patience_s)
        _say(f"Requeued after {self.epochs_done()} epochs; restart {self.restarts + 1}.")

    def _patiently(self, ask: Callable[[], Answer], patience_s: float) -> Answer:
        """Return what SLURM answers; a controller that is busy is asked again for a while."""
        deadline, tries = time.monotonic() + patience_s, 0
        while True:
            try:
                return ask()
            except UserError as error:
                tries += 1
                is_late = time.monotonic() > deadline or self.signum is not None
                if self.signum == TERMINATED or (tries >= TRIES and is_late):
                    raise
                if tries == TRIES:
                    _say(f"{error} Asking again for {patience_s / 60:.0f} minutes.")
            time.sleep(RETRY_S)

    def _end_exhausted(self) -> int:
        _say(
            f"{self.folder} was started again {self.restarts} times, which is all that "
            f"hydra.launcher.max_restarts={self.max_restarts} allows. Type the same line again to "
            "go on."
        )
        return 1

    def _give_up(self) -> int:
        """Let the run fail that is started again and again and comes no further."""
        reason = (
            "Two restarts in a row ended without a finished epoch. See the log of the job; a slot "
            "must hold one epoch (hydra.launcher.time_min). Then type the same line again."
        )
        _say(f"{self.folder}: {reason}")
        self.starts.clear()
        if self.place is not None:
            try:
                with _opened(self.place, self.words) as run:
                    if run.data["status"] not in record.ENDED:
                        run.update(status="failed", error=reason)
            except UserError as error:
                _say(f"Cannot record it: {error}")
        return 1


class Starts:
    """How many epochs were done at each start of a task, kept in a file until it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.epochs: list[int] = []
        with contextlib.suppress(OSError, ValueError):
            self.epochs = [int(number) for number in json.loads(path.read_text())]

    def add(self, epochs: int) -> None:
        self.epochs.append(epochs)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        record.write_atomically(self.path, json.dumps(self.epochs))

    def is_stalled(self, epochs: int) -> bool:
        """Say whether the last two restarts, at whose end `epochs` are done, finished none."""
        return len(self.epochs) > 2 and self.epochs[-2] == self.epochs[-1] == epochs

    def clear(self) -> None:
        self.epochs = []
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(place: Path, words: Sequence[str]) -> Iterator[record.Record]:
    """Give the record of a run, made from its line where the run did not come to write one."""
    found = script.line(words)
    asked = read_command(found.overrides, found.config_dir)
    config = configs.settle(configs.check(asked.cfg, found.overrides, asked.folders))
    record.claim(place.parent, place.name, "")
    with lock.Lock(place):
        yield record.open_record(place, config, found.overrides)


def _recorded(place: Path) -> str:
    """Return the status that was written."""
    if not record.is_run(place):
        return "to do"
    try:
        return str(record.read(place).data["status"])
    except UserError:
        return "failed"


def _runs(folder: Path) -> list[Path]:
    return [path.parent for path in folder.glob(f"*/{record.RECORD}")]


def _say(line: str) -> None:
    print(
        f"[{time.strftime('%H:%M:%S')} {os.environ.get('SLURMD_NODENAME', '')}] {line}", flush=True
    )


if __name__ == "__main__":
    main()
