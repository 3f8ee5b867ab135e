"""The comparison behind scripts/verify_resume.py, with a stand-in for the training."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from fmnist import proof
from fmnist.errors import UserError

# Takes a second to "train": copies a finished run to the folder that name=... asks for.
TRAIN = """
import shutil, sys, time
from pathlib import Path
name = sys.argv[-1].partition("=")[2]
time.sleep(1)
source = Path(sys.argv[1]) / name
shutil.copytree(source if source.exists() else Path(sys.argv[1]) / "whole", Path("runs") / name)
"""


def write_run(folder: Path, weight: float = 1.0, accuracy: float = 0.5, row: str = "1,0.5") -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    state = {"state_dict": {"net.weight": torch.tensor([weight])}}
    for name in ("best", "last"):
        torch.save(state, folder / "checkpoints" / f"{name}.ckpt")
    (folder / "metrics.csv").write_text(f"epoch,val/acc,epoch_s\n{row},{weight}\n")
    attempt = {"start_epoch": 0, "pid": 1, "host": "x", "seconds": 1.0}
    record = {
        "schema": 1,
        "status": "finished",
        "config": {},
        "overrides": [],
        "attempts": [attempt],
        "scores": {"val/acc": accuracy},
        "epochs_done": 1,
        "duration_s": 0.5,
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_times_alone_make_no_difference(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other")
    (other / "metrics.csv").write_text("epoch,val/acc,epoch_s\n1,0.5,99\n")
    assert proof.differences(one, other) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"weight": 1.0000001}, ["best.ckpt (net.weight)", "last.ckpt (net.weight)"]),
        ({"accuracy": 0.5000001}, ["scores"]),
        ({"row": "1,0.6"}, ["metrics.csv"]),
    ],
)
def test_every_difference_is_found(
    tmp_path: Path, change: dict[str, float], expected: list[str]
) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other", **change)  # type: ignore[arg-type]
    assert proof.differences(one, other) == expected


def test_missing_weights_are_no_agreement(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other")
    shutil.rmtree(other / "checkpoints")
    assert any("missing" in difference for difference in proof.differences(one, other))


def test_damaged_weights_are_no_agreement(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other")
    (other / "checkpoints" / "best.ckpt").write_bytes(b"PK damaged")
    (difference,) = proof.differences(one, other)
    assert difference.startswith("best.ckpt (")


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: File exists\. Name another folder\."):
        proof.verify([sys.executable], tmp_path / "file", 1, 0)


@pytest.mark.parametrize("weight", [pytest.param(1.0, marks=pytest.mark.slow), 2.0])
def test_verify_kills_and_compares(tmp_path: Path, weight: float) -> None:
    write_run(tmp_path / "source" / "whole")
    write_run(tmp_path / "source" / "killed", weight=weight)
    said: list[str] = []
    train = [sys.executable, "-c", TRAIN, str(tmp_path / "source")]
    equal = proof.verify(train, tmp_path / "work", num_kills=2, seed=0, say=said.append)
    assert equal is (weight == 1.0)
    assert [line.partition(":")[0] for line in said[:3]] == ["whole", "kill 1", "kill 2"]
    assert "importing and preparing; 0 epochs were done" in said[1]
    assert said[-1].startswith("equal: weights" if equal else "not equal: best.ckpt")


def test_training_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ended with 3"):
        proof.verify([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, 1, 0)
