"""Kill a training again and again, and compare its end with an uninterrupted one."""

import csv
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fmnist import lock, record
from fmnist.errors import UserError

TIMES = ("images_per_s", "epoch_s")  # the columns of metrics.csv that differ from run to run
Say = Callable[[str], None]


def verify(train: Sequence[str], folder: Path, num_kills: int, seed: int, say: Say = print) -> bool:
    """Run the command `train` whole and with `num_kills` kills in `folder`; say whether they agree.

    Each kill comes at a moment drawn uniformly from the time the rest should take.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}. Name another folder.") from None
    whole, killed = folder / "runs" / "whole", folder / "runs" / "killed"
    begin = time.monotonic()
    _finish([*train, "name=whole"], folder)
    duration_s = time.monotonic() - begin
    say(f"whole: {duration_s:.1f} s, {_scores(whole)}")
    draw = random.Random(seed)
    fit_s, epochs = (record.read(whole).data[key] for key in ("duration_s", "epochs_done"))
    for i in range(1, num_kills + 1):
        done = _epochs_done(killed)
        if done == epochs and record.read(killed).status == "finished":
            say(f"kill {i}: not done, the run had come to its end")
            break
        after_s = draw.uniform(0.1, duration_s - fit_s * done / epochs)
        phase = _kill([*train, "name=killed"], folder, killed, after_s)
        say(f"kill {i}: {after_s:.1f} s after the start, {phase}")
    _finish([*train, "name=killed"], folder)
    starts = [a["start_epoch"] for a in record.read(killed).data["attempts"]]
    say(f"killed: {_scores(killed)}; attempts went on from epochs {starts}")
    different = differences(whole, killed)
    say(
        "not equal: " + "; ".join(different) if different else "equal: weights, scores, metrics.csv"
    )
    return not different


def differences(one: Path, other: Path) -> list[str]:
    """List what differs between two finished runs: weights, scores, rows of metrics.csv."""
    import torch

    from fmnist import checkpoint

    found = []
    for name in ("best", "last"):
        files = [run / "checkpoints" / f"{name}.ckpt" for run in (one, other)]
        missing = [str(file) for file in files if not file.exists()]
        if missing:
            found.append(f"{' and '.join(missing)} missing")
            continue
        try:
            a, b = (checkpoint.read(file)["state_dict"] for file in files)
        except checkpoint.CheckpointError as error:
            found.append(f"{name}.ckpt ({error})")
            continue
        wrong = [k for k in {*a, *b} if k not in a or k not in b or not torch.equal(a[k], b[k])]
        found += [f"{name}.ckpt ({', '.join(sorted(wrong))})"] if wrong else []
    if record.read(one).scores != record.read(other).scores:
        found.append("scores")
    if rows(one) != rows(other):
        found.append("metrics.csv")
    return found


def rows(folder: Path) -> list[dict[str, str]]:
    """Return metrics.csv without its columns of time."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in r.items() if k not in TIMES} for r in csv.DictReader(file)]


def _finish(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def _kill(command: list[str], folder: Path, run: Path, after_s: float) -> str:
    """Start `command` and kill it `after_s` seconds later; returns what it was doing."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(timeout=after_s)
        return "too late, the run had ended"
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    holder: dict[str, Any] = lock.read(run) or {}
    mine = holder.get("pid") == process.pid
    phase = holder["phase"] if mine else "importing and preparing"
    return f"{phase}; {_epochs_done(run)} epochs were done"


def _epochs_done(run: Path) -> int:
    return int(record.read(run).data["epochs_done"]) if (run / record.RECORD).exists() else 0


def _scores(folder: Path) -> str:
    scores = record.read(folder).scores
    return ", ".join(f"{k} {v:.4f}" for k, v in scores.items() if k.endswith("acc"))
