"""The ground a thing lies on: its colour along the picture's border, its lighting and its noise."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.float32]  # (H, W), 0 = black, 1 = white

WIDTH = 0.02  # of the border that is looked at, as a share of the shorter side
TOLERANCE = 0.04  # how far from the ground's level a pixel of the ground may be
MAX_PIXELS = 4000  # of the border; more would not change a median
CORNER = 0.12  # size of a corner, as a share of half a side
CLEAN = 0.3  # of the border in pure black or white: nothing needs to be estimated
FLAT_BONUS = 1.05  # an even ground is believed unless a slope explains 5 % more of the border


class Ground(NamedTuple):
    """What the ground is, where it is hidden too."""

    level: Grey
    noise: float  # standard deviation


def estimate(grey: Grey) -> Ground:
    """Estimate a ground of one level or of a linear slope from the border.

    Robust: things often touch the border, so a level must explain only more of it than any other.
    """
    x, y, values = _border(grey)
    share, level = max((float((values == level).mean()), level) for level in (0, 1))
    if share > CLEAN:
        return Ground(np.full_like(grey, level), 0.0)
    basis = np.stack([np.ones_like(x), x, y], 1)
    tries = [_mode(values), *_slopes(x, y, values)]
    support = [(np.abs(basis @ t - values) < TOLERANCE).mean() for t in tries]
    support[0] *= FLAT_BONUS
    best = int(np.argmax(support))
    plane = tries[best]
    for _ in range(3):
        near = np.abs(basis @ plane - values) < TOLERANCE
        if near.sum() < len(plane):
            break
        if best == 0:
            plane = np.array([np.median(values[near]), 0, 0])
        else:
            plane = np.linalg.lstsq(basis[near], values[near], rcond=None)[0]
    errors = np.abs(basis @ plane - values)
    near = errors < TOLERANCE
    # The median deviation: a clean picture has no noise, though shadows touch its border.
    noise = 1.4826 * float(np.median(errors[near])) if near.any() else 0.0
    rows, columns = (_positions(n) for n in grey.shape)
    level = plane[0] + plane[1] * columns[None] + plane[2] * rows[:, None]
    return Ground(level.astype(np.float32), noise)


def border(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which pixels of a picture (H, W) lie along its border."""
    width = max(1, round(min(shape) * WIDTH))
    is_border = np.ones(shape, bool)
    is_border[width:-width, width:-width] = False
    return is_border


def _border(grey: Grey) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y in -1..1 and the value of pixels along the border."""
    rows, columns = np.nonzero(border(grey.shape))
    step = max(1, len(rows) // MAX_PIXELS)
    rows, columns = rows[::step], columns[::step]
    y, x = (_positions(n) for n in grey.shape)
    return x[columns], y[rows], grey[rows, columns].astype(np.float64)


def _positions(number: int) -> NDArray[np.float64]:
    return 2 * (np.arange(number) + 0.5) / number - 1


def _mode(values: NDArray[np.float64]) -> NDArray[np.float64]:
    counts, edges = np.histogram(values, 64, (0, 1))
    best = int(np.convolve(counts, [1, 1, 1], "same").argmax())
    low, high = edges[max(best - 1, 0)], edges[min(best + 2, 64)]
    return np.array([np.median(values[(values >= low) & (values <= high)]), 0, 0])


def _slopes(
    x: NDArray[np.float64], y: NDArray[np.float64], values: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Return the planes through three of the four corners, for each corner that is left out."""
    points = []
    for side in (-1, 1):
        for end in (-1, 1):
            near = (np.abs(x - side) < CORNER) & (np.abs(y - end) < CORNER)
            if near.any():
                points.append((1.0, x[near].mean(), y[near].mean(), np.median(values[near])))
    if len(points) < 4:
        return []
    table = np.array(points)
    threes = [np.delete(table, left_out, axis=0) for left_out in range(4)]
    return [np.linalg.solve(three[:, :3], three[:, 3]) for three in threes]
