"""Convolution, 2x2 max-pool and ReLU as one step, for CPUs: the values and gradients of the plain
layers, up to rounding, in about two thirds of their time.

Where the time goes, and what is done about it:

- Rows and columns that the pool leaves out (28 -> 26 -> 13 -> 11 -> 5: the last of each) are never
  computed. They influence nothing: 17 % of the second convolution.
- A convolution of one channel is bound by memory. Here it is one matrix product: a 4x4 patch holds
  all a 2x2 pool of 3x3 convolutions sees, so (16 pixels + bias) x (4 positions x C channels).
- ReLU and max-pool commute, and non-negative IEEE numbers sort like the integers of the same bits.
  Integer kernels are two to three times as fast as those of bfloat16, which convert to float32.
- The gradient of a max-pool goes to the winner of two rounds of pairs, by bit masks, instead of to
  a tensor of zeros by index. Of equal values the first wins, as in torch.nn.MaxPool2d.
- A step is short: fewer, larger nodes of autograd, which cast the weights themselves, save the time
  that autograd and autocast take for each small one.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_INTEGERS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
_SIGN_BIT = {torch.int16: 15, torch.int32: 31}
DTYPES = tuple(_INTEGERS)


def first_block(images: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """Return relu(max_pool2d(conv2d(images / 255, weight, bias), 2)) without its last row, column.

    images uint8 (B, 1, 28, 28), weight (C, 1, 3, 3), bias (C,); returns `dtype` (B, C, 12, 12),
    channels last. Computes in `dtype`, one of DTYPES, and sums in float32.
    """
    return _FirstBlock.apply(images, weight, bias, dtype)  # type: ignore[no-any-return]


def second_block(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return relu(max_pool2d(conv2d(inputs, weight, bias), 2)).

    inputs (B, C, H, W), channels last, with even H and W; weight (D, C, 3, 3), bias (D,); returns
    (B, D, H / 2 - 1, W / 2 - 1) in the dtype of the inputs, channels last.
    """
    return _SecondBlock.apply(inputs, weight, bias)  # type: ignore[no-any-return]


def dense_block(
    inputs: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> Tensor:
    """Return linear(relu(linear(inputs, weight1, bias1)), weight2, bias2) as one node of autograd.

    inputs (B, N), weight1 (H, N), weight2 (K, H); returns (B, K) in the dtype of the inputs.
    """
    return _DenseBlock.apply(inputs, weight1, bias1, weight2, bias2)  # type: ignore[no-any-return]


class _FirstBlock(Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
    ) -> Tensor:
        num_images, num_channels = len(images), len(weight)
        patches = _patches(images, dtype)  # (17, M) with M = B * 12 * 12
        kernel = torch.cat([weight.reshape(num_channels, 9) / 255, bias[:, None]], dim=1)
        kernel = (_spread() @ kernel.t()).to(dtype).view(17, 4 * num_channels)
        values = patches.t() @ kernel  # (M, 4 * C)
        pooled, rounds = _pool(values.view(-1, 2, 2, num_channels), 1, 1)
        ctx.save_for_backward(patches, pooled, rounds)
        return pooled.view(num_images, 12, 12, num_channels).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, None]:
        patches, pooled, rounds = ctx.saved_tensors
        num_channels = grad.shape[1]
        grad = grad.permute(0, 2, 3, 1).reshape(-1, num_channels)
        routed = _route(grad, pooled, rounds, 1, 1).view(-1, 4 * num_channels)
        of_kernel = (patches @ routed).float().view(68, num_channels)
        of_weight, of_bias = (_spread().t() @ of_kernel).split([9, 1])
        of_weight = (of_weight / 255).t().contiguous().view(num_channels, 1, 3, 3)
        return None, of_weight, of_bias.view(-1), None


