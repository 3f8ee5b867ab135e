"""How a pool divides a machine, and what its workers say."""

import io
from pathlib import Path

import pytest

from fmnist.sweeps import pool
from fmnist.sweeps.pool import PoolLauncher
from fmnist.sweeps.worker import Prefixed


@pytest.fixture
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "num_processors", lambda: 4)


@pytest.mark.usefixtures("four_processors")
@pytest.mark.parametrize(
    ("visible", "asked", "workers", "threads", "gpus"),
    [
        ("", (None, None), 2, "2", [None, None]),
        ("-1", (None, None), 2, "2", [None, None]),
        ("", (4, None), 4, "1", [None] * 4),
        ("", (8, None), 8, "1", [None] * 8),
        ("", (2, 1), 2, "1", [None, None]),
        ("0,3", (None, None), 2, "2", ["0", "3"]),
        ("GPU-a,GPU-b,GPU-c", (None, None), 3, "1", ["GPU-a", "GPU-b", "GPU-c"]),
        ("0,1", (3, None), 3, "1", ["0", "1", "0"]),
    ],
)
def test_processors_and_gpus_are_divided(
    visible: str,
    asked: tuple[int | None, int | None],
    workers: int,
    threads: str,
    gpus: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    launcher = PoolLauncher(*asked)
    given = [launcher._environment(i) for i in range(launcher.num_workers)]
    assert launcher.num_workers == workers
    assert [e["OMP_NUM_THREADS"] for e in given] == [threads] * workers
    assert [e["CUDA_VISIBLE_DEVICES"] for e in given] == [g or visible for g in gpus]


def test_gpus_are_asked_of_the_driver_where_nothing_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pool._gpus() == []
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 0\necho 1\n")
    driver.chmod(0o755)
    assert pool._gpus() == ["0", "1"]


def test_two_processors_are_two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(pool, "num_processors", lambda: 2)
    assert PoolLauncher(None, None).num_workers == 2
    monkeypatch.setattr(pool, "num_processors", lambda: 1)
    assert PoolLauncher(None, None).num_workers == 1


def test_every_line_of_a_worker_names_its_job() -> None:
    written = io.StringIO()
    stream = Prefixed(written)
    stream.prefix = "[3] "
    stream.write("one\ntw")
    stream.write("o\n")
    stream.write("three")
    assert written.getvalue() == "[3] one\n[3] two\n"
