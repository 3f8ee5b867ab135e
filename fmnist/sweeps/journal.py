"""The file that an Optuna study is kept in, safe against kills, full disks and company."""

import fcntl
import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from fmnist.errors import UserError

JOURNAL = "study.journal"


def open_journal(path: Path) -> JournalStorage:
    """Open a journal; a last line that a full disk or a power cut left torn is taken away."""
    guard = FileLock(path.with_name(".journal"))
    try:
        if path.exists():
            with guard:
                _mend(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=guard))  # type: ignore[arg-type]
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
    """A lock that the kernel takes from a process when it dies, however it dies.

    Optuna's own outlive their owner, and its grace period does not see relative links (Optuna 5.0).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self, wait: bool = True) -> bool:
        """Take the lock; without `wait`, return False where another one has it."""
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
