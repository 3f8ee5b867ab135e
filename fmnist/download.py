"""Download a file over http: in bounded time, resumable, with a progress bar on a terminal.

What is there of a file waits beside its target, as `TARGET.part` when it was given up and as
`TARGET.part.ID` while a process writes it, for the next mirror or the next start.
"""

import queue
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.error import HTTPError
from urllib.request import FTPHandler, Request, build_opener

from fmnist import content, turns
from fmnist.content import BrokenError, SourceError

TOTAL_S = 3600.0  # all downloads that share a Patience together, however steadily they drip
PATIENCE_S = 30.0  # all downloads that share a Patience together, without progress
STALL_S = 6.0  # one connection, without a byte
SLOW_S, SLOW_BYTES = 15.0, 150_000  # fewer bytes in that time is no progress
TRIES, PAUSE_S = 3, 0.5  # of one file from one place, without progress

_Items = queue.SimpleQueue[bytes | Exception | None]


class Patience:
    """The time that the downloads which share it may still spend without progress."""

    def __init__(self) -> None:
        self.left_s = PATIENCE_S
        self.end = time.monotonic() + TOTAL_S

    def check(self) -> None:
        """Raise SourceError once all of the time is spent."""
        if time.monotonic() > self.end:
            raise SourceError(f"not done within {TOTAL_S:.0f} s")

    def sleep(self, duration_s: float) -> None:
        """Wait, at the cost of the time left."""
        time.sleep(duration_s)
        self.left_s -= duration_s


def fetch(url: str, target: Path, install: Callable[[Path], None], patience: Patience) -> None:
    """Download `url` beside `target`, `install` what came and remove it.

    `install` says whether it is complete: it raises BrokenError if the end is missing, another
    SourceError if the content is wrong. Raises SourceError if `url` cannot give the file.
    """
    part = _adopt(target)
    try:
        _complete(url, part, target.stem, install, patience)
    finally:
        with suppress(FileNotFoundError):  # for the next mirror, or the next start
            part.rename(f"{target}.part")


def _adopt(target: Path) -> Path:
    """Return a name of our own for a download, with what an ended process left as its beginning."""
    part = target.with_name(f"{target.name}.part.{uuid.uuid4().hex}")
    for left in turns.orphans(target.parent, f"{target.name}.part*"):
        with suppress(FileNotFoundError):  # another process was quicker
            return left.rename(part)
    return part


def _complete(
    url: str, part: Path, name: str, install: Callable[[Path], None], patience: Patience
) -> None:
    """Download the rest of `part`, in several tries if need be, and install it."""
    tries, most = 0, _size(part)
    while True:
        begun = _size(part)
        broken: BrokenError | None = None
        try:
            _download(url, part, patience)
        except BrokenError as error:
            broken = error
        size = _size(part)
        tries, most = 0 if size > most + SLOW_BYTES else tries + 1, max(size, most)
        try:
            install(part)
            part.unlink()
            return
        except SourceError as fault:
            if size > begun and isinstance(fault, BrokenError):
                broken = broken or fault  # some servers do not know how much they have to send
            if not broken:
                part.unlink(missing_ok=True)
            if tries >= TRIES or not (broken or begun):  # a bad beginning can be another mirror's
                raise SourceError(f"{name} {broken or fault}") from fault
        patience.sleep(PAUSE_S * tries)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


@dataclass
class _Answer:
    """Which part of the file a server sends: from byte `start` (-1: it does not say) to `total`."""

    start: int = 0
    total: int | None = None


def _download(url: str, part: Path, patience: Patience) -> None:
    """Append the rest of `url` to `part`; return when the server says that there is no more."""
    begun, answer = _size(part), _Answer()
    headers = {"User-Agent": "fmnist"} | ({"Range": f"bytes={begun}-"} if begun else {})
    with closing(_receive(Request(url, headers=headers), answer, patience)) as blocks:
        if next(blocks, None) is None:
            return  # nothing comes after what we have
        if answer.start not in (0, begun):
            part.unlink(missing_ok=True)
            raise BrokenError("answered with another range")
        with part.open("ab" if answer.start else "wb") as file, _bar(url, answer) as show:
            for block in blocks:
                file.write(block)
                show(file.tell())
                if file.tell() > content.MAX_BYTES:
                    part.unlink()
                    raise SourceError(f"sent more than {content.MAX_BYTES} bytes")


