"""Draw what a run saw and learned: numpy arrays in, matplotlib figures out.

Without pyplot: no display, no global state. A user's matplotlibrc is ignored.
"""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # (N, 1, 28, 28) or (N, 28, 28)
Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]  # probs (N, K) in 0..1; nan, of a diverged network, counts as 0
Names = Sequence[str]
Rows = Sequence[Mapping[str, float]]

# Okabe and Ito, "Color Universal Design", 2008, https://jfly.uni-koeln.de/color/
BLUE, SKY_BLUE, VERMILLION = "#0072B2", "#56B4E9", "#D55E00"
DARK, PALE = "#444444", "#BBBBBB"
LOOKS: dict[str, dict[str, Any]] = {
    "train": {"color": BLUE, "linestyle": (0, (4, 1.5)), "marker": "o", "ms": 4},
    "val": {"color": VERMILLION, "linestyle": "-", "marker": "s", "ms": 4, "mfc": "white"},
}
DPI = 120
_RC: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.07,  # inches
    "figure.constrained_layout.w_pad": 0.07,
    "font.size": 9,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "text.parse_math": False,  # a class name may hold a dollar sign
}
styled = style.context(("default", _RC))


@styled
def samples(images: Images, labels: Ints, class_names: Names) -> Figure:
    """Show the first 25 images with their class names."""
    check(len(class_names), labels, images=images)
    figure, axes, corners = _draw_images(images[:25], 5, (38, 40), "Images and their classes")
    for (x, y), label in zip(corners, labels, strict=False):
        axes.text(x + 14, y + 29.5, class_names[label], ha="center", va="top")
    return figure


@styled
def augmented(
    images: Images, labels: Ints, views: Images, shares: Floats, class_names: Names, caption: str
) -> Figure:
    """Show images, a row each, as they are and as the network sees them in the first epochs.

    views (N, E, 28, 28); shares (N, E, K) are the targets: where a class other than the label has a
    share, it is written below the view. `caption` is wrapped.
    """
    check(len(class_names), labels, images=images)
    num_rows, num_views = views.shape[:2]
    others = shares.copy()
    others[np.arange(num_rows), :, labels] = 0
    if others.any():
        caption += " Below: another class's share of the target."
    lines = textwrap.wrap(caption, 14 * (num_views + 1))
    cells = np.concatenate([images.reshape(-1, 1, 28, 28), views], axis=1)
    title, margin = "Training images as the network sees them", (9 + 6 * len(lines), 34)
    pitch = (38 if others.any() else 33, 32)
    figure, axes, corners = _draw_images(cells, num_views + 1, pitch, title, margin)
    axes.text(0, 0, "\n".join(lines), va="top", linespacing=1.25, in_layout=False)
    for (x, y), label in zip(corners[:: num_views + 1], labels, strict=True):
        axes.text(x - 3, y + 14, class_names[label], ha="right", va="center")
    headings = ["as it is", *(f"epoch {i + 1}" for i in range(num_views))]
    for (x, y), heading in zip(corners, headings, strict=False):
        axes.text(x + 14, y - 1.5, heading, ha="center", va="bottom", fontsize=8)
    for i, j in np.argwhere(others.max(2) > 0):
        (x, y), k = corners[i * (num_views + 1) + 1 + j], others[i, j].argmax()
        share = f"{others[i, j, k]:.0%}" if others[i, j, k] >= 0.005 else "<1%"
        axes.text(x + 14, y + 29.5, f"{share} {class_names[k]}", ha="center", va="top", fontsize=6)
    return figure


