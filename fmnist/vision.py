"""Networks of torchvision for Fashion-MNIST: uint8 (B, 1, 28, 28) in, logits (B, 10) out."""

from collections import OrderedDict
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from fmnist.messages import suggest
from fmnist.models import NUM_CLASSES, Scale


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
    known = models.list_models(module=models)
    if arch not in known:
        raise ValueError(f"model.arch={arch} is not in torchvision.{suggest(arch, known)}")
    options: dict[str, Any] = {}
    if arch in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    elif arch.startswith("vit_"):
        options = {"image_size": size_px}
    elif arch.startswith("maxvit_"):
        options = {"input_size": (size_px, size_px)}
    try:
        net = models.get_model(arch, weights=None, num_classes=NUM_CLASSES, **options)
        whole = nn.Sequential(OrderedDict([("colour", Colour(size_px)), ("net", net)]))
        with torch.no_grad():
            whole.eval()(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
    except (RuntimeError, ValueError, AssertionError) as error:  # whatever sizes do not fit
        raise ValueError(
            f"model.size_px={size_px} does not suit {arch} ({str(error).splitlines()[0]}). "
            "Take a larger one, 224 for most."
        ) from None
    return whole.train()


def _scaled(net: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict([("scale", Scale()), ("net", net)]))
