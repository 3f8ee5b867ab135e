"""Make fmnist/likeness.npz, statistics of the training images: `python scripts/make_likeness.py`.

They say which pictures are unlike Fashion-MNIST. Deterministic.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import FashionMNIST

from fmnist import likeness, pictures, sources
from fmnist.build import PROJECT
from fmnist.errors import exit_codes

SIZES = ((84, Image.Resampling.BICUBIC), (224, Image.Resampling.BILINEAR))
NUM_ENLARGED = 5000  # images of each size


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with exit_codes():
        folder = Path(os.environ.get("FMNIST_DATA") or PROJECT / "data")
        sources.obtain(folder)
        data = FashionMNIST(str(folder), train=True)
        images, labels = data.data.numpy(), data.targets.numpy()
        others = [
            pictures.prepare(Image.fromarray(image).resize((side, side), how))
            for side, how in SIZES
            for image in images[:NUM_ENLARGED]
        ]
        likeness.save(likeness.fit(images, labels, np.stack(others)))
        size = likeness.STATISTICS.stat().st_size
        print(f"{likeness.STATISTICS}: {size:,} bytes")


if __name__ == "__main__":
    main()
