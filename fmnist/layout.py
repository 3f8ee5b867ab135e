"""Where a run's files stand; in a folder from elsewhere, a link or a folder may stand there."""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from fmnist.errors import UserError

LATEST = "latest"  # the link in runs/ to the newest run
_CHECKPOINTS = (
    *("best.ckpt", "last.ckpt", "previous.ckpt", "new.ckpt"),
    *(".best.ckpt.tmp", ".previous.ckpt.tmp"),
)


def check(folder: Path) -> None:
    """Raise UserError where a training in `folder` would write to another place, or could not."""
    for name in ("checkpoints", "figures"):
        check_folder(folder / name)
    for name in _CHECKPOINTS:
        check_file(folder / "checkpoints" / name)
    for path in (folder / "metrics.csv", *(folder / "figures").glob("*.png")):
        check_file(path)


def check_file(path: Path) -> None:
    """Raise UserError for whatever stands at `path` and is no file: a link may lead anywhere."""
    _check_kind(
        path,
        stat.S_ISREG,
        "is a link or no file, and is not written to. Delete it, then type the same line again.",
    )


def check_folder(path: Path) -> None:
    """Raise UserError for whatever stands at `path` and is no folder."""
    _check_kind(
        path,
        stat.S_ISDIR,
        "is a link or no folder, and nothing is written there. Delete it, or put the folder itself "
        "in its place, then type the same line again.",
    )


def make(path: Path) -> None:
    """Make a folder inside that of a run; raises UserError where something else stands there."""
    check_folder(path)
    path.mkdir(exist_ok=True)


def settle(folder: Path, runs: Path) -> Path:
    """Return the folder that a run is in by a name that no other start gives to another one.

    In `runs` that is the run's own, whatever link was named; elsewhere, what `latest` leads to.
    """
    real = Path(os.path.realpath(folder))
    if real.parent == Path(os.path.realpath(runs)):
        return runs / real.name
    return real if folder.name == LATEST and folder.is_symlink() else folder


def point_latest(folder: Path) -> None:
    """Let `latest` beside `folder` point to it, where the file system has symbolic links.

    Never to itself, by whatever links `folder` leads there.
    """
    real = Path(os.path.realpath(folder))
    name = real.name if real.parent == Path(os.path.realpath(folder.parent)) else folder.name
    if name == LATEST:
        return
    temporary = folder.parent / f".{LATEST}-{os.getpid()}"
    try:
        temporary.symlink_to(name)
        os.replace(temporary, folder.parent / LATEST)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _check_kind(path: Path, is_kind: Callable[[int], bool], otherwise: str) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:  # nothing there, or nothing that can be looked at: writing tells
        return
    if not is_kind(mode):
        raise UserError(f"{path} {otherwise}")
