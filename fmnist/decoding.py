"""Picture files of any kind -> colours and transparency as numbers. Torch-free.

A file may be made to hurt. One picture takes at most 2 GB, and large ones are read one at a
time (tests/test_hostile_pictures.py measures it); 60 seconds, looked at between what a decoder asks
for; and no other program.
"""

import functools
import io
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fmnist.errors import UserError, clean
from fmnist.regular import NotRegularError, open_regular

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
MAX_PIXELS = 89_000_000  # of a picture: from here on Pillow itself warns; 4 bytes each, or more
MAX_JPEG_PIXELS = 178_000_000  # a JPEG is decoded small; Pillow refuses more of any kind
MAX_BYTES = 128 << 20  # of a file
MAX_VALUES = 1_000_000  # of a tag: a TIFF may say that it has millions of strips of one pixel
MAX_EXIF = 65_536  # bytes; a JPEG has no room for more
LARGE_PIXELS, LARGE_BYTES = 12_000_000, 8 << 20  # more are read one at a time
PATIENCE_S = 60.0  # for one file; a few hundred bytes can describe hours of work
TILE_PX = 2048
FARTHEST = 1e38  # of deep pixels: differences of such are still numbers
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


class _Stream(io.BufferedReader):
    """A file whose reading ends in time: decoders ask for it piece by piece.

    It has no number, so that no library maps it into memory: a file that gets shorter meanwhile
    would kill the process.
    """

    deadline = float("inf")

    def read(self, size: int | None = -1, /) -> bytes:
        if time.monotonic() > self.deadline:
            raise UserError(f"takes too long: {PATIENCE_S:.0f} s were not enough to read it.")
        return super().read(size)

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


_ALONE = threading.RLock()  # held while a large picture is in memory


def read(path: Path) -> Pixels:
    """Decode the first frame of a file; raises UserError for whatever is no whole picture."""
    size = 0
    try:
        with open_regular(path) as file, _Stream(file.raw) as stream, ExitStack() as stack:
            size = os.fstat(file.fileno()).st_size
            return _read(stream, size, stack)
    except UserError:
        raise
    except NotRegularError:
        raise UserError("no regular file.") from None
    except IsADirectoryError:
        raise UserError(_describe_folder(path)) from None
    except UnidentifiedImageError:
        raise UserError(UNKNOWN if size else "empty file.") from None
    except Image.DecompressionBombError:
        raise UserError(_too_large(MAX_PIXELS)) from None
    except MemoryError:
        raise UserError("too large for the memory that is free.") from None
    except OSError as error:
        raise UserError(f"cannot be read: {clean(error.strerror or str(error))}") from None
    except Exception as error:  # decoders raise a dozen types for damaged files
        raise UserError(f"damaged picture: {clean(str(error) or type(error).__name__)}") from None


def _read(file: _Stream, size: int, stack: ExitStack) -> Pixels:
    """Decode an open file; what it needs is given back at the end of `stack`."""
    if size > MAX_BYTES:
        raise UserError(f"too large: files of at most {MAX_BYTES >> 20} MB are read.")
    if size > LARGE_BYTES:
        stack.enter_context(_ALONE)
    file.deadline = time.monotonic() + PATIENCE_S
    _check_directory(file)
    image = stack.enter_context(Image.open(file, formats=_formats()))
    limit = MAX_JPEG_PIXELS if image.format in ("JPEG", "MPO") else MAX_PIXELS
    pixels = image.width * image.height
    if pixels > limit:
        raise UserError(f"{_too_large(limit)[:-1]}, it has {image.width} x {image.height}.")
    image.draft(None, (2 * WORK_PX, 2 * WORK_PX))  # a JPEG can be decoded small
    if image.info.get("progressive"):  # all of it is in memory at once
        image.decodermaxblock = 4096  # so that the time is looked at after a few scans
    else:
        pixels = image.width * image.height
    if pixels > LARGE_PIXELS:
        stack.enter_context(_ALONE)
        file.deadline = time.monotonic() + PATIENCE_S  # waiting does not count
    image.load()
    return decode(image)


