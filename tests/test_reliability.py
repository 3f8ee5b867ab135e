"""docs/reliability.md promises nothing without a test."""

import ast
import re

from conftest import PROJECT

PAGE = PROJECT / "docs" / "reliability.md"
NAMED = re.compile(r"`tests/(test_\w+\.py)::(test_\w+)`")


def names_in(file: str) -> set[str]:
    tree = ast.parse((PROJECT / "tests" / file).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_page_names_exists() -> None:
    named = NAMED.findall(PAGE.read_text("utf-8"))
    assert len(named) >= 20
    assert [f"{file}::{name}" for file, name in named if name not in names_in(file)] == []


def test_every_row_of_the_page_names_a_test() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    told = [row for row in rows if not row.startswith("| fault |")]
    assert [row for row in told if not NAMED.search(row)] == []
