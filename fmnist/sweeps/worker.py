"""A worker of hydra/launcher=pool: `python -m fmnist.sweeps.worker`, one task a line on stdin.

A task is JSON, [number, *jobs.Task]; the answer, a line on stdout, pool.Ended.
"""

import io
import json
import os
import signal
import sys
import threading
import time
from typing import Any

from fmnist.errors import Interrupted
from fmnist.sweeps.jobs import Task, carry_out
from fmnist.sweeps.launchers import explain


class Prefixed(io.TextIOBase):
    """A text stream that starts each line with the number of the job it is about."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.prefix = ""
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self.stream.write(f"{self.prefix}{line}\n")
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints, answers stay alone on their stream
    told = Prefixed(sys.stderr)
    sys.stderr = sys.stdout = told
    tasks = _Tasks()
    for number, *values in iter(tasks.next, None):
        told.prefix = f"[{number}] "
        answers.write(json.dumps(_carry_out(Task(*values))) + "\n")
        answers.flush()


def _carry_out(task: Task) -> list[Any]:
    try:
        done = carry_out(task)
        return [done.scores.get(task.config["metric"]), "", ""]
    except Interrupted as stop:
        return [None, type(stop).__name__, str(stop)]
    except (Exception, SystemExit) as error:
        told = explain(error)
        return [None, type(told).__name__, str(told)]


class _Tasks:
    """The lines of stdin, read ahead so that the parent's death is noticed during a job."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._lines: list[Any] = []
        self._arrived = threading.Semaphore(0)
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> Any:
        self._arrived.acquire()
        return self._lines.pop(0)

    def _read(self) -> None:
        for line in sys.stdin:
            self._lines.append(json.loads(line))
            self._arrived.release()
        self._lines.append(None)
        self._arrived.release()
        while os.getppid() == self._parent:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)  # at a safe point, if a job is at work


if __name__ == "__main__":
    main()
