"""Experiments on Fashion-MNIST with PyTorch, Lightning and Hydra."""

import os

__version__ = "0.1.0"

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

if not os.environ.get("COLUMNS", "80").isdecimal():
    del os.environ["COLUMNS"]  # rich takes "²" for a number of columns
