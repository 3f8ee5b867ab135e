"""Run folders made without training, for tests of what reads them."""

import copy
import functools
import json
from pathlib import Path
from typing import Any

from fmnist import config
from fmnist.compare import collection
from fmnist.compare.collection import Run

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@functools.cache
def _usual(model: str) -> dict[str, Any]:
    return config.settle(config.check(config.compose([f"model={model}", "optim=adam"])))


def usual_config(model: str = "cnn", **values: Any) -> dict[str, Any]:
    """Return today's config; `optim__lr=0.1` sets optim.lr."""
    made = copy.deepcopy(_usual(model))
    for key, value in values.items():
        *sections, last = key.split("__")
        place = made
        for section in sections:
            place = place[section]
        place[last] = value
    return made


def usual_record(
    acc: float | None = 0.9, *, seed: int = 0, model: str = "cnn", **changes: Any
) -> dict[str, Any]:
    """Return a record as train.py writes it; names with `__` change the config, others a field."""
    values = {key: changes.pop(key) for key in list(changes) if "__" in key}
    typed = [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
    values["note"] = changes.get("note")
    scores = {} if acc is None else {"val/acc": acc, "val/loss": round(1.0 - acc, 6)}
    return {
        "schema": 1,
        "status": "finished",
        "config": usual_config(model, seed=seed, **values),
        "overrides": [f"model={model}", f"seed={seed}", *typed],
        "scores": scores,
        "epochs_done": 10,
        "attempts": [{"start_epoch": 0, "pid": 1, "host": "here", "seconds": 80.0}],
        "seed": seed,
        "note": None,
        "commit": COMMIT,
        "dirty": False,
        "duration_s": 80.0,
        "device": "cpu",
        "precision": "32-true",
        "num_processes": 1,
        "num_parameters": 225_034,
        "split_hash": "aa" * 32,
        "data_hash": "dd" * 32,
        "partial": False,
        "selected_on": "val",
        "best_epoch": 10,
        "images_per_s": 7000.0,
        **changes,
    }


def write_run(folder: Path, *args: Any, **changes: Any) -> Path:
    """Write a run folder; arguments as for `usual_record`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(usual_record(*args, **changes)), "utf-8")
    return folder


def write_history(folder: Path, accuracies: list[float]) -> None:
    """Write metrics.csv with these val/acc, and 1 minus them as val/loss."""
    lines = [f"{i},{i * 859},{1 - acc},{acc},0.001" for i, acc in enumerate(accuracies, 1)]
    text = "\n".join(["epoch,step,val/loss,val/acc,lr", *lines, ""])
    (folder / "metrics.csv").write_text(text, "utf-8")


def read(*paths: Path) -> list[Run]:
    """Read runs of which none may be skipped."""
    runs, skipped = collection.read_runs(paths)
    assert skipped == []
    return runs
