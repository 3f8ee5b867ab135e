import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmnist import models, schedules


def notebook_cnn(init: models.Init = "torch") -> nn.Sequential:
    return models.cnn(channels=[32, 64], hidden=128, dropout=0.0, init=init)


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 1, 28, 28), generator=generator, dtype=torch.uint8)


def test_cnn_has_the_notebooks_parameters() -> None:
    sizes = {name: tuple(p.shape) for name, p in notebook_cnn().named_parameters()}
    assert sizes == {
        "conv1.weight": (32, 1, 3, 3),
        "conv1.bias": (32,),
        "conv2.weight": (64, 32, 3, 3),
        "conv2.bias": (64,),
        "dense1.weight": (128, 1600),
        "dense1.bias": (128,),
        "dense2.weight": (10, 128),
        "dense2.bias": (10,),
    }
    assert sum(p.numel() for p in notebook_cnn().parameters()) == 225_034


def test_cnn_equals_plain_functions(images: Tensor) -> None:
    net = notebook_cnn()
    w = dict(net.named_parameters())
    x = images.float() / 255
    x = F.max_pool2d(F.relu(F.conv2d(x, w["conv1.weight"], w["conv1.bias"])), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, w["conv2.weight"], w["conv2.bias"])), 2)
    x = F.relu(x.flatten(1) @ w["dense1.weight"].T + w["dense1.bias"])
    x = x @ w["dense2.weight"].T + w["dense2.bias"]
    torch.testing.assert_close(net(images), x)


def test_mlp_has_the_published_baselines_parameters(images: Tensor) -> None:
    net = models.mlp(widths=[256, 128, 100], dropout=0.0, init="torch")
    expected = 784 * 256 + 256 + 256 * 128 + 128 + 128 * 100 + 100 + 100 * 10 + 10
    assert sum(p.numel() for p in net.parameters()) == expected == 247_766
    assert net(images).shape == (5, 10)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_cnn_bn_is_padded_and_normalised(images: Tensor) -> None:
    net = models.cnn_bn(channels=[32, 64], hidden=128, dropout=0.0)
    convolutions = 9 * 32 + 9 * 32 * 64
    expected = convolutions + 2 * (32 + 64 + 128) + 64 * 49 * 128 + 128 * 10 + 10
    assert count(net) == expected == 421_866
    assert "421,866 parameters" in (models.cnn_bn.__doc__ or "")
    net.train()
    w = dict(net.named_parameters())
    x = images.float() / 255
    for i in (1, 2):
        x = F.conv2d(x, w[f"conv{i}.weight"], padding=1)
        x = F.batch_norm(x, None, None, w[f"norm{i}.weight"], w[f"norm{i}.bias"], training=True)
        x = F.max_pool2d(F.relu(x), 2)
    x = x.flatten(1) @ w["dense1.weight"].T
    x = F.batch_norm(x, None, None, w["norm3.weight"], w["norm3.bias"], training=True)
    x = F.relu(x) @ w["dense2.weight"].T + w["dense2.bias"]
    torch.testing.assert_close(net(images), x)


@pytest.mark.parametrize(
    ("depth", "width", "millions"), [(16, 4, 2.7), (28, 10, 36.5), (40, 4, 8.9)]
)
def test_wide_resnets_have_the_papers_parameters(depth: int, width: int, millions: float) -> None:
    with torch.device("meta"):  # table 4 of the paper; its images have two channels more
        net = models.wide_resnet(depth, width, dropout=0.0)
    assert round(count(net) / 1e6, 1) == millions


def test_a_wide_block_equals_plain_functions() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 6, 6, generator=generator)
    for outputs, stride in ((4, 1), (8, 2)):
        block = models.WideBlock(4, outputs, stride, dropout=0.0).train()
        w = dict(block.named_parameters())
        active = F.relu(F.batch_norm(x, None, None, training=True))
        y = F.conv2d(active, w["conv1.weight"], stride=stride, padding=1)
        y = F.conv2d(
            F.relu(F.batch_norm(y, None, None, training=True)), w["conv2.weight"], padding=1
        )
        straight = x if outputs == 4 else F.conv2d(active, w["shortcut.weight"], stride=stride)
        torch.testing.assert_close(block(x), y + straight)


@pytest.mark.parametrize("depth", [4, 17, 30])
def test_a_depth_that_no_wide_resnet_has_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth must be .*6 n \+ 4.*got {depth}"):
        models.wide_resnet(depth, 1, 0.0)


def test_scaling_is_part_of_the_saved_model(images: Tensor) -> None:
    scale = models.Scale()
    assert torch.equal(scale(images), images.float() / 255)
    assert "divisor" in scale.state_dict()


def test_keras_initialisation_is_glorot_uniform_with_zero_biases() -> None:
    net = notebook_cnn("keras")
    limit = math.sqrt(6 / (1600 + 128))
    weight = net.get_parameter("dense1.weight")
    assert weight.abs().max() <= limit
    assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    fan = 9 * (32 + 64)
    assert net.get_parameter("conv2.weight").abs().max() <= math.sqrt(6 / fan)
    assert all(not p.any() for name, p in net.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_dropout_is_active_in_training_only(model: str, images: Tensor) -> None:
    net = (
        models.cnn(channels=[4, 8], hidden=16, dropout=0.5, init="torch")
        if model == "cnn"
        else models.mlp(widths=[32], dropout=0.5, init="torch")
    )
    assert not torch.equal(net(images), net(images))
    net.eval()
    assert torch.equal(net(images), net(images))


def test_one_cycle_rises_to_the_peak_and_falls_to_the_end() -> None:
    rates = [schedules.one_cycle(i / 100, warmup=0.3, start=0.04, end=0.01) for i in range(101)]
    assert rates[0] == pytest.approx(0.04)
    assert max(rates) == rates[30] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.01)
    assert rates[:31] == sorted(rates[:31])
    assert rates[30:] == sorted(rates[30:], reverse=True)


def test_one_cycle_without_warmup_is_a_cosine_and_constant_is_constant() -> None:
    half = schedules.one_cycle(0.5, warmup=0.0, start=1.0, end=0.0)
    assert half == pytest.approx(0.5)
    assert schedules.one_cycle(0.0, warmup=0.0, start=1.0, end=0.0) == 1.0
    assert schedules.one_cycle(1.0, warmup=1.0, start=0.0, end=0.0) == 1.0
    assert {schedules.constant(i / 10) for i in range(11)} == {1.0}


def test_linear_rises_and_falls_in_straight_lines() -> None:
    rates = [schedules.linear(i / 100, warmup=0.2, start=0.5, end=0.1) for i in range(101)]
    assert rates[:21] == pytest.approx([0.5 + 0.5 * i / 20 for i in range(21)])
    assert rates[20:] == pytest.approx([1 - 0.9 * i / 80 for i in range(81)])
    assert schedules.linear(1.0, warmup=1.0, start=0.0, end=0.0) == 1.0


def test_steps_fall_at_their_milestones_after_a_warm_up() -> None:
    given = {"warmup": 0.1, "milestones": [0.5, 0.75], "factor": 0.1}
    rates = [schedules.step(i / 100, **given) for i in range(101)]  # type: ignore[arg-type]
    assert rates[:11] == pytest.approx([i / 10 for i in range(11)])
    assert set(rates[10:50]) == {1.0}
    assert rates[50:75] == pytest.approx([0.1] * 25)
    assert rates[75:] == pytest.approx([0.01] * 26)


def test_one_cycle_with_cosine_decay_equals_torchs() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        ours = schedules.one_cycle(step / 50, warmup=0.0, start=1.0, end=0.0)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        theirs.step()
