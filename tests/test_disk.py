"""A full and a read-only disk, on a small real file system."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROJECT

from fmnist import proof, record

pytestmark = [pytest.mark.kill, pytest.mark.usefixtures("small_data")]

WORDS = ["data.batch_size=50", "data.val_size=100", "trainer.max_epochs=4", "name=run"]
WORDS += ["optim=adam"]  # whose checkpoints are as large as the disk below is made for


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB: room for two checkpoints of this network."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or mount("-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)):
        pytest.skip("cannot mount a file system here: needs Linux and root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def mount(*words: str) -> int:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode


def train(small_files: Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return call(small_files, cwd, "train.py", *WORDS)


def call(
    small_files: Path, cwd: Path, name: str, *words: str
) -> "subprocess.CompletedProcess[str]":
    script = str(PROJECT / "scripts" / name)
    command = [sys.executable, str(PROJECT / "tests" / "small.py"), str(small_files), script]
    return subprocess.run(
        [*command, *words], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def test_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    small_files: Path, disk: Path, tmp_path: Path
) -> None:
    whole = train(small_files, tmp_path)
    assert whole.returncode == 0, whole.stderr
    full = train(small_files, disk)
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    assert "No space left on device" in full.stderr.splitlines()[-1]
    assert "Free some space" in full.stderr.splitlines()[-1]
    run = record.read(disk / "runs" / "run")
    assert run.status in ("failed", "interrupted")
    assert run.data["epochs_done"] < 4

    mount("-o", "remount,size=64m", str(disk))
    done = train(small_files, disk)
    assert done.returncode == 0, done.stderr
    assert proof.differences(tmp_path / "runs" / "run", disk / "runs" / "run") == []


@pytest.mark.parametrize("free", [0, 4096, 40_000, 400_000])
def test_disk_that_is_almost_full_at_the_start(small_files: Path, disk: Path, free: int) -> None:
    room = os.statvfs(disk)
    (disk / "filler").write_bytes(b"x" * (room.f_bavail * room.f_frsize - free))
    full = train(small_files, disk)
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    assert "No space left on device" in full.stderr


def test_read_only_disk_is_one_line(small_files: Path, disk: Path) -> None:
    mount("-o", "remount,ro", str(disk))
    refused = train(small_files, disk)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "Read-only file system" in refused.stderr.splitlines()[-1]


def test_finished_run_answers_on_a_read_only_disk(small_files: Path, disk: Path) -> None:
    mount("-o", "remount,size=64m", str(disk))
    first = train(small_files, disk)
    assert first.returncode == 0, first.stderr
    mount("-o", "remount,ro", str(disk))
    again = train(small_files, disk)
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    told = call(small_files, disk, "eval.py", "runs/run", "--split", "val")
    assert told.returncode == 1  # the report is printed, but not kept
    assert told.stdout.startswith("runs/run: 100 val images")
    assert "Read-only file system" in told.stderr
    assert "Traceback" not in told.stderr


def test_folder_that_becomes_read_only_in_between(small_files: Path, disk: Path) -> None:
    full = train(small_files, disk)
    assert full.returncode == 1
    before = (disk / "runs" / "run" / "run.json").read_bytes()
    mount("-o", "remount,ro", str(disk))
    refused = train(small_files, disk)
    assert refused.returncode == 1
    assert "Read-only file system" in refused.stderr.splitlines()[-1]
    assert (disk / "runs" / "run" / "run.json").read_bytes() == before
    assert json.loads(before)["status"] in ("failed", "running")