@contextmanager
def _bar(url: str, answer: _Answer) -> Iterator[Callable[[int], None]]:
    """Yield a function that shows how many bytes are there, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(url.rpartition("/")[2], total=answer.total, completed=answer.start)
        yield lambda size: bar.update(task, completed=size)


def _receive(request: Request, answer: _Answer, patience: Patience) -> Generator[bytes, None, None]:
    """Yield b"" once there is an answer, then its blocks; nothing for a range past the end.

    The connection has a thread of its own: in the standard library neither the look-up of a name
    nor a header that comes byte by byte has a time-out.
    """
    if patience.left_s <= 0:
        raise SourceError(f"not asked, {PATIENCE_S:.0f} s without progress are spent")
    patience.check()
    items: _Items = queue.SimpleQueue()
    gone, answered, fresh, mark = threading.Event(), False, 0, time.monotonic()
    threading.Thread(target=_pump, args=(request, answer, items, gone), daemon=True).start()
    try:
        while (block := _await(items, answered, mark, patience)) is not None:
            patience.check()
            answered, fresh = True, fresh + len(block)
            if fresh > SLOW_BYTES:
                fresh, mark = 0, time.monotonic()
            yield block
        mark = time.monotonic()
    finally:
        gone.set()
        patience.left_s -= time.monotonic() - mark


def _await(items: _Items, answered: bool, mark: float, patience: Patience) -> bytes | None:
    """Return the next item; raise what ended the connection, or the wait since `mark`."""
    rest_s = mark + min(SLOW_S, patience.left_s) - time.monotonic()
    try:
        item = items.get(timeout=max(0.0, min(STALL_S, rest_s)))
    except queue.Empty:
        reason = "progress" if answered else "answer"
        resume = answered and rest_s > STALL_S
        raise (BrokenError if resume else SourceError)(
            f"no {reason} for {time.monotonic() - mark:.0f} s"
        ) from None
    if isinstance(item, Exception):
        raise _judge(item, answered) from item
    return item


def _pump(request: Request, answer: _Answer, items: _Items, gone: threading.Event) -> None:
    """Put b"", the answer's blocks and None, or the exception that ends them, into `items`."""
    try:
        with build_opener(_NoFtp).open(request, timeout=2 * STALL_S) as reply:
            left: int | None = reply.length
            if reply.status == 206:
                match = re.match(r"bytes (\d+)-", reply.headers.get("Content-Range", ""))
                answer.start = int(match[1]) if match else -1
            answer.total = None if left is None else answer.start + left
            items.put(b"")
            while not gone.is_set() and (block := reply.read1(1 << 16)):
                items.put(block)
                left = None if left is None else left - len(block)
            if left:
                raise BrokenError(f"ended {left} bytes too early")
        items.put(None)
    except HTTPError as error:
        error.close()
        items.put(None if error.code == 416 else error)
    except Exception as error:  # whatever an answer can cause is a reason to try the next mirror
        items.put(error)


class _NoFtp(FTPHandler):
    """Refuse the one foreign scheme that urllib lets a redirect lead to."""

    def ftp_open(self, req: Request) -> NoReturn:
        raise SourceError(f"redirected to {req.full_url}")


def _judge(error: Exception, answered: bool) -> SourceError:
    """Name the reason and say whether another try can help."""
    if isinstance(error, SourceError):
        return error
    if isinstance(error, HTTPError):
        again = error.code in (408, 429) or error.code >= 500
        reason = f"HTTP {error.code} {error.reason}"
    else:
        again = answered or isinstance(error, ConnectionResetError)
        cause = getattr(error, "reason", error)  # of a URLError
        reason = getattr(cause, "strerror", None) or f"{cause}" or type(cause).__name__
    return (BrokenError if again else SourceError)(reason)
