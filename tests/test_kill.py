"""Killed at any moment and started again, a run ends as if nothing had happened."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fmnist import proof, record

pytestmark = pytest.mark.kill

TRAIN = str(PROJECT / "scripts" / "train.py")
WORDS = [
    "data.batch_size=50",
    "data.val_size=100",
    "trainer=cpu",
    "trainer.max_epochs=6",
    "augment=strong",
    "augment.cutmix=0.5",
    "model.dropout=0.3",
    "callbacks.ema.decay=0.9",
    "callbacks.early_stopping.patience=4",
]
PHASES = {  # phase -> how many moments it has; a chain of kills takes one of each
    "import": 3,
    "training": 25,
    "validation": 2,
    "checkpoint": 6,
    "record": 3,
    "test": 3,
}


def start(
    small_files: Path, cwd: Path, name: str, *kill: str
) -> "subprocess.CompletedProcess[str]":
    runner = ["killer.py" if kill else "small.py", str(small_files), *kill]
    command = [sys.executable, str(PROJECT / "tests" / runner[0]), *runner[1:], TRAIN, *WORDS]
    return subprocess.run(
        [*command, f"name={name}"],
        cwd=cwd,
        env={**os.environ, "FMNIST_DATA": str(cwd / "data")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def whole(small_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was never killed."""
    folder = tmp_path_factory.mktemp("kill")
    done = start(small_files, folder, "whole")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "whole"


@pytest.mark.parametrize("chain", [0, 1, 2])
def test_killed_in_every_phase_equals_uninterrupted(
    small_files: Path, whole: Path, chain: int
) -> None:
    """Three chains: three kills in each phase."""
    draw = random.Random(chain)
    cwd, name = whole.parents[1], f"killed-{chain}"
    for phase, moments in PHASES.items():
        done = start(small_files, cwd, name, phase, str(draw.randint(1, moments)))
        assert done.returncode == -9, (phase, done.stderr)
        print(f"killed: {phase}")
    done = start(small_files, cwd, name)
    assert done.returncode == 0, done.stderr
    killed = whole.parent / name
    assert proof.differences(whole, killed) == []
    starts = [a["start_epoch"] for a in record.read(killed).data["attempts"]]
    assert starts == sorted(starts)
    assert starts[-1] == record.read(whole).data["epochs_done"]
    assert not list(killed.glob("**/.*")), "nothing half-written is left"
    for tag in ("train/loss", "val/acc", "lr"):
        curves = [EventAccumulator(str(run)).Reload().Scalars(tag) for run in (whole, killed)]
        assert [(e.step, e.value) for e in curves[0]] == [(e.step, e.value) for e in curves[1]], tag
