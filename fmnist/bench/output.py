"""The benchmark's tables on a terminal and as Markdown, with what they were measured on."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from fmnist.bench import tables, targets
from fmnist.bench.results import Results
from fmnist.bench.tables import Table


def write_tables(results: Results) -> None:
    """Print what is measured on stdout."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print("\n".join(head_lines(results.header)))
    for table in all_tables(results):
        head, *lines = _draw(table)
        console.print(f"\n{table.title}", style="bold")
        console.print("\n".join([head, "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * len(head), *lines]))
        console.print("\n".join(["", *(f"  {note}" for note in table.notes)]))


def _draw(table: Table) -> list[str]:
    """Return a line for the columns' names and one per row; nothing is cut, however narrow."""
    widths = [max(map(len, cells)) for cells in zip(table.columns, *table.rows, strict=True)]
    return [
        "  ".join(
            c.rjust(w) if i else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (table.columns, *table.rows)
    ]


def to_markdown(results: Results) -> str:
    """Return header and tables as Markdown."""
    lines = [f"- {line}" for line in head_lines(results.header)]
    for table in all_tables(results):
        lines += ["", f"### {table.title}", "", _row(table.columns)]
        lines.append(_row(["---", *["---:"] * (len(table.columns) - 1)]))
        lines += [_row(row) for row in table.rows]
        lines += ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join([*lines, ""])


def all_tables(results: Results) -> list[Table]:
    return [*tables.build_tables(results), targets.build_table(results)]


def head_lines(header: Mapping[str, Any]) -> list[str]:
    """Say when, where and with what was measured."""
    machine = header["machine"]
    changed = " with uncommitted changes" if header.get("dirty") else ""
    packages = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    lines = [
        f"{header['date']}, commit {str(header.get('commit', 'unknown'))[:10]}{changed}",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} torch threads, "
        f"{machine['instructions']}, bfloat16 {'yes' if machine['bf16'] else 'no'}",
        packages,
        header["command"],
        "ratios are the median, over the rounds, of the ratio within a round; "
        "other values are medians, (lowest-highest)",
    ]
    if machine["gpu"]:
        lines.insert(2, f"{machine['gpu']}, CUDA {machine['cuda']}, measured on {header['device']}")
    return lines


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
