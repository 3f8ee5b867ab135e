"""Experiments on Fashion-MNIST with PyTorch, Lightning and Hydra."""

import os

# Torch would call what any installed package announces for it; whoever needs that sets it to 1.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

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
