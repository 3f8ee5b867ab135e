"""What a trained network says of people's own picture files. Torch-free until it predicts."""

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmnist import decoding, likeness, pictures
from fmnist.errors import UserError
from fmnist.pictures import Steps

if TYPE_CHECKING:
    from fmnist.model import Model

BATCH_SIZE = 256  # files whose pictures are in memory at once, twice
NUM_THREADS = 4  # Pillow decodes without Python's lock
THUMBNAIL_PX = 320
NUM_TOP = 3
NUM_SHOWN = 24  # in a preview


class Answer(NamedTuple):
    """What came of one file: the likeliest classes with their probabilities, or an error."""

    file: Path
    top: tuple[tuple[str, float], ...] = ()  # of NUM_TOP, the likeliest first
    unlike: bool = False  # the training data
    error: str | None = None
    image: NDArray[np.uint8] | None = None  # (28, 28), what the network saw
    thumbnail: NDArray[np.float32] | None = None  # (h, w, 4), RGBA in 0..1; only where asked for

    @property
    def is_empty(self) -> bool:
        """Say whether nothing was found in the picture."""
        return self.image is not None and not self.image.any()


class _Prepared(NamedTuple):
    file: Path
    image: NDArray[np.uint8] | None = None
    thumbnail: NDArray[np.float32] | None = None
    error: str | None = None


def find_files(words: Iterable[str]) -> tuple[list[Path], int]:
    """Return the files that paths, folders and patterns (`**` too) name, and how many were skipped.

    Folders are searched to any depth for what is called like a picture, in sorted order, without
    what is hidden; one that cannot be read is returned itself. What was named itself is returned
    whatever it is, each file once.
    """
    files: dict[str, Path] = {}
    num_skipped = 0
    for word in words:
        named = [word]
        if glob.has_magic(word) and not os.path.lexists(word):
            named = sorted(_expand(word)) or [word]
        for name in named:
            is_folder = os.path.isdir(name)  # noqa: PTH112 - Path's raises for a name too long
            found, others = _search(name) if is_folder else ([Path(name)], 0)
            num_skipped += others
            for path in found:
                files.setdefault(os.path.realpath(path), path)
    return list(files.values()), num_skipped


def _expand(pattern: str) -> Iterator[str]:
    """Give what a pattern names; `**` follows no links, which may lead in circles."""
    parts = pattern.split("/")
    if "**" not in parts:
        yield from glob.iglob(pattern)  # noqa: PTH207 - absolute too
        return
    place = parts.index("**")
    start, end = "".join(f"{part}/" for part in parts[:place]), "/".join(parts[place + 1 :])
    for top in glob.iglob(start) if start else ["."]:  # noqa: PTH207
        if not end:
            yield top  # a folder is searched to any depth
            continue
        for folder, _ in _walk(top):
            inside = os.path.join(folder, "").removeprefix("" if start else "./")  # noqa: PTH118
            yield from _expand(glob.escape(inside) + end)


def _search(folder: str) -> tuple[list[Path], int]:
    found: list[Path] = []
    num_skipped = 0
    for place, names in _walk(folder):
        if names is None:
            found.append(Path(place))
            continue
        for name in names:
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - of thousands of names
            if suffix in decoding.SUFFIXES and not name.startswith("."):
                found.append(Path(place, name))
            else:
                num_skipped += 1
    return found, num_skipped


def _walk(top: str) -> Iterator[tuple[str, list[str] | None]]:
    """Yield each folder that is not hidden and the files in it, sorted; None: it cannot be read.

    Links to folders are not followed; any depth, which os.walk of Python 3.11 has not.
    """
    waiting = [top]
    while waiting:
        place = waiting.pop()
        folders: list[os.DirEntry[str]] = []
        files: list[os.DirEntry[str]] = []
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else files).append(entry)
        except OSError:
            yield place, None
            continue
        yield place, sorted(entry.name for entry in files)
        own = [e.path for e in folders if not (e.name.startswith(".") or e.is_symlink())]
        waiting.extend(sorted(own, reverse=True))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def answer(
    model: "Model",
    files: Sequence[Path],
    steps: Steps = pictures.ALL_STEPS,
    *,
    has_thumbnails: bool = False,
) -> Iterator[Answer]:
    """Yield what `model` says of each file, in their order; a bad file costs only its own answer.

    With `has_thumbnails` the first NUM_SHOWN answers carry a thumbnail of the original. Memory is
    bounded by two batches. Raises UserError where the network itself is broken.
    """

    def prepare(numbered: tuple[int, Path]) -> _Prepared:
        return _prepare(numbered[1], steps, has_thumbnails and numbered[0] < NUM_SHOWN)

    pool = ThreadPoolExecutor(min(NUM_THREADS, os.cpu_count() or 1))
    try:
        numbered = iter(enumerate(files))
        coming = [pool.submit(prepare, job) for job in itertools.islice(numbered, BATCH_SIZE)]
        while coming:
            batch = coming  # while the network works on it the next one is decoded
            coming = [pool.submit(prepare, job) for job in itertools.islice(numbered, BATCH_SIZE)]
            yield from _predict(model, [job.result() for job in batch])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _prepare(file: Path, steps: Steps, is_shown: bool) -> _Prepared:
    try:
        pixels = decoding.read(file)
        image = pictures.prepare(pixels, steps)[0]
    except UserError as error:
        return _Prepared(file, error=str(error))
    return _Prepared(file, image, _thumbnail(pixels) if is_shown else None)


def _thumbnail(pixels: decoding.Pixels) -> NDArray[np.float32]:
    alpha = np.ones(pixels.rgb.shape[:2]) if pixels.alpha is None else pixels.alpha
    values = np.rint(np.dstack([pixels.rgb, alpha]) * 255).astype(np.uint8)
    small = Image.fromarray(values)
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return np.asarray(small, np.float32) / np.float32(255)


def _predict(model: "Model", batch: Sequence[_Prepared]) -> Iterator[Answer]:
    images = [each.image for each in batch if each.image is not None]
    stack = np.stack(images) if images else np.zeros((0, 28, 28), np.uint8)
    probs = model.predict(stack)
    rows = iter(zip(probs, likeness.score(stack) > 1, strict=True))
    for each in batch:
        if each.image is None:
            yield Answer(each.file, error=each.error)
            continue
        shares, unlike = next(rows)
        best = np.argsort(-shares, kind="stable")[:NUM_TOP]
        top = tuple((model.class_names[k], float(shares[k])) for k in best)
        is_unlike = bool(unlike) or not each.image.any()
        yield Answer(each.file, top, is_unlike, None, each.image, each.thumbnail)
