"""Which process has which trial of a search: a lock for each, also between machines."""

from collections.abc import Iterable
from pathlib import Path

from fmnist import lock
from fmnist.sweeps.looks import Looks


class Claims:
    """The trials of the sweep in `folder` that this process has, and a look at those of others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.looks = Looks()
        self._held: dict[int, lock.Lock] = {}

    def take(self, number: int) -> bool:
        """Make a trial this process's; False where another one has it, which may be alive."""
        guard = lock.Lock(self.folder, self._path(number).name)
        if not guard.take():
            return False
        self._held[number] = guard
        return True

    def release(self, number: int) -> None:
        """Leave a trial to others."""
        if guard := self._held.pop(number, None):
            guard.__exit__()

    def release_all(self) -> None:
        for number in list(self._held):
            self.release(number)

    def is_alive(self, number: int, runs: Iterable[Path], looks: Looks) -> bool | None:
        """Say whether a process has a trial, or is at work in one of the folders `runs`.

        Without waiting: None where only a later look, with the same `looks`, can tell.
        """
        paths = [self._path(number), *(folder / lock.LOCK for folder in runs)]
        found = [looks.is_alive(path) for path in paths]
        return True if True in found else None if None in found else False

    def _path(self, number: int) -> Path:
        return self.folder / f".trial-{number}"
