import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import read, write_run

from fmnist.compare import formats, pairs
from fmnist.compare.table import Table, build_table

ACCURACIES = (0.9012345678901, 0.9112345678902, 0.9212345678903)


@pytest.fixture
def table(workdir: Path) -> Table:
    for seed, acc in enumerate(ACCURACIES):
        write_run(Path(f"runs/{seed}"), acc, seed=seed)
    scores = {"val/acc": 0.8, "val/loss": float("nan"), "test/acc": 0.7}
    write_run(Path("runs/other"), scores=scores, model__channels=[8, 16], dirty=True)
    write_run(Path("runs/failed"), None, status="failed", error="Why, | <b>?\nHow.", epochs_done=1)
    return build_table(read(Path("runs")))


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_json_is_whole_and_exact(table: Table) -> None:
    found: dict[str, Any] = json.loads(formats.to_json(table), parse_constant=pytest.fail)
    assert found.keys() == {"schema", "metric", "sort", "keys", "rows", "hidden"}
    assert found["keys"] == ["model.channels"]
    group, other, failed = found["rows"]
    summary = group["scores"]["val/acc"]
    assert summary["mean"] == pytest.approx(np.mean(ACCURACIES), rel=1e-15)
    assert summary["sd"] == pytest.approx(np.std(ACCURACIES, ddof=1), rel=1e-12)
    assert len(summary["ci95"]) == 2
    assert [run["scores"]["val/acc"] for run in group["runs"]] == sorted(ACCURACIES, reverse=True)
    assert (group["rank"], group["n"], group["run"]) == (1, 3, "runs/2")
    assert other["scores"]["val/loss"]["mean"] is None
    assert other["scores"]["val/acc"] == {"n": 1, "mean": 0.8, "sd": None, "ci95": None}
    assert other["config"] == {"model.channels": [8, 16]}
    assert other["dirty"] is True
    assert (failed["section"], failed["rank"], failed["scores"]) == ("unfinished", None, {})
    assert (failed["epochs_done"], failed["max_epochs"]) == (1, 10)


def test_csv_holds_the_same_as_json(table: Table) -> None:
    rows = json.loads(formats.to_json(table))["rows"]
    for line, row in zip(lines(formats.to_csv(table)), rows, strict=True):
        assert line["section"] == row["section"]
        assert line["run"] == row["run"]
        assert line["runs"].split() == [run["run"] for run in row["runs"]]
        assert line["error"] == (row["error"] or "")
        for name, summary in row["scores"].items():
            assert line[name] in (repr(summary["mean"]), "nan")
            assert line[f"{name} n"] == str(summary["n"])
            low = "" if summary["ci95"] is None else repr(summary["ci95"][0])
            assert line[f"{name} ci95 low"] == low
        value = row["config"]["model.channels"]
        assert json.loads(line["model.channels"]) == value


def test_csv_is_one_table_whatever_is_in_it(table: Table) -> None:
    text = formats.to_csv(table)
    widths = {len(line) for line in csv.reader(io.StringIO(text))}
    assert len(widths) == 1
    assert len(lines(text)) == 3


@pytest.mark.parametrize("text", ["=1+1", "+1", "-x", "@SUM(A1)"])
def test_csv_starts_no_formula(text: str) -> None:
    (line,) = lines(formats.write_csv([{"a": text, "b": -1.5, "c": "a=b"}]))
    assert line == {"a": f"'{text}", "b": "-1.5", "c": "a=b"}


def test_no_rows_are_an_empty_table(workdir: Path) -> None:
    write_run(Path("runs/a"), None, status="failed")
    table = build_table(read(Path("runs")), top=3)
    assert formats.to_csv(table) == ""
    assert json.loads(formats.to_json(table))["hidden"] == {"unfinished": 1}
    assert "not shown: 1 unfinished" in formats.to_markdown(table)


def test_markdown_is_a_table_per_section(table: Table) -> None:
    text = formats.to_markdown(table)
    assert text == formats.write_table(table, "md")
    grid = [line for line in text.splitlines() if line.startswith("|")]
    counts = [len(re.findall(r"(?<!\\)\|", line)) for line in grid]
    assert counts[0] == counts[1] == counts[2] == counts[3]
    assert "| 91.12 ± 1.00 |" in grid[2]
    assert r"Why, \| \<b\>?" in text
    assert "**Not finished**" in text


def test_paired_test_in_each_form(workdir: Path) -> None:
    for seed in range(3):
        write_run(Path(f"a/{seed}"), 0.9 + seed / 100, seed=seed)
        write_run(Path(f"b/{seed}"), 0.9, seed=seed, optim__lr=1)
    found = pairs.match(read(Path("a")), read(Path("b")))
    document = json.loads(formats.write_pairs(found, "json"))
    test = document["tests"]["val/acc"]
    assert test["n"] == 3
    assert test["difference"] == pytest.approx(0.01)
    assert document["pairs"][1] == {"seed": 1, "a": "a/1", "b": "b/1"}
    assert document["differing"] == {"optim.lr": {"a": "0.003", "b": "1"}}
    (line,) = lines(formats.write_pairs(found, "csv"))
    assert float(line["p"]) == test["p"]
    assert "| val acc | 91.00 | 90.00 | +1.00 |" in formats.write_pairs(found, "md")
