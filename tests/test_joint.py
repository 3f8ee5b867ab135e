import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import read, write_history, write_run

from fmnist import figures
from fmnist.compare import joint
from fmnist.compare.histories import Curves, read_curves
from fmnist.compare.table import build_table
from fmnist.errors import UserError


def make(workdir: Path, num_rows: int, num_seeds: int, **changes: object) -> list[Curves]:
    for row in range(num_rows):
        for seed in range(num_seeds):
            top = 0.93 - row / 1000 + seed / 5000
            folder = workdir / f"runs/{row}-{seed}"
            write_run(folder, top, seed=seed, optim__lr=row + 1, **changes)
            write_history(folder, [top - 0.1 * math.exp(-e / 3) for e in range(1, 11)])
    return read_curves(build_table(read(workdir / "runs")))


def test_seeds_share_a_colour_and_rows_do_not(workdir: Path) -> None:
    figure = joint.draw(make(workdir, 3, 4))
    for axes in figure.axes:
        colours = [str(line.get_color()) for line in axes.lines]
        assert len(colours) == 3 * (4 + 1)
        assert {colours.count(colour) for colour in set(colours)} == {5}


def test_legend_names_the_keys_that_differ(workdir: Path) -> None:
    figure = joint.draw(make(workdir, 2, 2))
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["lr=1  93.01 ± 0.01 %", "lr=2  92.91 ± 0.01 %"]


def test_legend_shows_both_ends_of_a_long_value(workdir: Path) -> None:
    curves = make(workdir, 2, 1)
    long = curves[0]._replace(label=f"zz={'x' * 400_000}93.01 %")
    (text, _) = joint.draw([long, curves[1]]).legends[0].get_texts()
    label = text.get_text().replace("\n", "")
    assert len(label) < 310
    assert label.startswith("zz=xxx")
    assert label.endswith("xxx93.01 %")


def test_lines_are_the_numbers_of_metrics_csv(workdir: Path) -> None:
    curves = make(workdir, 1, 1)
    expected = [(e, 100 * (0.93 - 0.1 * math.exp(-e / 3))) for e in range(1, 11)]
    (line,) = joint.draw(curves).axes[1].lines
    assert np.allclose(line.get_xydata(), expected)


@pytest.mark.parametrize("num_rows", [2, 200])
def test_legend_and_plots_do_not_overlap(workdir: Path, num_rows: int) -> None:
    figure = joint.draw(make(workdir, num_rows, 1, note="x" * 5))
    figures.to_array(figure)
    legend = figure.legends[0].get_window_extent()
    width, height = figure.bbox.width, figure.bbox.height
    assert legend.x0 >= 0
    assert legend.x1 <= width
    assert legend.y0 >= 0
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box is not None
        assert box.y0 >= legend.y1
        assert box.y1 <= height
        assert axes.get_window_extent().height > 250
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert (f"{num_rows - 7} others" in labels) == (num_rows > 7)


def test_long_label_is_wrapped_within_the_figure(workdir: Path) -> None:
    make(workdir, 2, 1)
    for name, value in (("a", [10**9 + i for i in range(20)]), ("b", [1])):
        folder = write_run(workdir / f"runs/{name}", 0.9, model__channels=value)
        write_history(folder, [0.9])
    figure = joint.draw(read_curves(build_table(read(workdir / "runs"))))
    figures.to_array(figure)
    assert figure.legends[0].get_window_extent().x1 <= figure.bbox.width


def test_png_is_written_and_the_same_each_time(workdir: Path) -> None:
    curves = make(workdir, 2, 2)
    for name in ("one.png", "two.png"):
        joint.save(curves, workdir / name)
    with Image.open(workdir / "one.png") as image:
        assert image.size[0] == 1080
    assert (workdir / "one.png").read_bytes() == (workdir / "two.png").read_bytes()


def test_values_that_are_not_finite_leave_gaps(workdir: Path) -> None:
    folder = write_run(workdir / "runs/a", 0.9)
    (folder / "metrics.csv").write_text("epoch,val/loss,val/acc\n1,1,nan\n2,nan,nan\n3,2,nan\n")
    figures.to_array(joint.draw(read_curves(build_table(read(folder)))))


def test_loss_that_explodes_is_on_a_log_scale(workdir: Path) -> None:
    folder = write_run(workdir / "runs/a", 0.9)
    (folder / "metrics.csv").write_text("epoch,val/loss,val/acc\n1,9000,0.5\n2,0.5,0.6\n")
    loss, accuracy = joint.draw(read_curves(build_table(read(folder)))).axes
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")
    low, high = loss.get_ylim()
    assert low < 0.5
    assert high > 9000


def test_nothing_to_draw_or_no_place_for_it_is_said(workdir: Path) -> None:
    with pytest.raises(UserError, match="No run has epochs in its metrics.csv to draw"):
        joint.save([], workdir / "a.png")
    (workdir / "taken.png").mkdir()
    with pytest.raises(UserError, match="Cannot write .*taken.png"):
        joint.save(make(workdir, 1, 1), workdir / "taken.png")


def test_matplotlib_is_imported_for_a_figure_only() -> None:
    code = (
        "import sys; from fmnist import report;"
        "from fmnist.compare import formats, histories, page;"
        "print([m for m in ('matplotlib', 'torch', 'numpy', 'hydra') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