def _check_directory(file: _Stream) -> None:
    """Refuse a TIFF whose first directory has a tag of millions of numbers; rewinds the file."""
    head = file.read(16).ljust(16, b"\0")
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order:
        is_big = head[2] == 43  # as Pillow has it
        (start,) = struct.unpack_from(order + ("Q" if is_big else "I"), head, 8 if is_big else 4)
        file.seek(min(start, MAX_BYTES))
        number = int.from_bytes(file.read(8 if is_big else 2), "big" if order == ">" else "little")
        entry = struct.Struct(order + ("HHQ8x" if is_big else "HHI4x"))
        block = file.read(entry.size * min(number, MAX_VALUES))
        block = block[: len(block) // entry.size * entry.size]
        for _, kind, count in entry.iter_unpack(block):
            if count > MAX_VALUES and kind not in (1, 2, 7):  # those are bytes
                raise UserError(f"damaged picture: a tag of {count:,} numbers.")
    file.seek(0)


def decode(image: Image.Image) -> Pixels:
    """Turn an opened picture of any mode upright and into numbers, reduced to working size."""
    turn = _turn(image)
    factor = max(1, max(image.size) // WORK_PX)
    is_deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    change = _scale(image, factor) if is_deep else _simplify
    image = _shrink(image, change, factor) if factor > 1 else change(image)
    image = image if turn is None else image.transpose(turn)
    alpha: NDArray[np.float32] | None = None
    if image.mode == "RGBA":
        alpha = np.asarray(image.getchannel("A"), np.float32) / np.float32(255)
        image = image.convert("RGB")
    values = np.asarray(image, np.float32) / np.float32(1 if is_deep else 255)
    rgb = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
    return Pixels(rgb, alpha if alpha is not None and alpha.min() < 1 else None)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Say how to bring a picture upright; where its Exif is broken, the pixels still are not."""
    if len(image.info.get("exif", b"")) > MAX_EXIF:
        return None
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises a dozen types
        return None


def _simplify(image: Image.Image) -> Image.Image:
    """Bring a picture of 8 bits into mode L, RGB or RGBA."""
    if image.mode == "LAB":
        return image.getchannel("L")  # its lightness
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _scale(image: Image.Image, factor: int) -> Callable[[Image.Image], Image.Image]:
    """Return what brings deep pixels to 0..1 by the range they need: 1, 8 or 16 bits, or their own.

    What it returns takes all of `image` or a part of it.
    """
    low, high = 0.0, float("-inf")
    for _, _, part in _tiles(image, factor):
        numbers = _numbers(part)
        low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
    high -= low
    limit = next((limit for limit in (1, 255, 65535) if high <= limit), high)
    return lambda part: Image.fromarray((_numbers(part) - np.float32(low)) / np.float32(limit))


def _numbers(image: Image.Image) -> NDArray[np.float32]:
    numbers = np.asarray(image).astype(np.float32)
    np.nan_to_num(numbers, copy=False, posinf=0.0, neginf=0.0)
    return np.clip(numbers, -FARTHEST, FARTHEST)


def _tiles(image: Image.Image, factor: int) -> Iterator[tuple[int, int, Image.Image]]:
    """Yield the parts of a picture, each with its left and top, which `factor` divides."""
    side = factor * max(1, TILE_PX // factor)
    for top in range(0, image.height, side):
        for left in range(0, image.width, side):
            right, bottom = min(left + side, image.width), min(top + side, image.height)
            yield left, top, image.crop((left, top, right, bottom))


def _shrink(
    image: Image.Image, change: Callable[[Image.Image], Image.Image], factor: int
) -> Image.Image:
    """Change and reduce a picture part by part, so that a large one is in memory only once."""
    size = (-(-image.width // factor), -(-image.height // factor))
    small: Image.Image | None = None
    for left, top, part in _tiles(image, factor):
        reduced = _reduce(change(part), factor)
        if small is None:
            small = Image.new(reduced.mode, size)
        small.paste(reduced, (left // factor, top // factor))
    assert small is not None
    return small


def _reduce(image: Image.Image, factor: int) -> Image.Image:
    if image.mode == "RGBA":  # what is transparent must not lend its colour
        return image.convert("RGBa").reduce(factor).convert("RGBA")
    return image.reduce(factor)


@functools.cache
def _formats() -> list[str]:
    """Return those of FORMATS that this build of Pillow knows; one that it does not would raise."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _describe_folder(path: Path) -> str:
    try:
        os.scandir(path).close()
    except OSError as error:
        return f"a folder that cannot be read: {error.strerror}."
    return "a folder."


def _too_large(limit: int) -> str:
    return f"too large: at most {limit // 1_000_000} million pixels are read."
