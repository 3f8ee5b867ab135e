"""Draw pictures beside what the network saw of them."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fmnist import answers, figures
from fmnist.errors import UserError, clean
from fmnist.figures import BLUE, DARK, DPI, PALE, SKY_BLUE, VERMILLION, styled
from fmnist.prediction import Answer

COLUMNS = 3
SIDE = 100  # of a picture, in units of 1/72 inch
CELL = (148, 232)  # height and width of a cell
MAX_NAME = 34  # characters of a file name that fit
CHECKER = 8  # pixels of a square behind what is transparent


def save(shown: Sequence[Answer], total: int, path: Path) -> None:
    """Draw the first answers of `total` and write a PNG; raises UserError where it cannot be."""
    try:
        figures.save(draw(shown, total), path)
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror}). Name another file.") from None


@styled
def draw(shown: Sequence[Answer], total: int) -> Figure:
    """Draw each picture, what the network saw, and what it says; `shown` carry thumbnails."""
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    height, width = CELL[0] * rows, CELL[1] * columns
    figure = Figure((width / 72 + 0.1, height / 72 + 0.5), DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    some = f"the first {len(shown)} of {total:,}" if total > len(shown) else f"{total:,}"
    title = f"Pictures and what the network saw of them: {some}"
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", autoscale_on=False)
    axes.set_title(title if columns > 1 else "What the network saw")
    for place, answer in enumerate(shown):
        row, column = divmod(place, columns)
        _draw_answer(axes, answer, column * CELL[1] + 2, row * CELL[0] + 2)
    return figure


def _draw_answer(axes: Axes, answer: Answer, x: float, y: float) -> None:
    axes.text(x, y, _short(answer.file.name), va="top", fontsize=8, color=DARK)
    y += 14
    if answer.thumbnail is None or answer.image is None:
        text = f"\N{BALLOT X} {clean(answer.error or '')}"
        axes.text(x, y + 4, _wrapped(text), va="top", fontsize=8, color=VERMILLION)
        return
    _draw_image(axes, _on_checker(answer.thumbnail), x, y)
    _draw_image(axes, answer.image, x + SIDE + 8, y, cmap="gray", vmin=0, vmax=255)
    color = VERMILLION if answer.unlike else BLUE
    if answer.unlike:
        frame = Rectangle((x + SIDE + 8, y), SIDE, SIDE, fill=False, edgecolor=color, linewidth=2)
        axes.add_patch(frame)
    label, prob = answer.top[0]
    y += SIDE + 4
    axes.text(x, y, f"{label} {prob:.1%}", va="top", fontweight="bold")
    axes.barh(y + 16, 2 * SIDE + 8, 3, x, color=PALE)
    axes.barh(y + 16, (2 * SIDE + 8) * prob, 3, x, color=SKY_BLUE)
    if answer.unlike:
        right = x + 2 * SIDE + 8
        remark = "nothing found" if answer.is_empty else answers.UNLIKE
        axes.text(right, y + 1, remark, ha="right", va="top", fontsize=8, color=color)


def _draw_image(axes: Axes, pixels: NDArray[Any], x: float, y: float, **look: Any) -> None:
    """Draw into a square of SIDE at x, y, centred and in its own shape."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    left, top = x + (SIDE - width * scale) / 2, y + (SIDE - height * scale) / 2
    extent = (left, left + width * scale, top + height * scale, top)
    how = "nearest" if max(height, width) <= SIDE else "antialiased"
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(pixels, extent=extent, interpolation=how, **look)
    axes.set(xlim=limits[0], ylim=limits[1])
    size = width * scale, height * scale
    axes.add_patch(Rectangle((left, top), *size, fill=False, edgecolor=PALE, linewidth=0.7))


def _on_checker(rgba: NDArray[np.float32]) -> NDArray[np.float32]:
    """Show what is transparent as a chequered ground."""
    rows, columns = np.indices(rgba.shape[:2]) // CHECKER
    ground = np.where((rows + columns) % 2, 0.8, 1.0)[..., None]
    alpha = rgba[..., 3:]
    return (rgba[..., :3] * alpha + ground * (1 - alpha)).astype(np.float32)


def _short(name: str) -> str:
    name = clean(name.replace("\n", " "))
    half = MAX_NAME // 2
    return name if len(name) <= MAX_NAME else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 40))
