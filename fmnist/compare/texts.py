"""Values as a person reads them: short, and never cut."""

import json
from typing import Any

from fmnist.compare.collection import TARGET
from fmnist.compare.statistics import Summary
from fmnist.compare.table import Row

ABSENT = "-"  # what a run does not have
DIRTY = "*"  # marks a commit with uncommitted changes


def setting(key: str, value: Any, digits: int | None = None) -> str:
    """Write a value of a config as YAML would: a number with `digits`, a target by its last part.

    Without `digits` nothing is left out.
    """
    if isinstance(value, str):
        text = value.replace("\n", " ")
        return text.rpartition(".")[2] if digits and key.endswith(TARGET) else text
    if digits and isinstance(value, float):
        return f"{value:.{digits}g}"
    return json.dumps(value)


def score(key: str, summary: Summary | None) -> str:
    """Write mean and sd of a score: accuracies in percent, losses with 4 decimals."""
    if summary is None:
        return ABSENT
    mean, sd = summary.mean, summary.sd
    if key.endswith("acc"):
        return f"{100 * mean:.2f}" + ("" if sd is None else f" ± {100 * sd:.2f}")
    return f"{mean:.4f}" + ("" if sd is None else f" ± {sd:.4f}")


def interval(key: str, summary: Summary | None) -> str:
    if summary is None or summary.low is None or summary.high is None:
        return ABSENT
    ends = summary.low, summary.high
    if key.endswith("acc"):  # what lies beyond the scale says nothing
        parts = [f"{100 * min(max(end, 0.0), 1.0):.2f}" for end in ends]
    else:
        parts = [f"{end:.4f}" for end in ends]
    return "\N{EN DASH}".join(parts)


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def fact(key: str, row: Row) -> str:
    """Write what the record says of the runs of a row, each different thing once."""
    if key == "commit":
        texts = [_commits(run.fields["commit"], run.fields["dirty"]) for run in row.runs]
        return ", ".join(dict.fromkeys(texts))
    values = row.distinct(key)
    texts = [f"{value:,}" if isinstance(value, int) else str(value) for value in values]
    return ", ".join(text[:8] if key == "data_hash" else text for text in texts) or ABSENT


def first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")


def _commits(commits: str | None, is_dirty: bool) -> str:
    if not commits:
        return ABSENT
    return ", ".join(commit[:7] for commit in commits.split(",")) + (DIRTY if is_dirty else "")
