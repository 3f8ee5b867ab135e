"""Read files of a folder that somebody else may have made: regular ones only, of bounded size."""

import errno
import hashlib
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from fmnist.errors import UserError, shortened
from fmnist.regular import open_regular

MAX_TEXT = 8 << 20  # bytes of run.json, a report or a history; the largest of ours has 0.1 MB
MAX_CHECKPOINT = 8 << 30  # bytes of which a sha256 is taken; ResNet-152 with Adam has 0.7 GB
MAX_DEPTH = 32  # of lists and dicts in each other; a record of ours has 6
_BLOCK = 1 << 20


def open_bounded(path: Path, limit: int) -> BinaryIO:
    """Open a regular file for reading, links followed.

    Raises OSError for whatever else stands there, and for one that is larger than `limit` bytes.
    """
    file = open_regular(path)
    if os.fstat(file.fileno()).st_size > limit:
        file.close()
        raise OSError(errno.EFBIG, f"Larger than {limit:,} bytes", str(path))
    return file


def read_bytes(path: Path, limit: int = MAX_TEXT) -> bytes:
    """Return the content of a file; raises OSError as `open_bounded` does."""
    with open_bounded(path, limit) as file:
        content = file.read(limit + 1)
    if len(content) > limit:  # it grows, or is one of /proc, which have no size
        raise OSError(errno.EFBIG, f"Larger than {limit:,} bytes", str(path))
    return content


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; raises OSError, or ValueError for what is no such JSON."""
    try:
        found = json.loads(read_bytes(path).decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    check_depth(found)
    return found


def check_depth(value: Any) -> None:
    """Raise ValueError for lists and dicts in each other beyond what functions may recurse into."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for part in level for inner in _parts(part)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def open_text(path: Path) -> io.StringIO:
    """Return a text to be read line by line, its damaged characters replaced; raises OSError."""
    return io.StringIO(read_bytes(path).decode("utf-8", errors="replace"), newline="")


def digest(path: Path) -> str:
    """Return the sha256 of a file; raises OSError as `open_bounded` does."""
    found = hashlib.sha256()
    with open_bounded(path, MAX_CHECKPOINT) as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def expanded(setting: str, typed: str | Path) -> Path:
    """Return a path whose `~` or `~user` is looked up; raises UserError where there is none."""
    try:
        return Path(typed).expanduser()
    except (RuntimeError, ValueError) as error:  # nobody of that name; a name with a NUL
        raise UserError(
            f"{setting} must be a path on this machine, got {shortened(repr(str(typed)))}: "
            f"{str(error).rstrip('.')}. Write out the whole path, without ~."
        ) from None
