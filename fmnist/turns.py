"""Take turns with other processes in one folder, and find the files that ended ones left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

from fmnist.errors import UserError
from fmnist.lock import Lock, stamp

WAIT_S = 30.0  # for a sign of life of another process that is getting the files
POLL_S = 0.05
ORPHAN_S = 60.0  # an unfinished file not written for so long has no living owner


@contextmanager
def turn(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Let one process at a time work in `folder`, of all machines that share it.

    Nothing depends on it: names of their own keep concurrent processes apart.
    """
    guard = Lock(folder)
    is_mine = _claim(guard)
    if not is_mine and _is_lock(guard.path):
        say("Data: waiting for another process that is getting the files")
        is_mine = _await(guard)
    try:
        yield
    finally:
        if is_mine:
            guard.__exit__()


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


def _claim(guard: Lock) -> bool:
    try:
        return guard.take()
    except UserError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None  # the caller knows the setting it is about
        raise


def _is_lock(path: Path) -> bool:
    """Say whether what stands there can be a lock: no folder, link, pipe or device."""
    try:
        return S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return True


def _await(guard: Lock) -> bool:
    """Take the lock once its owner has ended, or shows no sign of life for WAIT_S seconds.

    False where something that is no lock has come to stand there.
    """
    seen, since = stamp(guard.path), time.monotonic()
    while not _claim(guard):
        if not _is_lock(guard.path):
            return False
        now = stamp(guard.path)
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > WAIT_S:
            guard.path.unlink(missing_ok=True)
        else:
            time.sleep(POLL_S)
    return True
