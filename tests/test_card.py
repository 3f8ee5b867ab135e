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
        metadata=provenance.describe(run, run.data["config"], "2026-11-22T23:31:14+0000"),
        check=CHECK,
    )
    return card.write_card(run, run.data["config"], reports, made)


def settings_of(run: record.Record) -> dict[str, Any]:
    return provenance.settings(run, run.data["config"])


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
    assert (
        "temperature of 1.234,\nfitted on the 5,000 val images (it is too sure of itself)" in text
    )
    assert "0.51 points, and the loss 0.2101 instead of 0.2182." in text
    assert "No test score" not in text
    assert "$" not in text


def test_recorded_scores_get_the_interval_of_their_number_of_images() -> None:
    text = card_of(run_of(), {"val": {"scores": {"val/acc": 0.9248, "val/loss": 0.2155}}})
    low, high = binomtest(4624, 5000).proportion_ci(0.95, method="wilson")
    assert f"| accuracy | 92.48 % ({100 * low:.2f} to {100 * high:.2f}) | - |" in text
    assert "| loss (nats) | 0.2155 | - |" in text
    assert "No test score is known." in text
    assert text.count("\nNot measured.\n") == 2  # the classes, the calibration


def test_a_part_of_the_data_gives_no_interval() -> None:
    text = card_of(run_of(partial=True), {"val": {"scores": {"val/acc": 0.9248}, "partial": True}})
    assert "| accuracy | 92.48 % | - |" in text
    assert "Only a part of the data was used" in text


def test_a_run_that_selected_on_test_says_so() -> None:
    run = run_of(data__val_size=0, data__val_from="test", selected_on="test")
    text = card_of(run, {"val": {"scores": {"val/acc": 0.9248}}, "test": report_of("test")})
    assert "60,000 images to train on, none held out (val is the test), 10,000 for the" in text
    low, high = binomtest(9248, 10_000).proportion_ci(0.95, method="wilson")
    assert f"| accuracy | 92.48 % ({100 * low:.2f} to {100 * high:.2f}) |" in text
    assert "the best by test: its scores are too good" in text


def test_without_a_validation_split_the_card_says_what_was_not_done() -> None:
    run = run_of(data__val_size=0, selected_on="last", best_epoch=10)
    text = card_of(run, {"test": report_of("test", calibration=None)})
    assert "60,000 images to train on, 0 held out" in text
    assert "epoch 10 of 10, the last: nothing was chosen." in text
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
    run.data["config"]["note"] = "ask bob, see /home/bob"
    run.data["overrides"] += ["hydra.searchpath=[file:///home/me/conf]"]
    run.data["overrides"] += ["name=mine", "note=it's", "optim.lr=1e-3", "+model.tag=a b"]
    assert provenance.command(run) == (
        "python scripts/train.py model=mlp seed=0 model.path=w.pt optim.lr=1e-3 '+model.tag=a b'"
    )
    metadata = provenance.describe(run, run.data["config"], "now")
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
        ("[file:///home/me/conf,/mnt/x/a b]", "[conf,a b]"),
        ('"/home/me/x y"', '"x y"'),
        ("1/2 of http://a.org/b", "1/2 of http://a.org/b"),
        ("fmnist.models.cnn", "fmnist.models.cnn"),
        (["/a/b", 3], ["b", 3]),
        (None, None),
    ],
)
def test_of_an_absolute_path_the_last_part_stays(value: Any, shown: Any) -> None:
    assert provenance.without_places({"model": {"x": value}}) == {"model": {"x": shown}}


def test_callbacks_that_are_off_are_no_setting() -> None:
    assert not [key for key in settings_of(run_of()) if key.startswith("callbacks.")]
    on = settings_of(run_of(callbacks__ema__decay=0.999))
    assert on["callbacks.ema.decay"] == 0.999


def test_settings_are_all_that_decides_the_training() -> None:
    run = run_of(trainer__gradient_clip_val=0.5, trainer__accumulate_grad_batches=4)
    found = settings_of(run)
    assert found["trainer.gradient_clip_val"] == 0.5
    assert found["trainer.accumulate_grad_batches"] == 4
    assert found["data.split_seed"] == run.data["config"]["data"]["split_seed"]
    assert not {"name", "note", "data.dir", "trainer.accelerator"} & set(found)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("val", "the best by val: its scores are a little too good."),
        ("test", "the best by test: its scores are too good"),
        ("last", "the last: nothing was chosen."),
    ],
)
def test_the_card_says_what_the_weights_were_chosen_by(where: str, text: str) -> None:
    assert text in card_of(run_of(selected_on=where), {})


def test_a_temperature_that_does_not_help_is_not_recommended() -> None:
    scaling = report_of("val")["calibration"] | {"loss_scaled": 0.3}
    text = card_of(run_of(), {"val": report_of("val", calibration=scaling)})
    assert "It does not help here." in text
    assert "probs **=" not in text


def test_facts_of_another_kind_count_as_not_recorded() -> None:
    run = run_of(num_parameters="many", versions=None, commit=3, best_epoch={}, device=True)
    text = card_of(run, {})
    assert "(? parameters)" in text
    assert "commit not recorded" in text


def test_names_cannot_break_the_card() -> None:
    run = run_of(model="mlp", model__tag="a|b`c")
    made = card.Exported(
        Path('we"ird|`.onnx'),
        Path("x.md"),
        "onnx",
        1,
        "ab",
        provenance.describe(run, run.data["config"], "now"),
        CHECK,
    )
    text = card.write_card(run, run.data["config"], {}, made)
    lines = text.split("```python\n")[1].split("```")[0]
    compile(lines, "card", "exec")
    assert 'InferenceSession("we\\"ird|`.onnx")' in lines
    assert "| `model.tag` | `a_b_c` |" in text
