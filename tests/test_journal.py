"""The lock of a study, on file systems that lack what others have, and between machines."""

import errno
import fcntl
import json
import os
import resource
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from fmnist import holders, lock
from fmnist.errors import UserError
from fmnist.sweeps import journal
from fmnist.sweeps.claims import Claims
from fmnist.sweeps.journal import FileLock, Journal
from fmnist.sweeps.looks import Looks
from fmnist.sweeps.trials import JOURNAL


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    monkeypatch.setattr(lock, "QUIET_S", 0.3)
    monkeypatch.setattr(journal, "PATIENCE_S", 0.1)


@pytest.mark.parametrize("number", [None, errno.EPERM, errno.EOPNOTSUPP])
def test_one_at_a_time_without_flock_and_hard_links(
    number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(number or errno.ENOLCK, "refused")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    if number is not None:
        monkeypatch.setattr(os, "link", refuse)
    path, inside, most = tmp_path / ".journal", [], []

    def work() -> None:
        for _ in range(10):
            with FileLock(path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 40
    assert max(most) == 1
    assert os.listdir(tmp_path) == []


def test_a_holder_elsewhere_is_left_alone_as_long_as_it_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 100_000)  # no clock is compared
    monkeypatch.setattr(holders, "is_alive", lambda _: None)  # as on another machine
    one, other, looks = Claims(tmp_path), Claims(tmp_path), Looks()
    assert one.take(3)
    found = []
    deadline = time.monotonic() + 60
    while True not in found and time.monotonic() < deadline:
        found.append(other.is_alive(3, [], looks))
        assert not other.take(3)
        time.sleep(0.01)
    assert found[0] is None
    assert found[-1] is True
    one.release(3)
    assert other.is_alive(3, [], looks) is False
    assert other.take(3)
    other.release_all()


def test_a_silent_holder_elsewhere_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / ".journal"
    path.write_text(json.dumps({"host": "node7", "pid": 41, "started": "1", "token": "t"}))
    began = time.monotonic()
    guard = FileLock(path)
    guard.acquire()
    assert time.monotonic() - began > 0.3
    guard.release()
    assert not path.exists()


def operations(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()]


def test_nothing_is_written_behind_a_torn_line(tmp_path: Path) -> None:
    """Whoever left it, and whoever has the journal open."""
    path = tmp_path / JOURNAL
    one, other = (Journal(path, FileLock(tmp_path / ".journal")) for _ in range(2))
    for torn in (b'{"n":', b"\0" * 9000, b"{}"):
        one.append_logs([{"n": 1}, {"n": 2}])
        assert list(other.read_logs(0)) == [{"n": 1}, {"n": 2}]
        with path.open("ab") as file:
            file.write(torn)
        assert list(other.read_logs(2)) == []
        other.append_logs([{"n": 3}])
        assert operations(path) == [1, 2, 3]
        assert list(one.read_logs(2)) == list(other.read_logs(2)) == [{"n": 3}]
        path.write_bytes(b"")
        one, other = (Journal(path, FileLock(tmp_path / ".journal")) for _ in range(2))


def test_a_write_that_the_disk_cuts_short_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    one, other = (Journal(path, FileLock(tmp_path / ".journal")) for _ in range(2))
    one.append_logs([{"n": 1, "text": "x" * 1000}])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 500, limits[1]))
    try:
        with pytest.raises(UserError, match="Cannot write .*study.journal .*File too large.*Free"):
            one.append_logs([{"n": 2, "text": "x" * 1000}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert operations(path) == [1]
    other.append_logs([{"n": 3}])
    one.append_logs([{"n": 4}])
    assert operations(path) == [1, 3, 4]
