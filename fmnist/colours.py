"""Tell a thing from its ground by colour, and a frame around the picture from both. Torch-free."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fmnist import framing, ground

Colours = NDArray[np.float32]  # (H, W, 3) in 0..1
Mask = NDArray[np.bool_]  # (H, W)

TOLERANCE = 0.04  # of a channel: how far a pixel of the ground may be from its colour
STEPS = 32  # of a channel, to count colours
MIN_SIDE = 16  # pixels of what a frame holds
FRAMED = 0.95  # of the edge of what a frame holds is of another colour than the frame
EVEN = 0.6  # of that edge is of one colour, the ground's
FILLED = 0.05  # of what a frame holds is not its ground
SOFT_EDGE = 0.6  # pixels of 28 in which a thing fades into its ground
OFF_LINE = (0.002, 0.02)  # mean square beside the main axis: at least, and as a share of its own
GRID = 96  # cells to fill holes in


def unframe(rgb: Colours) -> Colours:
    """Return what one or two frames of one colour hold: bars, borders, a mat; or `rgb` itself."""
    for _ in range(2):
        away = _differs(rgb, _of_border(rgb))
        if not away.any():
            return rgb
        rows, columns = (np.flatnonzero(away.any(axis)) for axis in (1, 0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        inner, edge = rgb[box], _edge(away[box])
        if inner.shape == rgb.shape or min(inner.shape[:2]) < MIN_SIDE or edge.mean() < FRAMED:
            return rgb
        thing = _differs(inner, _of_border(inner))
        if 1 - _edge(thing).mean() < EVEN or thing.mean() < FILLED:
            return rgb
        rgb = inner
    return rgb


def are_mixed(rgb: Colours) -> bool:
    """Say whether the thing's colours lie on no line from the ground's: then no grey will do."""
    away = (rgb - _of_border(rgb)).reshape(-1, 3)
    away = away[np.abs(away).max(axis=1) > TOLERANCE]
    away = away[:: max(1, len(away) // 20_000)]
    if len(away) < 3:
        return False
    _, second, first = np.linalg.eigvalsh(away.T @ away / len(away))
    return bool(second > OFF_LINE[0] and second > OFF_LINE[1] * first)


def cut_out(rgb: Colours) -> tuple[NDArray[np.float32], Colours]:
    """Return how much of each pixel the thing covers (H, W), and the picture without its ground.

    The second is premultiplied: in the soft edge the share of the ground's colour is taken away.
    A thing is what differs from the border's colour, holes filled.
    """
    colour = _of_border(rgb)
    away = np.abs(rgb - colour).max(axis=2)
    mask = _fill_holes(away > TOLERANCE)
    cover = mask.astype(np.float32)
    spans = [np.flatnonzero(mask.any(axis)) for axis in (0, 1)]
    side = max(int(np.ptp(span)) + 1 if len(span) else 0 for span in spans)
    width = round(side / 28 * SOFT_EDGE)
    if width >= 1:
        core = np.asarray(_image(mask).filter(ImageFilter.MinFilter(2 * width + 1))) > 0
        near = _image(away).filter(ImageFilter.MaxFilter(2 * width + 1))
        highest = np.maximum(np.asarray(near, np.float32) / 255, TOLERANCE)
        cover = np.where(core, 1, np.where(mask, np.minimum(away / highest, 1), 0))
    lit = np.maximum(rgb - (1 - cover[..., None]) * colour, 0)
    return cover.astype(np.float32), (lit * (cover > 0)[..., None]).astype(np.float32)


def _image(values: NDArray[np.generic]) -> Image.Image:
    return Image.fromarray(np.rint(255 * values.astype(np.float32)).astype(np.uint8))


def _of_border(rgb: Colours) -> NDArray[np.float32]:
    """Return the commonest colour (3,) along the border."""
    pixels = rgb[ground.border(rgb.shape[:2])]
    codes = np.rint(pixels * STEPS).astype(np.int64) @ [1, STEPS + 1, (STEPS + 1) ** 2]
    values, counts = np.unique(codes, return_counts=True)
    commonest: NDArray[np.float32] = np.median(pixels[codes == values[counts.argmax()]], axis=0)
    return commonest


def _differs(rgb: Colours, colour: NDArray[np.float32]) -> Mask:
    away: Mask = np.abs(rgb - colour).max(axis=2) > TOLERANCE
    return away


def _edge(values: Mask) -> Mask:
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def _fill_holes(mask: Mask) -> Mask:
    """Add to `mask` what the border does not reach: the thing's parts of the ground's colour."""
    counts, rows, columns = framing.count_cells(~mask, GRID)
    sizes, _, _ = framing.count_cells(np.ones_like(mask), GRID)
    free = np.pad(2 * counts >= sizes, 1, constant_values=True)
    reached = np.zeros_like(free)
    reached[0] = True
    while True:
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= free
        if np.array_equal(grown, reached):
            break
        reached = grown
    outside = reached[1:-1, 1:-1][rows[:, None], columns]
    is_hole = ~mask & ~outside
    size = 2 * max(1, round(max(mask.shape) / GRID)) + 1
    touched = (
        np.asarray(_image(outside & ~mask).filter(ImageFilter.MaxFilter(size))) > 0
    )  # coarse cells at an edge
    filled: Mask = mask | (is_hole & ~touched)
    return filled
