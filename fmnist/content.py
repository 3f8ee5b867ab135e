"""Judge files, raw or .gz, by the sha256 of their unpacked content, and install the right ones."""

import errno
import gzip
import hashlib
import io
import os
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fmnist.regular import open_regular

MAX_BYTES = 64 << 20  # of one file, packed or unpacked; the largest real one has 47 MB


class SourceError(Exception):
    """A source that cannot give a file; says why."""


class BrokenError(SourceError):
    """A file that ended early; another try may bring the rest."""


def search(folder: Path, digests: dict[str, str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the right file, raw or .gz, for each name that has one, and the others' faults."""

    def look(name: str) -> Path | str:
        fault = "missing"
        for path in (folder / name, folder / f"{name}.gz"):
            try:
                for _ in _blocks(path, digests[name]):
                    pass
                return path
            except SourceError as error:
                fault = fault if str(error) == "missing" else str(error)
        return fault

    with ThreadPoolExecutor() as pool:
        answers = dict(zip(digests, pool.map(look, digests), strict=True))
    found = {n: a for n, a in answers.items() if isinstance(a, Path)}
    return found, {n: a for n, a in answers.items() if isinstance(a, str)}


def install(path: Path, target: Path, digest: str) -> None:
    """Unpack `path` to `target`, at once and only if the content is right."""
    temp = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temp.open("xb") as file:
            file.writelines(_blocks(path, digest))
            file.flush()
            os.fsync(file.fileno())
        temp.replace(target)
    finally:
        temp.unlink(missing_ok=True)


def mismatch(got: str, digest: str) -> str:
    """Say how two hashes differ; nothing if they do not."""
    return "" if got == digest else f"damaged (sha256 {got[:12]}..., expected {digest[:12]}...)"


def hash_file(path: Path) -> str:
    """Return the sha256 of a file as it is; raises OSError for one that no data file can be."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"longer than {MAX_BYTES} bytes", str(path))
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blocks(path: Path, digest: str) -> Iterator[bytes]:
    """Yield a file's content, unpacked if it is gzip; raise SourceError if it is wrong."""
    hasher, size = hashlib.sha256(), 0
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise SourceError(f"longer than {MAX_BYTES} bytes")
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream: io.BufferedIOBase = gzip.GzipFile(fileobj=file) if packed else file
            while block := stream.read(1 << 20):
                size += len(block)
                if size > MAX_BYTES:
                    raise SourceError(f"longer than {MAX_BYTES} bytes")
                hasher.update(block)
                yield block
    except (FileNotFoundError, NotADirectoryError):
        raise SourceError("missing") from None
    except EOFError as error:
        raise BrokenError(f"unreadable ({error})") from error
    except (OSError, zlib.error) as error:
        raise SourceError(f"unreadable ({getattr(error, 'strerror', None) or error})") from error
    if fault := mismatch(hasher.hexdigest(), digest):
        raise SourceError(fault)
