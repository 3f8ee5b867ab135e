"""The four files, small, and what the tests of their sources do with them."""

import gzip
from collections.abc import Callable
from pathlib import Path

import idx_server as web
import pytest

LABELS, IMAGES = "t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte"
Files = dict[str, bytes]
Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]
Serve = Callable[..., web.IdxServer]


def fill(folder: Path, files: Files, *, packed: bool = False) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return folder


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)


def read(data_dir: Path) -> Files:
    return {p.name: p.read_bytes() for p in (data_dir / "FashionMNIST/raw").iterdir()}
