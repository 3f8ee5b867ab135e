"""Evaluate a finished run on a split, and keep what was read of the test set in its folder."""

import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmnist import process, record, report
from fmnist.compare.table import find_best
from fmnist.errors import UserError

if TYPE_CHECKING:
    from fmnist.model import Model, Outputs

SCHEMA = 1
SPLITS = ("test", "val", "train")
_PARTS = {"scores": dict, "intervals": dict, "classes": list, "confusion": list, "confused": list}


class NotKeptError(UserError):
    """The evaluation was done, but its `report` could not be written to the run folder."""

    def __init__(self, message: str, report: dict[str, Any]) -> None:
        super().__init__(message)
        self.report = report


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


def evaluate(folder: Path, split: str = "test") -> dict[str, Any]:
    """Return the report on best.ckpt of the run in `folder`, as kept in eval-<split>.json.

    It holds what `scores.summarize` says, the temperature scaling of `scores.recalibrate` (where
    there is a validation split) and `notes`. A split is read once: asked again, the kept report
    comes back, as long as the checkpoint is the same. Raises UserError when there is no finished
    run, no model or no data; NotKeptError, with the report, when the folder cannot be written.
    """
    run = record.read(folder)
    if run.status != "finished":
        raise UserError(f"{folder} is not finished but {run.status}. Train it to its end first.")
    checkpoint = _digest(folder / "checkpoints" / "best.ckpt")
    if kept := _kept(folder, split, checkpoint):
        return kept
    process.import_torch()
    process.keep_memory()
    from fmnist.model import load_model

    model = load_model(folder)
    outputs = model.outputs(split)
    found = {
        "schema": SCHEMA,
        "split": split,
        "best_epoch": run.data.get("best_epoch"),
        "checkpoint_sha256": checkpoint,
        **_measure(model, outputs, split),
        "evaluated": f"{datetime.datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}",
        "versions": record.versions(),
        **record.commit(),
    }
    try:
        record.write_atomically(_path(folder, split), json.dumps(found, indent=2) + "\n")
        _draw(model, outputs, split, found)
    except UserError as error:
        raise NotKeptError(str(error), found) from None
    return found


def has_read_test(run: record.Record) -> bool:
    """Say whether the test set has been read for a run: by its training or by an evaluation."""
    return "test/acc" in run.scores or _path(run.folder, "test").exists()


def _measure(model: "Model", outputs: "Outputs", split: str) -> dict[str, Any]:
    from fmnist import scores

    found = scores.summarize(split, outputs.labels, outputs.logits, model.class_names)
    notes = _compare(found["scores"], model.run, split)
    try:
        val = outputs if split == "val" else model.outputs("val")
    except UserError as error:
        notes.append(f"No temperature scaling: {error}")
    else:
        logits = (outputs.labels, outputs.logits, val.labels, val.logits)
        found["calibration"] = scores.recalibrate(*logits)
    return found | {"notes": notes}


def _compare(measured: Mapping[str, float], run: record.Record, split: str) -> list[str]:
    """Say where the training recorded another accuracy; its train/acc is of another kind."""
    name = f"{split}/acc"
    recorded = run.scores.get(name, measured[name])
    if split == "train" or run.data.get("partial") or abs(recorded - measured[name]) < 1e-9:
        return []
    return [
        f"run.json recorded {name} {recorded:.2%}: other hardware or versions round differently."
    ]


def _draw(model: "Model", outputs: "Outputs", split: str, found: Mapping[str, Any]) -> None:
    """Draw figures/eval-<split>-*.png."""
    from fmnist import charts, figures, scores

    folder = model.run.folder / "figures"
    names, labels = model.class_names, outputs.labels
    probs = scores.softmax(outputs.logits)
    temperature = found.get("calibration", {}).get("temperature")
    scaled = scores.softmax(outputs.logits / temperature) if temperature else None
    drawn = {
        "classes": charts.classes(found["classes"]),
        "confusion": charts.confusion(labels, probs.argmax(axis=1), names),
        "mistakes": figures.mistakes(outputs.images, labels, probs, names),
        "reliability": charts.reliability(labels, probs, scaled),
    }
    try:
        folder.mkdir(exist_ok=True)
        for name, figure in drawn.items():
            figures.save(figure, folder / f"eval-{split}-{name}.png")
    except OSError as error:
        raise UserError(
            f"Cannot write {folder} ({error.strerror}). Free some space or make it writable; the "
            f"scores are kept in {_path(model.run.folder, split)}."
        ) from None


def _kept(folder: Path, split: str, checkpoint: str) -> dict[str, Any] | None:
    """Return the report that an earlier evaluation of the same checkpoint left, if it is whole."""
    try:
        kept = json.loads(_path(folder, split).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_whole = isinstance(kept, dict) and all(isinstance(kept.get(k), t) for k, t in _PARTS.items())
    return kept if is_whole and kept.get("checkpoint_sha256") == checkpoint else None


def _digest(path: Path) -> str:
    """Return the sha256 of a file; of nothing, where it is missing: loading it says so."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _path(folder: Path, split: str) -> Path:
    return folder / f"eval-{split}.json"
