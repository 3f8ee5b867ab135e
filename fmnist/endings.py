"""How a run ends otherwise than well, and what its record says of it. Torch-free."""

import contextlib
import shlex
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fmnist import record
from fmnist.errors import NO_FILES, REFUSALS, Interrupted, LostError, UserError


def explain(error: BaseException, folder: Path, config: dict[str, Any]) -> UserError | None:
    """Return what a user can do about `error`, or None for a bug of ours."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in NO_FILES:
        return UserError(
            f"{error.strerror}: this process may open no more. Raise the limit with ulimit -n "
            "4096, then type the same line again: it goes on from the last checkpoint."
        )
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return UserError(
            f"Cannot write in {folder} ({error.strerror}). Free some space or make the folder "
            "writable, then type the same line again: it goes on from the last checkpoint."
        )
    if _is_out_of_memory(error):
        return UserError(
            f"Out of memory with data.batch_size={config['data']['batch_size']}. Take a smaller "
            "one under another name=..., or free some memory and type the same line again."
        )
    return _explain_batches(error, config)


def _explain_batches(error: BaseException, config: dict[str, Any]) -> UserError | None:
    """Explain what torch and Lightning find only once they have the data.

    By name, as Lightning's exceptions take seconds to import.
    """
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and "Expected more than 1 value per channel" in text:
        return UserError(
            "Batch normalisation cannot train on batches of one image, got data.batch_size="
            f"{config['data']['batch_size']}. Set data.batch_size >= 2 for each process, under "
            "another name=..."
        )
    is_interval = isinstance(error, ValueError) and "`val_check_interval`" in text
    if is_interval or type(error).__name__ == "MisconfigurationException":
        return UserError(f"trainer: {text} Change that argument, under another name=...")
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    """Recognise Python's error, CUDA's, and the plain RuntimeError of torch's CPU allocator."""
    name, text = type(error).__name__, str(error)
    return name in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in text


@contextlib.contextmanager
def resume_line(folder: Path) -> Iterator[None]:
    """Say how to go on with a run that has no name, first and, if it does not finish, last."""
    line = f"If interrupted, go on with: python scripts/resume.py {shlex.quote(str(folder))}"
    print(line, file=sys.stderr)
    try:
        yield
    except BaseException:
        print(line, file=sys.stderr)
        raise


def note_bug(run: record.Record, error: BaseException) -> None:
    """Keep the traceback of a bug of ours, and record that the run failed."""
    with contextlib.suppress(UserError):
        run.guard()
        record.write_atomically(run.folder / "error.txt", traceback.format_exc())
        print(f"This is a bug; its traceback is in {run.folder}/error.txt", file=sys.stderr)
    close(run, status="failed", error=f"{type(error).__name__}: {error}")


def close(run: record.Record, **fields: Any) -> None:
    """Record the end; where even that cannot be written, readers see that the process is gone."""
    with contextlib.suppress(UserError):
        run.update(**fields)


def abandon(run: record.Record, reason: BaseException) -> None:
    """Record the end of a process that waits for another one in vain."""
    print(f"Error: {reason}", file=sys.stderr, flush=True)
    close(run, status=status(reason), error=str(reason))


def status(reason: BaseException) -> str:
    """Name the state of a run that ended for `reason`: that of one that can go on, or `failed`."""
    return "interrupted" if isinstance(reason, Interrupted | LostError) else "failed"
