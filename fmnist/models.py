"""Networks: uint8 images (B, 1, 28, 28) in, logits (B, K) out. Scaling is their first layer."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

NUM_CLASSES = 10
Init = Literal["torch", "keras"]


class Scale(nn.Module):
    """uint8 0..255 -> floating point 0..1, in the precision of the network."""

    divisor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("divisor", torch.tensor(255.0))

    def forward(self, images: Tensor) -> Tensor:
        return images.to(self.divisor.dtype) / self.divisor


def cnn(channels: Sequence[int], hidden: int, dropout: float, init: Init) -> nn.Sequential:
    """Build the notebook's network; 225,034 parameters with channels (32, 64) and hidden 128.

    Shapes: (B, 1, 28, 28) -> conv (B, 32, 26, 26) -> pool (B, 32, 13, 13) -> conv (B, 64, 11, 11)
    -> pool (B, 64, 5, 5) -> flat (B, 1600) -> dense (B, 128) -> logits (B, 10).
    """
    first, second = channels
    layers: list[tuple[str, nn.Module]] = [
        ("scale", Scale()),
        ("conv1", nn.Conv2d(1, first, kernel_size=3)),
        ("relu1", nn.ReLU()),
        ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(first, second, kernel_size=3)),
        ("relu2", nn.ReLU()),
        ("pool2", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()),
        ("dense1", nn.Linear(second * 5 * 5, hidden)),
        ("relu3", nn.ReLU()),
        ("dropout", nn.Dropout(dropout)),
        ("dense2", nn.Linear(hidden, NUM_CLASSES)),
    ]
    return _initialised(nn.Sequential(OrderedDict(layers)), init)


def mlp(widths: Sequence[int], dropout: float, init: Init) -> nn.Sequential:
    """Build a dense network with ReLU hidden layers; widths 256-128-100 have 247,766 parameters."""
    layers: list[tuple[str, nn.Module]] = [("scale", Scale()), ("flatten", nn.Flatten())]
    num_inputs = 28 * 28
    for i, width in enumerate(widths, start=1):
        layers += [
            (f"dense{i}", nn.Linear(num_inputs, width)),
            (f"relu{i}", nn.ReLU()),
            (f"dropout{i}", nn.Dropout(dropout)),
        ]
        num_inputs = width
    layers.append(("logits", nn.Linear(num_inputs, NUM_CLASSES)))
    return _initialised(nn.Sequential(OrderedDict(layers)), init)


def _initialised(net: nn.Sequential, init: Init) -> nn.Sequential:
    """Apply Keras's defaults (Glorot & Bengio 2010 uniform, zero biases), or keep PyTorch's."""
    if init == "keras":
        for layer in net:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
    return net
