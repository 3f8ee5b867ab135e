"""Draw the results: accuracy against time, and what each ingredient is worth."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox

from fmnist.figures import BLUE, DARK, DPI, PALE, VERMILLION, styled
from fmnist.results import ablation, plan
from fmnist.results.store import Ablation, Entry, Results

# Of the experiments in the order of their names: Okabe and Ito's, then others as far apart.
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#332288"),
    *("#7F7F7F", "#117733", "#AA4499", "#8C564B"),
)
LOWEST = 86.0  # percent: published lines below are only mentioned, as the rest would be squeezed
GPU_MARK, CPU_MARK = "D", "o"
# Where a label may stand beside its point, in points of 1/72 inch: near ones first.
SPOTS = [(10, 0), (-10, 0), (0, 13), (0, -13)]
SPOTS += [(side, y) for y in (13, -13, 26, -26, 39, -39) for side in (8, -8)]


@styled
def accuracy_and_time(results: Results, names: Sequence[str]) -> Figure:
    """Draw test accuracy (percent) by the time of a run, seed by seed, beside published ones."""
    figure = Figure((9, 5.6), DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_title("Test accuracy by the time of a run: a dot for each seed, a ring their mean")
    axes.set(xlabel="Time of a run, log scale", ylabel="Test accuracy (%)")
    axes.set_xscale("log")
    entries = {name: entry for name, entry in results.experiments.items() if name in names}
    _limit(axes, list(entries.values()))
    lowest = axes.get_ylim()[0]
    shown = [line for line in plan.PUBLISHED if line.percent > lowest]
    _draw_published(axes, shown)
    below = [f"; below: {line.name} {line.text}" for line in plan.PUBLISHED if line not in shown]
    note = f"Grey lines: published elsewhere, not verified{''.join(below)}"
    figure.supxlabel(note, fontsize=8, color=DARK, x=0.01, ha="left")
    colors = dict(zip(sorted(names), COLORS * len(names), strict=False))
    means = [_draw_seeds(axes, entry, colors[name]) for name, entry in entries.items()]
    marks = {_mark(entry) for entry in entries.values()}
    if len(marks) > 1:
        _explain_marks(axes)
    if not entries:
        axes.text(0.5, 0.5, "None of ours is measured yet", transform=axes.transAxes, ha="center")
    figure.draw_without_rendering()  # fixes the layout, so that labels can be measured
    texts = [
        f"{name} {mean[1]:.1f}{' (chosen by test)' * (entry.selected_on == 'test')}"
        for (name, entry), mean in zip(entries.items(), means, strict=True)
    ]
    _label(axes, texts, means, [colors[name] for name in entries])
    return figure


@styled
def ingredients(found: Ablation) -> Figure:
    """Draw the difference of val/acc (points) of each case to the whole recipe, with intervals."""
    effects = ablation.effects(found)[::-1]
    base = ablation.whole(found)
    figure = Figure((8, 1.6 + 0.36 * len(effects)), DPI, layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=DARK, linewidth=1)
    for y, (_, change) in enumerate(effects):
        low, high = (
            100 * (change.mean if end is None else end) for end in (change.low, change.high)
        )
        color = DARK if change.side(0) == 0 else VERMILLION if change.mean < 0 else BLUE
        axes.plot([low, high], [y, y], color=color, linewidth=2, solid_capstyle="butt")
        axes.plot(100 * change.mean, y, "o", color=color, ms=7, mec="white")
        text = f"{100 * change.mean:+.2f}"
        axes.annotate(text, (100 * change.mean, y), (0, 6), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(effects)), [label for label, _ in effects])
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(-0.6, len(effects) - 0.2), axisbelow=True)
    axes.grid(axis="x", color=PALE, linewidth=0.5)
    axes.margins(x=0.08)
    n = max(len(values) for values in found.cases.values())
    recipe = f", which has {100 * base.mean:.2f} %" if base else ""
    figure.suptitle(
        f"What each ingredient is worth (n = {n}, paired by seed)", x=0.01, ha="left", weight="bold"
    )
    axes.set_xlabel(
        f"Validation accuracy of each minus the whole recipe's{recipe}; points, 95 % interval"
    )
    return figure


def _limit(axes: Axes, entries: Sequence[Entry]) -> None:
    """Choose the axes' ends by the data and by the published lines from LOWEST on."""
    scores = [100 * run.test_acc for entry in entries for run in entry.runs]
    lines = [line.percent for line in plan.PUBLISHED if line.percent >= LOWEST]
    axes.set_ylim(min([*scores, *lines]) - 0.6, max([*scores, *lines]) + 0.6)
    times = [run.duration_s for entry in entries for run in entry.runs] or [1, 1000]
    low, high = min(times), max(times)
    axes.set_xlim(low / 1.8, high * 2.2)
    axes.set_xticks(_round_times(low / 1.8, high * 2.2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _clock(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def _round_times(low: float, high: float) -> list[float]:
    """Return round times in `low`..`high` seconds, as many as have room for their labels."""
    minutes = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1440, 2880)
    times = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, *(60 * count for count in minutes))
    found: list[float] = []
    for time in times:
        apart = (high / low) ** (1 / 13)
        if low <= time <= high and (not found or time / found[-1] >= apart):
            found.append(time)
    return found


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:g} s"
    return f"{seconds / 60:g} min" if seconds < 3600 else f"{seconds / 3600:g} h"


