"""Two sets of runs matched one to one: same seed, same config but where the sides differ."""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from fmnist.compare import texts
from fmnist.compare.collection import Run
from fmnist.compare.columns import Column
from fmnist.compare.statistics import Comparison, compare_paired
from fmnist.errors import UsageError, UserError

METRICS = ("val/acc", "test/acc")  # the second where every run of every pair has it
MATCHED = ("seed", "data_hash")  # what partners share in any case, besides most of the config


class Pairs(NamedTuple):
    """Matched runs (a, b), by seed; `differing` says in what the sides differ: key, A's, B's."""

    matched: list[tuple[Run, Run]]
    differing: list[tuple[str, str, str]]
    left_out: list[str]

    def tests(self) -> dict[str, Comparison]:
        """Compare the sides, A minus B, on each metric."""
        found = {}
        for metric in METRICS:
            if all(metric in run.scores for pair in self.matched for run in pair):
                first, second = ([pair[i].scores[metric] for pair in self.matched] for i in (0, 1))
                found[metric] = compare_paired(first, second)
        return found

    def columns(self) -> list[Column]:
        """Return the tests as a table, in percent and percentage points."""
        tests = self.tests()
        named = [metric.replace("/", " ") for metric in tests]
        found = [Column("metric", "", named, list(tests))]
        for i, side in enumerate("AB"):
            means = [
                math.fsum(p[i].scores[m] for p in self.matched) / len(self.matched) for m in tests
            ]
            found.append(_numbers(side, f"{side} %", means, "{:.2f}", 100))
        fields: dict[str, Any] = {
            key: [getattr(test, key) for test in tests.values()] for key in Comparison._fields
        }
        intervals = [
            texts.ABSENT if low is None else f"{100 * low:+.2f} to {100 * high:+.2f}"
            for low, high in zip(fields["low"], fields["high"], strict=True)
        ]
        return [
            *found,
            _numbers("difference", "A - B, points", fields["difference"], "{:+.2f}", 100),
            _numbers("sd", "sd", fields["sd"], "{:.2f}", 100),
            Column("ci95", "95 % CI", intervals, fields["high"]),
            _numbers("t", "t", fields["t"], "{:.2f}"),
            _numbers("p", "p", fields["p"], "{:.2g}"),
            _numbers("n", "pairs", fields["n"], "{}"),
        ]

    def notes(self) -> list[str]:
        """Say what the sides differ in, what took no part, and why there may be no p."""
        lines = [f"{key}: {a} in A, {b} in B" for key, a, b in self.differing]
        lines = lines or ["A and B have the same config"]
        lines.append("paired t-test, two-sided; the interval is that of the mean difference")
        for metric, test in self.tests().items():
            if test.t is None:
                lines.append(
                    f"{metric}: all differences are equal, so there is no interval, t or p"
                )
        if self.left_out:
            lines.append(f"left out: {'; '.join(self.left_out)}")
        return lines


def match(first: Sequence[Run], second: Sequence[Run]) -> Pairs:
    """Pair the runs of A with those of B that have the same seed and config.

    Left out of the config are the keys of which the sides share no value. Runs that are not
    finished, partial or selected on test take no part.

    Raises:
        UsageError: a side has several runs for one pair, or the sides share a run.
        UserError: there are fewer than two pairs.
    """
    sides = [[run for run in side if run.is_whole()] for side in (first, second)]
    left_out = [f"{run.label} ({_why(run)})" for run in [*first, *second] if not run.is_whole()]
    both = {run.folder for run in sides[0]} & {run.folder for run in sides[1]}
    if both:
        raise UsageError(
            f"A and B share {min(map(str, both))}. Name two sides without common runs."
        )
    values = [_values(side) for side in sides]
    keys = sorted({*values[0], *values[1]})
    matching = [
        key for key in keys if key in MATCHED or values[0].get(key, {""}) & values[1].get(key, {""})
    ]
    a, b = (_by_mark(side, name, matching) for side, name in zip(sides, "AB", strict=True))
    for mark in [*a, *b]:
        if mark not in a or mark not in b:
            run, other = (a[mark], "B") if mark in a else (b[mark], "A")
            left_out.append(f"{run.label} (no partner in {other})")
    matched = [(a[mark], b[mark]) for mark in a if mark in b]
    if len(matched) < 2:
        raise UserError(_too_few(len(matched), sides, left_out))
    differing = [
        (key, _shown(key, sides[0]), _shown(key, sides[1])) for key in keys if key not in matching
    ]
    return Pairs(matched, differing, left_out)


def _numbers(
    key: str, title: str, values: Sequence[float | None], form: str, unit: float = 1
) -> Column:
    cells = [texts.ABSENT if v is None else form.format(unit * v) for v in values]
    return Column(key, title, cells, list(values))


def _why(run: Run) -> str:
    if not run.is_finished():
        return run.status
    return "partial" if run.fields["partial"] else "cannot be compared"


def _settings(run: Run) -> dict[str, Any]:
    """Return what a partner has to have in common: config, seed and data."""
    return {**run.identity, **{key: run.fields.get(key) for key in MATCHED}}


def _values(side: Sequence[Run]) -> dict[str, set[str]]:
    """Return the values of each key in a side, "" for those that a run lacks."""
    settings = [_settings(run) for run in side]
    keys = {key for one in settings for key in one}
    return {key: {_token(one, key) for one in settings} for key in keys}


def _token(settings: dict[str, Any], key: str) -> str:
    return json.dumps(settings[key], sort_keys=True) if key in settings else ""


def _by_mark(side: Sequence[Run], name: str, keys: Sequence[str]) -> dict[Any, Run]:
    """Return the runs of a side by what their partners have to share, in the order of seeds."""
    found: dict[Any, list[Run]] = {}
    for run in side:
        settings = _settings(run)
        mark = tuple(_token(settings, key) for key in keys)
        found.setdefault(mark, []).append(run)
    for runs in found.values():
        if len(runs) > 1:
            varied = [k for k, v in _values(runs).items() if len(v) > 1]
            hint = f"they differ in {', '.join(sorted(varied))}" if varied else "they are equal"
            raise UsageError(
                f"{name} has {len(runs)} runs for one pair: {runs[0].label} and {runs[1].label}; "
                f"{hint}. Narrow {name} to one run for each."
            )
    by_seed = sorted(found.items(), key=lambda item: str(item[1][0].fields.get("seed")).zfill(20))
    return {mark: runs[0] for mark, runs in by_seed}


def _shown(key: str, side: Sequence[Run]) -> str:
    """Write the values of a key in a side."""
    values = [
        texts.setting(key, settings[key], 4) if key in settings else texts.ABSENT
        for settings in map(_settings, side)
    ]
    return ", ".join(dict.fromkeys(values))


def _too_few(count: int, sides: Sequence[Sequence[Run]], left_out: Sequence[str]) -> str:
    numbers = " and ".join(f"{len(s)} in {n}" for s, n in zip(sides, "AB", strict=True))
    noun = "pair" if count == 1 else "pairs"
    text = f"A paired test needs two pairs or more, got {count} {noun} ({numbers} can be compared)."
    return text + (f" Left out: {'; '.join(left_out[:5])}." if left_out else "")
