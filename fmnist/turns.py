"""Take turns with other processes in one folder, and find the files that ended ones left."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WAIT_S = 120.0  # for another process that is getting the files
ORPHAN_S = 60.0  # an unfinished file not written for so long has no living owner


@contextmanager
def turn(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Let one process at a time work in `folder`, as far as waiting a while can do it.

    Nothing depends on it: names of their own keep concurrent processes apart.
    """
    lock = folder / ".lock"
    mine = _claim(lock)
    if not mine:
        say("Data: waiting for another process that is getting the files")
        _await(lock)
        mine = _claim(lock)
    try:
        yield
    finally:
        if mine:
            lock.unlink(missing_ok=True)


def orphans(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield unfinished files that were given up, or whose process does not seem to live."""
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            if path.suffix == ".part" or time.time() - path.stat().st_mtime > ORPHAN_S:
                yield path


def _claim(lock: Path) -> bool:
    with suppress(FileExistsError), lock.open("x") as file:
        file.write(f"{os.getpid()} {socket.gethostname()}")
        return True
    return False


def _await(lock: Path) -> None:
    """Return when `lock` is gone; remove it if its owner is dead or it is too old."""
    deadline = time.monotonic() + WAIT_S
    try:
        while time.monotonic() < deadline and time.time() - lock.stat().st_mtime < WAIT_S:
            pid, _, host = lock.read_text().partition(" ")
            if host == socket.gethostname():
                with suppress(PermissionError):  # it lives, as another user's
                    os.kill(int(pid), 0)
            time.sleep(0.1)
    except FileNotFoundError:
        return
    except OSError:  # the owner is dead, or the lock cannot be read
        pass
    lock.unlink(missing_ok=True)
