"""The table for other programs, at full precision, and as Markdown for a README.

JSON: {"schema": 1, "metric", "sort", "keys": [...], "rows": [...], "hidden": {...}}. A row has
`section`, `rank` (null where not ranked), `run` (its best run's folder), `runs` [{"run", "seed",
"scores"}], `n` (seeds), `config` (the keys that differ, flat, without those the run lacks),
`scores` {name: {"n", "mean", "sd", "ci95"}}, means `duration_s` and `images_per_s`, and facts of
the record. What is not finite, not defined or not recorded is null.
"""

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fmnist.compare import captions, columns, table, texts
from fmnist.compare.columns import Column
from fmnist.compare.pairs import Pairs
from fmnist.compare.statistics import Summary
from fmnist.compare.table import Row, Table

SCHEMA = 1
_MEANS = ("duration_s", "images_per_s")
_FACTS = ("num_parameters", "device", "precision", "selected_on", "commit", "data_hash")
_FORMULA = ("=", "+", "-", "@")  # tabs and returns are cleaned away when records are read


def write_table(rows: Table, form: str) -> str:
    """Return a table as csv, json or md."""
    return {"csv": to_csv, "json": to_json, "md": to_markdown}[form](rows)


def write_pairs(found: Pairs, form: str) -> str:
    """Return a paired test as csv, json or md."""
    return {"csv": pairs_to_csv, "json": pairs_to_json, "md": pairs_to_markdown}[form](found)


def to_json(rows: Table) -> str:
    document = {
        "schema": SCHEMA,
        "metric": table.METRIC,
        "sort": rows.sort_key,
        "keys": list(rows.keys),
        "rows": [_document(row, rows.keys) for row in rows.rows],
        "hidden": rows.hidden,
    }
    return json.dumps(_finite(document), indent=2, allow_nan=False) + "\n"


def to_csv(rows: Table) -> str:
    """Return one line per row: a score is five columns, a config key has its full name."""
    names = list(dict.fromkeys(name for row in rows.rows for name in row.scores))
    lines = []
    for row in rows.rows:
        line = _document(row, rows.keys)
        scores, config = line.pop("scores"), line.pop("config")
        runs = line.pop("runs")
        line["seeds"] = " ".join(texts.setting("seed", run["seed"]) for run in runs)
        line["runs"] = " ".join(run["run"] for run in runs)
        for name in names:
            summary = scores.get(name) or dict.fromkeys(("n", "mean", "sd", "ci95"))
            low, high = summary["ci95"] or (None, None)
            line |= {name: summary["mean"], f"{name} n": summary["n"], f"{name} sd": summary["sd"]}
            line |= {f"{name} ci95 low": low, f"{name} ci95 high": high}
        line |= {key: _plain(config[key]) if key in config else None for key in rows.keys}
        lines.append(line)
    return write_csv(lines)


def pairs_to_json(found: Pairs) -> str:
    """Return {"schema", "pairs", "differing", "left_out", "tests"}; scores are fractions of 1."""
    document = {
        "schema": SCHEMA,
        "pairs": [
            {"seed": a.fields.get("seed"), "a": a.label, "b": b.label} for a, b in found.matched
        ],
        "differing": {key: {"a": a, "b": b} for key, a, b in found.differing},
        "left_out": found.left_out,
        "tests": {name: test._asdict() for name, test in found.tests().items()},
    }
    return json.dumps(_finite(document), indent=2, allow_nan=False) + "\n"


def pairs_to_csv(found: Pairs) -> str:
    return write_csv([{"metric": n, **test._asdict()} for n, test in found.tests().items()])


def write_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """Write lines with equal keys. A text that a spreadsheet would run as a formula gets a `'`.

    See https://owasp.org/www-community/attacks/CSV_Injection; numbers stay numbers.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(map(_harmless, line) for line in lines[:1])
    writer.writerows([[_harmless(value) for value in line.values()] for line in lines])
    return text.getvalue()


def to_markdown(rows: Table) -> str:
    """Return a Markdown table per section, rounded as on the terminal."""
    base = captions.common_folder(rows.rows)
    parts = []
    for name in table.SECTIONS:
        section = rows.section(name)
        if section:
            title = f"**{captions.TITLES[name]}**\n\n" if captions.TITLES[name] else ""
            parts.append(title + _markdown(columns.make_columns(rows, section, base)))
    return "\n\n".join([*parts, _lines(captions.footer(rows, base))]) + "\n"


def pairs_to_markdown(found: Pairs) -> str:
    return f"{_markdown(found.columns())}\n\n{_lines(found.notes())}\n"


def _markdown(shown: Sequence[Column]) -> str:
    head = [_escaped(column.title) for column in shown]
    rule = ["---:" if column.is_number else "---" for column in shown]
    body = zip(*([_escaped(text) for text in column.texts] for column in shown), strict=True)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *body])


def _lines(lines: Sequence[str]) -> str:
    return "  \n".join(map(_escaped, lines))


def _document(row: Row, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return a row as plain data; facts in which its runs differ are joined."""
    best = row.best.fields
    return {
        "section": row.section,
        "rank": row.rank,
        "run": row.best.label,
        "runs": [
            {"run": run.label, "seed": run.fields.get("seed"), "scores": run.scores}
            for run in row.runs
        ],
        "n": row.n,
        "config": {k: row.best.identity[k] for k in keys if k in row.best.identity},
        "scores": {name: _scores(summary) for name, summary in row.scores.items()},
        **{key: row.mean(key) for key in _MEANS},
        **{key: _one(row.distinct(key)) for key in _FACTS},
        "dirty": any(run.fields["dirty"] for run in row.runs),
        "partial": best["partial"],
        "status": best["status"],
        "epochs_done": best["epochs_done"],
        "max_epochs": best.get("trainer.max_epochs"),
        "error": best["error"],
    }


def _scores(summary: Summary) -> dict[str, Any]:
    ends = None if summary.low is None else [summary.low, summary.high]
    return {"n": summary.n, "mean": summary.mean, "sd": summary.sd, "ci95": ends}


def _one(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else ", ".join(map(str, values)) or None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """Return what stands for a value in one cell."""
    return value if isinstance(value, int | float | str) else json.dumps(value)


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _escaped(text: str) -> str:
    """Let Markdown show a text as it is, in one cell."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", text.replace("\n", " "))
