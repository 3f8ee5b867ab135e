"""Runs grouped over seeds, ranked by validation accuracy, with the config keys that differ.

Only what can be compared is ranked: finished runs on all of the data, selected on val. Torch-free.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fmnist.compare.collection import SCORES, TARGET, Run
from fmnist.compare.filters import find_key
from fmnist.compare.statistics import Summary, summarize
from fmnist.errors import UsageError, UserError
from fmnist.facts import LARGEST

METRIC = "val/acc"
RANKED, PARTIAL, TESTED, UNSCORED, UNFINISHED = SECTIONS = (
    "ranked",
    "partial",  # batches were limited
    "selected on test",
    "no val/acc",
    "unfinished",
)
_STATES = ("running", "interrupted", "pruned", "failed")
_DESCENDING = ("acc", "images_per_s")  # more is better


class Row(NamedTuple):
    """Runs that differ in nothing but the seed, best first; an unfinished one stands alone.

    `scores` summarize over seeds: runs that repeat a seed count once, by their mean.
    """

    section: str
    runs: tuple[Run, ...]
    scores: Mapping[str, Summary]
    rank: int | None = None

    @property
    def best(self) -> Run:
        return self.runs[0]

    @property
    def seeds(self) -> list[Any]:
        seeds = {_token(run.fields.get("seed")): run.fields.get("seed") for run in self.runs}
        return sorted(seeds.values(), key=_order)

    def mean(self, key: str) -> float | None:
        """Return the mean of a number over the runs that have it."""
        if key in self.scores:
            return self.scores[key].mean
        values = [run.fields.get(key) for run in self.runs]
        numbers = [v for v in values if isinstance(v, int | float) and abs(v) < LARGEST]
        return math.fsum(numbers) / len(numbers) if numbers else None

    @property
    def n(self) -> int:
        """The number of seeds."""
        return self.scores[METRIC].n if METRIC in self.scores else len(self.seeds)

    def distinct(self, key: str) -> list[Any]:
        """Return the different values of a field in the runs that have it, in order."""
        values = [run.fields.get(key) for run in self.runs]
        return list({_token(v): v for v in values if v is not None}.values())


class Table(NamedTuple):
    """Rows section by section, each in the order asked for.

    `keys` maps each config key that differs to its shortest unambiguous name, `whole_keys` those
    that differ among rows that are not partial; `hidden` counts the rows of each section that `top`
    left out.
    """

    rows: list[Row]
    keys: dict[str, str]
    whole_keys: dict[str, str]
    sort_key: str
    hidden: dict[str, int]

    def section(self, name: str) -> list[Row]:
        return [row for row in self.rows if row.section == name]


def build_table(
    runs: Sequence[Run], *, sort: str = METRIC, top: int | None = None, each: bool = False
) -> Table:
    """Group, rank and sort `runs`; at least one.

    `sort` is a field or its end, with `:asc` or `:desc` if not in its natural direction. `top`
    keeps the first rows of what is ranked, and nothing else. `each` gives every run its own row.
    Raises UsageError for a `sort` that no run has.
    """
    key, descending = _direction(sort, runs)
    grouped: dict[Any, list[Run]] = {}
    for number, run in enumerate(runs):
        section = _section(run)
        mark = number if each or section == UNFINISHED else _mark(run)
        grouped.setdefault((section, mark), []).append(run)
    rows = [_row(section, group) for (section, _), group in grouped.items()]
    rows.sort(key=_by_score)
    ranks = itertools.count(1)
    rows = [row._replace(rank=next(ranks)) if row.section == RANKED else row for row in rows]
    if key != METRIC or not descending:
        rows = _sorted(rows, key, descending)
    rows.sort(key=lambda row: (SECTIONS.index(row.section), _state(row)))
    shown = rows if top is None else [row for row in rows if row.section == RANKED][:top]
    hidden = {name: _count(rows, name) - _count(shown, name) for name in SECTIONS}
    return Table(
        rows=shown,
        keys=_names(_differing(rows)),
        whole_keys=_names(_differing([row for row in rows if row.section != PARTIAL])),
        sort_key=key,
        hidden={name: count for name, count in hidden.items() if count},
    )


def find_best(runs: Sequence[Run]) -> Run:
    """Return the finished run with the best val/acc; of equals that with the lower val/loss.

    Partial runs count only where there are no whole ones. Raises UserError where none is finished.
    """
    finished = [run for run in runs if run.is_finished() and run.fields["selected_on"] != "test"]
    scored = [run for run in finished if math.isfinite(run.scores.get(METRIC, math.nan))]
    whole = [run for run in scored if run.is_whole()]
    if not scored:
        tested = sum(_section(run) == TESTED for run in runs)
        apart = f" ({tested} selected on the test set do not count)" if tested else ""
        raise UserError(f"No run has finished with a {METRIC} yet{apart}, so none is the best.")
    return min(whole or scored, key=_goodness)


def _section(run: Run) -> str:
    if not run.is_finished():
        return UNFINISHED
    if run.fields["selected_on"] == "test":
        return TESTED
    if run.fields["partial"]:
        return PARTIAL
    return RANKED if run.is_whole() else UNSCORED


def _row(section: str, runs: Sequence[Run]) -> Row:
    names = dict.fromkeys(name for run in runs for name in run.scores)
    scores = {}
    for name in sorted(names, key=lambda n: (n not in SCORES, n)):
        seeds: dict[Any, list[float]] = {}
        for run in runs:
            if name in run.scores:
                seeds.setdefault(_token(run.fields.get("seed")), []).append(run.scores[name])
        scores[name] = summarize([math.fsum(v) / len(v) for v in seeds.values()])
    return Row(section, tuple(sorted(runs, key=_goodness)), scores)


def _goodness(run: Run) -> tuple[float, float, str]:
    return _score_order(run.scores.get(METRIC), run.scores.get("val/loss"), run.label)


def _by_score(row: Row) -> tuple[float, float, str]:
    return _score_order(row.mean(METRIC), row.mean("val/loss"), row.best.label)


def _score_order(
    accuracy: float | None, loss: float | None, label: str
) -> tuple[float, float, str]:
    """Order by accuracy, then loss, then name; what is missing or nan comes last."""
    first = -accuracy if accuracy is not None and math.isfinite(accuracy) else math.inf
    return first, loss if loss is not None and math.isfinite(loss) else math.inf, label


def _state(row: Row) -> int:
    if row.section != UNFINISHED:
        return 0
    status = row.best.status
    return _STATES.index(status) if status in _STATES else len(_STATES)


def _direction(sort: str, runs: Sequence[Run]) -> tuple[str, bool]:
    word, _, direction = sort.partition(":")
    if direction not in ("", "asc", "desc"):
        raise UsageError(f"--sort {sort}: the direction must be asc or desc, got {direction!r}.")
    key = find_key(word, runs)
    natural = key.rpartition("/")[2] in _DESCENDING
    return key, natural if not direction else direction == "desc"


def _sorted(rows: list[Row], key: str, descending: bool) -> list[Row]:
    """Sort by a field; rows without it come last either way."""
    values = {id(row): _value(row, key) for row in rows}
    having = [row for row in rows if values[id(row)] is not None]
    having.sort(key=lambda row: _order(values[id(row)]), reverse=descending)
    return having + [row for row in rows if values[id(row)] is None]


def _value(row: Row, key: str) -> Any:
    mean = row.mean(key)
    if mean is not None:
        return None if math.isnan(mean) else mean
    return next(iter(row.distinct(key)), None)


def _order(value: Any) -> tuple[int, Any]:
    """Let values of all types be sorted: numbers before the rest."""
    if isinstance(value, int | float):
        return 0, value
    return (1, "") if value is None else (2, _text(value))


def _differing(rows: Sequence[Row]) -> list[str]:
    """List the keys of the identity in which rows differ.

    A key that says nothing beyond its target is left out: `model.widths` where all MLPs have the
    same, no CNN has any, and nobody typed it.
    """
    configs = [row.best.identity for row in rows]
    words = {word for row in rows for word in row.best.overrides}
    typed = {word.lstrip("+").partition("=")[0] for word in words}
    values: dict[str, set[Any]] = {}
    for config in configs:
        for key, value in config.items():
            values.setdefault(key, set()).add(_token(value))
    everywhere = [key for key in values if all(key in config for config in configs)]
    targets = [key for key in values if key.endswith(TARGET) and len(values[key]) > 1]

    def says_more(key: str) -> bool:
        if len(values[key]) > 1 or key in typed:
            return True
        target = next((t for t in targets if key.startswith(t.removesuffix(TARGET) + ".")), None)
        if target is None:
            return True
        having = {_token(c.get(target)) for c in configs if key in c}
        lacking = {_token(c.get(target)) for c in configs if key not in c}
        return bool(having & lacking)

    return [k for k in values if (k not in everywhere or len(values[k]) > 1) and says_more(k)]


def _names(keys: Sequence[str]) -> dict[str, str]:
    """Map each key to its shortest end that no other key has."""
    whole = {key: key.removesuffix(TARGET) for key in keys}
    names = {}
    for key, path in whole.items():
        parts = path.split(".")
        ends = [".".join(parts[i:]) for i in reversed(range(len(parts)))]
        others = [other for other in whole.values() if other != path]
        names[key] = next(
            (e for e in ends if not any(o == e or o.endswith(f".{e}") for o in others)), path
        )
    return names


def _mark(run: Run) -> Any:
    marks = {key: _token(value) for key, value in run.identity.items()}
    return frozenset(marks.items()), run.fields["data_hash"], run.fields["partial"]


def _token(value: Any) -> Any:
    """Return what stands for a value in a set: equal values, and only these, have equal ones."""
    if value is None or isinstance(value, bool):
        return f"\0{value}"
    is_plain = isinstance(value, int | float | str) and str(value) != "nan"  # differs from itself
    return value if is_plain else f"\0{_text(value)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _count(rows: Sequence[Row], section: str) -> int:
    return sum(row.section == section for row in rows)
