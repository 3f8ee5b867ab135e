"""Picture files of any kind -> colours and transparency as numbers. Torch-free."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fmnist.errors import UserError

# Only what is a picture of pixels: never EPS or PDF, which are programs.
FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "DIB"),
    *("PPM", "AVIF", "JPEG2000", "ICO", "TGA", "PCX"),
)
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".tif", ".tiff"),
    *(".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".ico", ".tga"),
    ".pcx",
)
UNKNOWN = "no picture of a known kind: PNG, JPEG, WebP, GIF, TIFF, BMP, AVIF and alike."
WORK_PX = 448  # longest edge to work on, up to twice as much; a thing keeps many times 28 pixels
MAX_PIXELS = 178_000_000  # more are refused, as Pillow does: a gigabyte or two
ORIENTATION = 0x0112  # Exif 2.3, tag 274
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Pixels(NamedTuple):
    """A picture upright and at working size: values in 0..1; `alpha` is None where all is solid."""

    rgb: NDArray[np.float32]  # (H, W, 3)
    alpha: NDArray[np.float32] | None  # (H, W), 0 = transparent


def read(path: Path) -> Pixels:
    """Decode the first frame of a file; raises UserError for whatever is no whole picture."""
    image = load(path)
    try:
        return decode(image)
    except Exception as error:  # metadata and modes are only looked at here
        raise _damaged(error) from None


def load(path: Path) -> Image.Image:
    """Open a file and read its first frame at no more than needed; raises UserError."""
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            raise UserError("a folder." if path.is_dir() else "no regular file.")
        with Image.open(path, formats=_formats()) as image:
            _check_size(image)
            image.draft(None, (2 * WORK_PX, 2 * WORK_PX))  # a JPEG can be decoded small
            image.load()
            return image.copy() if image.fp else image
    except UserError:
        raise
    except UnidentifiedImageError:
        is_empty = path.stat().st_size == 0
        raise UserError("empty file." if is_empty else UNKNOWN) from None
    except Image.DecompressionBombError:
        raise UserError(_too_large()) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}") from None
    except Exception as error:  # decoders raise a dozen types for damaged files
        raise _damaged(error) from None


def _damaged(error: Exception) -> UserError:
    return UserError(f"damaged picture: {error or type(error).__name__}")


def decode(image: Image.Image) -> Pixels:
    """Turn an opened picture of any mode upright and into numbers, reduced to working size."""
    turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    is_deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if is_deep:
        image = Image.fromarray(_scaled(np.asarray(image)))
    elif image.mode == "LAB":
        image = image.getchannel("L")  # its lightness
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    factor = max(1, max(image.size) // WORK_PX)
    if factor > 1 and image.mode == "RGBA":  # what is transparent must not lend its colour
        image = image.convert("RGBa").reduce(factor).convert("RGBA")
    elif factor > 1:
        image = image.reduce(factor)
    image = image if turn is None else image.transpose(turn)
    alpha: NDArray[np.float32] | None = None
    if image.mode == "RGBA":
        alpha = np.asarray(image.getchannel("A"), np.float32) / np.float32(255)
        image = image.convert("RGB")
    values = np.asarray(image, np.float32) / np.float32(1 if is_deep else 255)
    rgb = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
    return Pixels(rgb, alpha if alpha is not None and alpha.min() < 1 else None)


@functools.cache
def _formats() -> list[str]:
    """Return those of FORMATS that this build of Pillow knows; one that it does not would raise."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _scaled(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """Bring deep pixels to 0..1 by the range they need: 1, 8 or 16 bits, or their own."""
    numbers = values.astype(np.float32)
    np.nan_to_num(numbers, copy=False, posinf=0.0, neginf=0.0)
    low, high = float(numbers.min()), float(numbers.max())
    if low < 0:
        numbers -= low
        high -= low
    numbers /= next((limit for limit in (1, 255, 65535) if high <= limit), high)
    return numbers


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{_too_large()[:-1]}, it has {image.width} x {image.height}.")


def _too_large() -> str:
    return f"too large: at most {MAX_PIXELS // 1_000_000} million pixels are read."
