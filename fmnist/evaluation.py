"""Score a finished run on a split, and keep what was read of the test set."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmnist import process, record, report
from fmnist.compare.table import find_best
from fmnist.errors import UserError

SCHEMA = 1
SPLITS = ("test", "val", "train")


def choose(folder: Path) -> tuple[Path, list[str]]:
    """Return the run to evaluate, and what speaks against doing it now.

    `folder` is a run, or a sweep, whose finished run with the highest val/acc is taken. Raises
    UserError when no run has finished.
    """
    if (folder / record.RECORD).exists():
        return folder, []
    runs = report.read_runs([folder])
    best, notes = find_best(runs).folder, [f"{folder}: best by val/acc"]
    left = sum(run.status not in record.ENDED for run in runs)
    if left:
        notes.append(f"{left} of {len(runs)} runs have not ended: another one may turn out best.")
    num_read = sum("test/acc" in run.scores and run.folder != best for run in runs)
    if num_read:
        notes.append(
            f"The test set has been read for {num_read} more of them: "
            "choosing between such scores would be selection on test."
        )
    return best, notes


def evaluate(folder: Path, split: str = "test") -> dict[str, float]:
    """Return {"<split>/acc": fraction, "<split>/loss": nats} of best.ckpt in `folder`.

    The result is kept in eval-<split>.json. The test set is read once: asked again, or where the
    training read it, the stored scores come back. Raises UserError when there is no finished run,
    no model or no data.
    """
    run = record.read(folder)
    if run.status != "finished":
        raise UserError(f"{folder} is not finished but {run.status}. Train it to its end first.")
    if stored := stored_scores(run, split):
        return stored
    scores = _measure(run, split)
    told = {
        "schema": SCHEMA,
        "split": split,
        "scores": scores,
        "best_epoch": run.data.get("best_epoch"),
        "evaluated": f"{datetime.datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}",
        "versions": record.versions(),
        **record.commit(),
    }
    record.write_atomically(_path(folder, split), json.dumps(told, indent=2) + "\n")
    return scores


def stored_scores(run: record.Record, split: str) -> dict[str, float]:
    """Return the scores on `split` that are known: the training's of the test set, or those kept.

    The training's own train/* are running means of an epoch, and its val/* were measured on the
    way: these are no evaluation.
    """
    if split == "test" and "test/acc" in run.scores:
        return {k: v for k, v in run.scores.items() if k.startswith("test/")}
    try:
        kept = json.loads(_path(run.folder, split).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    scores = kept.get("scores") if isinstance(kept, dict) else None
    names = (f"{split}/acc", f"{split}/loss")
    if not isinstance(scores, Mapping) or not all(_is_number(scores.get(n)) for n in names):
        return {}
    return {name: float(scores[name]) for name in names}


def _measure(run: record.Record, split: str) -> dict[str, float]:
    """Measure as the training does: one prediction path, batches of the same size."""
    process.import_torch()
    process.keep_memory()
    import torch
    from torch.nn import functional as F

    from fmnist import build
    from fmnist.classifier import Tally
    from fmnist.data import FashionMNISTData
    from fmnist.model import load_model

    model = load_model(run.folder)
    data = build.data(model.config)
    data.prepare_data()
    data.setup()
    if split != "test" and data.split_hash != run.data.get("split_hash"):
        raise UserError(
            f"The validation split of {run.folder} cannot be drawn again: its split_hash differs. "
            "Use the versions in its run.json, or --split test."
        )
    size, tally = FashionMNISTData.EVAL_BATCH_SIZE, Tally()
    images, labels = (torch.split(array, size) for array in data.arrays(split))
    with torch.inference_mode():
        for x, y in zip(images, labels, strict=True):
            logits = model.classifier.predict_logits(x)
            tally.update(F.cross_entropy(logits, y), logits, y)
    return {f"{split}/{name}": value.item() for name, value in tally.compute().items()}


def _path(folder: Path, split: str) -> Path:
    return folder / f"eval-{split}.json"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
