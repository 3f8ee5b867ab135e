"""Records as tables for people. Torch-free."""

import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from fmnist.compare import captions, collection, columns, filters, table, texts
from fmnist.compare.collection import Run
from fmnist.compare.columns import Column
from fmnist.compare.pairs import Pairs
from fmnist.compare.table import Table
from fmnist.errors import UsageError, UserError, clean

_GAP = 2  # spaces between columns
_INDENT = "   "
TITLES: dict[str, tuple[str, Callable[[float], str]]] = {  # of the scores of an evaluation
    "acc": ("accuracy", "{:.2%}".format),
    "loss": ("loss (cross-entropy, nats)", "{:.4f}".format),
    "f1": ("F1, mean of the classes", "{:.2%}".format),
    "brier": ("Brier score, 0..2", "{:.4f}".format),
    "ece": ("calibration error (ECE)", "{:.2%}".format),
}
BELOW = ("run", "error")  # the columns that first make room


def print_evaluation(folder: Path, found: Mapping[str, Any]) -> None:
    """Print the report of `evaluation.evaluate` on stdout."""
    split, classes = found["split"], found["classes"]
    epoch = found["best_epoch"] or "unknown"
    write(f"{clean(str(folder))}: {found['num_images']:,} {split} images, epoch {epoch}\n")
    totals = _grid("", "", "95 % interval")
    for key, value in found["scores"].items():
        name, text = TITLES[key.rpartition("/")[2]]
        interval = found["intervals"].get(key)
        totals.add_row(name, text(value), _interval(interval, text) if interval else "")
    _print_grid(totals)
    rows = _grid("class", "images", "precision", "", "recall", "", "F1", "")
    for row in classes:
        pairs = [
            (f"{row[name]:.1%}", _interval(row["intervals"][name], "{:.1%}".format))
            if row[name] is not None
            else ("-", "")
            for name in ("precision", "recall", "f1")
        ]
        rows.add_row(row["name"], f"{row['images']:,}", *(text for pair in pairs for text in pair))
    _print_grid(rows)
    _print_confusion(classes, found["confusion"])
    write("Most frequent mistakes:\n")
    for pair in found["confused"][:5]:
        named = f"{pair['true']} \N{RIGHTWARDS ARROW} {pair['predicted']}"
        write(f"  {clean(named):<26} {pair['count']:>5,}  {pair['share']:.1%} of the class\n")
    if scaling := found.get("calibration"):
        write(f"\n{_scaling(scaling, split)}\n")


def _scaling(scaling: Mapping[str, Any], split: str) -> str:
    where = "these images" if split == "val" else "the validation images"
    return (
        f"Temperature {scaling['temperature']:.3f}, fitted on {where}: "
        f"ECE {scaling['ece']:.2%} becomes {scaling['ece_scaled']:.2%}, "
        f"loss {scaling['loss']:.4f} becomes {scaling['loss_scaled']:.4f}."
    )


def _print_confusion(classes: Sequence[Mapping[str, Any]], counts: Sequence[Sequence[int]]) -> None:
    """Print the confusion matrix: a row per true class, a column per predicted one."""
    grid = _grid("true \\ predicted", *(re.split("[ /]", row["name"])[0] for row in classes))
    for row, line in zip(classes, counts, strict=True):
        grid.add_row(row["name"], *(f"{count:,}" if count else "." for count in line))
    _print_grid(grid)


def _interval(interval: Sequence[float], text: Callable[[float], str]) -> str:
    low, high = interval
    return f"{text(low).removesuffix('%')}\N{EN DASH}{text(high)}"


def _grid(first: str, *others: str) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column(first)
    for title in others:
        grid.add_column(title, justify="right")
    return grid


def _print_grid(grid: Grid) -> None:
    """Print a table as wide as it is, wherever that goes."""
    stream = io.StringIO()
    console = Console(file=stream, highlight=False, soft_wrap=True, width=200, markup=False)
    console.print(grid)
    write("".join(f"{clean(line).rstrip()}\n" for line in stream.getvalue().splitlines()))


def read_runs(paths: Iterable[Path], conditions: Sequence[str] = ()) -> list[Run]:
    """Read the runs at `paths` that meet all conditions; name on stderr what is no run.

    Raises UsageError for a path that is no folder or a wrong condition, UserError where no run is
    left.
    """
    paths = list(paths)
    runs, skipped = collection.read_runs(paths)
    tell(f"Skipped: {line}" for line in skipped)
    if not runs:
        raise UserError(f"There is no readable run in {', '.join(map(str, paths))}.")
    return _select(runs, conditions)


