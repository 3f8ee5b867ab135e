import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmnist import fused, models


def plain_first(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    values = F.max_pool2d(F.conv2d(images.to(weight.dtype) / 255, weight, bias), 2).relu()
    return values[:, :, :12, :12]


def plain_second(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.max_pool2d(F.conv2d(inputs, weight, bias), 2).relu()


@pytest.fixture
def images() -> Tensor:
    """Noise, and areas of one grey and of black, where all values of a pool are equal."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, 1, 28, 28), generator=generator, dtype=torch.uint8)
    images[1, :, :, :9] = 0
    images[2, :, 10:] = 77
    images[3] = 0
    return images


def parameters(num_channels: int, num_inputs: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(num_channels, num_inputs, 3, 3, generator=generator) / 3
    bias = torch.randn(num_channels, generator=generator) / 3
    return [weight.requires_grad_(), bias.requires_grad_()]


@pytest.mark.parametrize("num_channels", [1, 5, 32])
def test_first_block_equals_the_plain_layers(images: Tensor, num_channels: int) -> None:
    values = parameters(num_channels, 1, seed=1)
    ours = fused.first_block(images, values[0], values[1], torch.float32)
    plain = plain_first(images, values[0], values[1])
    torch.testing.assert_close(ours, plain)
    weights = torch.randn(plain.shape, generator=torch.Generator().manual_seed(2))
    for mine, theirs in zip(
        torch.autograd.grad((ours * weights).sum(), values),
        torch.autograd.grad((plain * weights).sum(), values),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(12, 12), (6, 8), (4, 4)])
def test_second_block_equals_the_plain_layers(size: tuple[int, int]) -> None:
    inputs = torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(0))
    inputs = inputs.to(memory_format=torch.channels_last).requires_grad_()
    values = parameters(6, 4, seed=1)
    ours, plain = fused.second_block(inputs, *values), plain_second(inputs, *values)
    torch.testing.assert_close(ours, plain)
    weights = torch.randn(plain.shape, generator=torch.Generator().manual_seed(2))
    for mine, theirs in zip(
        torch.autograd.grad((ours * weights).sum(), [inputs, *values]),
        torch.autograd.grad((plain * weights).sum(), [inputs, *values]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_dense_block_equals_the_plain_layers() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 12), (7, 12), (7,), (3, 7), (3,)]
    values = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    ours = fused.dense_block(*values)
    plain = F.linear(F.linear(*values[:3]).relu(), *values[3:])
    torch.testing.assert_close(ours, plain)
    weights = torch.randn(plain.shape, generator=generator)
    for mine, theirs in zip(
        torch.autograd.grad((ours * weights).sum(), values),
        torch.autograd.grad((plain * weights).sum(), values),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_of_equal_values_the_first_gets_the_gradient() -> None:
    inputs = torch.ones(1, 1, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.zeros(1, 1, 3, 3), torch.ones(1)
    weight[0, 0, 1, 1] = 1.0
    (grad,) = torch.autograd.grad(fused.second_block(inputs, weight, bias).sum(), [inputs])
    assert grad[0, 0].nonzero().tolist() == [[1, 1]]


def test_bfloat16_is_float32_within_its_rounding(images: Tensor) -> None:
    values = parameters(32, 1, seed=1)
    exact = plain_first(images, *values)
    ours = fused.first_block(images, values[0], values[1], torch.bfloat16)
    with torch.autocast("cpu"):  # which Lightning has around it
        mixed = fused.first_block(images, values[0], values[1], torch.bfloat16)
    assert torch.equal(mixed, ours)
    assert ours.float().mean().item() == pytest.approx(exact.mean().item(), rel=5e-4)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), exact, rtol=0.02, atol=0.02)
    grads = torch.autograd.grad(ours.float().sum(), values)
    for mine, theirs in zip(grads, torch.autograd.grad(exact.sum(), values), strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 0.02 * theirs.norm()


def test_no_gradient_passes_a_dead_relu(images: Tensor) -> None:
    weight, bias = torch.zeros(2, 1, 3, 3), torch.tensor([-1.0, 1.0])
    values = [weight.requires_grad_(), bias.requires_grad_()]
    ours = fused.first_block(images, values[0], values[1], torch.float32)
    grads = torch.autograd.grad(ours.sum(), values)
    assert grads[0][0].abs().max() == 0
    assert grads[1].tolist() == [0, 7 * 144]


def test_a_second_backward_is_refused(images: Tensor) -> None:
    values = parameters(4, 1, seed=1)
    total = fused.first_block(images, values[0], values[1], torch.float32).sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize("precision", ["float32", "autocast"])
def test_network_trains_step_by_step_as_its_plain_layers_do(precision: str) -> None:
    """The same ten steps, with the fused blocks and layer by layer.

    Of SGD: the first steps of Adam are all signs, and rounding may turn that of a gradient near 0.
    """
    torch.manual_seed(0)
    ours = models.cnn(channels=[32, 64], hidden=128, dropout=0.0, init="torch")
    ours = ours.to(memory_format=torch.channels_last)
    plain = nn.Sequential(OrderedDict(copy.deepcopy(ours).named_children()))
    assert ours._fused_dtype(torch.zeros(1, 1, 28, 28, dtype=torch.uint8)) is not None
    generator = torch.Generator().manual_seed(1)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.05) for net in (ours, plain)]
    for _ in range(10):
        images = torch.randint(0, 256, (32, 1, 28, 28), generator=generator, dtype=torch.uint8)
        labels = images[:, 0, 5, 5].long() % 10
        losses = []
        for net, optimizer in zip((ours, plain), optimizers, strict=True):
            with torch.autocast("cpu", enabled=precision == "autocast"):
                loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-5 if precision == "float32" else 2e-2)


def test_hooked_double_and_compiled_networks_use_their_plain_layers() -> None:
    net = models.cnn(channels=[4, 8], hidden=16, dropout=0.0, init="torch").eval()
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        fused_logits = net(images)
        seen: list[tuple[int, ...]] = []
        hook = net.get_submodule("conv2").register_forward_hook(
            lambda layer, inputs, output: seen.append(tuple(output.shape))
        )
        torch.testing.assert_close(net(images), fused_logits)
        assert seen == [(2, 8, 10, 10)]
        hook.remove()
        net(images)
        assert len(seen) == 1
        torch.testing.assert_close(net.double()(images).float(), fused_logits)
        exported = torch.export.export(net.float(), (images,))
        names = {str(node.target) for node in exported.graph.nodes}
        assert "aten.max_pool2d.default" in names
        torch.testing.assert_close(exported.module()(images), fused_logits)


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 28, 28), (1, 28, 28)])
def test_images_of_another_shape_are_as_the_plain_layers_have_it(shape: tuple[int, ...]) -> None:
    net = models.cnn(channels=[4, 8], hidden=16, dropout=0.0, init="torch").eval()
    plain = nn.Sequential(OrderedDict(net.named_children()))
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    outcomes = []
    for model in (net, plain):
        try:
            outcomes.append(tuple(model(images).shape))
        except RuntimeError as error:
            outcomes.append(type(error))  # type: ignore[arg-type]
    assert outcomes[0] == outcomes[1]
