"""What is said around a table: titles of its sections, what its rows share, what marks mean."""

import os
from collections.abc import Iterable, Sequence

from fmnist.compare import table, texts
from fmnist.compare.table import Row, Table

TITLES = {
    table.RANKED: "",
    table.PARTIAL: "Partial: a part of the data was used; not comparable, not ranked",
    table.TESTED: "Selected on the test set: scores too good to be true, not ranked",
    table.UNSCORED: "Finished without a validation score: not ranked",
    table.UNFINISHED: "Not finished",
}
# Facts that are told once where all rows agree; else they are columns.
SHARED = {
    "num_parameters": "{} parameters",
    "device": "on {}",
    "commit": "commit {}",
    "data_hash": "data {}",
}


def common_folder(rows: Iterable[Row]) -> str:
    """Return the folder that all runs of `rows` lie in, or nothing."""
    parents = {os.path.dirname(run.label) for row in rows for run in row.runs}  # noqa: PTH120
    try:
        folder = os.path.commonpath(parents)
    except ValueError:  # none, or some absolute and some not
        return ""
    return "" if folder == os.path.dirname(folder) else folder  # noqa: PTH120


def differing_facts(rows: Sequence[Row]) -> list[str]:
    """Name the facts of SHARED in which rows differ."""
    return [key for key in SHARED if len({texts.fact(key, row) for row in rows}) > 1]


def footer(rows: Table, base: str) -> list[str]:
    """Say what is not in the columns: what all share, what marks mean, what is hidden."""
    section = rows.section(table.RANKED) or rows.rows
    same = [key for key in SHARED if key not in (*differing_facts(section), "data_hash")]
    facts = [SHARED[key].format(texts.fact(key, row)) for row in section[:1] for key in same]
    num_runs = sum(len(row.runs) for row in rows.rows)
    head = f"{num_runs} run{'s' * (num_runs != 1)}" + (f" in {base}" if base else "")
    lines = [", ".join([head, *(fact for fact in facts if texts.ABSENT not in fact.split())])]
    if any(row.n > 1 for row in rows.rows):
        lines.append("mean ± sd over n seeds; the interval is Student's t for the mean")
    if any(len(row.runs) > row.n for row in rows.rows if row.section != table.UNFINISHED):
        lines.append("runs that repeat a seed count once, by their mean")
    if any(run.fields["dirty"] for row in rows.rows for run in row.runs):
        lines.append(f"{texts.DIRTY} with changes that were not committed")
    if rows.hidden:
        hidden = ", ".join(f"{count} {name}" for name, count in rows.hidden.items())
        lines.append(f"not shown: {hidden}")
    return lines
