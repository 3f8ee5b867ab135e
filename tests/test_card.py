"""The model card and the metadata: what they say of a run, and what they keep to themselves."""

from pathlib import Path
from typing import Any

import pytest
from run_folders import usual_record
from scipy.stats import binomtest

from fmnist import CLASSES, card, provenance, record

CHECK = card.Check(1000, "test images", 5.4e-7, 15_000.4, 2_800.0, 2)


def run_of(**changes: Any) -> record.Record:
    return record.Record(Path("runs/mine"), usual_record(0.9248, **changes))


def card_of(run: record.Record, reports: card.Reports, kind: str = "onnx") -> str:
    made = card.Exported(
        path=Path("/home/me/model.onnx"),
        card=Path("/home/me/model.onnx.md"),
        kind=kind,
        num_bytes=910_055,
        sha256="ab" * 32,
        metadata=provenance.describe(run, "2026-11-22T23:31:14+0000"),
        check=CHECK,
    )
    return card.write_card(run, reports, made)


def report_of(split: str, **changes: Any) -> dict[str, Any]:
    """A report as fmnist.evaluation.evaluate returns it."""
    names = {"acc": 0.9235, "loss": 0.2182, "f1": 0.9231, "brier": 0.1123, "ece": 0.0142}
    ends = {name: [value - 0.005, value + 0.005] for name, value in names.items() if name != "ece"}
    classes = [
        {
            "name": name,
            "images": 1000,
            "precision": 0.871,
            "recall": 0.882,
            "f1": 0.8765,
            "intervals": {"precision": [0.85, 0.89], "recall": [0.86, 0.9], "f1": [0.8, 0.9]},
        }
        for name in CLASSES
    ]
    return {
        "schema": 1,
        "split": split,
        "num_images": 10_000,
        "scores": {f"{split}/{name}": value for name, value in names.items()},
        "intervals": {f"{split}/{name}": value for name, value in ends.items()},
        "classes": classes,
        "confused": [{"true": "Shirt", "predicted": "Coat", "count": 77, "share": 0.077}],
        "calibration": {
            "temperature": 1.2345,
            "fitted_on": "val",
            "num_images": 5000,
            "ece": 0.0142,
            "ece_scaled": 0.0051,
            "loss": 0.2182,
            "loss_scaled": 0.2101,
            "num_bins": 15,
        },
        **changes,
    }


def test_a_whole_report_fills_the_card() -> None:
    text = card_of(run_of(), {"val": report_of("val"), "test": report_of("test")})
    assert "| accuracy | 92.35 % (91.85 to 92.85) | 92.35 % (91.85 to 92.85) |" in text
    assert "| calibration error (ECE) | 0.0142 | 0.0142 |" in text
    assert text.count("| 1,000 | 87.1 % (85.0 to 89.0) | 88.2 % (86.0 to 90.0) |") == 10
    assert "On the test images:" in text
    assert "Shirt taken for Coat 77 times" in text
    assert "temperature of 1.234\n(above 1: it is too sure of itself)" in text
    assert "0.51 points, and the loss 0.2101 instead of 0.2182." in text
    assert "Test was not read" not in text
    assert "$" not in text


def test_recorded_scores_get_the_interval_of_their_number_of_images() -> None:
    text = card_of(run_of(), {"val": {"scores": {"val/acc": 0.9248, "val/loss": 0.2155}}})
    low, high = binomtest(4624, 5000).proportion_ci(0.95, method="wilson")
    assert f"| accuracy | 92.48 % ({100 * low:.2f} to {100 * high:.2f}) | - |" in text
    assert "| loss (nats) | 0.2155 | - |" in text
    assert "Test was not read." in text
    assert text.count("\nNot measured.\n") == 2  # the classes, the calibration


def test_a_part_of_the_data_gives_no_interval() -> None:
    text = card_of(run_of(partial=True), {"val": {"scores": {"val/acc": 0.9248}}})
    assert "| accuracy | 92.48 % | - |" in text
    assert "Only a part of the data was used" in text


def test_without_a_validation_split_the_card_says_what_was_not_done() -> None:
    run = run_of(data__val_size=0, selected_on="last", best_epoch=10)
    calibration = {"ece": 0.0142, "num_bins": 15, "num_images": 10_000, "loss": 0.2182}
    text = card_of(run, {"test": report_of("test", calibration=calibration)})
    assert "60,000 images to train on, 0 held out" in text
    assert "epoch 10 of 10, the last: nothing was chosen by val." in text
    assert "1.42 points apart" in text
    assert "temperature" not in text


def test_every_table_of_the_card_is_one() -> None:
    text = card_of(run_of(), {"val": report_of("val"), "test": report_of("test")})
    tables = [part.splitlines() for part in text.split("\n\n") if "\n|---" in part]
    assert len(tables) == 5
    for lines in tables:
        rows = [line for line in lines if line.startswith("|")]
        assert rows == lines[-len(rows) :]
        assert len({line.count("|") for line in rows}) == 1


def test_a_recipe_names_what_is_trained_and_no_folder_of_the_machine() -> None:
    run = run_of(
        model="mlp", data__dir="/home/me/data", data__source="/mnt/x", model__path="/home/me/w.pt"
    )
    run.data["overrides"] += ["name=mine", "note=it's", "optim.lr=1e-3", "+model.tag=a b"]
    assert provenance.command(run) == (
        "python scripts/train.py model=mlp seed=0 model.path=w.pt optim.lr=1e-3 '+model.tag=a b'"
    )
    metadata = provenance.describe(run, "now")
    assert metadata["config"]["data"]["dir"] is metadata["config"]["data"]["source"] is None
    assert metadata["config"]["model"]["path"] == "w.pt"
    assert metadata["config"]["optim"] == run.data["config"]["optim"]
    assert run.data["config"]["data"]["dir"] == "/home/me/data"  # the record stays as it is
    for text in (str(metadata), card_of(run, {})):
        assert "/home" not in text
        assert "/mnt" not in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/me/w.pt", "w.pt"),
        ("C:\\Users\\me\\w.pt", "w.pt"),
        ("~/w.pt", "w.pt"),
        ("weights/w.pt", "weights/w.pt"),
        ("fmnist.models.cnn", "fmnist.models.cnn"),
        (["/a/b", 3], ["b", 3]),
        (None, None),
    ],
)
def test_of_an_absolute_path_the_last_part_stays(value: Any, shown: Any) -> None:
    assert provenance.without_places({"model": {"x": value}}) == {"model": {"x": shown}}


def test_callbacks_that_are_off_are_no_setting() -> None:
    assert not [key for key in provenance.settings(run_of()) if key.startswith("callbacks.")]
    on = provenance.settings(run_of(callbacks__ema__decay=0.999))
    assert on["callbacks.ema.decay"] == 0.999
