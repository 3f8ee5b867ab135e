"""The file that an Optuna study is kept in, safe against kills, full disks and company."""

import contextlib
import time
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from fmnist.errors import BusyError, UserError
from fmnist.lock import Lock

JOURNAL = "study.journal"
PATIENCE_S = 2.0  # before it is asked whether a holder on another machine lives
POLL_S = 0.01


def open_journal(path: Path) -> JournalStorage:
    """Open a journal; a last line that a full disk or a power cut left torn is taken away."""
    guard = FileLock(path.with_name(".journal"))
    try:
        if path.exists():
            with guard:
                _mend(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=guard))  # type: ignore[arg-type]
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Restore it from a copy, or delete it: finished "
            "jobs stay, the search starts anew."
        ) from None


def _mend(path: Path) -> None:
    with path.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)


class FileLock:
    """A lock that ends with its process, also on a file system that several machines share.

    By fmnist.lock: flock is missing on some of those, and on others it holds for one machine alone.
    Optuna's own outlive their owner, and its grace period does not see relative links (Optuna 5.0).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: Lock | None = None

    def acquire(self, wait: bool = True) -> bool:
        """Take the lock; without `wait`, return False where another one that lives has it."""
        guard = Lock(self.path.parent, self.path.name)
        patience = time.monotonic() + PATIENCE_S
        while not guard.take():
            if not wait or time.monotonic() > patience:
                with contextlib.suppress(BusyError):
                    guard.__enter__()
                    break
                if not wait:
                    return False
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
