"""Draw the curves of many runs in one matplotlib figure."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fmnist import figures
from fmnist.compare.histories import HISTORY, METRICS, NUM_COLORS, Curves, mean_points, points, view
from fmnist.errors import UserError
from fmnist.figures import DPI, PALE, styled

# Okabe and Ito, "Color Universal Design", 2008; the most different ones first.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#888888"
MAX_LABEL = 300  # characters; drawing takes a time that grows with them


def save(curves: Sequence[Curves], path: Path) -> None:
    """Draw and write a PNG; raises UserError where there are no curves or no place for it."""
    if not curves:
        raise UserError(f"No run has epochs in its {HISTORY} to draw.")
    try:
        figures.save(draw(curves), path)
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror}). Name another file.") from None


@styled
def draw(curves: Sequence[Curves]) -> Figure:
    """Draw loss and accuracy on the validation split by epoch.

    The first rows have a colour each, and several seeds a bold mean; all others are grey behind.
    """
    named, others = curves[:NUM_COLORS], curves[NUM_COLORS:]
    handles: list[Any] = [Line2D([], [], color=color, lw=2) for color in COLORS[: len(named)]]
    labels = ["\n".join(textwrap.wrap(_shortened(each.label), 100)) for each in named]
    if others:
        handles.append(Line2D([], [], color=GREY, linewidth=0.7))
        labels.append(f"{len(others)} others")
    num_lines = sum(label.count("\n") + 1 for label in labels)
    figure = Figure((9, 3.6 + 0.2 * num_lines), DPI, layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, 2), METRICS.items(), strict=True):
        axes.set(title=title, xlabel="Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        axes.grid(axis="y", color=PALE, linewidth=0.5)
        behind = [history for each in others for _, history in each.histories]
        for history in behind:  # the more, the fainter: density shows
            alpha = min(0.4, max(0.06, 30 / len(behind)))
            _plot(axes, points(history, metric), color=GREY, linewidth=0.6, alpha=alpha, zorder=1.5)
        for i, each in enumerate(named):
            _draw_named(axes, each, metric, color=COLORS[i], zorder=3 - i / 10)
        _limit(axes, curves, metric)
    figure.legend(handles, labels, loc="outside lower left", ncols=1)
    return figure


def _shortened(label: str) -> str:
    """Return the label of a row, or both ends of a long one: the score stands last."""
    half = MAX_LABEL // 2
    return label if len(label) <= MAX_LABEL else f"{label[:half]}...{label[-half:]}"


def _draw_named(axes: Axes, curves: Curves, metric: str, **look: Any) -> None:
    """Draw the curves of a row; of several seeds all thin, and their mean."""
    histories = [history for _, history in curves.histories]
    if len(histories) == 1:
        _plot(axes, points(histories[0], metric), **look, linewidth=1.6)
        return
    for history in histories:
        _plot(axes, points(history, metric), **look, linewidth=0.8, alpha=0.4)
    _plot(axes, mean_points(histories, metric), **look, linewidth=2)


def _plot(axes: Axes, xy: Sequence[tuple[int, float]], **look: Any) -> None:
    """Draw a line, with marks where there are few points."""
    if xy:
        x, y = zip(*xy, strict=True)
        axes.plot(x, y, marker="o" if len(x) <= 3 else "", ms=3, **look)


def _limit(axes: Axes, curves: Sequence[Curves], metric: str) -> None:
    shown = view(curves, metric)
    if shown is None:
        return
    if shown.is_log:
        axes.set_yscale("log")
        axes.set_ylim(shown.low / 1.3, shown.high * 1.3)
    else:
        margin = 0.05 * (shown.high - shown.low) or 0.05 * abs(shown.high) or 0.01
        axes.set_ylim(shown.low - margin, shown.high + margin)
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.set_title(shown.note(), loc="right", fontweight="normal", fontsize=8)
