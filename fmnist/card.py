"""The model card beside an exported file: card.md, filled in. Torch-free.

Its parts are those of Mitchell et al. 2019, Model Cards for Model Reporting (arXiv:1810.03993).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from fmnist import CLASSES, provenance, record, scores

NUM_TRAIN, NUM_TEST = 60_000, 10_000  # images in the two files of the data set
Reports = Mapping[str, Mapping[str, Any]]

_TEMPLATE = Path(__file__).with_name("card.md")
_SCORES = {
    "acc": "accuracy",
    "loss": "loss (nats)",
    "f1": "mean F1 of the classes",
    "brier": "Brier score (0 to 2)",
    "ece": "calibration error (ECE)",
}
_FORMS = {
    "onnx": {
        "form": "ONNX (opset 18) with the weights inside",
        "needs": "onnxruntime numpy pillow",
        "where": "metadata",
        "lines": """\
import json
import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession($file)
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
image = np.array(Image.open("picture.png").convert("L").resize((28, 28)))
probs = session.run(["probs"], {"images": image[None, None]})[0]
print(names[probs[0].argmax()], probs[0].max())""",
    },
    "torch_export": {
        "form": "an archive of `torch.export`",
        "needs": "torch numpy pillow",
        "where": "extra file `metadata.json`",
        "lines": """\
import json
import numpy as np
import torch
from PIL import Image

extra = {"metadata.json": ""}
model = torch.export.load($file, extra_files=extra).module()
image = np.array(Image.open("picture.png").convert("L").resize((28, 28)))
probs = model(torch.from_numpy(image)[None, None])
print(json.loads(extra["metadata.json"])["class_names"][probs.argmax()], probs.max().item())""",
    },
}


class Check(NamedTuple):
    """How a file compares with the model it was made from; speeds are images per second."""

    num_images: int
    images: str  # which they were
    difference: float  # of probabilities, at most
    file_speed: float
    model_speed: float
    num_cores: int

    @property
    def apart(self) -> str:
        return f"at most {self.difference:.1e} apart" if self.difference else "equal"


class Exported(NamedTuple):
    """A file that was exported, and the card beside it."""

    path: Path
    card: Path
    kind: str  # onnx | torch_export
    num_bytes: int
    sha256: str
    metadata: Mapping[str, Any]
    check: Check


def write_card(
    run: record.Record, config: Mapping[str, Any], reports: Reports, made: Exported
) -> str:
    """Return the card in Markdown.

    `config` is the run's, with all keys of today's. `reports` holds what
    fmnist.evaluation.evaluate says of val and of test, where they are known; a report may lack all
    but its `scores`.
    """
    form = _FORMS[made.kind]
    file = made.path.name
    num_val = NUM_TEST if config["data"]["val_from"] == "test" else config["data"]["val_size"]
    fields = {
        **form,
        "lines": Template(form["lines"]).substitute(file=json.dumps(file)),
        "file": _plain(file),
        "megabytes": f"{made.num_bytes / 1e6:.2f}",
        "sha256": made.sha256,
        **_of_run(run, config),
        "run": _plain(made.metadata["run"]),
        **{key: made.metadata[key] for key in ("created", "fmnist")},
        **_of_check(made.check),
        "scores": _scores(reports, {"val": num_val, "test": NUM_TEST}),
        "chosen": _chosen(provenance.facts(run), reports),
        "per_class": _per_class(reports),
        "calibration": _calibration(reports),
    }
    return Template(_TEMPLATE.read_text("utf-8")).substitute(fields)


def _of_run(run: record.Record, config: Mapping[str, Any]) -> dict[str, str]:
    facts = provenance.facts(run)
    num_val = config["data"]["val_size"]
    inside = "The division by 255 is inside"
    if config["augment"]["test_flip"]:
        inside += ", and so is the mean of the logits of an image and its mirror image"
    commit = f"commit `{facts['commit']}`" if "commit" in facts else "commit not recorded"
    settings = provenance.settings(run, config)
    rows = (f"| `{_plain(key)}` | `{_plain(str(value))}` |" for key, value in settings.items())
    part = ", of which only a part was used here" if facts.get("partial") else ""
    return {
        "network": config["model"]["_target_"].removeprefix("fmnist.models."),
        "parameters": f"{facts['num_parameters']:,}" if "num_parameters" in facts else "?",
        "inside": f"{inside}.",
        "classes": "\n".join(f"| {i} | {name} |" for i, name in enumerate(CLASSES)),
        "num_train": f"{NUM_TRAIN - num_val:,}",
        "held_out": "none held out (val is the test)"
        if config["data"]["val_from"] == "test"
        else f"{num_val:,} held out for validation (val)",
        "num_test": f"{NUM_TEST:,}{part}",
        "data_hash": facts.get("data_hash", "not recorded"),
        "split_hash": facts.get("split_hash", "not recorded"),
        "command": provenance.command(run),
        "settings": "\n".join(rows),
        "commit": commit + (" with changes that were not committed" if facts.get("dirty") else ""),
        "device": facts.get("device", "?"),
        "precision": facts.get("precision", "?"),
        "versions": ", ".join(f"{k} {v}" for k, v in facts.get("versions", {}).items()),
    }


def _plain(text: str) -> str:
    """Return `text` without what would end a cell of a table, code or a line."""
    return "".join("_" if c in "|`" or not c.isprintable() else c for c in text)


def _of_check(check: Check) -> dict[str, str]:
    return {
        "num_checked": f"{check.num_images:,} {check.images}",
        "apart": check.apart,
        "speed": f"On {check.num_cores} CPU cores, {check.num_images:,} images at a time, it does "
        f"{check.file_speed:,.0f} images/s; the model does {check.model_speed:,.0f}.",
    }


def _scores(reports: Reports, sizes: Mapping[str, int]) -> str:
    rows = []
    for name, title in _SCORES.items():
        val, test = (_score(reports.get(s, {}), f"{s}/{name}", n) for s, n in sizes.items())
        if val or test:
            rows.append(f"| {title} | {val or '-'} | {test or '-'} |")
    return "\n".join(rows)


def _score(report: Mapping[str, Any], key: str, num_images: int) -> str:
    """Return a score with its interval; that of an accuracy is computed where it is not known."""
    value = report.get("scores", {}).get(key)
    if value is None:
        return ""
    interval = report.get("intervals", {}).get(key)
    if not key.endswith("/acc"):
        ends = " to ".join(f"{end:.4f}" for end in interval or ())
        return f"{value:.4f}" + (f" ({ends})" if ends else "")
    if interval is None and not report.get("partial") and num_images:
        interval = scores.wilson(round(value * num_images), num_images)
    return _percent(value, interval, 2)


def _percent(value: float | None, interval: Iterable[float] | None, digits: int) -> str:
    if value is None:
        return "-"
    ends = " to ".join(f"{100 * end:.{digits}f}" for end in interval or ())
    return f"{100 * value:.{digits}f} %" + (f" ({ends})" if ends else "")


def _chosen(facts: Mapping[str, Any], reports: Reports) -> str:
    epoch, num_epochs = (facts.get(key, "?") for key in ("best_epoch", "epochs_done"))
    chosen = {
        "val": "the best by val: its scores are a little too good.",
        "test": "the best by test: its scores are too good, and no measure of other pictures.",
    }.get(facts.get("selected_on", ""), "the last: nothing was chosen.")
    told = f"The weights are those of epoch {epoch} of {num_epochs}, {chosen}"
    if "test" not in reports:
        told += " No test score is known."
    if facts.get("partial"):
        told += " Only a part of the data was used: these scores say that it runs, no more."
    return told


def _per_class(reports: Reports) -> str:
    split = _told(reports, "classes")
    if not split:
        return "Not measured."
    rows = []
    for row in reports[split]["classes"]:
        ends = row["intervals"]
        cells = [_percent(row[key], ends.get(key), 1) for key in ("precision", "recall", "f1")]
        rows.append(f"| {row['name']} | {row['images']:,} | {' | '.join(cells)} |")
    pairs = [
        f"{pair['true']} taken for {pair['predicted']} {pair['count']} times"
        for pair in reports[split]["confused"][:5]
    ]
    head = "| class | images | precision | recall | F1 |\n|---|---|---|---|---|"
    table = "\n".join([f"On the {split} images:", "", head, *rows])
    return table + (f"\n\nMost often wrong: {'; '.join(pairs)}." if pairs else "")


def _calibration(reports: Reports) -> str:
    split = next((s for s in ("test", "val") if f"{s}/ece" in _scores_of(reports, s)), "")
    if not split:
        return "Not measured."
    apart = 100 * reports[split]["scores"][f"{split}/ece"]
    told = f"""\
