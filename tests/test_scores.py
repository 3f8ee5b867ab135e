"""Scores against torchmetrics, scipy and counts by hand."""

import numpy as np
import pytest
import torch
from drawn import make_outputs
from scipy import optimize, stats
from torchmetrics.functional import classification

from fmnist import CLASSES, scores


def make_logits(num=500, seed=0, sharpness=2.0):
    _, labels, probs = make_outputs(num, seed=seed, sharpness=sharpness)
    return labels, np.log(probs + 1e-12)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_ece_equals_torchmetrics(sharpness, num_bins):
    _, labels, probs = make_outputs(2000, sharpness=sharpness)
    assert probs.max() < 1
    given = torch.from_numpy(probs), torch.from_numpy(labels)
    expected = classification.multiclass_calibration_error(*given, 10, num_bins, "l1").item()
    result = scores.calibration(labels, probs, num_bins)
    assert result.ece == pytest.approx(expected, abs=1e-6)


def test_calibration_equals_a_hand_count():
    probs = np.array([[0.5, 0.5], [0.8, 0.2], [0.1, 0.9], [0.0, 1.0], [1.0, 0.0]])
    result = scores.calibration(np.array([0, 0, 0, 1, 1]), probs, num_bins=2)
    assert result.counts.tolist() == [1, 4]  # 0.5 is in the lower bin, 1.0 in the last
    assert result.accuracy.tolist() == [1.0, 0.5]
    assert np.allclose(result.confidence, [0.5, 0.925])
    assert result.ece == pytest.approx((1 * 0.5 + 4 * 0.425) / 5)


def test_empty_bins_are_nan_and_count_for_nothing():
    result = scores.calibration(np.array([0, 0]), np.array([[0.8, 0.2], [0.8, 0.2]]))
    assert result.counts.sum() == result.counts[11] == 2
    assert np.isnan(result.accuracy).sum() == np.isnan(result.confidence).sum() == 14
    assert result.ece == pytest.approx(0.2)


def test_scores_of_classes_equal_torchmetrics():
    labels, logits = make_logits()
    report = scores.summarize("test", labels, logits, CLASSES)
    given = torch.from_numpy(logits.argmax(axis=1)), torch.from_numpy(labels)
    for name in ("precision", "recall", "f1_score"):
        measure = getattr(classification, f"multiclass_{name}")
        expected = measure(*given, num_classes=10, average=None).tolist()
        key = name.removesuffix("_score")
        assert [row[key] for row in report["classes"]] == pytest.approx(expected)
    expected = classification.multiclass_confusion_matrix(*given, num_classes=10).tolist()
    assert report["confusion"] == expected
    assert [row["images"] for row in report["classes"]] == np.sum(expected, axis=1).tolist()


