"""Promises of fmnist.charts, read from the artists that a renderer has drawn."""

import numpy as np
import pytest
from drawn import assert_no_overlaps, lab, linear, luminance, make_outputs
from matplotlib.colors import to_rgb

from fmnist import CLASSES, charts, figures, scores


@pytest.mark.parametrize(
    ("names", "scale"),
    [(CLASSES[:1], 1), (CLASSES[:2], 60_000), (CLASSES, 60_000), ([*CLASSES, "A long name"], 1)],
)
def test_confusion_texts_are_apart(names, scale):
    labels = np.repeat(np.arange(len(names)), scale)
    assert_no_overlaps(charts.confusion(labels, labels // 2, names))


@pytest.mark.parametrize(("num", "sharpness"), [(1, 1.0), (500, 0.0), (500, 1.0), (500, 300.0)])
def test_reliability_texts_are_apart(num, sharpness):
    _, labels, probs = make_outputs(num, sharpness=sharpness)
    assert_no_overlaps(charts.reliability(labels, probs))


def test_confusion_cells_and_recall_equal_a_hand_count():
    _, labels, probs = make_outputs(300)
    preds = probs.argmax(1)
    labels[labels == 4] = 5  # class 4 is absent
    axes = charts.confusion(labels, preds, CLASSES).axes[0]
    cells = {text.get_position(): text for text in axes.texts if text.get_text().isdigit()}
    assert len(cells) == 100
    for row in range(10):
        for column in range(10):
            count = sum(1 for a, b in zip(labels, preds, strict=True) if (a, b) == (row, column))
            text = cells[(column, row)]
            assert text.get_text() == str(count)
            assert (text.get_color() == figures.PALE) == (count == 0)
        total = sum(1 for label in labels if label == row)
        hits = int(cells[(row, row)].get_text())
        recall = f"{100 * hits / total:.1f}%" if total else "no images"
        assert [t.get_text() for t in axes.texts if getattr(t, "xy", None) == (9.5, row)] == [
            recall
        ]
    shown = axes.images[0].get_array()
    assert np.allclose(shown.sum(1), [float(row != 4) for row in range(10)])
    assert axes.get_title("left") == f"{100 * (labels == preds).mean():.1f}% of 300 images correct"


def test_counts_are_readable_on_every_shade():
    for share in [0.001, *np.linspace(0.42, 0.54, 7), 1]:
        hits = round(1000 * share)
        preds = np.repeat([0, 1], [hits, 1000 - hits])
        axes = charts.confusion(np.zeros(1000, int), preds, CLASSES[:2]).axes[0]
        cell = axes.images[0].cmap(axes.images[0].norm(hits / 1000))
        values = [luminance(cell[:3]), luminance(to_rgb(axes.texts[0].get_color()))]
        assert (max(values) + 0.05) / (min(values) + 0.05) > 4.5  # WCAG 2 AA


def test_reliability_draws_the_calibration():
    _, labels, probs = make_outputs(400)
    result = scores.calibration(labels, probs)
    top, bottom = charts.reliability(labels, probs).axes
    bars = np.array([bar.get_height() for bar in top.patches[:15]])
    assert np.allclose(bars, result.accuracy, equal_nan=True)
    ends = np.array([bar.get_y() + bar.get_height() for bar in top.patches[15:30]])
    assert np.allclose(ends, result.confidence, equal_nan=True)
    assert [bar.get_height() for bar in bottom.patches] == result.counts.tolist()
    assert f"{100 * result.ece:.1f}%" in top.get_title("left")


def test_shades_darken_in_equal_steps():
    steps = np.diff(lab(linear(charts.SHADES(np.linspace(0, 1, 33))[:, :3])), axis=0)
    assert (steps[:, 0] < 0).all()
    sizes = np.linalg.norm(steps, axis=1)
    assert sizes.std() / sizes.mean() < 0.05


def test_reliability_shows_what_scaling_changes():
    _, labels, probs = make_outputs(400)
    flat = probs**0.5 / (probs**0.5).sum(axis=1, keepdims=True)
    figure = charts.reliability(labels, probs, flat)
    after = scores.calibration(labels, flat)
    x, y = figure.axes[0].lines[-1].get_data()
    assert np.allclose(x, after.confidence, equal_nan=True)
    assert np.allclose(y, after.accuracy, equal_nan=True)
    assert figure.axes[0].get_title("left").endswith(f"then {100 * after.ece:.1f}%")
    assert_no_overlaps(figure)


@pytest.mark.parametrize("names", [CLASSES, CLASSES[:1], ["A class of a long name", *CLASSES]])
def test_classes_are_drawn_by_f1_with_their_intervals(names):
    _, labels, probs = make_outputs(300, num_classes=len(names))
    rows = scores.summarize("val", labels, np.log(probs + 1e-9), names)["classes"]
    figure = charts.classes(rows)
    assert_no_overlaps(figure)
    axes = figure.axes[0]
    best = max(rows, key=lambda row: row["f1"])
    assert axes.get_yticklabels()[-1].get_text().startswith(best["name"])
    markers, bars = axes.containers[0][0], axes.containers[0][2][0]
    assert markers.get_xdata()[-1] == best["precision"]
    assert np.allclose(bars.get_segments()[-1][:, 0], best["intervals"]["precision"])
