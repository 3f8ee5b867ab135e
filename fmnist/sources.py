"""Obtain and verify the four Fashion-MNIST idx files.

The hash of the unpacked content is the only judge: of the data folder at every start, and of what
a folder, a mirror or a package gives. Files appear under their names whole and right or not at all.
"""

import gzip
import hashlib
import io
import os
import queue
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn
from urllib.error import HTTPError
from urllib.request import FTPHandler, Request, build_opener

from fmnist.errors import UserError

FILES: dict[str, str] = {  # raw file name -> sha256 of the unpacked file
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
PACKAGE = "dataset-fashion-mnist"
PACKAGE_DIR = "usr/share/datasets/fashion-mnist"
SYSTEM_DIR = Path("/") / PACKAGE_DIR
MIRRORS = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",  # torchvision's
)
MAX_BYTES = 64 << 20  # of one file, packed or unpacked; the largest real one has 47 MB
PATIENCE_S = 30.0  # all mirrors together, without progress
STALL_S = 6.0  # one connection, without a byte
SLOW_S, SLOW_BYTES = 15.0, 150_000  # fewer bytes in that time is no progress
TRIES, PAUSE_S = 3, 0.5  # of one file from one mirror, without progress
APT_S = 120.0
WAIT_S = 120.0  # for another process that is getting the files
ORPHAN_S = 60.0  # an unfinished file not written for so long has no living owner


class _SourceError(Exception):
    """A source that cannot give a file; says why."""


class _BrokenError(_SourceError):
    """A download that ended early; worth another try."""


@dataclass
class _Patience:
    """The time that all mirrors together may still spend without progress."""

    left_s: float

    def sleep(self, duration_s: float) -> None:
        time.sleep(duration_s)
        self.left_s -= duration_s


_Items = queue.SimpleQueue[bytes | Exception | None]
_Take = Callable[[list[str], Path], None]  # installs missing files, takes them off the list


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def obtain(
    data_dir: Path, source: Path | None = None, *, say: Callable[[str], None] = _tell
) -> str:
    """Bring the four verified files to `data_dir/FashionMNIST/raw` and name the source used."""
    raw = data_dir / "FashionMNIST" / "raw"
    if source is not None and (faults := _search(source, FILES)[1]):
        raise UserError(
            "data.source must be a folder that holds the four Fashion-MNIST files, raw or .gz, got "
            f"{str(source)!r} ({_list(faults)}). Put them right or leave data.source out."
        )
    done = "data folder" if source is None else f"folder {source}"
    faults = _faults(raw)
    if not faults:
        return done
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with _turn(raw, say):
            if faults := _faults(raw):
                done = _gather(raw, faults, source, say)
            _tidy(raw)
        return done
    except OSError as error:
        raise UserError(
            "data.dir must be a folder that can be written, with 90 MB free, got "
            f"{str(data_dir)!r} ({error.filename or raw}: {error.strerror or error}), with "
            f"{_list(faults)}. Mend that or choose another folder with data.dir=DIR."
        ) from error


def verify(raw_dir: Path) -> None:
    """Hash the four files in `raw_dir` (0.05 s); raise UserError unless all are there and right."""
    if faults := _faults(raw_dir):
        raise UserError(
            f"data.dir must hold the four Fashion-MNIST files, got {str(raw_dir)!r} with "
            f"{_list(faults)}. Delete what is damaged and start again to get it anew, or name a "
            "folder that holds the files with data.source=DIR."
        )


def data_hash() -> str:
    """Return one hash that names the content of all four files."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(FILES.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _faults(raw: Path) -> dict[str, str]:
    """Say for each unpacked file that is not right what is wrong with it."""

    def fault(name: str) -> str:
        try:
            with (raw / name).open("rb") as file:
                return _mismatch(name, hashlib.file_digest(file, "sha256").hexdigest())
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except OSError as error:
            raise UserError(
                f"data.dir must hold files that can be read, got {str(raw / name)!r} "
                f"({error.strerror}). Make it readable or choose another folder with data.dir=DIR."
            ) from error

    with ThreadPoolExecutor() as pool:
        return {n: f for n, f in zip(FILES, pool.map(fault, FILES), strict=True) if f}


def _mismatch(name: str, got: str) -> str:
    if got == FILES[name]:
        return ""
    return f"damaged (sha256 {got[:12]}..., expected {FILES[name][:12]}...)"


def _list(faults: dict[str, str]) -> str:
    names = {fault: [n for n in faults if faults[n] == fault] for fault in faults.values()}
    return "; ".join(f"{', '.join(names[fault])} {fault}" for fault in names)


@contextmanager
def _turn(raw: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Let one process at a time work in `raw`, as far as waiting a while can do it.

    Nothing depends on it: names of their own keep concurrent processes apart.
    """
    lock = raw / ".lock"
    mine = _claim(lock)
    if not mine:
        say("Data: waiting for another process that is getting the files")
        _await(lock)
        mine = _claim(lock)
    try:
        yield
    finally:
        if mine:
            lock.unlink(missing_ok=True)


