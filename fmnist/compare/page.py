"""The table, curves and figures as one page that opens from disk, without a network.

All that comes from records is escaped, and a policy in the page lets only its own script run.
"""

import base64
import hashlib
import re
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from fmnist import record
from fmnist.compare import captions, chart, columns, table
from fmnist.compare.columns import Column
from fmnist.compare.histories import METRICS, NUM_COLORS, Curves
from fmnist.compare.table import Row, Table
from fmnist.reading import read_bytes

TEMPLATE = Path(__file__).with_name("page.html")
NUM_RUNS = 3  # whose figures are shown
MAX_BYTES = 8_000_000  # of all figures together
PNG = b"\x89PNG\r\n\x1a\n"
FIGURES = ("curves", "confusion", "mistakes", "predictions", "reliability", "samples", "augmented")
LONG = ("run", "error", "note")  # columns whose texts wrap
_FIRST_DOWN = ("acc", "images_per_s")  # columns whose largest values come first


def save(rows: Table, curves: Sequence[Curves], path: Path) -> None:
    """Write the page; raises UserError where that fails."""
    record.write_atomically(path, render(rows, curves))


def render(rows: Table, curves: Sequence[Curves]) -> str:
    """Return the page of a table and its curves."""
    template = TEMPLATE.read_text("utf-8")
    script = template.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    base = captions.common_folder(rows.rows)
    numbers = {id(each.row): number for number, each in enumerate(curves)}
    parts = {
        "digest": digest,
        "title": escape(f"Runs in {base}" if base else "Runs"),
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "notes": "".join(f"<li>{escape(line)}</li>" for line in captions.footer(rows, base)),
        "charts": "\n".join(chart.draw(curves, metric) for metric in METRICS) if curves else "",
        "legend": _legend(curves),
        "tables": "\n".join(_section(rows, name, base, numbers) for name in table.SECTIONS),
        "every": _every_run(rows, base),
        "figures": _figures(rows.rows),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _legend(curves: Sequence[Curves]) -> str:
    items = [
        f'<li><button type="button" data-row="{i}"><i class="c{i}"></i>{escape(each.label)}'
        "</button></li>"
        for i, each in enumerate(curves[:NUM_COLORS])
    ]
    if len(curves) > NUM_COLORS:
        items.append(
            f'<li class="rest"><i class="other"></i>{len(curves) - NUM_COLORS} others</li>'
        )
    return "".join(items)


def _section(rows: Table, name: str, base: str, numbers: dict[int, int]) -> str:
    """Return one sortable table; its rows know the number of their curves."""
    section = rows.section(name)
    if not section:
        return ""
    shown = columns.make_columns(rows, section, base, more=True)
    head = "".join(_header(column) for column in shown)
    body = []
    for i, row in enumerate(section):
        cells = "".join(_cell(column, i) for column in shown)
        number = numbers.get(id(row))
        body.append(f"<tr{'' if number is None else f' data-row={number}'}>{cells}</tr>")
    title = f"<h2>{escape(captions.TITLES[name])}</h2>" if captions.TITLES[name] else ""
    return (
        f'<section class="{name.replace(" ", "-").replace("/", "-")}">{title}<div class="scroll">'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>{chr(10).join(body)}</tbody></table>"
        "</div></section>"
    )


def _header(column: Column) -> str:
    down = " data-down" if column.key.rpartition("/")[2] in _FIRST_DOWN else ""
    kind = "number" if column.is_number else "text"
    title = f' title="{escape(column.key)}"' if column.title != column.key else ""
    return (
        f'<th scope="col" class="{kind}" aria-sort="none"{title}>'
        f'<button type="button"{down}>{escape(column.title)}</button></th>'
    )


def _cell(column: Column, i: int) -> str:
    value = column.values[i]
    text = "" if value is None or str(value) == "nan" else str(value)
    kind = "number" if column.is_number else "long" if column.key in LONG else "text"
    return f'<td class="{kind}" data-value="{escape(text)}">{escape(column.texts[i])}</td>'


def _every_run(rows: Table, base: str) -> str:
    """Return the ranked rows' runs one by one, folded away; nothing where they already are."""
    runs = [run for row in rows.section(table.RANKED) for run in row.runs]
    if len(runs) == len(rows.section(table.RANKED)):
        return ""
    each = table.build_table(runs, each=True)
    body = _section(each, table.RANKED, base, {})
    return f"<details><summary>Every run ({len(runs)})</summary>{body}</details>"


def _figures(rows: Sequence[Row]) -> str:
    """Return the figures of the best runs that have some, as far as there is room for them."""
    parts: list[str] = []
    room = MAX_BYTES
    for row in rows:
        images = []
        for name in FIGURES:
            image = _read_image(row.best.folder / "figures" / f"{name}.png", room)
            if image:
                room -= len(image)
                source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
                images.append(f'<img src="{source}" alt="{name} of {escape(row.best.label)}">')
        if images:
            opened = " open" if not parts else ""
            name = escape(row.best.label)
            parts.append(f"<details{opened}><summary>{name}</summary>{''.join(images)}</details>")
        if len(parts) == NUM_RUNS:
            break
    title = "<h2>Figures of the best runs</h2>"
    return f'<section class="figures">{title}{"".join(parts)}</section>' if parts else ""


def _read_image(path: Path, room: int) -> bytes | None:
    """Return a PNG file that is no larger than `room` bytes."""
    try:
        image = read_bytes(path, room)
    except OSError:
        return None
    return image if image.startswith(PNG) else None