def read_sides(
    sides: Sequence[str], paths: Sequence[Path], conditions: Sequence[str] = ()
) -> list[list[Run]]:
    """Read the runs of each side of a comparison: of a path, or those at `paths` that meet it.

    Raises as `read_runs`.
    """
    runs = read_runs(paths, conditions) if paths else []
    return [
        read_runs([Path(side)], conditions)
        if is_path(side) or not filters.is_filter(side)
        else _select(runs, [side])
        for side in sides
    ]


def is_path(word: str) -> bool:
    """Say whether something exists under that name; a condition may be too long for one."""
    try:
        return Path(word).exists()
    except (OSError, ValueError):
        return False


def _select(runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
    found = filters.select(runs, conditions)
    if not found:
        raise UserError(f"None of {len(runs)} runs meets {' and '.join(conditions)}.")
    return found


def print_table(paths: Iterable[Path], top: int | None = None) -> None:
    """Print the leaderboard of the runs at `paths` on stdout; raises as `read_runs`."""
    print_rows(table.build_table(read_runs(paths), top=top))


def print_rows(rows: Table) -> None:
    """Print a table section by section, as wide as the terminal, or as needed where there is none.

    No value is cut: settings and folders that do not fit stand below their row.
    """
    base = captions.common_folder(rows.rows)
    for name in table.SECTIONS:
        section = rows.section(name)
        if section:
            shown = columns.make_columns(rows, section, base)
            if captions.TITLES[name]:
                write(f"\n{captions.TITLES[name]}\n", is_bold=True)
            _print_columns(shown)
    write("\n".join(["", *captions.footer(rows, base), ""]))


def print_pairs(found: Pairs) -> None:
    """Print a paired test of two sets of runs on stdout."""
    _print_columns(found.columns())
    write("\n".join(["", *found.notes(), ""]))


def check_output(option: str, path: Path, ending: str) -> None:
    """Refuse a file that could not be written there; raises UsageError."""
    if path.suffix != ending or path.is_dir():
        raise UsageError(f"{option} must name a file that ends in {ending}, got {path}.")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}. Make it first.")


def tell(notes: Iterable[str]) -> None:
    """Print notes on stderr, a line each."""
    for note in notes:
        print(clean(note), file=sys.stderr)


def write(text: str, is_bold: bool = False) -> None:
    """Write on stdout; a character that its encoding lacks becomes a question mark."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if is_bold:
        Console(highlight=False, soft_wrap=True).print(Text(text, style="bold"), end="")
    else:
        sys.stdout.write(text)


def _print_columns(shown: Sequence[Column]) -> None:
    head, *lines = _draw_within(shown, _width())
    write(f"{head}\n", is_bold=True)
    write("\n".join([*lines, ""]))


def _width() -> int | None:
    """Return the width to keep to; None where the output is neither a terminal nor sized."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None


def _column_width(column: Column) -> int:
    return max(map(cell_len, [column.title, *column.texts]))


def _draw_within(shown: Sequence[Column], width: int | None) -> list[str]:
    """Draw columns within `width`; what does not fit moves below: folders first, then settings."""
    asides: list[Column] = []
    inside = list(shown)
    for part in ([], [c for c in shown if c.key in BELOW], [c for c in shown if c.is_setting]):
        asides += part
        inside = [c for c in inside if c not in part]
        if not width or sum(_column_width(c) + _GAP for c in inside) - _GAP <= width:
            break
    if not asides:
        return _draw(shown)
    head, rule, *rows = _draw(inside)
    lines = [head, rule]
    for row, below in zip(rows, _notes(asides), strict=True):
        lines.append(row)
        for text in below:
            room = max(20, (width or 0) - len(_INDENT))
            parts = textwrap.wrap(text, room, break_on_hyphens=False)
            lines += [_INDENT + part for part in parts]
    return lines


def _draw(shown: Sequence[Column]) -> list[str]:
    """Return a header, a rule and a line per row. By hand: rich takes 0.3 s for 1,000 rows."""
    padded = []
    for column in shown:
        width = _column_width(column)
        gaps = [(text, " " * (width - cell_len(text))) for text in (column.title, *column.texts)]
        right = column.is_number
        padded.append([gap + text if right else text + gap for text, gap in gaps])
    head, *rows = [(" " * _GAP).join(cells).rstrip() for cells in zip(*padded, strict=True)]
    return [head, "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * cell_len(head), *rows]


def _notes(asides: Sequence[Column]) -> list[list[str]]:
    """Return what each row has of `asides`, line by line."""
    settings = [c for c in asides if c.is_setting]
    rest = [c for c in asides if not c.is_setting]
    notes = []
    for i in range(len(asides[0].texts)):
        given = [f"{c.title}={c.texts[i]}" for c in settings if c.texts[i] != texts.ABSENT]
        lines = [", ".join(given), *(c.texts[i] for c in rest)]
        notes.append([line for line in lines if line not in ("", texts.ABSENT)])
    return notes