def _claim(lock: Path) -> bool:
    with suppress(FileExistsError), lock.open("x") as file:
        file.write(f"{os.getpid()} {socket.gethostname()}")
        return True
    return False


def _await(lock: Path) -> None:
    """Return when `lock` is gone; remove it if its owner is dead or it is too old."""
    deadline = time.monotonic() + WAIT_S
    try:
        while time.monotonic() < deadline and time.time() - lock.stat().st_mtime < WAIT_S:
            pid, _, host = lock.read_text().partition(" ")
            if host == socket.gethostname():
                with suppress(PermissionError):  # it lives, as another user's
                    os.kill(int(pid), 0)
            time.sleep(0.1)
    except FileNotFoundError:
        return
    except OSError:  # the owner is dead, or the lock cannot be read
        pass
    lock.unlink(missing_ok=True)


def _tidy(raw: Path) -> None:
    """Remove what ended processes left."""
    for name in FILES:
        for pattern in (f"{name}.gz.part*", f"{name}.*.tmp"):
            for path in _orphans(raw, pattern):
                path.unlink(missing_ok=True)


def _orphans(raw: Path, pattern: str) -> Iterator[Path]:
    """Yield unfinished files that were given up, or whose process does not seem to live."""
    for path in raw.glob(pattern):
        with suppress(FileNotFoundError):
            if path.suffix == ".part" or time.time() - path.stat().st_mtime > ORPHAN_S:
                yield path


def _gather(
    raw: Path, faults: dict[str, str], source: Path | None, say: Callable[[str], None]
) -> str:
    """Fill in the files at fault from the first sources that have them; name those sources."""
    for name, fault in faults.items():
        if fault != "missing":
            say(f"Data: {name} is {fault}; getting it again")
    missing, tried, used = list(faults), [f"data folder {raw}: {_list(faults)}"], []
    for label, take in _sources(raw, source, say):
        before = len(missing)
        try:
            take(missing, raw)
        except _SourceError as error:
            tried.append(f"{label}: {error}")
            say(f"Data: {tried[-1]}")
        if len(missing) < before:
            used.append(label)
            say(f"Data: got {before - len(missing)} of {len(FILES)} files from {label}")
        if not missing or not _faults(raw):  # another process may have been quicker
            return " and ".join(used or ["data folder"])
    raise UserError(
        "data.dir must hold the four Fashion-MNIST files, and no source gave them all:\n  "
        + "\n  ".join(tried)
        + f"\nCopy {', '.join(missing)} (raw or .gz) into {raw}, or name a folder that holds the "
        "four files with data.source=DIR or the variable FMNIST_SYSTEM_DIR, or install them with "
        f"'apt-get install {PACKAGE}', or, behind a proxy, set https_proxy and http_proxy."
    )


def _sources(
    raw: Path, source: Path | None, say: Callable[[str], None]
) -> Iterator[tuple[str, _Take]]:
    """Yield the name of each source in turn and the function that takes files from it."""
    if source is not None:
        yield f"folder {source}", partial(_copy, source)
        return
    if any(raw.glob("*.gz")):  # torchvision leaves them
        yield "data folder", partial(_copy, raw)
    system = Path(os.environ.get("FMNIST_SYSTEM_DIR") or SYSTEM_DIR)
    yield f"system copy {system}", partial(_copy, system)
    say("Data: downloading (30 MB)")
    patience = _Patience(PATIENCE_S)
    for url in MIRRORS:
        yield f"mirror {url}", partial(_fetch, url, patience)
    say("Data: downloading the operating system's package (40 MB)")
    yield f"apt package {PACKAGE}", _unpack_package


def _copy(folder: Path, missing: list[str], raw: Path) -> None:
    """Install what `folder` has of the `missing` files and take it off that list."""
    found, faults = _search(folder, missing)
    for name, path in found.items():
        _install(path, name, raw)
        missing.remove(name)
    if faults:
        empty = not found and set(faults.values()) == {"missing"}
        raise _SourceError("none of the files is there" if empty else _list(faults))


