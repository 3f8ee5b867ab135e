"""The epochs of many runs, read from metrics.csv, and what of them a plot shows. Torch-free."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fmnist.compare import columns, table, texts
from fmnist.compare.table import METRIC, Row, Table
from fmnist.reading import open_text

HISTORY = "metrics.csv"
NUM_COLORS = 7  # rows beyond these are grey: more colours cannot be told apart
METRICS = {"val/loss": "Validation loss", "val/acc": "Validation accuracy (%)"}


class Curves(NamedTuple):
    """The histories of the runs of one row: (run, [(epoch from 1, {metric: value})])."""

    label: str
    row: Row
    histories: list[tuple[str, "History"]]


class View(NamedTuple):
    """What of an axis is shown, from `low` to `high`; `num_cut` of `num_runs` reach beyond."""

    low: float
    high: float
    is_log: bool
    num_cut: int
    num_runs: int

    def note(self) -> str:
        return f"{self.num_cut} of {self.num_runs} runs leave the plot" if self.num_cut else ""


History = list[tuple[int, dict[str, float]]]


def read_history(folder: Path) -> History:
    """Return the epochs of metrics.csv in order, without what is damaged.

    Of METRICS only; accuracies in percent, nan where not finite.
    """
    rows: History = []
    try:
        with open_text(folder / HISTORY) as file:
            for line in csv.DictReader(file):
                epoch = _number(line.get("epoch"))
                if epoch is None or not epoch.is_integer() or epoch <= (rows[-1][0] if rows else 0):
                    continue
                values = {metric: _number(line.get(metric)) for metric in METRICS}
                units = {metric: 100 if metric == METRIC else 1 for metric in METRICS}
                row = {m: units[m] * value for m, value in values.items() if value is not None}
                rows.append((int(epoch), row))
    except (OSError, csv.Error):
        pass  # what was read so far is right
    return rows


def read_curves(rows: Table) -> list[Curves]:
    """Return the curves of each row of a table that has any, in its order."""
    found = []
    for row, name in zip(rows.rows, columns.row_labels(rows), strict=True):
        histories = [(run.label, read_history(run.folder)) for run in row.runs]
        histories = [(label, history) for label, history in histories if history]
        if histories:
            found.append(Curves(_label(row, name), row, histories))
    return found


def points(history: History, metric: str) -> list[tuple[int, float]]:
    return [(epoch, values[metric]) for epoch, values in history if metric in values]


def mean_points(histories: Sequence[History], metric: str) -> list[tuple[int, float]]:
    """Return the mean by epoch, for the epochs that all have."""
    all_values = [dict(points(history, metric)) for history in histories]
    shared = sorted(set(all_values[0]).intersection(*all_values[1:]))
    return [(epoch, math.fsum(v[epoch] for v in all_values) / len(all_values)) for epoch in shared]


def view(curves: Sequence[Curves], metric: str) -> View | None:
    """Choose what of the y axis to show; None where there is nothing to show.

    Partial runs have no say beside whole ones, and from eleven runs on the worst tenth has none:
    one diverged run would hide the differences of all others.
    """
    ends = [(each.row.section, *end) for each in curves for end in _ends(each, metric)]
    decisive = [end for end in ends if end[0] != table.PARTIAL] or ends
    if not decisive:
        return None
    lows = sorted(low for _, low, _ in decisive)
    highs = sorted(high for _, _, high in decisive)
    skip = (len(decisive) - 1) // 10
    low = lows[skip if metric == METRIC else 0]
    high = highs[-1 if metric == METRIC else -1 - skip]
    num_cut = sum(bottom < low or top > high for _, bottom, top in ends)
    return View(low, high, metric != METRIC and 0 < 1000 * low < high, num_cut, len(ends))


def _ends(curves: Curves, metric: str) -> list[tuple[float, float]]:
    """Return the smallest and largest value of each run that has finite ones."""
    found = []
    for _, history in curves.histories:
        values = [value for _, value in points(history, metric) if math.isfinite(value)]
        if values:
            found.append((min(values), max(values)))
    return found


def _label(row: Row, name: str) -> str:
    if row.section == table.UNFINISHED:
        return f"{name}  ({row.best.status})"
    score = f"{name}  {texts.score(METRIC, row.scores.get(METRIC))} %"
    return score if row.section == table.RANKED else f"{score}  ({row.section})"


def _number(text: Any) -> float | None:
    """Read a number of metrics.csv; nan for one that is not finite, None for no number."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if abs(value) < 1e38 else math.nan  # beyond float32 an axis overflows
