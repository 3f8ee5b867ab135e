"""The network of the speedrun: few, well-filled kernels a step, so that a GPU is kept busy."""

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fmnist.models import NUM_CLASSES, Scale

NEW_SHARE = 0.4  # of a batch in the running statistics: a run has but a few hundred steps


class PooledBlock(nn.Module):
    """Convolution, 2x2 max-pool, convolution: (B, C, H, W) -> (B, D, H // 2, W // 2).

    Batch norm and GELU follow the pool and the second convolution. The convolutions begin as the
    identity on as many channels as both sides have (airbench: Jordan 2024, arXiv:2404.00498).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = nn.BatchNorm2d(outputs, momentum=NEW_SHARE)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs, momentum=NEW_SHARE)
        for conv in (self.conv1, self.conv2):
            nn.init.dirac_(conv.weight[: conv.in_channels].detach())

    def forward(self, features: Tensor) -> Tensor:
        features = F.gelu(self.norm1(self.pool(self.conv1(features))))
        return F.gelu(self.norm2(self.conv2(features)))


def speedrun(stem: int, channels: Sequence[int]) -> nn.Sequential:
    """Build three pooled blocks between a convolution and a dense layer, after airbench.

    Shapes: (B, 1, 28, 28) -> conv (B, S, 26, 26) -> blocks (B, C1, 13, 13), (B, C2, 6, 6),
    (B, C3, 3, 3) -> largest (B, C3) -> logits (B, 10). 1,089,682 parameters as shipped.
    """
    layers: list[tuple[str, nn.Module]] = [
        ("scale", Scale()),
        ("conv", nn.Conv2d(1, stem, kernel_size=3, bias=False)),
        ("norm", nn.BatchNorm2d(stem, momentum=NEW_SHARE)),
        ("gelu", nn.GELU()),
    ]
    inputs = stem
    for i, outputs in enumerate(channels, start=1):
        layers.append((f"block{i}", PooledBlock(inputs, outputs)))
        inputs = outputs
    layers += [
        ("pool", nn.MaxPool2d(3)),
        ("flatten", nn.Flatten()),
        ("logits", nn.Linear(inputs, NUM_CLASSES)),
    ]
    return nn.Sequential(OrderedDict(layers))
