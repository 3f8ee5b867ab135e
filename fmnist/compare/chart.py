"""Curves as an inline SVG. Torch-free, without matplotlib."""

import itertools
import math
from collections.abc import Iterator, Sequence
from html import escape

from fmnist.compare.histories import METRICS, NUM_COLORS, Curves, View, mean_points, points, view

WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 30, 40  # around the plot


def draw(curves: Sequence[Curves], metric: str) -> str:
    """Draw `metric` by epoch; a line names its run and its row (`data-row`, from 0)."""
    shown = view(curves, metric)
    title = METRICS[metric]
    if shown is None:
        return f'<p class="empty">{title}: nothing recorded.</p>'
    last = max(history[-1][0] for each in curves for _, history in each.histories)
    plot = _Plot(shown, last)
    others = sum(len(each.histories) for each in curves[NUM_COLORS:])
    faint = min(0.4, max(0.06, 30 / max(1, others)))  # the more, the fainter: density shows
    clip = f"clip-{metric.partition('/')[2]}"
    return "\n".join(
        [
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" style="--faint:{faint}"'
            f' aria-label="{title} by epoch" data-low="{plot.low}" data-high="{plot.high}"'
            f' data-log="{int(shown.is_log)}" data-last="{last}">',
            f'<text class="title" x="{LEFT}" y="16">{title}</text>',
            f'<text class="note" x="{WIDTH - RIGHT}" y="16">{shown.note()}</text>',
            *plot.axes(),
            f'<clipPath id="{clip}"><rect x="{LEFT - 4}" y="{TOP}" '
            f'width="{WIDTH - LEFT - RIGHT + 8}" height="{HEIGHT - TOP - BOTTOM}"/></clipPath>',
            f'<g clip-path="url(#{clip})">',
            *(
                line
                for i in reversed(range(len(curves)))
                for line in _lines(curves[i], i, metric, plot)
            ),
            "</g>",
            "</svg>",
        ]
    )


def _lines(curves: Curves, number: int, metric: str, plot: "_Plot") -> Iterator[str]:
    """Yield the lines of a row: those of its runs and, of coloured ones, their mean."""
    look = f"c{number}" if number < NUM_COLORS else "other"
    lines = [(f"{look} seed", run, points(history, metric)) for run, history in curves.histories]
    if number < NUM_COLORS:
        mean = mean_points([history for _, history in curves.histories], metric)
        several = len(lines) > 1
        name = f"{curves.label}, mean of {len(lines)} runs" if several else lines[0][1]
        lines = [*(lines if several else []), (look, name, mean)]
    for kind, run, line in lines:
        for part in _parts(line):
            yield (
                f'<polyline class="{kind}" data-row="{number}" data-run="{escape(run)}"'
                f' points="{plot.place(part)}"/>'
            )


class _Plot:
    """Where values stand: epochs 1..last from left to right, low..high from the bottom up."""

    def __init__(self, shown: View, last: int) -> None:
        self.last = last
        self.is_log = shown.is_log
        margin = 0.04 * (shown.high - shown.low) or 0.04 * abs(shown.high) or 0.01
        self.low, self.high = shown.low - margin, shown.high + margin
        if self.is_log:
            self.low, self.high = shown.low / 1.2, shown.high * 1.2

    def x(self, epoch: float) -> float:
        share = (epoch - 1) / (self.last - 1) if self.last > 1 else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_log:
            value, low, high = (math.log10(max(v, 1e-300)) for v in (value, low, high))
        share = (value - low) / (high - low)
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)

    def place(self, part: Sequence[tuple[int, float]]) -> str:
        """Return a line through the points; a single one is drawn as a dot by its round end."""
        part = part if len(part) > 1 else [part[0], part[0]]
        return " ".join(f"{self.x(epoch):.2f},{self.y(value):.2f}" for epoch, value in part)

    def axes(self) -> Iterator[str]:
        bottom = HEIGHT - BOTTOM
        ticks = _ticks(self.low, self.high) if not self.is_log else _powers(self.low, self.high)
        for value in ticks:
            y = self.y(value)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text class="y" x="{LEFT - 7}" y="{y + 4:.1f}">{value:.6g}</text>'
        step = next(s for s in _steps() if self.last / s <= 12)
        for epoch in sorted({1, *range(step, self.last + 1, step)}):
            yield f'<text class="x" x="{self.x(epoch):.1f}" y="{bottom + 17}">{epoch}</text>'
        yield f'<text class="x" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}">Epoch</text>'


def _steps() -> Iterator[int]:
    """Yield 1, 2, 5, 10, 20, 50, ..."""
    for power in itertools.count():
        yield from (10**power, 2 * 10**power, 5 * 10**power)


def _parts(line: Sequence[tuple[int, float]]) -> Iterator[list[tuple[int, float]]]:
    """Split a line where values are not finite."""
    part: list[tuple[int, float]] = []
    for point in line:
        if math.isfinite(point[1]):
            part.append(point)
        elif part:
            yield part
            part = []
    if part:
        yield part


def _ticks(low: float, high: float) -> list[float]:
    """Return 3 to 8 round values in low..high."""
    size = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(f * size for f in (1, 2, 5, 10) if (high - low) / (f * size) <= 8)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _powers(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    every = max(1, (last - first) // 6)
    return [10.0**power for power in range(first, last + 1, every)]
