"""Networks: uint8 images (B, 1, 28, 28) in, logits (B, K) out. Scaling is their first layer."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from fmnist import fused

NUM_CLASSES = 10
Net = TypeVar("Net", bound=nn.Sequential)
Init = Literal["torch", "keras"]


class Scale(nn.Module):
    """uint8 0..255 -> floating point 0..1, in the precision of the network."""

    divisor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("divisor", torch.tensor(255.0))

    def forward(self, images: Tensor) -> Tensor:
        return images.to(self.divisor.dtype) / self.divisor


class ConvNet(nn.Sequential):
    """The layers of `cnn`, which a CPU computes by the blocks of fmnist.fused.

    The poolings leave out the last row and column of what they are given, and so of the images:
    those are cut off first, which changes no value.
    """

    conv1: nn.Conv2d
    conv2: nn.Conv2d
    dense1: nn.Linear
    dense2: nn.Linear
    dropout: nn.Dropout

    def forward(self, images: Tensor) -> Tensor:
        dtype = self._fused_dtype(images)
        if dtype is None:
            if images.shape[-2:] == (28, 28):
                images = images[..., :26, :26]
            return super().forward(images)  # type: ignore[no-any-return,no-untyped-call]
        conv1, conv2, dense1, dense2 = self.conv1, self.conv2, self.dense1, self.dense2
        assert conv1.bias is not None
        assert conv2.bias is not None
        features = fused.first_block(images, conv1.weight, conv1.bias, dtype)
        features = fused.second_block(features, conv2.weight, conv2.bias).flatten(1)
        if self.training and self.dropout.p > 0:
            return dense2(self.dropout(dense1(features).relu_()))  # type: ignore[no-any-return]
        return fused.dense_block(features, dense1.weight, dense1.bias, dense2.weight, dense2.bias)

    def _fused_dtype(self, images: Tensor) -> torch.dtype | None:
        """Return the precision to compute in, or None where only the plain layers will do."""
        if images.dtype != torch.uint8 or images.shape[1:] != (1, 28, 28):
            return None
        if images.device.type != "cpu" or torch.compiler.is_compiling():
            return None
        if self.conv1.weight.dtype != torch.float32 or any(map(_has_hooks, self._modules.values())):
            return None
        is_mixed = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if is_mixed else torch.float32
        return dtype if dtype in fused.DTYPES else None


def _has_hooks(layer: nn.Module | None) -> bool:
    """Say whether somebody watches or changes what passes `layer`."""
    return layer is not None and bool(
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
    )


def cnn(channels: Sequence[int], hidden: int, dropout: float, init: Init) -> ConvNet:
    """Build the notebook's network; 225,034 parameters with channels (32, 64) and hidden 128.

    Shapes: (B, 1, 28, 28) -> conv (B, 32, 26, 26) -> pool (B, 32, 13, 13) -> conv (B, 64, 11, 11)
    -> pool (B, 64, 5, 5) -> flat (B, 1600) -> dense (B, 128) -> logits (B, 10). Each ReLU follows
    its pool, which gives the same values from a quarter of the work.
    """
    first, second = channels
    layers: list[tuple[str, nn.Module]] = [
        ("scale", Scale()),
        ("conv1", nn.Conv2d(1, first, kernel_size=3)),
        ("pool1", nn.MaxPool2d(2)),
        ("relu1", nn.ReLU()),
        ("conv2", nn.Conv2d(first, second, kernel_size=3)),
        ("pool2", nn.MaxPool2d(2)),
        ("relu2", nn.ReLU()),
        ("flatten", nn.Flatten()),
        ("dense1", nn.Linear(second * 5 * 5, hidden)),
        ("relu3", nn.ReLU()),
        ("dropout", nn.Dropout(dropout)),
        ("dense2", nn.Linear(hidden, NUM_CLASSES)),
    ]
    return _initialised(ConvNet(OrderedDict(layers)), init)


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


def _initialised(net: Net, init: Init) -> Net:
    """Apply Keras's defaults (Glorot & Bengio 2010 uniform, zero biases), or keep PyTorch's."""
    if init == "keras":
        for layer in net:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
    return net
