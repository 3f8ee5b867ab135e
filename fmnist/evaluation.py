"""Score a finished run on a split, and keep what was read of the test set."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmnist import record
from fmnist.errors import UserError

SCHEMA = 1
SPLITS = ("test", "val", "train")


def evaluate(folder: Path, split: str = "test") -> dict[str, float]:
    """Return {"<split>/acc": fraction, "<split>/loss": nats} of best.ckpt in `folder`.

    What was read of the test set is kept, in run.json or in eval-test.json, and never read again:
    asked twice, the stored scores come back. Raises UserError when there is no model or no data.
    """
    run = record.read(folder)
    if stored := stored_scores(run, split):
        return stored
    scores = _measure(run, split)
    report = {
        "schema": SCHEMA,
        "split": split,
        "scores": scores,
        "best_epoch": run.data.get("best_epoch"),
        "evaluated": f"{datetime.datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}",
        "versions": record.versions(),
        **record.commit(),
    }
    record.write_atomically(_path(folder, split), json.dumps(report, indent=2) + "\n")
    return scores


def stored_scores(run: record.Record, split: str) -> dict[str, float]:
    """Return what an evaluation left, of the test set also what the training itself measured."""
    kept = {k: v for k, v in run.scores.items() if k.startswith(f"{split}/")}
    if split == "test" and kept:
        return kept
    return kept_scores(run.folder, split)


def kept_scores(folder: Path, split: str) -> dict[str, float]:
    """Return the scores in eval-<split>.json, {} when there is none or it is damaged."""
    try:
        report = json.loads(_path(folder, split).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    scores = report.get("scores") if isinstance(report, dict) else None
    names = (f"{split}/acc", f"{split}/loss")
    is_sound = isinstance(scores, Mapping) and all(_is_number(scores.get(n)) for n in names)
    return {name: float(scores[name]) for name in names} if is_sound and scores else {}


def _measure(run: record.Record, split: str) -> dict[str, float]:
    import torch
    from torch.nn import functional as F

    from fmnist import build
    from fmnist.classifier import Tally
    from fmnist.model import load_model

    model = load_model(run.folder)
    data = build.data(model.config)
    data.prepare_data()
    data.setup()
    if split != "test" and data.split_hash != run.data.get("split_hash"):
        raise UserError(
            f"The validation split of {run.folder} cannot be drawn again: its split_hash differs. "
            "Use the version of fmnist and of torch in its run.json, or --split test."
        )
    images, labels = data.arrays(split)
    tally = Tally()
    with torch.inference_mode():
        for x, y in zip(torch.split(images, 1000), torch.split(labels, 1000), strict=True):
            logits = model.classifier.predict_logits(x)
            tally.update(F.cross_entropy(logits, y), logits, y)
    return {f"{split}/{name}": value.item() for name, value in tally.compute().items()}


def _path(folder: Path, split: str) -> Path:
    return folder / f"eval-{split}.json"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
