"""Someone who types commands in a folder, each in a process of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import everywhere
import torch

from fmnist import record

TRAIN = str(Path(__file__).resolve().parents[1] / "scripts" / "train.py")


class User:
    """Types lines into a terminal in `folder`."""

    def __init__(self, folder: Path, files: Path) -> None:
        self.folder = folder
        self.environment = everywhere.environment(folder, files)

    def start(self, *words: str, script: str = TRAIN) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, script, *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def sweep(self, *words: str) -> "subprocess.CompletedProcess[str]":
        process = self.start("-m", *words)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def stop(self, signum: int, num_lines: int, after_s: float, *words: str) -> int:
        """Send a signal to a sweep some time after it said so many lines; returns how it ended."""
        process = self.start("-m", *words)
        assert process.stderr is not None
        for _ in range(num_lines):
            process.stderr.readline()
        try:
            process.communicate(timeout=after_s)
        except subprocess.TimeoutExpired:
            if signum == signal.SIGHUP:  # a closed terminal reaches all its processes
                os.killpg(process.pid, signum)
            else:
                process.send_signal(signum)
            process.communicate(timeout=60)
        return process.returncode

    def table(self, sweep: str) -> dict[str, Any]:
        """Return what every job came to, by its folder's name."""
        records = [
            record.read(p.parent) for p in (self.folder / "sweeps" / sweep).glob("*/run.json")
        ]
        return {r.folder.name: (r.status, r.scores, r.data["epochs_done"]) for r in records}

    def weights(self, run: str) -> dict[str, torch.Tensor]:
        path = self.folder / run / "checkpoints" / "best.ckpt"
        return torch.load(path, weights_only=True)["state_dict"]  # type: ignore[no-any-return]


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