class _SecondBlock(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        kernel = weight.to(inputs.dtype)
        values = torch.conv2d(inputs, kernel, bias.to(inputs.dtype)).permute(0, 2, 3, 1)
        num_images, height, width, num_channels = values.shape
        shape = (num_images, height // 2, 2, width // 2, 2, num_channels)
        pooled, rounds = _pool(values.contiguous().view(shape), 4, 2)
        ctx.save_for_backward(inputs, kernel, pooled, rounds)
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs, kernel, pooled, rounds = ctx.saved_tensors
        routed = _route(grad.permute(0, 2, 3, 1).contiguous(), pooled, rounds, 4, 2)
        num_images, height, _, width, _, num_channels = routed.shape
        values = routed.view(num_images, 2 * height, 2 * width, num_channels).permute(0, 3, 1, 2)
        of_inputs, of_kernel, of_bias = torch.ops.aten.convolution_backward(
            values, inputs, kernel, [num_channels], [1, 1], [0, 0], [1, 1], False, [0, 0], 1,
            [True, True, True],
        )  # fmt: skip
        return of_inputs, of_kernel.float(), of_bias.float()


class _DenseBlock(Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
    ) -> Tensor:
        dtype = inputs.dtype
        weight1, weight2 = weight1.to(dtype), weight2.to(dtype)
        hidden = torch.addmm(bias1.to(dtype), inputs, weight1.t()).relu_()
        ctx.save_for_backward(inputs, hidden, weight1, weight2)
        return torch.addmm(bias2.to(dtype), hidden, weight2.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        inputs, hidden, weight1, weight2 = ctx.saved_tensors
        of_hidden = torch.ops.aten.threshold_backward(grad @ weight2, hidden, 0.0)
        return (
            of_hidden @ weight1,
            (of_hidden.t() @ inputs).float(),
            of_hidden.sum(0, dtype=torch.float32),
            (grad.t() @ hidden).float(),
            grad.sum(0, dtype=torch.float32),
        )


def _patches(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the 4x4 patches at every second pixel as columns (17, B * 12 * 12); the last row is 1.

    0..255 are exact in bfloat16; the division by 255 is in the kernel.
    """
    num_images = len(images)
    pixels = images.contiguous().to(dtype)
    patches = pixels.new_empty(17, num_images * 144)
    windows = pixels.as_strided((4, 4, num_images, 12, 12), (28, 1, 784, 56, 2))
    patches[:16].view(4, 4, num_images, 12, 12).copy_(windows)
    patches[16] = 1.0
    return patches


@functools.cache
def _spread() -> Tensor:
    """Return the 0 / 1 matrix (17 * 4, 10) that lays a 3x3 kernel and a bias over a patch.

    Four times: for the outputs at (row, column) 00, 10, 01, 11 of a pool. Its products are exact in
    any precision: autocast may choose one.
    """
    options: Any = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults are now
    spread = torch.zeros(4, 4, 4, 3, 3, **options)
    for position, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        for i in range(3):
            for j in range(3):
                spread[row + i, column + j, position, i, j] = 1.0
    whole = torch.zeros(17, 4, 10, **options)
    whole[:16, :, :9] = spread.view(16, 4, 9)
    whole[16, :, 9] = 1.0
    return whole.view(68, 10)


def _pool(values: Tensor, across: int, down: int) -> tuple[Tensor, Tensor]:
    """Return relu(max) over the dimensions `across`, then `down`, each of size 2, and both rounds.

    `values` is overwritten: with the left values, not below 0, and beside them the winners of the
    first round, as integers; `_route` needs them. `down` counts without the dimension `across`.
    """
    rounds = values.view(_INTEGERS[values.dtype])
    left, right = rounds.unbind(across)
    winners = torch.maximum(left.clamp_min_(0), right, out=right)
    return torch.maximum(*winners.unbind(down)).view(values.dtype), rounds


def _route(grad: Tensor, pooled: Tensor, rounds: Tensor, across: int, down: int) -> Tensor:
    """Return the gradient of the values that `_pool` was given, from that of its result.

    Overwrites `rounds`, and returns it. A negative difference, shifted by all but its sign, is a
    mask of ones: the second value won. None overflows, as what is compared is not negative.
    """
    shift, integers = _SIGN_BIT[rounds.dtype], rounds.dtype
    scores = pooled.view(integers)
    left, winners = rounds.unbind(across)
    lost = left.sub_(winners).bitwise_right_shift_(shift)  # at `across`
    below = (winners.select(down, 0) - scores).bitwise_right_shift_(shift)
    share = grad.view(integers) & (scores.neg().bitwise_right_shift_(shift))  # none through ReLU
    routed = torch.empty_like(winners)
    _share(share, below, *routed.unbind(down))
    _share(routed, lost, left, winners)
    return rounds.view(grad.dtype)


def _share(grad: Tensor, mask: Tensor, first: Tensor, second: Tensor) -> None:
    """Write `grad` to `second` where `mask` is all ones, to `first` where it is 0; else zeros."""
    torch.bitwise_and(grad, mask, out=second)
    torch.bitwise_xor(grad, second, out=first)
