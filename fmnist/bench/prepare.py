"""Write what all contestants share: our split as a file, and a data set that is N times as large.

python -m fmnist.bench.prepare --data DIR --split FILE --val-size 5000
python -m fmnist.bench.prepare --data DIR --repeat 10 --to DIR
"""

import argparse
import shutil
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmnist.bench.peer import read_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--val-size", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--to", type=Path)
    args = parser.parse_args()
    if args.split:
        write_split(args.data, args.split, args.val_size)
    if args.to:
        repeat(args.data, args.to, args.repeat)


def write_split(data: Path, path: Path, val_size: int) -> None:
    """Write the indices `train` and `val` of the default split as .npz."""
    import torch

    from fmnist.data import split_indices

    labels = torch.from_numpy(read_images(data, "train")[1].astype(np.int64))
    train, val = split_indices(labels, val_size, split_seed=0)
    np.savez(path, train=train.numpy(), val=val.numpy())


def repeat(data: Path, to: Path, times: int) -> None:
    """Write the training images `times` times in a row, and the test images as they are."""
    raw = to / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in zip(("images-idx3", "labels-idx1"), read_images(data, "train"), strict=True):
        _write_idx(raw / f"train-{name}-ubyte", array, times)
        shutil.copy(data / "FashionMNIST" / "raw" / f"t10k-{name}-ubyte", raw)


def _write_idx(path: Path, array: NDArray[np.uint8], times: int) -> None:
    shape = (len(array) * times, *array.shape[1:])
    with path.open("wb") as file:
        file.write(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *shape))
        for _ in range(times):
            file.write(array.tobytes())


if __name__ == "__main__":
    main()
