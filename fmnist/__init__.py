"""Experiments on Fashion-MNIST with PyTorch, Lightning and Hydra."""

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
