"""Who trains together: processes that torchrun or srun started, or that the first one starts."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from fmnist import errors, launch
from fmnist.errors import Interrupted, ToldError, UserError
from fmnist.launch import Launch
from fmnist.mates import GONE, HANG_S, Follower, Leader, Mates, exit_code

FOLLOWER = ["-m", "fmnist.follower"]

_current: Mates | None = None


def is_follower() -> bool:
    """Say whether this process is one of several, and not the one that decides and speaks."""
    found = launch.find()
    return found is not None and found.rank > 0


@contextlib.contextmanager
def together() -> Iterator[Mates | None]:
    """Join the processes that were started with this one: None where it is alone.

    However the block ends, all of them end alike. Blocks may be nested.
    """
    given = launch.find()
    if _current is not None or given is None:
        with _ending(_current):
            yield _current
        return
    with _connected(Leader(given) if given.rank == 0 else Follower(given)) as mates:
        with _ending(mates):
            yield mates
        if isinstance(mates, Leader):
            mates.end(0)
        elif isinstance(mates, Follower):
            _await_end(mates)


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """End as errors.exit_codes does, with the others: the same code, and one message."""
    with errors.exit_codes(), together() as mates:
        if mates is not None:
            _heed_sigterm(mates)
        yield


@contextlib.contextmanager
def started(size: int) -> Iterator[Mates | None]:
    """Start the other processes of `size` on this machine, unless they are there already."""
    if _current is not None or size == 1:
        yield _current
        return
    given = Launch("local", 0, size, 0, 0, 1, launch.LOCAL, (0,), os.urandom(16).hex())
    with _connected(Leader(given)) as leader:
        assert isinstance(leader, Leader)
        processes = [_start(leader.launch._replace(rank=i, local_rank=i)) for i in range(1, size)]
        for rank, process in enumerate(processes, 1):
            threading.Thread(target=_watch, args=(leader, rank, process), daemon=True).start()
        patience_s = 0.0
        try:
            with _ending(leader):
                yield leader
            leader.end(0)
            patience_s = HANG_S
        finally:
            _stop(processes, patience_s)


@contextlib.contextmanager
def _connected(mates: Mates) -> Iterator[Mates]:
    global _current  # noqa: PLW0603 - a process has one place among those it was started with
    _current = mates
    try:
        yield mates
    finally:
        mates.close()
        _current = None


@contextlib.contextmanager
def _ending(mates: Mates | None) -> Iterator[None]:
    """Tell the others how this process ends, where it ends by an exception."""
    try:
        yield
    except BaseException as error:
        if isinstance(mates, Leader) and mates.verdict is None:
            mates.verdict = {"code": exit_code(error)}
            mates.end(exit_code(error), str(error))
        elif isinstance(mates, Follower):
            _end_follower(mates, error)
        raise


def _end_follower(mates: Follower, error: BaseException) -> None:
    """Leave the talking to the first process, if it knows why; raises ToldError then."""
    if isinstance(error, SystemExit | ToldError):
        return
    if isinstance(error, Interrupted | KeyboardInterrupt):
        mates.note_signal(exit_code(error) - 128)
        mates.close()
        raise ToldError(exit_code(error)) from None
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    is_heard = mates.report(text)
    mates.close()
    if is_heard and isinstance(error, UserError):
        raise ToldError((mates.verdict or {}).get("code") or error.exit_code) from None


def _await_end(mates: Follower) -> None:
    """Wait until the first process has recorded the end; raises ToldError where it failed to."""
    mates.wait(lambda: bool(mates.verdict or mates.lost))
    mates.close()
    if mates.verdict is None or mates.verdict["code"]:
        mates.check()


def _heed_sigterm(mates: Mates) -> None:
    """Let SIGTERM end all processes; torchrun sends it also while they end by themselves.

    SIGUSR2 means the same: srun passes it on, and answers SIGTERM by killing them.
    """

    def stop(*_: object) -> None:
        if not (mates.done or mates.verdict or mates.lost):
            raise Interrupted(signal.SIGTERM)

    with contextlib.suppress(ValueError):  # not in the main thread
        for signum in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(signum, stop)  # for good: the exit code is still to come


def _start(given: Launch) -> "subprocess.Popen[bytes]":
    """Start a process that follows this one, with the same packages and classes at hand."""
    environment = {**os.environ, **launch.environment_of(given)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-P", *FOLLOWER]
    # A terminal's Ctrl-C is the first one's to pass on.
    return subprocess.Popen(command, env=environment, start_new_session=True)


def _watch(leader: Leader, rank: int, process: "subprocess.Popen[bytes]") -> None:
    """Notice a process that ends before it has said a word."""
    process.wait()
    if rank not in leader.arrived:
        is_killed = process.returncode < 0
        leader.lose(rank, GONE if is_killed else f"with exit code {process.returncode}")


def _stop(processes: "list[subprocess.Popen[bytes]]", patience_s: float) -> None:
    """Wait for processes that were told to end; kill those that do not."""
    deadline = time.monotonic() + patience_s
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
