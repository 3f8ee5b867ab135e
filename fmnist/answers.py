"""Answers about pictures as a table for people, or as CSV and JSON. Torch-free."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from fmnist import report
from fmnist.errors import clean
from fmnist.prediction import Answer

FORMATS = ("table", "csv", "json")
UNLIKE = "unlike the training data"
EMPTY = "nothing stands out from the ground"
GAP = "  "
DIGITS = 6  # of probabilities, for programs


def note(answer: Answer) -> str:
    """Say what is to be said of an answer beside its classes."""
    if answer.error is not None:
        return answer.error
    if answer.is_empty:
        return f"{UNLIKE}: {EMPTY}"
    return UNLIKE if answer.unlike else ""


def write(answers: Iterable[Answer], form: str) -> int:
    """Write answers on stdout in one of FORMATS; returns how many are errors."""
    errors: list[Answer] = []
    writers = {"table": _write_table, "csv": _write_csv, "json": _write_json}
    writers[form](_collect(answers, errors))
    return len(errors)


def _collect(answers: Iterable[Answer], errors: list[Answer]) -> Iterator[Answer]:
    for answer in answers:
        if answer.error is not None:
            errors.append(answer)
        yield answer


def _write_json(answers: Iterable[Answer]) -> None:
    """Write one list of {"file", "label", "prob", "top3", "unlike", "error"}."""
    rows = [json.dumps(_row(answer)) for answer in answers]
    report.write("[\n" + ",\n".join(rows) + "\n]\n")


def _row(answer: Answer) -> dict[str, Any]:
    top = [{"label": label, "prob": round(prob, DIGITS)} for label, prob in answer.top]
    first = top[0] if top else {"label": None, "prob": None}
    return {
        "file": str(answer.file),
        **first,
        "top3": top,
        "unlike": answer.unlike,
        "error": answer.error,
    }


def _write_csv(answers: Iterable[Answer]) -> None:
    """Write a header and a row per answer as they come."""
    _write_line(["file", "label", "prob", "top3", "unlike", "error"])
    for answer in answers:
        row = _row(answer)
        top = "; ".join(f"{label} {prob:.{DIGITS}f}" for label, prob in answer.top)
        prob = "" if row["prob"] is None else f"{row['prob']:.{DIGITS}f}"
        file = _one_line(row["file"]) if sys.stdout.isatty() else row["file"]
        unlike = "" if answer.error else str(answer.unlike).lower()
        _write_line([file, row["label"] or "", prob, top, unlike, answer.error or ""])


def _write_line(values: Sequence[str]) -> None:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    report.write(line.getvalue())


def _write_table(answers: Iterable[Answer]) -> None:
    """Write an aligned table; no name is cut, notes stand below where there is no room.

    In colour on a terminal only.
    """
    rows = [(_cells(answer), _one_line(note(answer)), answer.error) for answer in answers]
    head = ["file", "label", "prob", "second", "third"]
    columns = zip(head, *(cells for cells, _, _ in rows), strict=True)
    widths = [max(map(cell_len, column)) for column in columns]
    notes = [remark for _, remark, _ in rows]
    title = _line([*head, "note" if any(notes) else ""], widths)
    report.write("")  # what stdout's encoding lacks becomes a question mark
    console = Console(highlight=False, soft_wrap=True)
    room = console.width if sys.stdout.isatty() else None
    width = sum(widths) + len(GAP) * len(widths) + max(map(cell_len, notes), default=0)
    is_beside = room is None or width <= room
    console.print(Text(title if is_beside else _line(head, widths), "bold"))
    console.print("\N{BOX DRAWINGS LIGHT HORIZONTAL}" * min(cell_len(title), room or 10**9))
    for cells, remark, error in rows:
        line = Text(_line([*cells, ""] if is_beside and remark else cells, widths))
        if remark:
            line.append(("" if is_beside else "\n   ") + remark, "red" if error else "yellow")
        console.print(line)


def _cells(answer: Answer) -> list[str]:
    file = _one_line(str(answer.file))
    if not answer.top:
        return [file, "-", "-", "-", "-"]
    (label, prob), *others = answer.top
    return [file, label, _percent(prob), *(f"{name} {_percent(p)}" for name, p in others)]


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    """Align texts, the third to the right; what has no width follows as it is."""
    padded = []
    for place, (text, width) in enumerate(zip(texts, widths, strict=False)):
        space = " " * (width - cell_len(text))
        padded.append(space + text if place == 2 else text + space)
    more = texts[len(widths) :]
    return GAP.join([*padded, *more]) if more else GAP.join(padded).rstrip()


def _percent(prob: float) -> str:
    return f"{prob:.1%}"


def _one_line(text: str) -> str:
    """Make a text safe for a terminal and one line long."""
    return clean(text.replace("\n", "\N{REPLACEMENT CHARACTER}"))
