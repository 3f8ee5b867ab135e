import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmnist import config
from fmnist.speedrun import PooledBlock, speedrun


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 1, 28, 28), generator=generator, dtype=torch.uint8)


def test_speedrun_equals_plain_functions(images: Tensor) -> None:
    torch.manual_seed(0)
    net = speedrun(stem=6, channels=[8, 12, 16])
    for value in (*net.parameters(), *(b for n, b in net.named_buffers() if "running" in n)):
        value.data.add_(torch.rand_like(value) / 10)
    w = {**dict(net.named_parameters()), **dict(net.named_buffers())}

    def normalised(x: Tensor, name: str, training: bool) -> Tensor:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    for training in (False, True):
        x = F.gelu(normalised(F.conv2d(images / 255, w["conv.weight"]), "norm", training))
        assert x.shape == (5, 6, 26, 26)
        for block, size in (("block1", 13), ("block2", 6), ("block3", 3)):
            x = F.max_pool2d(F.conv2d(x, w[f"{block}.conv1.weight"], padding=1), 2)
            x = F.gelu(normalised(x, f"{block}.norm1", training))
            x = F.conv2d(x, w[f"{block}.conv2.weight"], padding=1)
            x = F.gelu(normalised(x, f"{block}.norm2", training))
            assert x.shape[-2:] == (size, size)
        logits = x.amax((2, 3)) @ w["logits.weight"].T + w["logits.bias"]
        torch.testing.assert_close(net.train(training)(images), logits, atol=1e-4, rtol=1e-4)


def test_convolutions_begin_as_the_identity() -> None:
    features = torch.rand(2, 6, 10, 10)
    for outputs in (4, 6, 9):
        block = PooledBlock(6, outputs)
        shared = min(6, outputs)
        torch.testing.assert_close(block.conv1(features)[:, :shared], features[:, :shared])
        passed = torch.rand(2, outputs, 5, 5)
        torch.testing.assert_close(block.conv2(passed), passed)


def test_shipped_widths_have_the_parameters_that_are_told(images: Tensor) -> None:
    values = config.compose(["experiment=speedrun"])["model"]
    net = speedrun(stem=values["stem"], channels=values["channels"])
    number = sum(p.numel() for p in net.parameters())
    assert f"{number:,} parameters" in (speedrun.__doc__ or "")
    assert net(images).shape == (5, 10)
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.4}


def test_experiment_validates_once_whatever_its_length() -> None:
    for words in ([], ["trainer.max_epochs=3"], ["trainer=smoke"]):
        trainer = config.compose(["experiment=speedrun", *words])["trainer"]
        assert trainer["check_val_every_n_epoch"] == trainer["max_epochs"]
