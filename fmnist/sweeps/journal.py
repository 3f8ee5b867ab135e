"""The file that an Optuna study is kept in, safe against kills, full disks and company."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from fmnist import lock
from fmnist.errors import UserError
from fmnist.sweeps.looks import Looks

PATIENCE_S = 2.0  # before it is asked whether a holder on another machine lives
POLL_S = 0.01


def open_journal(path: Path) -> JournalStorage:
    """Open a journal; a last line that a full disk or a power cut left torn is taken away."""
    guard = FileLock(path.with_name(".journal"))
    with readable(path):
        if path.exists():
            with guard:
                _mend(path)
        return JournalStorage(Journal(path, guard))


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what Optuna and we make of a damaged journal into a UserError."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Restore it from a copy, or "
            "delete it: finished jobs stay, the search starts anew."
        ) from None


class Journal(JournalFileBackend):
    """Optuna's journal, in which nothing is written behind a torn line.

    Any process may have left one, at any time, while others have the file open: a line glued to it
    could be read by none of them.
    """

    def __init__(self, path: Path, guard: "FileLock") -> None:
        super().__init__(str(path), lock_obj=guard)  # type: ignore[arg-type]
        self.path = path
        self.guard = guard

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add a line for each operation; raises UserError where the disk refuses."""
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        with self.guard:
            try:
                _mend(self.path)
                try:
                    with self.path.open("ab") as file:
                        file.write("".join(lines).encode())
                        file.flush()
                        os.fsync(file.fileno())
                except OSError:
                    _mend(self.path)  # a whole line stays: others may have read it
                    raise
            except OSError as error:
                raise UserError(
                    f"Cannot write {self.path} ({error.strerror}). "
                    "Free some space or make it writable, then type the same line again."
                ) from None


def _mend(path: Path) -> None:
    """Take away what stands behind the last end of a line."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if file.read() in (b"", b"\n"):
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


class FileLock:
    """A lock that ends with its process, also on a file system that several machines share.

    By fmnist.lock: flock is missing on some of those, and on others it holds for one machine alone.
    Optuna's own outlive their owner, and its grace period does not see relative links (Optuna 5.0).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: lock.Lock | None = None

    def acquire(self) -> bool:
        """Wait for the lock; one whose holder has died is taken over."""
        guard = lock.Lock(self.path.parent, self.path.name)
        began, looks = time.monotonic(), Looks()
        while not guard.take():
            if time.monotonic() - began > PATIENCE_S:
                looks.is_alive(self.path)
            time.sleep(POLL_S)
        self._lock = guard
        return True

    def release(self) -> None:
        """Leave the lock to others."""
        if self._lock is not None:
            self._lock.__exit__()
            self._lock = None

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