def _search(folder: Path, names: Collection[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the right file, raw or .gz, for each name that has one, and the others' faults."""

    def look(name: str) -> Path | str:
        fault = "missing"
        for path in (folder / name, folder / f"{name}.gz"):
            try:
                for _ in _blocks(path, name):
                    pass
                return path
            except _SourceError as error:
                fault = fault if str(error) == "missing" else str(error)
        return fault

    with ThreadPoolExecutor() as pool:
        answers = dict(zip(names, pool.map(look, names), strict=True))
    found = {n: a for n, a in answers.items() if isinstance(a, Path)}
    return found, {n: a for n, a in answers.items() if isinstance(a, str)}


def _blocks(path: Path, name: str) -> Iterator[bytes]:
    """Yield a file's content, unpacked if it is gzip; raise _SourceError if it is wrong."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream: io.BufferedIOBase = gzip.GzipFile(fileobj=file) if packed else file
            while block := stream.read(1 << 20):
                size += len(block)
                if size > MAX_BYTES:
                    raise _SourceError(f"longer than {MAX_BYTES} bytes")
                digest.update(block)
                yield block
    except (FileNotFoundError, NotADirectoryError):
        raise _SourceError("missing") from None
    except (OSError, EOFError, zlib.error) as error:
        raise _SourceError(f"unreadable ({getattr(error, 'strerror', None) or error})") from error
    if fault := _mismatch(name, digest.hexdigest()):
        raise _SourceError(fault)


def _install(path: Path, name: str, raw: Path) -> None:
    """Unpack `path` to `raw/name`, at once and only if the content is right."""
    temp = raw / f"{name}.{uuid.uuid4().hex}.tmp"
    try:
        with temp.open("xb") as file:
            file.writelines(_blocks(path, name))
            file.flush()
            os.fsync(file.fileno())
        temp.replace(raw / name)
    finally:
        temp.unlink(missing_ok=True)


def _fetch(url: str, patience: _Patience, missing: list[str], raw: Path) -> None:
    """Download the `missing` files from one mirror, up to the first that it cannot give."""
    for name in tuple(missing):
        part = _adopt(raw, name)
        try:
            _fetch_file(f"{url}{name}.gz", part, name, raw, patience)
            missing.remove(name)
        finally:
            with suppress(FileNotFoundError):  # for the next mirror, or the next start
                part.rename(raw / f"{name}.gz.part")


def _adopt(raw: Path, name: str) -> Path:
    """Return a name of our own for a download, with what an ended process left as its beginning."""
    part = raw / f"{name}.gz.part.{uuid.uuid4().hex}"
    for left in _orphans(raw, f"{name}.gz.part*"):
        with suppress(FileNotFoundError):  # another process was quicker
            return left.rename(part)
    return part


def _fetch_file(url: str, part: Path, name: str, raw: Path, patience: _Patience) -> None:
    """Download and install one file, going on from `part`; its hash says when it is complete."""
    tries, most = 0, _size(part)
    while True:
        begun = _size(part)
        broken: _SourceError | None = None
        try:
            _download(url, part, patience)
        except _BrokenError as error:
            broken = error
        size = _size(part)
        tries, most = 0 if size > most + SLOW_BYTES else tries + 1, max(size, most)
        try:
            _install(part, name, raw)
            part.unlink()
            return
        except _SourceError as fault:
            if size > begun and isinstance(fault.__cause__, EOFError):
                broken = broken or fault  # some servers do not know how much they have to send
            if not broken:
                part.unlink(missing_ok=True)
            if tries >= TRIES or not (broken or begun):  # a bad beginning can be another mirror's
                raise _SourceError(f"{name} {broken or fault}") from fault
        patience.sleep(PAUSE_S * tries)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _download(url: str, part: Path, patience: _Patience) -> None:
    """Append the rest of `url` to `part`; return when the server says that there is no more."""
    begun, answer = _size(part), _Answer()
    headers = {"User-Agent": "fmnist"} | ({"Range": f"bytes={begun}-"} if begun else {})
    with closing(_receive(Request(url, headers=headers), answer, patience)) as blocks:
        if next(blocks, None) is None:
            return  # nothing comes after what we have
        if answer.start not in (0, begun):
            part.unlink(missing_ok=True)
            raise _BrokenError("answered with another range")
        with part.open("ab" if answer.start else "wb") as file, _bar(url, answer) as show:
            for block in blocks:
                file.write(block)
                show(file.tell())
                if file.tell() > MAX_BYTES:
                    part.unlink()
                    raise _SourceError(f"sent more than {MAX_BYTES} bytes")


@dataclass
class _Answer:
    """Which part of the file a server sends: from byte `start` (-1: it does not say) to `total`."""

    start: int = 0
    total: int | None = None


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


def _receive(
    request: Request, answer: _Answer, patience: _Patience
) -> Generator[bytes, None, None]:
    """Yield b"" once there is an answer, then its blocks; nothing for a range past the end.

    The connection has a thread of its own: in the standard library neither the look-up of a name
    nor a header that comes byte by byte has a time-out.
    """
    if patience.left_s <= 0:
        raise _SourceError(f"not asked, {PATIENCE_S:.0f} s without progress are spent")
    items: _Items = queue.SimpleQueue()
    gone, answered, fresh, mark = threading.Event(), False, 0, time.monotonic()
    threading.Thread(target=_pump, args=(request, answer, items, gone), daemon=True).start()
    try:
        while True:
            rest_s = mark + min(SLOW_S, patience.left_s) - time.monotonic()
            try:
                item = items.get(timeout=max(0.0, min(STALL_S, rest_s)))
            except queue.Empty:
                reason = "progress" if answered else "answer"
                resume = answered and rest_s > STALL_S
                raise (_BrokenError if resume else _SourceError)(
                    f"no {reason} for {time.monotonic() - mark:.0f} s"
                ) from None
            if item is None:
                mark = time.monotonic()
                return
            if isinstance(item, Exception):
                raise _judge(item, answered) from item
            answered, fresh = True, fresh + len(item)
            if fresh > SLOW_BYTES:
                fresh, mark = 0, time.monotonic()
            yield item
    finally:
        gone.set()
        patience.left_s -= time.monotonic() - mark


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
                raise _BrokenError(f"ended {left} bytes too early")
        items.put(None)
    except HTTPError as error:
        error.close()
        items.put(None if error.code == 416 else error)
    except Exception as error:  # whatever an answer can cause is a reason to try the next mirror
        items.put(error)


class _NoFtp(FTPHandler):
    """Refuse the one foreign scheme that urllib lets a redirect lead to."""

    def ftp_open(self, req: Request) -> NoReturn:
        raise _SourceError(f"redirected to {req.full_url}")


def _judge(error: Exception, answered: bool) -> _SourceError:
    """Name the reason and say whether another try can help."""
    if isinstance(error, _SourceError):
        return error
    if isinstance(error, HTTPError):
        again = error.code in (408, 429) or error.code >= 500
        reason = f"HTTP {error.code} {error.reason}"
    else:
        again = answered or isinstance(error, ConnectionResetError)
        cause = getattr(error, "reason", error)  # of a URLError
        reason = getattr(cause, "strerror", None) or f"{cause}" or type(cause).__name__
    return (_BrokenError if again else _SourceError)(reason)


def _unpack_package(missing: list[str], raw: Path) -> None:
    """Copy from the operating system's package, fetched without root into a private folder."""
    with ExitStack() as stack:
        try:
            temp = tempfile.TemporaryDirectory(prefix="fmnist-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(temp))
            _run_apt(folder)
        except subprocess.TimeoutExpired:
            raise _SourceError(f"not done within {APT_S:.0f} s") from None
        except OSError as error:
            raise _SourceError(f"{error.filename}: {error.strerror}") from error
        _copy(folder / PACKAGE_DIR, missing, raw)


def _run_apt(folder: Path) -> None:
    for name in ("state", "lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    places = {"Dir::State": "state", "Dir::State::Lists": "lists", "Dir::Cache": "cache"}
    apt = ["apt-get", *(f"-o{key}={folder / name}" for key, name in places.items())]
    apt.append("-oDebug::NoLocking=1")
    deadline = time.monotonic() + APT_S

    def run(*command: str) -> None:
        with (folder / "log").open("a+") as log:  # a pipe would outlive a killed apt
            code = subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=deadline - time.monotonic(),
                check=False,
            ).returncode
            log.seek(0)
            lines = ["", *log.read().splitlines()]
        if code:
            errors = [line for line in lines if line.startswith(("E:", "W: Failed", "dpkg-deb:"))]
            raise _SourceError(f"{command[0]}: {' '.join(errors[-2:] or lines[-1:])}")

    run(*apt, "update")
    run(*apt, "download", PACKAGE)
    run("dpkg-deb", "-x", *(path.name for path in folder.glob("*.deb")), ".")