@styled
def curves(rows: Rows, *, best_epoch: int | None = None) -> Figure:
    """Draw loss and accuracy (fractions of 1) over epochs, counted from 1.

    A row holds `epoch` and any of `train/loss`, `train/acc`, `val/loss`, `val/acc`; a value that is
    not finite leaves a gap and a cross on the epoch axis.
    """
    epochs = [row["epoch"] for row in rows]
    if not epochs or min(np.diff([0, *epochs])) <= 0:
        raise ValueError(f"rows must hold epochs that increase from 1, got {epochs}.")
    if best_epoch is not None and best_epoch not in epochs:
        raise ValueError(f"best_epoch must be an epoch of rows, got {best_epoch!r}.")
    figure = Figure((8, 3.3), DPI, layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, key, title in zip(panels, ("loss", "acc"), ("Loss", "Accuracy (%)"), strict=True):
        axes.set(title=title, xlabel="Epoch", xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        axes.grid(axis="y", color=PALE, linewidth=0.5)
        _draw_splits(axes, rows, key, best_epoch)
    lines = {line.get_label(): line for axes in panels for line in axes.lines}
    shown = [name for name in (*LOOKS, f"best epoch {best_epoch}", "not finite") if name in lines]
    figure.legend([lines[name] for name in shown], shown, loc="outside upper left", ncols=4)
    return figure


def _draw_splits(axes: Axes, rows: Rows, key: str, best: Any) -> None:
    unit, note = (100 if key == "acc" else 1), ""
    for split, look in LOOKS.items():
        points = [(row["epoch"], row[name]) for row in rows if (name := f"{split}/{key}") in row]
        if not points:
            continue
        x, y = np.array(points, np.float64).T
        bad = ~(np.abs(y) < 1e38)  # beyond float32 the margins of an axis overflow
        y = np.where(bad, np.nan, y * unit)
        axes.plot(x, y, label=split, markevery=max(1, len(x) // 20), **look)
        if bad.any():
            foot: Any = axes.get_xaxis_transform()
            axes.plot(x[bad], 0 * x[bad], "kx", transform=foot, clip_on=False, label="not finite")
        if best in x:
            value = y[x == best][0]
            note = f"{split} {percent(value / 100) if key == 'acc' else f'{value:.3g}'}"
    if note:
        axes.axvline(best, color=DARK, linewidth=1, linestyle=":", zorder=0)
        axes.plot(best, value, "ko:", mfc="none", ms=10, lw=1, label=f"best epoch {best}")
        axes.set_title(f"{note} at epoch {best}", loc="right", fontweight="normal")
    low, top = axes.dataLim.intervaly
    if key == "loss" and 0 < 1000 * low < top:  # it exploded
        axes.set_yscale("log")
    if axes.get_yscale() == "log" or not 1e-3 < top < 1e5:
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)


@styled
def predictions(images: Images, labels: Ints, probs: Floats, class_names: Names) -> Figure:
    """Show the first 15 images, each with its label and its three likeliest classes."""
    probs = check(len(class_names), labels, images=images, probs=probs)
    num_right = np.count_nonzero(probs[:15].argmax(1) == labels[:15])
    title = f"The first {len(images[:15])} images: {num_right} predictions correct"
    return _draw_outputs(images[:15], labels[:15], probs[:15], class_names, title)


@styled
def mistakes(images: Images, labels: Ints, probs: Floats, class_names: Names) -> Figure:
    """Show the 15 most confident wrong predictions, sorted; arguments as for `predictions`."""
    probs = check(len(class_names), labels, images=images, probs=probs)
    wrong = np.flatnonzero(probs.argmax(1) != labels)
    worst = wrong[np.argsort(-probs[wrong].max(1), kind="stable")][:15]
    title = f"{len(wrong):,} of {len(images):,} predictions wrong"
    title += "; the 15 most confident" if len(wrong) > 15 else ""
    return _draw_outputs(images[worst], labels[worst], probs[worst], class_names, title)


def _draw_outputs(images: Images, labels: Ints, probs: Floats, names: Names, title: str) -> Figure:
    """Draw each image beside its verdict, its label and bars of its three likeliest classes."""
    figure, axes, corners = _draw_images(images, 3, (36, 90), title)
    for (x, y), label, shares in zip(corners, labels, probs, strict=True):
        top = np.argsort(-shares, kind="stable")[:3]
        mark, color = ("✓", BLUE) if top[0] == label else ("✗", VERMILLION)
        if top[0] != label:
            axes.add_patch(Rectangle((x, y), 28, 28, fill=False, edgecolor=color, linewidth=2))
        axes.text(x + 31, y - 0.5, f"{mark} {names[top[0]]}", va="top", fontweight="bold")
        axes.text(x + 31, y + 5.5, f"true: {names[label]}", va="top", fontsize=8)
        rows = y + 15 + 5.3 * np.arange(len(top))
        axes.barh(rows, 14 * shares[top], 3.5, x + 55, color=[color, PALE, PALE][: len(top)])
        for row, index, share in zip(rows, top, shares[top], strict=True):
            axes.text(x + 54, row, names[index], ha="right", va="center_baseline", fontsize=8)
            axes.text(x + 56 + 14 * share, row, percent(share), va="center_baseline", fontsize=8)
    return figure


def _draw_images(
    images: Images,
    columns: int,
    pitch: tuple[int, int],
    title: str,
    margin: tuple[int, int] = (0, 0),
) -> tuple[Figure, Axes, NDArray[np.int64]]:
    """Lay images out in cells of `pitch` (height, width), in image pixels of 1/36 inch.

    `margin` is free above and to the left of them. All in one axes, for speed. Returns also the
    images' upper left corners (x, y) in its units.
    """
    images = images.reshape(-1, 28, 28)
    rows = -(-len(images) // columns)
    height, width = margin[0] + max(1, pitch[0] * rows - 3), margin[1] + pitch[1] * columns
    grid = np.indices((rows, columns)).reshape(2, -1)[::-1, : len(images)].T
    corners = grid * pitch[::-1] + [(pitch[1] - 28) // 2 if pitch[1] < 56 else 1, 1] + margin[::-1]
    figure = Figure((width / 36 + 0.14, height / 36 + 0.4), DPI, layout="constrained")
    axes = figure.subplots()
    canvas = np.zeros((height, width), np.uint8)
    for (x, y), image in zip(corners, images, strict=True):
        canvas[y : y + 28, x : x + 28] = image
        axes.add_patch(Rectangle((x, y), 28, 28, fill=False, edgecolor=PALE))
    axes.imshow(canvas, cmap="gray_r", vmin=0, vmax=255, extent=(0, width, height, 0))
    axes.set_axis_off()
    axes.set(autoscale_on=False, title=title)
    return figure, axes, corners


@styled
def save(figure: Figure, path: Path) -> None:
    """Write a PNG, the same bytes each time; at any moment `path` holds the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@styled
def to_array(figure: Figure) -> NDArray[np.uint8]:
    """Render to RGB, (H, W, 3)."""
    canvas: Any = FigureCanvasAgg(figure)  # its methods have no types (matplotlib 3.11)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def check(num_classes: int, labels: Ints, **others: NDArray[Any]) -> NDArray[np.float64]:
    """Raise ValueError unless each array is as its name demands; return `probs` without nan."""
    n, k = len(labels), num_classes
    integers = ("bhilqBHILQ", {(n,)}, k - 1, "integers (N,) in 0..K-1")
    rules: dict[str, tuple[str, set[tuple[int, ...]], float, str]] = {
        "images": ("B", {(n, 28, 28), (n, 1, 28, 28)}, 255, "uint8 (N, 1, 28, 28) or (N, 28, 28)"),
        "probs": ("efd", {(n, k)}, 1.001, "floats (N, K) in 0..1"),
    }
    for name, array in {**others, "labels": labels}.items():
        kinds, shapes, highest, rule = rules.get(name, integers)
        right = array.dtype.char in kinds and array.shape in shapes and array.size
        if not right or (array < 0).any() or (array > highest).any():
            got = f"{array.dtype} {array.shape}"
            got += f" in {array.min():.4g}..{array.max():.4g}" if array.size else ""
            raise ValueError(f"{name} must be {rule}, N > 0, got {got} for N = {n}, K = {k}.")
    return np.nan_to_num(others.get("probs", np.zeros(0)).astype(np.float64), nan=0)


def percent(fraction: float) -> str:
    """Format with one decimal, where 100.0% and 0.0% mean exactly that."""
    if 0.9995 <= fraction < 1:
        return ">99.9%"
    return "<0.1%" if 0 < fraction < 0.0005 else f"{100 * fraction:.1f}%"
