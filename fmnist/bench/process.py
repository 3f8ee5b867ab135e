"""Run one process to its end: how long it took, how much memory, what it said."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

TIMEOUT_S = 3600.0
_MB = 1e6 if sys.platform == "darwin" else 1e3  # of ru_maxrss, bytes or kB


class ContestantError(Exception):
    """A process of a contestant failed; the message is the last line of its stderr."""


class Done(NamedTuple):
    """A process that has ended: `began` is of time.monotonic(), memory the peak of one process.

    Linux counts towards the peak what the starting process held: this one must stay small, and
    must not import torch. What further processes of a contestant held does not add up.
    """

    began: float
    wall_s: float
    memory_mb: float
    exit_code: int
    stdout: str
    stderr: str


def run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    *,
    expected: int = 0,
    timeout_s: float = TIMEOUT_S,
) -> Done:
    """Run `command` in `folder`; raises ContestantError unless it exits with `expected`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        code, wall_s, memory_mb = _wait(process, began, timeout_s)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    done = Done(began, wall_s, memory_mb, code, *texts)
    if code != expected:
        raise ContestantError(_reason(done, timeout_s))
    return done


def _wait(
    process: "subprocess.Popen[bytes]", began: float, timeout_s: float
) -> tuple[int, float, float]:
    """Return exit code, seconds and peak memory in MB; the process ends with this one."""
    timer = threading.Timer(timeout_s, process.kill)
    timer.daemon = True
    timer.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    finally:
        timer.cancel()
    wall_s = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it again
    return process.returncode, wall_s, usage.ru_maxrss / _MB


def _reason(done: Done, timeout_s: float) -> str:
    if done.exit_code == -signal.SIGKILL and done.wall_s >= timeout_s:
        return f"not done within {timeout_s:.0f} s"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {done.exit_code}, nothing said"
