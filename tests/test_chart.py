import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from run_folders import read, write_history, write_run

from fmnist.compare import chart
from fmnist.compare.histories import Curves, read_curves
from fmnist.compare.table import build_table


def draw(curves: list[Curves], metric: str = "val/acc") -> ET.Element:
    return ET.fromstring(chart.draw(curves, metric))


def lines(svg: ET.Element) -> list[list[tuple[float, float]]]:
    pairs = [line.attrib["points"].split() for line in svg.iter("polyline")]
    return [[tuple(map(float, pair.split(","))) for pair in line] for line in pairs]  # type: ignore[misc]


def texts(svg: ET.Element, kind: str) -> list[str]:
    return [text.text or "" for text in svg.iter("text") if text.attrib["class"] == kind]


def curves(workdir: Path) -> list[Curves]:
    return read_curves(build_table(read(workdir / "runs")))


def test_points_stand_where_the_numbers_say(workdir: Path) -> None:
    write_history(write_run(workdir / "runs/a"), [0.5, 0.7, 0.9])
    svg = draw(curves(workdir))
    (line,) = lines(svg)
    assert [x for x, _ in line] == pytest.approx([52, 299, 546])
    heights = [y for _, y in line]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.02)
    for label, y in zip(texts(svg, "y"), list(svg.iter("line")), strict=True):
        share = (float(label) - 50) / 40
        expected = heights[0] + share * (heights[2] - heights[0])
        assert float(y.attrib["y1"]) == pytest.approx(expected, abs=0.1)


def test_each_row_has_its_colour_and_its_mean(workdir: Path) -> None:
    for row in range(9):
        for seed in range(2):
            folder = write_run(
                workdir / f"runs/{row}-{seed}", 0.9 - row / 100, seed=seed, optim__lr=row + 1
            )
            write_history(folder, [0.8, 0.9])
    found = [line.attrib for line in draw(curves(workdir)).iter("polyline")]
    assert len(found) == 7 * 3 + 2 * 2
    assert [a["data-run"] for a in found if a["class"] == "c0"] == [
        "lr=1  90.00 ± 0.00 %, mean of 2 runs"
    ]
    assert {a["class"] for a in found if a["data-row"] in "78"} == {"other seed"}


def test_gap_splits_a_line_and_a_single_epoch_is_a_dot(workdir: Path) -> None:
    write_history(write_run(workdir / "runs/a"), [0.5, math.nan, 0.7, 0.8])
    dot, line = lines(draw(curves(workdir)))
    assert len(set(dot)) == 1
    assert len(line) == 2


@pytest.mark.parametrize("last", [1, 2, 12, 13, 100, 12345])
def test_epochs_are_labelled_without_crowding(workdir: Path, last: int) -> None:
    folder = write_run(workdir / "runs/a")
    (folder / "metrics.csv").write_text(f"epoch,val/loss,val/acc\n1,1,0.5\n{last},1,0.6\n")
    *labels, axis = texts(draw(curves(workdir)), "x")
    assert axis == "Epoch"
    assert 1 <= len(labels) <= 13
    assert labels[0] == "1"


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.2, 0.21), (83.1, 92.9), (-5, 5), (1e-9, 2e-9), (1e30, 3e30), (0.1, 99.7)],
)
def test_ticks_are_few_and_round(low: float, high: float) -> None:
    ticks = chart._ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert low <= min(ticks)
    assert max(ticks) <= high * (1 + 1e-12)
    assert len({f"{tick:.6g}" for tick in ticks}) == len(ticks)


def test_exploding_loss_has_powers_of_ten(workdir: Path) -> None:
    folder = write_run(workdir / "runs/a")
    (folder / "metrics.csv").write_text("epoch,val/loss,val/acc\n1,50000,0.5\n2,0.5,0.6\n")
    svg = draw(curves(workdir), "val/loss")
    assert texts(svg, "y") == ["1", "10", "100", "1000", "10000"]
    assert svg.attrib["data-log"] == "1"


def test_nothing_recorded_is_said(workdir: Path) -> None:
    folder = write_run(workdir / "runs/a")
    (folder / "metrics.csv").write_text("epoch,val/loss\n1,0.5\n")
    assert "nothing recorded" in chart.draw(curves(workdir), "val/acc")
