"""Rows of the table as columns of short texts, each with the value it stands for."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fmnist.compare import captions, texts
from fmnist.compare.filters import is_number
from fmnist.compare.statistics import Summary
from fmnist.compare.table import METRIC, PARTIAL, RANKED, SECTIONS, UNFINISHED, Row, Table
from fmnist.compare.texts import ABSENT

_DIGITS = 4  # significant ones of a setting, where that keeps its values apart


class Column(NamedTuple):
    """One column. `values` are what to sort by: numbers, texts, or None where there is nothing."""

    key: str
    title: str
    texts: list[str]
    values: list[Any]
    is_setting: bool = False

    @property
    def is_number(self) -> bool:
        values = [value for value in self.values if value is not None]
        return bool(values) and all(is_number(value) for value in values)


def make_columns(table: Table, rows: Sequence[Row], base: str, more: bool = False) -> list[Column]:
    """Return the columns of one section's rows; `more` adds what only a wide page has room for.

    Folders are written relative to `base`.
    """
    keys = table.keys if rows[0].section == PARTIAL else table.whole_keys
    if rows[0].section == UNFINISHED:
        return [*_unfinished(keys, rows), *_last(rows, base, more)]
    columns = [_column("rank", "#", rows, lambda r: r.rank, str)] if rows[0].rank else []
    columns += _accuracy(rows)
    if more or table.sort_key == "val/loss":
        columns.append(_score("val/loss", rows))
    if any("test/acc" in row.scores for row in rows):
        columns.append(_score("test/acc", rows))
    columns += [*_settings(keys, rows), *_seeds(rows)]
    speed = "{:,.0f}".format
    columns += [
        _column("duration_s", "time", rows, lambda r: r.mean("duration_s"), texts.duration),
        _column("images_per_s", "images/s", rows, lambda r: r.mean("images_per_s"), speed),
        *(_shared(key, rows) for key in captions.differing_facts(rows)),
    ]
    if table.sort_key not in [*captions.SHARED, "run", *(c.key for c in columns)]:
        columns.append(_plain(table.sort_key, rows))
    return [*columns, *_last(rows, base, more)]


def row_labels(table: Table) -> list[str]:
    """Name each row by the settings that differ; by its run where that does not tell them apart."""
    labels = {}
    for section in SECTIONS:
        rows = table.section(section)
        keys = table.keys if section == PARTIAL else table.whole_keys
        columns = [*_settings(keys, rows), *(_seeds(rows) if rows else [])]
        for i, row in enumerate(rows):
            parts = [f"{c.title}={c.texts[i]}" for c in columns if c.texts[i] != ABSENT]
            labels[id(row)] = " ".join(parts) or row.best.label
    twice = {label for label, count in Counter(labels.values()).items() if count > 1}
    return [
        f"{label} ({row.best.label})" if label in twice and row.section != RANKED else label
        for row in table.rows
        for label in [labels[id(row)]]
    ]


def _column(
    key: str,
    title: str,
    rows: Sequence[Row],
    value: Callable[[Row], Any],
    text: Callable[[Any], str],
) -> Column:
    values = [value(row) for row in rows]
    return Column(key, title, [ABSENT if v is None else text(v) for v in values], values)


def _accuracy(rows: Sequence[Row]) -> list[Column]:
    """Return mean and sd of val/acc, and where there are several seeds interval and number."""
    columns = [_score(METRIC, rows)]
    if any(row.n > 1 for row in rows):
        summaries = [row.scores.get(METRIC) for row in rows]
        intervals = [texts.interval(METRIC, summary) for summary in summaries]
        columns.append(Column("ci95", "95 % CI", intervals, [_half(s) for s in summaries]))
        columns.append(_column("n", "n", rows, lambda row: row.n, str))
    return columns


def _score(key: str, rows: Sequence[Row]) -> Column:
    split, _, name = key.partition("/")
    cells = []
    for row in rows:
        summary = row.scores.get(key)
        others = f" (n={summary.n})" if summary and summary.n != row.n else ""
        cells.append(texts.score(key, summary) + others)
    title = f"{split} {name}" + " %" * (name == "acc")
    return Column(key, title, cells, [row.mean(key) for row in rows])


def _half(summary: Summary | None) -> float | None:
    return None if summary is None or summary.high is None else summary.high - summary.mean


def _settings(keys: Mapping[str, str], rows: Sequence[Row]) -> list[Column]:
    """Return a column for each key; its texts are short where that keeps its values apart."""
    columns = []
    for key, name in keys.items():
        values = [row.best.identity.get(key) for row in rows]
        whole = [texts.setting(key, value) for value in values]
        short = [texts.setting(key, value, _DIGITS) for value in values]
        cells = short if len(set(short)) == len(set(whole)) else whole
        lacks = [key not in row.best.identity for row in rows]
        cells = [ABSENT if gone else text for text, gone in zip(cells, lacks, strict=True)]
        if not all(is_number(value) for value in values if value is not None):
            values = [None if gone else text for text, gone in zip(cells, lacks, strict=True)]
        columns.append(Column(key, name, cells, values, is_setting=True))
    return columns


def _seeds(rows: Sequence[Row]) -> list[Column]:
    """Return the seed as a setting where each row is one run and these differ in it."""
    seeds = [row.seeds[0] for row in rows]
    cells = [texts.setting("seed", seed) for seed in seeds]
    if any(len(row.runs) > 1 for row in rows) or len(set(cells)) == 1:
        return []
    values = seeds if all(map(is_number, seeds)) else cells
    return [Column("seed", "seed", cells, values, is_setting=True)]


def _shared(key: str, rows: Sequence[Row]) -> Column:
    title = {"num_parameters": "parameters", "data_hash": "data"}.get(key, key)
    cells = [texts.fact(key, row) for row in rows]
    values = [row.mean(key) for row in rows] if key == "num_parameters" else list(cells)
    return Column(key, title, cells, values)


def _plain(key: str, rows: Sequence[Row]) -> Column:
    """Return any other field, to show what the rows are sorted by."""
    if "/" in key:
        return _score(key, rows)
    found = [row.distinct(key) for row in rows]
    cells = [", ".join(texts.setting(key, v, _DIGITS) for v in values) for values in found]
    means = [row.mean(key) for row in rows]
    are_numbers = all(is_number(value) for values in found for value in values)
    return Column(key, key, [cell or ABSENT for cell in cells], means if are_numbers else cells)


def _last(rows: Sequence[Row], base: str, more: bool) -> list[Column]:
    """Return a mark of partial runs among others, notes, and the folder of each row's best run."""
    columns = []
    if rows[0].section != PARTIAL and any(row.best.fields["partial"] for row in rows):
        columns.append(_plain("partial", rows))
    if more and any(row.distinct("note") for row in rows):
        columns.append(_plain("note", rows))
    names = [os.path.relpath(row.best.label, base) if base else row.best.label for row in rows]
    more_runs = [f" +{len(row.runs) - 1}" if len(row.runs) > 1 else "" for row in rows]
    cells = [name + others for name, others in zip(names, more_runs, strict=True)]
    return [*columns, Column("run", "run", cells, list(names))]


def _unfinished(keys: Mapping[str, str], rows: Sequence[Row]) -> list[Column]:
    goals = [row.best.fields.get("trainer.max_epochs") for row in rows]
    done = [row.best.fields["epochs_done"] or 0 for row in rows]
    epochs = [
        f"{count}/{'?' if goal is None else texts.setting('', goal)}"
        for count, goal in zip(done, goals, strict=True)
    ]
    columns = [
        _column("status", "status", rows, lambda row: row.best.status, texts.first_line),
        Column("epochs_done", "epochs", epochs, done),
    ]
    if any(METRIC in row.scores for row in rows):
        columns.append(_score(METRIC, rows))
    columns += [*_settings(keys, rows), *_seeds(rows)]
    if any(row.best.fields["error"] for row in rows):
        why = _column("error", "reason", rows, lambda r: r.best.fields["error"], texts.first_line)
        columns.append(why)
    return columns
