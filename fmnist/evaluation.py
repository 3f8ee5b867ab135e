"""Evaluate a finished run on a split, and keep what was read of the test set in its folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmnist import layout, origin, process, reading, record, report, reports
from fmnist.compare.table import find_best
from fmnist.errors import UserError

if TYPE_CHECKING:
    from fmnist.model import Model, Outputs

SPLITS = ("test", "val", "train")
FIGURES = ("classes", "confusion", "mistakes", "reliability")
MIN_FIT = 100  # images to fit a temperature on
ROUNDING = 0.002  # of an accuracy: more than other hardware or versions change


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
    if record.is_run(folder):
        return folder, []
    runs = report.read_runs([folder])
    best = find_best(runs).folder
    notes = [f"{best}: the best by val/acc in {folder}"]
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


def evaluate(folder: Path, split: str = "test", trust: bool = False) -> dict[str, Any]:
    """Return the report on best.ckpt of the run in `folder`, as kept in eval-<split>.json.

    It holds what `scores.summarize` says, the temperature scaling of `scores.recalibrate` (where
    there is a validation split) and `notes`. A split is read once: asked again, the kept report
    comes back, as long as it is whole, with its figures, and the checkpoint is the same. `trust` as
    in `run.load`. Raises UserError when there is no finished run, no model or no data;
    NotKeptError, with the report, when the folder cannot be written.
    """
    run = read_finished(folder)
    checkpoint = _digest(folder / "checkpoints" / "best.ckpt")
    kept = reports.read(folder, split)
    if kept and kept["checkpoint_sha256"] == checkpoint and _has_figures(folder, split):
        return kept
    process.import_torch()
    process.keep_memory()
    from fmnist.model import load_model

    model = load_model(folder, trust)
    outputs = model.outputs(split)
    found = {
        "schema": reports.SCHEMA,
        "split": split,
        "best_epoch": run.data.get("best_epoch"),
        "checkpoint_sha256": checkpoint,
        **_measure(model, outputs, split),
        "evaluated": origin.now(),
        "versions": origin.versions(),
        **origin.commit(),
    }
    try:
        _draw(model, outputs, split, found)
        text = json.dumps(found, indent=2) + "\n"  # last: it says that all is there
        record.write_atomically(reports.path(folder, split), text)
    except UserError as error:
        raise NotKeptError(str(error), found) from None
    return found


def read_finished(folder: Path) -> record.Record:
    """Read the record of a run; raises UserError unless it has finished."""
    run = record.read(folder)
    if run.status != "finished":
        raise UserError(f"{folder} is not finished but {run.status}. Train it to its end first.")
    return run


def has_read_test(run: record.Record) -> bool:
    """Say whether the test set has been read for a run: by its training or by an evaluation."""
    return "test/acc" in run.scores or reports.path(run.folder, "test").exists()


def _measure(model: "Model", outputs: "Outputs", split: str) -> dict[str, Any]:
    from fmnist import scores

    found = scores.summarize(split, outputs.labels, outputs.logits, model.class_names)
    notes = _compare(found["scores"], model.run, split)
    try:
        val = outputs if split == "val" else model.outputs("val")
    except UserError as error:
        return found | {"notes": [*notes, f"No temperature scaling: {error}"]}
    if len(val.labels) < MIN_FIT:
        few = f"{len(val.labels)} validation images are too few, it takes {MIN_FIT}."
        return found | {"notes": [*notes, f"No temperature scaling: {few}"]}
    scaling = scores.recalibrate(outputs.labels, outputs.logits, val.labels, val.logits)
    if scaling is None:
        best = "the validation images have no best temperature, as none or all are wrong."
        return found | {"notes": [*notes, f"No temperature scaling: {best}"]}
    return found | {"calibration": scaling, "notes": notes}


def _compare(measured: Mapping[str, float], run: record.Record, split: str) -> list[str]:
    """Say where the training recorded another accuracy; its train/acc is of another kind."""
    name = f"{split}/acc"
    recorded = run.scores.get(name, measured[name])
    if split == "train" or run.data.get("partial") or abs(recorded - measured[name]) < 1e-9:
        return []
    told = f"run.json recorded {name} {recorded:.2%}: "
    if abs(recorded - measured[name]) < ROUNDING:
        return [told + "other hardware or versions round differently."]
    return [
        told + "rounding does not explain that. best.ckpt is not the one that was tested, or "
        "this version computes something else."
    ]


def _has_figures(folder: Path, split: str) -> bool:
    return all(_figure(folder, split, name).exists() for name in FIGURES)


def _figure(folder: Path, split: str, name: str) -> Path:
    return folder / "figures" / f"eval-{split}-{name}.png"


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
        layout.make(folder)
        for name in FIGURES:
            figures.save(drawn[name], _figure(model.run.folder, split, name))
    except OSError as error:
        raise UserError(
            f"Cannot write {folder} ({error.strerror}): this report is not kept. Free some space "
            "or make the folder writable to keep it."
        ) from None


def _digest(path: Path) -> str:
    """Return the sha256 of a file; of nothing, where it is missing: loading it says so."""
    try:
        return reading.digest(path)
    except OSError:
        return ""
