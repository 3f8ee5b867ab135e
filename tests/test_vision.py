"""torchvision's networks on small grey images."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as theirs

from fmnist import vision


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 1, 28, 28), generator=generator, dtype=torch.uint8)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_resnet18_differs_from_torchvisions_in_its_first_layer_only(images: Tensor) -> None:
    net = vision.resnet18()
    assert count(net) == count(theirs.resnet18(num_classes=10)) - 3 * 64 * 49 + 64 * 9 == 11_172_810
    sizes: list[tuple[int, ...]] = []
    for part in ("layer1", "layer2", "layer3", "layer4"):
        layer = net.net.get_submodule(part)
        layer.register_forward_hook(lambda *given: sizes.append(tuple(given[2].shape[1:])))
    assert net(images).shape == (2, 10)
    assert sizes == [(64, 28, 28), (128, 14, 14), (256, 7, 7), (512, 4, 4)]


@pytest.mark.parametrize("size", ["small", "large"])
def test_mobilenet_v3_differs_from_torchvisions_in_its_first_layer_only(
    size: str, images: Tensor
) -> None:
    net = vision.mobilenet_v3(size, dropout=0.2)  # type: ignore[arg-type]
    assert (
        count(net) == count(theirs.get_model(f"mobilenet_v3_{size}", num_classes=10)) - 2 * 9 * 16
    )
    assert net.net.get_submodule("features.0")(images.float()).shape == (2, 16, 28, 28)
    assert net(images).shape == (2, 10)


def test_a_classifier_by_name_sees_three_equal_channels_of_its_size(images: Tensor) -> None:
    net = vision.classifier("squeezenet1_1", size_px=40).eval()
    seen = net.colour(images)
    expected = F.interpolate(images.float() / 127.5 - 1, (40, 40), mode="bilinear")
    torch.testing.assert_close(seen, expected.expand(2, 3, 40, 40))
    torch.testing.assert_close(net(images), net.net(seen))
    assert net(images).shape == (2, 10)


def test_images_of_the_right_size_are_not_resized(images: Tensor) -> None:
    assert torch.equal(vision.Colour(28)(images)[:, :1], images.float() / 255 * 2 - 1)


@pytest.mark.parametrize(
    ("arch", "size_px", "match"),
    [
        (
            "efficientnet_bo",
            32,
            "is not in torchvision. Did you mean efficientnet_b",
        ),
        ("nonsense", 32, "model.arch=nonsense is not in torchvision."),
        ("alexnet", 28, "model.size_px=28 does not suit alexnet"),
        ("vit_b_16", 30, "model.size_px=30 does not suit vit_b_16"),
    ],
)
def test_what_cannot_be_built_is_explained(arch: str, size_px: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vision.classifier(arch, size_px)
