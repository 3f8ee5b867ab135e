"""Networks: uint8 images (B, 1, 28, 28) in, logits (B, K) out. Scaling is their first layer."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
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


def cnn_bn(channels: Sequence[int], hidden: int, dropout: float) -> nn.Sequential:
    """Build `cnn` with padding and batch normalisation; 421,866 parameters as shipped.

    Shapes: (B, 1, 28, 28) -> conv (B, 32, 28, 28) -> pool (B, 32, 14, 14) -> conv (B, 64, 14, 14)
    -> pool (B, 64, 7, 7) -> flat (B, 3136) -> dense (B, 128) -> logits (B, 10).
    """
    first, second = channels
    layers: list[tuple[str, nn.Module]] = [("scale", Scale())]
    for i, (inputs, outputs) in enumerate([(1, first), (first, second)], start=1):
        layers += [
            (f"conv{i}", nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)),
            (f"norm{i}", nn.BatchNorm2d(outputs)),
            (f"pool{i}", nn.MaxPool2d(2)),
            (f"relu{i}", nn.ReLU()),
        ]
    layers += [
        ("flatten", nn.Flatten()),
        ("dense1", nn.Linear(second * 7 * 7, hidden, bias=False)),
        ("norm3", nn.BatchNorm1d(hidden)),
        ("relu3", nn.ReLU()),
        ("dropout", nn.Dropout(dropout)),
        ("dense2", nn.Linear(hidden, NUM_CLASSES)),
    ]
    return nn.Sequential(OrderedDict(layers))


class WideBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, each after batch norm and ReLU.

    The pre-activation block of Zagoruyko and Komodakis 2016 (arXiv:1605.07146), with dropout
    between its convolutions: (B, C, H, W) -> (B, D, H / stride, W / stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        is_same = inputs == outputs and stride == 1
        self.shortcut = None if is_same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        active = F.relu(self.norm1(inputs))
        features = self.conv1(active)
        features = self.conv2(self.dropout(F.relu(self.norm2(features))))
        straight = inputs if self.shortcut is None else self.shortcut(active)
        return features + straight  # type: ignore[no-any-return]


def wide_resnet(depth: int, width: int, dropout: float) -> nn.Sequential:
    """Build WRN-`depth`-`width` (arXiv:1605.07146): three groups of (depth - 4) / 6 blocks.

    Shapes: (B, 1, 28, 28) -> (B, 16, 28, 28) -> (B, 16 width, 28, 28) -> (B, 32 width, 14, 14) ->
    (B, 64 width, 7, 7) -> mean (B, 64 width) -> logits (B, 10). Raises ValueError for a depth that
    is not 6 n + 4.
    """
    if depth % 6 != 4 or depth < 10:
        raise ValueError(f"depth must be 10, 16, 22, 28, 34, 40, ... (6 n + 4), got {depth}.")
    layers: list[tuple[str, nn.Module]] = [
        ("scale", Scale()),
        ("conv", nn.Conv2d(1, 16, kernel_size=3, padding=1, bias=False)),
    ]
    inputs = 16
    for group, stride in enumerate((1, 2, 2), start=1):
        outputs = 16 * width * 2 ** (group - 1)
        for block in range((depth - 4) // 6):
            step = stride if block == 0 else 1
            name = f"block{group}_{block + 1}"
            layers.append((name, WideBlock(inputs, outputs, step, dropout)))
            inputs = outputs
    layers += [
        ("norm", nn.BatchNorm2d(inputs)),
        ("relu", nn.ReLU()),
        ("mean", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("logits", nn.Linear(inputs, NUM_CLASSES)),
    ]
    net = nn.Sequential(OrderedDict(layers))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return net


def last_layer(net: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return the name and the module of the layer that gives the logits: the last with weights.

    In torchvision `fc`, `head`, `heads.head`, `classifier` or something in it. Raises ValueError
    where the last layer is none of 10 classes.
    """
    layers = [
        (name, layer)
        for name, layer in net.named_modules()
        if next(layer.parameters(recurse=False), None) is not None
    ]
    name, layer = layers[-1] if layers else ("", net)
    if isinstance(layer, nn.Linear) and layer.out_features == NUM_CLASSES:
        return name, layer
    if isinstance(layer, nn.Conv2d) and layer.out_channels == NUM_CLASSES:
        return name, layer
    raise ValueError(
        f"the last layer of {type(net).__name__} that has weights, {name or 'none'}, must be a "
        f"Linear or Conv2d with {NUM_CLASSES} outputs, got {type(layer).__name__}."
    )


def _initialised(net: Net, init: Init) -> Net:
    """Apply Keras's defaults (Glorot & Bengio 2010 uniform, zero biases), or keep PyTorch's."""
    if init == "keras":
        for layer in net:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
    return net
