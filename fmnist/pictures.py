"""People's own pictures -> images as the network knows them. Torch-free.

    from fmnist import pictures
    image = pictures.prepare("shirt.jpg")  # uint8 (1, 28, 28)

Fashion-MNIST was made of photos on a light ground: trimmed, resized to a longer side of 28 pixels,
sharpened, centred, negated and turned grey (Xiao et al. 2017, arXiv:1708.07747, section 2); each
of its images reaches 254 or 255 and rests on 0. The steps here do the same to any picture.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmnist import colours, decoding, framing, ground, likeness
from fmnist.decoding import Pixels
from fmnist.errors import UserError
from fmnist.framing import Ink
from fmnist.ground import Grey

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
COLOURED = 0.5  # share of the variance: with less of it in luma, the colours carry the picture
NOISY = 3.0  # standard deviations of the ground's noise that are no ink
FULL = 0.97  # of the range: brighter than that is not stretched
MIXED = 0.25  # lighter and darker than the ground in such shares: pixels cannot tell what it is
FAINTEST = 0.02  # of transparency or contrast that counts
SOFT = 0.3  # of what is not transparent is half transparent: no edge, the image itself


class Steps(NamedTuple):
    """What is done to a picture; `invert` None = detect whether it is dark on light."""

    invert: bool | None = None
    background: bool = True
    crop: bool = True
    pad: bool = True
    centre: bool = True
    antialias: bool = True
    sharpen: bool = True
    stretch: bool = True


ALL_STEPS = Steps()


class Reading(NamedTuple):
    """A way to see a picture: its ink on a ground of 0, and the ink that is only noise.

    `values` are what the network is to see: the ink, unless the ground is kept.
    """

    ink: Ink
    threshold: float
    values: Ink


def prepare(
    picture: str | Path | Image.Image | Pixels, steps: Steps = ALL_STEPS
) -> NDArray[np.uint8]:
    """Return (1, 28, 28), light on black; all 0 where nothing stands out from the ground.

    What is already 28 x 28, grey and light on black comes out as it is. Where the pixels do not say
    whether the thing is light or dark, the reading that is most like the training data is taken.
    Raises UserError for a file that is no whole picture.
    """
    if isinstance(picture, str | Path):
        path = Path(picture)
        try:
            picture = decoding.read(path)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    elif isinstance(picture, Image.Image):
        picture = decoding.decode(picture)
    images = np.stack([_finish(reading, steps) for reading in _readings(picture, steps)])
    if len(images) == 1:
        return images
    best = int(likeness.score(images).argmin())
    return images[best : best + 1]


def to_grey(rgb: NDArray[np.float32]) -> Grey:
    """Return the luma of (H, W, 3), or the main colour axis where luma hardly tells anything.

    In floating point: a blue picture has 29 levels of luma.
    """
    luma: Grey = rgb @ LUMA
    sample = rgb.reshape(-1, 3)[:: max(1, luma.size // 20_000)]
    if len(sample) < 2 or np.array_equal(rgb[..., 0], rgb[..., 1]):
        return luma
    variances, axes = np.linalg.eigh(np.cov(sample.T))
    if variances[-1] < 1e-6 or np.var(sample @ LUMA) > COLOURED * variances[-1]:
        return luma
    axis = axes[:, -1].astype(np.float32)
    axis = -axis if np.cov(sample @ axis, sample @ LUMA)[0, 1] < 0 else axis  # lighter is more
    low, high = np.minimum(axis, 0).sum(), np.maximum(axis, 0).sum()
    projected: Grey = (rgb @ axis - low) / (high - low)
    return projected


def _readings(picture: Pixels, steps: Steps) -> Iterator[Reading]:
    """Give the ways to see a picture, the likeliest first."""
    if picture.alpha is not None:
        yield from _cut_out(picture.rgb @ LUMA, picture.alpha, steps)
        return
    rgb = colours.unframe(picture.rgb) if steps.crop else picture.rgb
    grey = to_grey(rgb)
    found = ground.estimate(grey)
    difference = grey - found.level
    threshold = NOISY * found.noise
    light, dark = (float(np.maximum(d, 0).sum()) for d in (difference, -difference))
    is_dark = dark > light if steps.invert is None else steps.invert
    ink = -difference if is_dark else difference
    if not steps.background:
        yield Reading(ink, threshold, 1 - grey if is_dark else grey)
        return
    has_colours = threshold < colours.TOLERANCE and colours.are_mixed(rgb)
    if not has_colours:
        yield _cleared(ink, threshold)
    is_mixed = min(light, dark) > MIXED * max(light, dark)
    if steps.invert is None and is_mixed and not has_colours:
        yield _cleared(-ink, threshold)
        yield _cleared((1 - grey) * (np.abs(difference) > ground.TOLERANCE), threshold)
    if has_colours or (is_mixed and threshold < colours.TOLERANCE):
        cover, thing = colours.cut_out(rgb)
        if steps.invert is not True:
            yield _cleared(thing @ LUMA)
        if steps.invert is not False:
            yield _cleared(cover - thing @ LUMA)


def _cleared(ink: Ink, threshold: float = 0.0) -> Reading:
    ink = np.where(ink > threshold, ink, np.float32(0))
    return Reading(ink, threshold, ink)


def _cut_out(grey: Grey, alpha: Grey, steps: Steps) -> Iterator[Reading]:
    """Give the readings of a picture with a mask: light on black and dark on light (a photo).

    Where the mask itself is the image its values are no measure of how much of a pixel is covered.
    """
    seen = alpha > FAINTEST
    is_soft = (alpha[seen] < 1 - FAINTEST).mean() > SOFT if seen.any() else False
    if is_soft and np.ptp(grey[seen]) > FAINTEST:
        alpha = (alpha > 0).astype(np.float32)
    if steps.invert is not True:
        yield _cleared(grey * alpha)
    if steps.invert is not False:
        yield _cleared((1 - grey) * alpha)


def _finish(reading: Reading, steps: Steps) -> NDArray[np.uint8]:
    """Lay the thing of a reading into 28 x 28 pixels of the full range."""
    box = framing.find_box(reading.ink, reading.threshold)
    if box is None:
        return np.zeros((28, 28), np.uint8)
    small = framing.fill(
        reading.values,
        box,
        crop=steps.crop,
        pad=steps.pad,
        centre=steps.centre,
        antialias=steps.antialias,
        sharpen=steps.sharpen,
    )
    small = np.maximum(small, 0)
    top = float(small.max())
    if steps.stretch and 0 < top < FULL:
        small = small / top
    pixels: NDArray[np.uint8] = np.rint(255 * np.minimum(small, 1)).astype(np.uint8)
    return pixels
