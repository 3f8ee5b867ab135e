import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_folders import read, write_history, write_run

from fmnist.compare import page
from fmnist.compare.histories import read_curves
from fmnist.compare.table import build_table
from fmnist.errors import UserError

PNG = page.PNG + b"x" * 1000
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{title}}'


def render(*paths: Path, **options: int) -> str:
    rows = build_table(read(*paths), **options)  # type: ignore[arg-type]
    return page.render(rows, read_curves(rows))


class Tags(HTMLParser):
    """Collects the tags of a page, and which were closed in another order."""

    EMPTY = ("meta", "img", "input", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def add_figures(folder: Path, **images: bytes) -> None:
    (folder / "figures").mkdir(exist_ok=True)
    for name, image in images.items():
        (folder / "figures" / f"{name}.png").write_bytes(image)


def test_page_needs_no_network_and_is_well_formed(workdir: Path) -> None:
    for i in range(2):
        folder = write_run(workdir / f"runs/{i}", 0.9, optim__lr=i + 1)
        write_history(folder, [0.8, 0.9])
        add_figures(folder, curves=PNG)
    text = render(workdir / "runs")
    tags = Tags(text)
    assert tags.open == []
    for _, attributes in tags.found:
        assert not {"href", "srcset", "action"} & attributes.keys()
        assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png")
    assert "url(http" not in text
    assert "@import" not in text
    assert "{{" not in text
    assert sum(tag == "svg" for tag, _ in tags.found) == 2


def test_policy_allows_the_script_of_the_page_and_no_other(workdir: Path) -> None:
    text = render(write_run(workdir / "runs/a"))
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]
    assert "script-src 'unsafe-inline'" not in policy[1]


def test_whatever_stands_in_a_record_is_text(workdir: Path) -> None:
    for i in range(3):
        folder = write_run(
            workdir / f"runs/{EVIL.replace('/', '')}{i}",
            0.9 if i else None,
            status="finished" if i else "failed",
            error=EVIL,
            data_hash=EVIL + str(i),
            commit=EVIL,
            device=EVIL + str(i),
            optim__lr=EVIL + str(i),
            model___target_=EVIL,
            note=EVIL,
        )
        write_history(folder, [0.5, 0.6])
        add_figures(folder, curves=PNG)
    tags = Tags(render(workdir / "runs"))
    assert sum(tag == "script" for tag, _ in tags.found) == 1
    assert not [tag for tag, attributes in tags.found if "onerror" in attributes]
    held = [attributes.get("data-value") or "" for tag, attributes in tags.found if tag == "td"]
    assert EVIL in held  # the note; and the run's name, its setting and error with it
    assert sum("alert(1)" in value for value in held) >= 8
    images = [attributes for tag, attributes in tags.found if tag == "img"]
    assert images
    assert all("alert(2)" in (attributes["alt"] or "") for attributes in images)


def test_cells_hold_the_exact_value_to_sort_by(workdir: Path) -> None:
    write_run(workdir / "runs/a", 0.912345678, optim__lr=0.00123456789)
    write_run(workdir / "runs/b", scores={"val/acc": 0.8, "val/loss": float("nan")})
    tags = Tags(render(workdir / "runs"))
    values = [attributes["data-value"] for tag, attributes in tags.found if tag == "td"]
    assert "0.912345678" in values
    assert "0.00123456789" in values
    assert "nan" not in values


def test_figures_of_the_best_runs_only_and_no_more_than_fit(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(5):
        folder = write_run(workdir / f"runs/{i}", 0.9 - i / 100, optim__lr=i + 1)
        add_figures(folder, curves=PNG, confusion=b"no png", samples=PNG)
    text = render(workdir / "runs")
    assert re.findall(r'alt="(\w+) of [^"]*/(\d)"', text) == [
        (name, i) for i in "012" for name in ("curves", "samples")
    ]
    monkeypatch.setattr(page, "MAX_BYTES", 3 * len(PNG))
    assert render(workdir / "runs").count("data:image/png") == 3
    assert base64.b64encode(PNG).decode() in text


def test_page_without_curves_and_figures_is_a_table(workdir: Path) -> None:
    text = render(write_run(workdir / "runs/a"))
    assert "<svg" not in text
    assert "Figures of" not in text
    assert Tags(text).open == []


def test_runs_of_a_group_are_listed_too(workdir: Path) -> None:
    for seed in range(3):
        write_run(workdir / f"runs/{seed}", 0.9, seed=seed)
    text = render(workdir / "runs")
    assert "Every run (3)" in text
    assert text.count("<tr") == 1 + 1 + 1 + 3
    assert "Every run" not in render(workdir / "runs/0")


def test_legend_names_the_first_rows_and_counts_the_rest(workdir: Path) -> None:
    for i in range(9):
        write_history(write_run(workdir / f"runs/{i}", 0.9 - i / 100, optim__lr=i + 1), [0.9])
    text = render(workdir / "runs")
    legend = text[text.index('<ul class="legend">') : text.index('<label class="find">')]
    assert legend.count("<button") == 7
    assert "2 others" in legend


def test_save_replaces_the_page_or_says_why_not(workdir: Path) -> None:
    rows = build_table(read(write_run(workdir / "runs/a")))
    page.save(rows, [], workdir / "a.html")
    assert (workdir / "a.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(UserError, match="Cannot write"):
        page.save(rows, [], workdir / "missing" / "a.html")
