"""Networks of torchvision for Fashion-MNIST: uint8 (B, 1, 28, 28) in, logits (B, 10) out."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from fmnist.messages import suggest
from fmnist.models import NUM_CLASSES, Scale

DEFAULT_ARCH, DEFAULT_SIZE_PX = "resnet18", 64
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision


class Colour(nn.Module):
    """uint8 (B, 1, H, W) -> -1..1 (B, 3, size_px, size_px): three equal channels, resized."""

    def __init__(self, size_px: int) -> None:
        super().__init__()
        self.scale = Scale()
        self.size_px = size_px

    def forward(self, images: Tensor) -> Tensor:
        scaled: Tensor = self.scale(images) * 2 - 1
        if scaled.shape[-1] != self.size_px:
            size = [self.size_px, self.size_px]
            scaled = F.interpolate(scaled, size, mode="bilinear")
        return scaled.expand(-1, 3, -1, -1)


class Normalise(nn.Module):
    """uint8 (B, 1, H, W) -> (B, C, size_px, size_px): resized, C equal channels, (x - mean) / std.

    As torchvision's own preset, less its crop. `mean` and `std` have a value in 0..1 per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size_px: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.scale = Scale()
        self.size_px = size_px
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        scaled: Tensor = self.scale(images)
        if scaled.shape[-1] != self.size_px:
            size = [self.size_px, self.size_px]
            scaled = F.interpolate(scaled, size, mode="bilinear")
        return (scaled - self.mean) / self.std


def resnet18() -> nn.Sequential:
    """Build torchvision's ResNet-18 (He et al. 2015) with a first layer for small grey images.

    As its authors did for CIFAR: a 3x3 convolution of stride 1 and no max-pool, so that the groups
    work at 28, 14, 7 and 4 pixels. 11,172,810 parameters.
    """
    net = models.resnet18(num_classes=NUM_CLASSES)
    net.conv1 = nn.Conv2d(1, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    return _scaled(net)


def mobilenet_v3(size: Literal["small", "large"], dropout: float) -> nn.Sequential:
    """Build torchvision's MobileNetV3 (Howard et al. 2019) for small grey images.

    Its first convolution has one channel and stride 1 instead of 2.
    """
    make = models.mobilenet_v3_small if size == "small" else models.mobilenet_v3_large
    net = make(num_classes=NUM_CLASSES, dropout=dropout)
    first = net.features[0]
    first[0] = nn.Conv2d(1, first[0].out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(first[0].weight, mode="fan_out")
    return _scaled(net)


def classifier(arch: str, size_px: int) -> nn.Sequential:
    """Build any classifier of torchvision by its name, on images resized to `size_px`.

    Raises ValueError for a name that is none, and for images too small for the network.
    """
    net = _build(arch, size_px)
    whole = nn.Sequential(OrderedDict([("colour", Colour(size_px)), ("net", net)]))
    return _tried(whole, arch, size_px)


def transfer(
    arch: str | None,
    weights: str | None,
    size_px: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> nn.Sequential:
    """Build a classifier of torchvision as its weights want it: their channels and statistics.

    Without the weights themselves: fmnist.weights puts those in when a run starts, and what they
    decide here (`mean` and `std`, where not given), so that a checkpoint is all a later load needs.
    Raises ValueError as `classifier` does, and for `mean` and `std` of different lengths.
    """
    arch, size_px = arch or DEFAULT_ARCH, size_px or DEFAULT_SIZE_PX
    mean = IMAGENET_MEAN if mean is None else mean
    std = IMAGENET_STD if std is None else std
    if len(mean) != len(std) or not mean:
        raise ValueError(
            f"model.mean and model.std must have a value per channel each, got {len(mean)} and "
            f"{len(std)}. Give both."
        )
    # These two bring what is normalised by ImageNet's statistics into their own weights' range.
    own = arch in ("googlenet", "inception_v3") and len(mean) == len(IMAGENET_MEAN)
    net = _build(arch, size_px, **({"transform_input": True} if own else {}))
    _take_channels(net, len(mean))
    first = Normalise(size_px, mean, std)
    return _tried(nn.Sequential(OrderedDict([("normalise", first), ("net", net)])), arch, size_px)


def _take_channels(net: nn.Module, num_channels: int) -> None:
    """Let the first convolution take images of `num_channels`."""
    conv = next(layer for layer in net.modules() if isinstance(layer, nn.Conv2d))
    if conv.in_channels != num_channels:
        conv.in_channels = num_channels
        old = conv.weight
        conv.weight = nn.Parameter(old.new_empty(old.shape[0], num_channels, *old.shape[2:]))
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


def _build(arch: str, size_px: int, **options: Any) -> nn.Module:
    """Build torchvision's `arch` with random weights; raises ValueError where there is none."""
    known = models.list_models(module=models)
    if arch not in known:
        raise ValueError(f"model.arch={arch} is not in torchvision.{suggest(arch, known)}")
    if arch in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    elif arch.startswith("vit_"):
        options |= {"image_size": size_px}
    elif arch.startswith("maxvit_"):
        options |= {"input_size": (size_px, size_px)}
    try:
        net: nn.Module = models.get_model(arch, weights=None, num_classes=NUM_CLASSES, **options)
    except (RuntimeError, ValueError, AssertionError) as error:  # whatever sizes do not fit
        raise _unfit(arch, size_px, error) from None
    return net


def _tried(whole: nn.Sequential, arch: str, size_px: int) -> nn.Sequential:
    """Return a network that takes images of this size; raises ValueError where it does not."""
    try:
        with torch.no_grad():
            whole.eval()(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _unfit(arch, size_px, error) from None
    return whole.train()


def _unfit(arch: str, size_px: int, error: Exception) -> ValueError:
    return ValueError(
        f"model.size_px={size_px} does not suit {arch} ({str(error).splitlines()[0]}). "
        "Take a larger one, 224 for most."
    )


def _scaled(net: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict([("scale", Scale()), ("net", net)]))
