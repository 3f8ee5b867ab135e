"""Open regular files only: never what waits for ever, as a pipe, or never ends, as a device."""

import errno
import io
import os
import stat
from pathlib import Path


class NotRegularError(OSError):
    """A pipe, a socket or a device in place of a file."""


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file to read; raises OSError for whatever is no regular file, at once."""
    try:
        _check(path, path.stat().st_mode)  # before: opening a device can have effects
    except ValueError as error:  # a name that no file can have
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check(path, os.fstat(number).st_mode)  # after: it may be another one by now
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def _check(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise NotRegularError(errno.EINVAL, "Not a regular file", str(path))
