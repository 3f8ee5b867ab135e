"""The lock of a study, on file systems that lack what others have, and between machines."""

import errno
import fcntl
import json
import os
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from fmnist import lock
from fmnist.sweeps import journal
from fmnist.sweeps.journal import FileLock


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
    monkeypatch.setattr(lock, "is_alive", lambda _: None)  # as on another machine
    path = tmp_path / ".trial-3"
    holder, other = FileLock(path), FileLock(path)
    assert holder.acquire(wait=False)
    assert not other.acquire(wait=False)
    holder.release()
    assert other.acquire(wait=False)
    other.release()


@pytest.mark.parametrize("wait", [True, False])
def test_a_silent_holder_elsewhere_is_replaced(wait: bool, tmp_path: Path) -> None:
    path = tmp_path / ".trial-3"
    path.write_text(json.dumps({"host": "node7", "pid": 41, "started": "1", "token": "t"}))
    began = time.monotonic()
    guard = FileLock(path)
    assert guard.acquire(wait=wait)
    assert time.monotonic() - began > 0.3
    guard.release()
    assert not path.exists()
