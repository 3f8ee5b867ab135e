"""The figures of the results: nothing covers anything, and all that was measured is there."""

import itertools
from typing import Any

import numpy as np
import pytest
from test_results import make_ablation, make_entry

from fmnist import figures
from fmnist.results import charts, plan
from fmnist.results.store import Results

ENTRIES: dict[str, dict[str, Any]] = {
    "notebook": {"accs": (0.906, 0.905, 0.907)},
    "notebook_as_published": {"accs": (0.909, 0.91, 0.908), "selected_on": "test"},
    "cnn": {"accs": (0.931, 0.93, 0.932)},
    "cnn_bn": {"accs": (0.933, 0.932, 0.934)},
    "speedrun": {"accs": (0.94, 0.941), "device": "NVIDIA H100"},
}


def labels(axes: Any) -> list[Any]:
    """Return the labels of experiments, which are bold."""
    return [text for text in axes.texts if text.get_fontweight() == "bold"]


def test_every_experiment_is_labelled_and_no_label_covers_another() -> None:
    results = Results(schema=1, experiments={n: make_entry(**e) for n, e in ENTRIES.items()})
    figure = charts.accuracy_and_time(results, sorted(ENTRIES))
    (axes,) = figure.axes
    texts = labels(axes)
    means = {name: 100 * sum(e["accs"]) / len(e["accs"]) for name, e in ENTRIES.items()}
    named = {t.get_text().replace(" (chosen by test)", "") for t in texts}
    assert named == {f"{name} {mean:.1f}" for name, mean in means.items()}
    assert "notebook_as_published 90.9 (chosen by test)" in [t.get_text() for t in texts]
    assert len({text.get_color() for text in texts}) == len(texts)
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    others = [t.get_window_extent() for t in axes.texts if t not in texts]
    assert len(others) == len(plan.PUBLISHED) - 1
    assert not any(a.overlaps(b) for a, b in itertools.combinations(others, 2))
    shown = {(x, round(y, 6)) for line in axes.lines for x, y in line.get_xydata()}
    seeds = [(40.0 + i, 100 * acc) for e in ENTRIES.values() for i, acc in enumerate(e["accs"])]
    assert {(time, round(percent, 6)) for time, percent in seeds} <= shown
    rings = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert len(rings) == len(ENTRIES)  # a filled mark would hide the seeds below it
    assert figures.to_array(figure).shape[2] == 3


def test_colour_of_an_experiment_does_not_hang_on_what_else_is_measured() -> None:
    alone = Results(schema=1, experiments={"cnn_bn": make_entry(**ENTRIES["cnn_bn"])})
    every = Results(schema=1, experiments={n: make_entry(**e) for n, e in ENTRIES.items()})
    drawn = [charts.accuracy_and_time(found, sorted(ENTRIES)) for found in (alone, every)]
    colors = [
        {t.get_text(): t.get_color() for t in labels(figure.axes[0])}["cnn_bn 93.3"]
        for figure in drawn
    ]
    assert colors[0] == colors[1]


def test_figure_without_results_says_so() -> None:
    figure = charts.accuracy_and_time(Results(schema=1), ["cnn"])
    assert "None of ours is measured yet" in [text.get_text() for text in figure.axes[0].texts]


def test_low_scores_and_long_times_have_room() -> None:
    runs = [run.model_copy(update={"duration_s": 1e5}) for run in make_entry().runs]
    entries = {"a": make_entry(accs=(0.2,)), "b": make_entry(runs=runs)}
    (axes,) = charts.accuracy_and_time(Results(schema=1, experiments=entries), ["a", "b"]).axes
    low, high = axes.get_ylim()
    assert low < 20
    assert high > 96.7
    assert axes.get_xlim()[1] > 1e5
    assert len(axes.get_xticks()) <= 14


@pytest.mark.parametrize("heights", [[1.0], [1, 1, 1, 1], [1, 5, 5.1, 5.2, 9], [0, 0.9, 1.8, 2.7]])
def test_spread_places_keep_their_order_and_distance(heights: list[float]) -> None:
    places = charts.spread(heights, 1.0)
    assert (np.diff(places) >= 1 - 1e-9).all()
    assert sum(places) == pytest.approx(sum(heights))
    assert charts.spread([1, 5, 9], 1.0) == [1, 5, 9]


def test_ablation_shows_each_case_sorted_with_its_interval() -> None:
    found = make_ablation(whole=(0.93, 0.931), no_flips=(0.92, 0.922), large_batches=(0.94, 0.94))
    (axes,) = charts.ingredients(found).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["large batches", "no flips"]
    assert [text.get_text() for text in axes.texts] == ["+0.95", "-0.95"]
    ends = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    assert any(low < -0.95 < high for low, high in ends)
