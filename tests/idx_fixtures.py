"""Fixtures of the tests of sources; a test module names this one in `pytest_plugins`."""

import gzip
import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import idx_server as web
import pytest
from idx_files import Files, Patch, Serve

from fmnist import content, download, sources


@pytest.fixture
def files() -> Files:
    """The four files, small, of bytes that do not compress."""
    rng = random.Random(0)
    return {n: rng.randbytes(40_000 if "images" in n else 1_000) for n in sources.FILES}


@pytest.fixture
def offline(files: Files, tmp_path: Path, monkeypatch: Patch) -> Patch:
    """Take the small files for Fashion-MNIST; only what a test puts there can be reached."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    monkeypatch.setattr(sources, "FILES", hashes)
    monkeypatch.setattr(sources, "MIRRORS", ())
    monkeypatch.setattr(sources, "SYSTEM_DIR", tmp_path / "no-system-copy")
    monkeypatch.setattr(download, "PAUSE_S", 0.01)
    monkeypatch.setattr(content, "MAX_BYTES", 200_000)
    for name in ("FMNIST_SYSTEM_DIR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    return monkeypatch


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def raw(data_dir: Path) -> Path:
    return data_dir / "FashionMNIST" / "raw"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: Patch) -> Path:
    """The folder of the system copy, which does not exist yet."""
    monkeypatch.setenv("FMNIST_SYSTEM_DIR", str(tmp_path / "system"))
    return tmp_path / "system"


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder for one who is not root: root may read and write whatever the modes say."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def serve(files: Files, offline: Patch) -> Iterator[Serve]:
    """Start a server of the four .gz files and add it to the mirrors."""
    servers: list[web.IdxServer] = []

    def start(*plan: web.Behaviour, then: web.Behaviour = web.serve) -> web.IdxServer:
        packed = {f"{n}.gz": gzip.compress(data, mtime=0) for n, data in files.items()}
        servers.append(web.IdxServer(packed, *plan, then=then))
        offline.setattr(sources, "MIRRORS", tuple(s.url for s in servers))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