def test_totals_equal_torch():
    labels, logits = make_logits()
    report = scores.summarize("val", labels, logits, CLASSES)["scores"]
    x, y = torch.from_numpy(logits), torch.from_numpy(labels)
    assert report["val/loss"] == pytest.approx(torch.nn.functional.cross_entropy(x, y).item())
    assert report["val/acc"] == (x.argmax(dim=1) == y).double().mean().item()
    one_hot = torch.nn.functional.one_hot(y, 10)
    brier = (x.softmax(dim=1) - one_hot).square().sum(dim=1).mean().item()
    assert report["val/brier"] == pytest.approx(brier)
    f1 = classification.multiclass_f1_score(x, y, num_classes=10, average="macro")
    assert report["val/f1"] == pytest.approx(f1.item())


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (0, 1000), (9235, 10_000), (3, 7)])
def test_the_interval_of_a_share_equals_scipys(right, total):
    expected = stats.binomtest(right, total).proportion_ci(method="wilson")
    assert scores.wilson(right, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_share_of_nothing_is_unknown():
    assert scores.wilson(0, 0) == (0.0, 1.0)


@pytest.mark.slow
def test_intervals_hold_the_true_value_about_95_times_in_100():
    """Draw 400 test sets from one large population, and count how often its scores are inside."""
    labels, logits = make_logits(40_000)
    truth = scores.summarize("t", labels, logits, CLASSES)["scores"]
    rng, hits = np.random.default_rng(1), dict.fromkeys(("acc", "loss", "f1", "brier"), 0)
    for _ in range(400):
        chosen = rng.integers(0, len(labels), 500)
        intervals = scores.summarize("t", labels[chosen], logits[chosen], CLASSES)["intervals"]
        for name in hits:
            low, high = intervals[f"t/{name}"]
            hits[name] += low <= truth[f"t/{name}"] <= high
    assert all(0.92 <= count / 400 <= 0.98 for count in hits.values()), hits


def test_mistakes_are_listed_by_number():
    labels = np.array([0] * 5 + [6] * 5 + [1])
    preds = np.array([6, 6, 6, 0, 0, 0, 0, 6, 6, 4, 1])
    report = scores.summarize("test", labels, np.eye(10)[preds] * 9, CLASSES)
    assert report["confused"] == [
        {"true": "T-shirt/top", "predicted": "Shirt", "count": 3, "share": 0.6},
        {"true": "Shirt", "predicted": "T-shirt/top", "count": 2, "share": 0.4},
        {"true": "Shirt", "predicted": "Coat", "count": 1, "share": 0.2},
    ]


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_temperature_equals_scipys_optimum(sharpness):
    labels, logits = make_logits(2000, sharpness=sharpness)
    logits = logits * 2.5

    def loss(temperature: float) -> float:
        return float(scores.cross_entropies(labels, logits / temperature).mean())

    best = optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x
    assert scores.fit_temperature(labels, logits) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("margin", [0.0, 1.0, 12.0, 48.0, 1200.0])
def test_a_network_without_mistakes_has_no_best_temperature(margin: float) -> None:
    labels = np.arange(20) % 10
    assert scores.fit_temperature(labels, margin * np.eye(10)[labels]) is None
    assert scores.fit_temperature(labels, margin * np.eye(10)[(labels + 1) % 10]) is None
    found = scores.recalibrate(labels, np.eye(10)[labels], labels, margin * np.eye(10)[labels])
    assert found is None


def test_scaling_improves_an_overconfident_network():
    labels, logits = make_logits(4000)
    found = scores.recalibrate(labels[2000:], 3 * logits[2000:], labels[:2000], 3 * logits[:2000])
    assert found["temperature"] > 2
    assert found["ece_scaled"] < found["ece"] / 2
    assert found["loss_scaled"] < found["loss"]
    assert found["num_images"] == 2000


@pytest.mark.parametrize("num", [5, 10, 60])
@pytest.mark.parametrize("sharpness", [0.3, 3.0, 300.0])
def test_an_interval_holds_what_was_measured(num: int, sharpness: float) -> None:
    for seed in range(10):
        labels, logits = make_logits(num, seed, sharpness)
        report = scores.summarize("t", labels, logits, CLASSES)
        rows = [(report["scores"], report["intervals"])]
        rows += [(row, row["intervals"]) for row in report["classes"]]
        for values, intervals in rows:
            for name, (low, high) in intervals.items():
                assert 0 <= low <= values[name] + 1e-12, name
                assert values[name] <= high + 1e-12, name


def test_large_logits_do_not_overflow():
    logits = np.array([[1e30, -1e30], [-1e30, 1e30]], np.float32)
    assert scores.softmax(logits).tolist() == [[1, 0], [0, 1]]
    assert scores.cross_entropies(np.array([0, 1]), logits).tolist() == [0, 0]


def test_one_image_and_unseen_classes_are_reported():
    report = scores.summarize("test", np.array([3]), np.eye(10)[[4]], CLASSES)
    assert report["scores"]["test/acc"] == 0
    f1 = [row["f1"] for row in report["classes"]]
    assert f1 == [None, None, None, 0, 0, None, None, None, None, None]
    assert [row["recall"] for row in report["classes"]][3:5] == [0, None]
    assert report["classes"][0]["intervals"] == {}
    assert report["scores"]["test/f1"] == 0
    assert report["intervals"] == {}  # one image has no spread
