"""The exceptions for mistakes a user can make and mend, and how a script ends on them.

Everything else is a bug of ours and keeps its traceback.
"""

import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

NO_FILES = {errno.EMFILE, errno.ENFILE}
# What a disk, its owner or the system refuses: no bug, wherever it is met.
REFUSALS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ELOOP, errno.ENAMETOOLONG, *NO_FILES),
}
MAX_SHOWN = 200  # characters of what a user typed


def clean(text: str) -> str:
    """Replace what could steer a terminal or cannot be encoded: controls, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


class UserError(ValueError):
    """Something that was started or read failed; the message says what, why and the remedy."""

    exit_code = 1


class UsageError(UserError):
    """The command line, or the config composed from it, is wrong; nothing was started."""

    exit_code = 2


class BusyError(UserError):
    """Another living process works in this run folder."""


class LostError(UserError):
    """Another process of this run was killed, or its machine is gone; nobody's mistake."""


class ToldError(UserError):
    """Another process has said why; this one ends with its code and says nothing."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


class Interrupted(BaseException):
    """A signal asked for a stop, and the run came to a safe point; ends with 128 + signum."""

    def __init__(self, signum: int) -> None:
        super().__init__({2: "SIGINT", 15: "SIGTERM"}.get(signum, f"signal {signum}"))
        self.signum = signum


@contextlib.contextmanager
def raising(*signals: int) -> Iterator[None]:
    """Let each of `signals` raise Interrupted, where this is the main thread."""

    def interrupt(signum: int, _: FrameType | None) -> None:
        raise Interrupted(signum)

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):
        before = {signum: signal.signal(signum, interrupt) for signum in signals}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def shortened(text: str) -> str:
    """Return `text`, or the beginning of a long one."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def one_line(text: str) -> str:
    """Return a message on one line, at most 2,000 characters, with control characters written out.

    What is in a name or a file might else move the cursor, or not be written to stderr at all.
    """
    line = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: repr(found[0])[1:-1], text)
    return line if len(line) <= 10 * MAX_SHOWN else f"{line[: 10 * MAX_SHOWN]}..."


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn a user's mistake or a signal into one line on stderr and the exit code it stands for."""
    try:
        yield
    except UserError as error:
        if not isinstance(error, ToldError):
            print(f"Error: {one_line(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (OSError, ImportError) as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        print(f"Error: {one_line(refusal)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except Interrupted as stop:
        print(f"Interrupted by {stop}.", file=sys.stderr)
        sys.exit(128 + stop.signum)


def _refusal(error: OSError | ImportError) -> str | None:
    """Say what the system refused, or None for a bug of ours."""
    no_files = os.strerror(errno.EMFILE)
    if getattr(error, "errno", None) in NO_FILES or no_files in str(error):  # importing says so
        return f"{no_files}: this process may open no more. Raise the limit with ulimit -n 4096."
    if isinstance(error, OSError) and error.errno in REFUSALS and error.filename is not None:
        name = os.fsdecode(error.filename) if not isinstance(error.filename, int) else "a file"
        return f"{name}: {error.strerror}. Make it accessible, or name another place."
    return None


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """End as `exit_codes` does, and quietly where the reader of stdout, `| head`, has left."""
    with exit_codes():
        if sys.stdout is None:
            raise UsageError("stdout is closed: there is no place for the answer.")
        with speaking():
            yield


@contextlib.contextmanager
def speaking() -> Iterator[None]:
    """End as `answering` does, but for a stdout that is closed: what is said then is no answer."""
    with exit_codes():
        try:
            yield
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            _forget_stdout()
        except OSError as error:
            if sys.stdout.closed or error.errno not in (errno.ENOSPC, errno.EIO):
                raise
            _forget_stdout()
            raise UserError(f"Cannot write the answer on stdout ({error.strerror}).") from None


def _forget_stdout() -> None:
    """Let what is still to be written go nowhere, or Python would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