On the {split} images, confidence and accuracy are {apart:.2f} points apart on average
(ECE, {scores.NUM_BINS} bins)."""
    found = reports[split].get("calibration")
    if not found:
        return told
    temperature = f"{found['temperature']:.3f}"
    sure = "too sure of itself" if found["temperature"] > 1 else "not sure enough of itself"
    fitted = f"{found['num_images']:,} {found['fitted_on']} images"
    scaled = f"{100 * found['ece_scaled']:.2f} points"
    losses = f"{found['loss_scaled']:.4f} instead of {found['loss']:.4f}"
    told = f"""{told} Dividing the logits by a temperature of {temperature},
fitted on the {fitted} (it is {sure}), makes that {scaled}, and the loss {losses}."""
    if found["loss_scaled"] >= found["loss"]:
        return f"{told} It does not help here."
    return f"""{told}
The file does not do this; with numpy it is `probs **= 1 / {temperature}`, then
`probs /= probs.sum(axis=1, keepdims=True)`. It changes no label."""


def _scores_of(reports: Reports, split: str) -> Mapping[str, float]:
    found: Mapping[str, float] = reports.get(split, {}).get("scores", {})
    return found


def _told(reports: Reports, part: str) -> str:
    """Return the split whose report has `part`, test before val."""
    return next((split for split in ("test", "val") if reports.get(split, {}).get(part)), "")
