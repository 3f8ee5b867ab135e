"""The page of scripts/compare.py in a real browser."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pages import watched
from run_folders import read, write_history, write_run

from fmnist.compare import page as pages
from fmnist.compare.histories import read_curves
from fmnist.compare.table import build_table

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415408d763f8cfc000000301010018dd8db00000000049454e44ae426082"
)


@pytest.fixture
def page(browser: Any) -> Iterator["Page"]:
    """A page on which any error in a script, and any request but for the file, fails the test."""
    with watched(browser, (1280, 900), timeout_ms=5000) as (opened, errors):
        opened.on("request", lambda r: r.url.startswith(("file:", "data:")) or errors.append(r.url))
        yield opened


@pytest.fixture
def runs(workdir: Path) -> Path:
    for i, (lr, acc) in enumerate([(0.1, 0.90), (0.02, 0.93), (0.003, 0.91), (1, 0.92)]):
        for seed in range(2):
            name = f"runs/r{i}-{seed}"
            folder = write_run(workdir / name, acc + seed / 1000, seed=seed, optim__lr=lr)
            write_history(folder, [acc - 0.2 * math.exp(-e / 2) for e in range(1, 9)])
    (folder / "figures").mkdir()
    (folder / "figures" / "curves.png").write_bytes(PIXEL)
    return workdir / "runs"


def show(page: "Page", folder: Path) -> None:
    rows = build_table(read(folder))
    pages.save(rows, read_curves(rows), folder / "page.html")
    page.goto(f"file://{folder}/page.html")


def column(page: "Page", title: str) -> list[str]:
    """Return a column of the first table, from the top down."""
    headers = [text.strip() for text in page.locator("table").first.locator("th").all_inner_texts()]
    cells = page.locator("table").first.locator(f"tbody td:nth-child({headers.index(title) + 1})")
    return [text.strip() for text in cells.all_inner_texts()]


def test_a_click_on_a_header_sorts_by_number_and_a_second_one_turns(
    page: "Page", runs: Path
) -> None:
    show(page, runs)
    assert column(page, "lr") == ["0.02", "1", "0.003", "0.1"]
    page.get_by_role("button", name="lr", exact=True).first.click()
    assert column(page, "lr") == ["0.003", "0.02", "0.1", "1"]
    header = page.locator("th", has_text="lr").first
    assert header.get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="lr", exact=True).first.click()
    assert column(page, "lr") == ["1", "0.1", "0.02", "0.003"]
    assert header.get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="val acc %").first.click()
    assert column(page, "#") == ["1", "2", "3", "4"]
    assert header.get_attribute("aria-sort") == "none"


def test_the_keyboard_sorts_too(page: "Page", runs: Path) -> None:
    show(page, runs)
    page.get_by_role("button", name="lr", exact=True).first.focus()
    page.keyboard.press("Enter")
    assert column(page, "lr") == ["0.003", "0.02", "0.1", "1"]


def test_rows_without_a_value_stay_last(page: "Page", workdir: Path) -> None:
    for name, scores in (("a", {}), ("b", {"test/acc": 0.5}), ("c", {"test/acc": 0.6})):
        write_run(workdir / "runs" / name, scores={"val/acc": 0.9, **scores}, optim__lr=ord(name))
    show(page, workdir / "runs")
    for expected in (["60.00", "50.00", "-"], ["50.00", "60.00", "-"]):
        page.get_by_role("button", name="test acc %").click()
        assert column(page, "test acc %") == expected


def test_text_finds_rows(page: "Page", runs: Path) -> None:
    show(page, runs)
    page.get_by_role("searchbox").fill("r2 91.0")
    visible = page.locator("table").first.locator("tbody tr:visible")
    assert visible.count() == 1
    assert "0.003" in visible.inner_text()
    page.get_by_role("searchbox").fill("")
    assert visible.count() == 4


def test_hovering_a_curve_names_its_run_and_marks_its_row(page: "Page", runs: Path) -> None:
    show(page, runs)
    box = page.locator("svg.chart").nth(1).bounding_box()
    assert box is not None
    scale = box["width"] / 560
    line = page.locator("svg.chart >> nth=1 >> polyline.c3").first
    x, y = (line.get_attribute("points") or "").split()[-1].split(",")
    page.mouse.move(box["x"] + float(x) * scale - 2, box["y"] + float(y) * scale)
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert "runs/r0-" in tip.inner_text() or "lr=0.1" in tip.inner_text()
    assert "epoch 8: 89.6" in tip.inner_text()
    assert page.locator("table").first.locator("tr.on td").first.inner_text().strip() == "4"
    page.mouse.move(box["x"] + 60 * scale, box["y"] + 300 * scale)
    assert not tip.is_visible()
    assert page.locator("tr.on").count() == 0


def test_legend_keeps_its_curves_chosen(page: "Page", runs: Path) -> None:
    show(page, runs)
    button = page.locator(".legend button").nth(2)
    button.click()
    page.mouse.move(0, 0)
    assert button.get_attribute("aria-pressed") == "true"
    assert {line.get_attribute("data-row") for line in page.locator("polyline.on").all()} == {"2"}
    button.click()
    page.mouse.move(0, 0)
    assert page.locator("polyline.on").count() == 0


def test_nothing_in_a_record_runs(page: "Page", workdir: Path) -> None:
    for i in range(2):
        folder = write_run(
            workdir / "runs" / f"{EVIL.replace('/', '')}{i}",
            0.9 if i else None,
            status="finished" if i else "failed",
            error=EVIL,
            note=EVIL,
            device=EVIL,
            optim__lr=EVIL + str(i),
        )
        write_history(folder, [0.8, 0.9])
        (folder / "figures").mkdir()
        (folder / "figures" / "curves.png").write_bytes(PIXEL)
    show(page, workdir / "runs")
    page.wait_for_timeout(200)
    assert page.title() == "Runs in " + str(workdir / "runs")
    assert EVIL in page.locator("body").inner_text()
    box = page.locator("svg.chart").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.title() != "owned"
    injected = "const s = document.createElement('script'); s.textContent = 'document.title=1';"
    page.evaluate(f"{injected} document.body.append(s)")
    assert page.title() != "1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(page: "Page", runs: Path, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    show(page, runs)
    contrast = page.evaluate(
        """() => {
            const luminance = color => {
                const parts = color.match(/[\\d.]+/g).slice(0, 3).map(c => c / 255)
                    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
                return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
            };
            const page = luminance(getComputedStyle(document.body).backgroundColor);
            return ["td", "th button", ".notes", ".chart .y"].map(selector => {
                const style = getComputedStyle(document.querySelector(selector));
                const text = luminance(selector.startsWith(".chart") ? style.fill : style.color);
                return (Math.max(text, page) + 0.05) / (Math.min(text, page) + 0.05);
            });
        }"""
    )
    assert min(contrast) > 4.5  # WCAG 2.2, 1.4.3


def test_figures_are_shown(page: "Page", runs: Path) -> None:
    show(page, runs)
    widths = page.eval_on_selector_all("img", "images => images.map(i => i.naturalWidth)")
    assert widths == [1]


def test_narrow_page_does_not_scroll_sideways(page: "Page", runs: Path) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    show(page, runs)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
