"""Take turns with other processes in one folder, and find the files that ended ones left."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

from fmnist.regular import open_regular

WAIT_S = 120.0  # for another process that is getting the files
MAX_OWNER = 1000  # bytes of a lock
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
            with suppress(OSError):
                lock.unlink()


def orphans(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield unfinished files that were given up, or whose process does not seem to live.

    Only what this program can have left: to go on writing through a link would change another file.
    """
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            status = path.lstat()
            is_ours = S_ISREG(status.st_mode) and status.st_nlink == 1
            is_left = path.suffix == ".part" or time.time() - status.st_mtime > ORPHAN_S
            if is_ours and is_left:
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
            with open_regular(lock) as file:
                pid, _, host = file.read(MAX_OWNER).decode().partition(" ")
            if host == socket.gethostname():
                with suppress(PermissionError):  # it lives, as another user's
                    os.kill(int(pid), 0)
            time.sleep(0.1)
    except FileNotFoundError:
        return
    except (OSError, ValueError, OverflowError):  # the owner is dead, or no owner wrote this
        pass
    with suppress(OSError):  # a folder, or not ours to remove
        lock.unlink()
