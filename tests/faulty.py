"""A disk that fails: the k-th attempt to change something under a folder, and those after it."""

import builtins
import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHANGES = ("os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.utime")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Disk:
    """Counts what is changed under `folder`; the `first` change, counted from 0, fails by `code`.

    Later changes fail too, unless the fault passes (`once`). A full disk (ENOSPC, EDQUOT) still
    lets files be opened for reading, removed, renamed and touched.
    """

    def __init__(self, folder: Path, first: int, code: int = errno.ENOSPC, once: bool = False):
        self.folder = str(folder.resolve())
        self.first, self.code, self.once = first, code, once
        self.start = Path.cwd()  # which relative paths are relative to
        self.count = 0
        self.failed: list[str] = []

    def holds(self, path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return str(self.start / os.fsdecode(path)).startswith(self.folder)

    def change(self, what: str, path: Any, frees: bool = False) -> None:
        """Count a change; raises OSError when it is one that fails."""
        number, self.count = self.count, self.count + 1
        if number < self.first or (self.once and number > self.first):
            return
        if frees and self.code in (errno.ENOSPC, errno.EDQUOT):
            return
        self.failed.append(f"{what} {path}")
        raise OSError(self.code, os.strerror(self.code), str(path))


class _File(io.FileIO):
    """A file whose writes a disk may refuse."""

    disk: Disk

    def write(self, data: Any) -> int | None:
        self.disk.change("write", self.name)
        return super().write(data)


_active: list[Disk] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _active:
        return
    disk = _active[-1]
    if event == "open":
        path, _, flags = arguments
        if flags & WRITES and disk.holds(path):
            disk.change("open", path)
    elif event in CHANGES and (held := [path for path in arguments[:2] if disk.holds(path)]):
        frees = event in ("os.rename", "os.remove", "os.rmdir", "os.utime")
        disk.change(event, held[-1], frees)


_hooked: list[bool] = []


@contextlib.contextmanager
def failing(disk: Disk) -> Iterator[Disk]:
    """Let everything Python does in `disk.folder` go through `disk`."""
    if not _hooked:  # a hook stays until the process ends
        _hooked.append(True)
        sys.addaudithook(_hook)
    before = io.open, os.fsync
    opened, fsync = _opener(disk), _syncer(disk)
    builtins.open = io.open = opened  # type: ignore[assignment]
    os.fsync = fsync  # type: ignore[assignment]
    _active.append(disk)
    try:
        yield disk
    finally:
        _active.pop()
        builtins.open = io.open = before[0]
        os.fsync = before[1]


def _syncer(disk: Disk) -> Callable[[int], None]:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if disk.holds(path):
            disk.change("fsync", path)
        real(descriptor)

    return fsync


def _opener(disk: Disk) -> Callable[..., Any]:
    real = io.open

    def open_(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **named: Any) -> Any:
        if not set(mode) & set("wax+") or not disk.holds(file):
            return real(file, mode, buffering, *args, **named)
        raw = _File(file, mode.replace("b", "").replace("t", ""))
        raw.disk = disk
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)  # type: ignore[type-var]
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **named)

    return open_