def _draw_published(axes: Axes, lines: Sequence[plan.Published]) -> None:
    """Draw a thin line for each published accuracy, its name spread out at the right."""
    heights = [line.percent for line in lines]
    low, high = axes.get_ylim()
    places = spread(heights, 0.037 * (high - low))
    for line, y in zip(lines, places, strict=True):
        axes.axhline(line.percent, color=PALE, linewidth=0.8, zorder=0)
        axes.annotate(
            f"{line.name} {line.text}",
            xy=(1, line.percent),
            xytext=(1.03, y),
            xycoords=axes.get_yaxis_transform(),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=DARK,
            arrowprops={
                "arrowstyle": "-",
                "color": PALE,
                "linewidth": 0.8,
                "shrinkA": 1,
                "shrinkB": 0,
            },
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return places at least `gap` apart, in the order of `heights` (ascending), near them.

    Neighbours that come too close form a block around the mean of what its members want.
    """
    blocks: list[tuple[float, int]] = []  # the place of the lowest member, how many
    for height in heights:
        start, count = height, 1
        while blocks and blocks[-1][0] + blocks[-1][1] * gap > start:
            before, size = blocks.pop()
            wanted = size * (before) + count * (start - size * gap)
            start, count = wanted / (size + count), size + count
        blocks.append((start, count))
    return [start + i * gap for start, count in blocks for i in range(count)]


def _draw_seeds(axes: Axes, entry: Entry, color: str) -> tuple[float, float]:
    """Draw the seeds and their mean; returns where the mean stands."""
    times = [run.duration_s for run in entry.runs]
    scores = [100 * run.test_acc for run in entry.runs]
    mean = entry.run_s, sum(scores) / len(scores)
    mark = _mark(entry)
    axes.plot(times, scores, mark, color=color, ms=5, alpha=0.55, mec="none", label="seed")
    axes.plot(*mean, mark, ms=12, mfc="none", mec=color, mew=1.8)
    return mean


def _mark(entry: Entry) -> str:
    return CPU_MARK if entry.device == "cpu" else GPU_MARK


def _explain_marks(axes: Axes) -> None:
    look: dict[str, Any] = {"color": DARK, "linestyle": "none", "ms": 6}
    marks = {"on a CPU": CPU_MARK, "on a GPU": GPU_MARK}
    handles = [Line2D([], [], marker=mark, label=text, **look) for text, mark in marks.items()]
    axes.legend(handles=handles, loc="lower left", ncols=2, handlelength=1)


def _label(
    axes: Axes,
    texts: Sequence[str],
    means: Sequence[tuple[float, float]],
    colors: Sequence[str],
) -> None:
    """Write each text beside its mean, where it covers no point and no other label."""
    points = [axes.transData.transform(point) for line in axes.lines for point in _points(line)]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points]
    frame = axes.get_window_extent()
    labels = zip(texts, means, colors, strict=True)
    for text, mean, color in sorted(labels, key=lambda label: -label[1][1]):
        best: tuple[float, Any, Bbox] | None = None
        for dx, dy in SPOTS:
            label = axes.annotate(
                text,
                mean,
                (dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                va="center",
                color=color,
                fontweight="bold",
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )
            box = label.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            covered = sum(box.overlaps(other) for other in taken) + 100 * (not inside)
            if best is None or covered < best[0]:
                if best:
                    best[1].remove()
                best = covered, label, box
            else:
                label.remove()
            if covered == 0:
                break
        assert best is not None
        taken.append(best[2])


def _points(line: Line2D) -> list[tuple[float, float]]:
    """Return the marks of a line; none of one that is only drawn through."""
    if line.get_marker() in ("None", None):
        return []
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))  # type: ignore[arg-type]
