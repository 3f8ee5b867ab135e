"""A small stand-in for Fashion-MNIST with ten classes that a network can tell apart in seconds.

`python tests/small.py FOLDER SCRIPT [ARGUMENTS]` runs one of the project's scripts on it: the
checksums are replaced in that process, so that the shipped program needs no way around them.
"""

import hashlib
import os
import runpy
import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NUM_TRAIN, NUM_TEST = 600, 200


def make_images(num_images: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images (N, 28, 28), a bright bar per class on noise, and labels (N,), balanced."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num_images) % 10).astype(np.uint8)
    images = rng.integers(0, 60, (num_images, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        top = 2 + int(label) * 2
        image[top : top + 4, 4:24] += 150
    return images, labels


def idx(array: NDArray[np.uint8]) -> bytes:
    """Encode uint8 data as the idx format: magic number, sizes, values."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def write_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, number, seed in (("train", NUM_TRAIN, 1), ("t10k", NUM_TEST, 2)):
        images, labels = make_images(number, seed)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))


def checksums(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("*-ubyte"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def run_script(folder: Path, words: list[str]) -> None:
    """Run the script `words[0]` in this process, with the small data set for Fashion-MNIST."""
    from fmnist import follower, sources, team

    team.FOLLOWER[:] = [__file__, str(folder), str(follower.__file__)]
    sources.FILES.clear()
    sources.FILES.update(checksums(folder))
    os.environ["FMNIST_SYSTEM_DIR"] = str(folder)
    sys.argv = words
    sys.path[0] = str(Path(words[0]).parent)
    runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    run_script(Path(sys.argv[1]), sys.argv[2:])
