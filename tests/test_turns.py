import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import idx_server as web
import pytest
from idx_files import IMAGES, LABELS, Files, Patch, Serve, fill, flip_byte, read

from fmnist import lock, sources, turns
from fmnist.lock import Lock

pytest_plugins = ["idx_fixtures"]
pytestmark = pytest.mark.usefixtures("offline")
PROJECT = Path(__file__).parents[1]

START = """
import json, pathlib, sys
from fmnist import sources
data_dir, mirrors, files = json.loads(sys.argv[1])
sources.FILES.clear()
sources.FILES.update(files)
sources.MIRRORS = mirrors
sources.obtain(pathlib.Path(data_dir))
"""


def start(data_dir: Path) -> subprocess.Popen[str]:
    """Call obtain in a process of its own."""
    given = json.dumps([str(data_dir), sources.MIRRORS, sources.FILES])
    command = [sys.executable, "-c", START, given]
    return subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)


def test_ten_processes_at_once_download_once(
    data_dir: Path, raw: Path, files: Files, serve: Serve
) -> None:
    server = serve()
    flip_byte(fill(raw, files) / LABELS)
    (raw / IMAGES).unlink()
    processes = [start(data_dir) for _ in range(10)]
    errors = [process.communicate(timeout=30)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, errors
    assert len(server.requests) == 2
    assert read(data_dir) == files


def test_ten_processes_without_a_lock_do_each_other_no_harm(
    data_dir: Path, files: Files, serve: Serve, monkeypatch: Patch
) -> None:
    serve(web.truncate, web.truncate)
    monkeypatch.setattr(turns, "WAIT_S", 0.0)
    with ThreadPoolExecutor(10) as pool:
        labels = list(pool.map(lambda _: sources.obtain(data_dir), range(10)))
    assert len(labels) == 10
    assert read(data_dir) == files


def test_what_another_process_brings_meanwhile_is_used(
    data_dir: Path, raw: Path, files: Files, serve: Serve
) -> None:
    def lose(h: web.Handler) -> None:
        for name, data in files.items():
            (raw / name).write_bytes(data)
        h.head(403, Content_Length=0)

    serve(lose)
    assert sources.obtain(data_dir) == "data folder"
    assert read(data_dir) == files


def test_killed_download_is_resumed_at_once(
    data_dir: Path, raw: Path, files: Files, serve: Serve, monkeypatch: Patch
) -> None:
    server = serve(web.stall)
    process = start(data_dir)
    while not any(path.stat().st_size for path in raw.glob("*.part.*")):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    (raw / f"{LABELS}.0.tmp").write_bytes(b"of a process killed while it wrote")
    monkeypatch.setattr(turns, "ORPHAN_S", 0.0)
    assert sources.obtain(data_dir) == f"mirror {server.url}"
    assert server.requests[1][1].startswith("bytes=")
    assert read(data_dir) == files


@pytest.mark.parametrize("skew_s", [1000, -1000])  # clocks of file servers differ
@pytest.mark.parametrize(
    "owner",
    ["1 another-machine", f"1 {socket.gethostname()}", ""],
    ids=["elsewhere", "living", "unknown"],
)
def test_lock_is_not_waited_for_long(
    owner: str, skew_s: int, data_dir: Path, system: Path, files: Files, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(turns, "WAIT_S", 0.1)
    fill(system, files)
    raw = data_dir / "FashionMNIST/raw"
    raw.mkdir(parents=True)
    (raw / ".lock").write_text(owner)
    os.utime(raw / ".lock", (time.time() + skew_s,) * 2)
    began = time.monotonic()
    sources.obtain(data_dir)
    assert 0.1 < time.monotonic() - began < 20
    assert read(data_dir) == files


def test_a_living_owner_is_waited_for_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    monkeypatch.setattr(lock, "is_alive", lambda _: None)  # as on another machine
    monkeypatch.setattr(turns, "WAIT_S", 1.0)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 100_000)
    entered = threading.Event()

    def take_turn() -> None:
        with turns.turn(tmp_path, lambda _: None):
            entered.set()

    with Lock(tmp_path):
        threading.Thread(target=take_turn, daemon=True).start()
        assert not entered.wait(2.5)
    assert entered.wait(10)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_a_file_system_without_hard_links_will_do(
    number: int, data_dir: Path, system: Path, files: Files, monkeypatch: Patch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    fill(system, files)
    with ThreadPoolExecutor(4) as pool:
        labels = list(pool.map(lambda _: sources.obtain(data_dir), range(4)))
    assert len(labels) == 4
    assert read(data_dir) == files
    assert not list(data_dir.rglob(".lock*"))
