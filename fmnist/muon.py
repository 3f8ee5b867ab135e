"""Muon: momentum whose singular values are all made one, for the weights between the layers."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

# Of the quintic that moves a singular value towards 1 fastest from 0, and leaves it between 0.7
# and 1.2: https://kellerjordan.github.io/posts/muon/
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(Optimizer):
    """Muon for matrices and convolutions, AdamW for all else: biases, norms and the last layer.

    A convolution counts as a matrix (out, in * height * width); a single row or column does not.
    The last layer is the last matrix among `params`: a network's parameters come in the order in
    which it makes its layers. `lr` is the rate of Muon, times sqrt(rows / columns) where a matrix
    is tall; AdamW's is `adam_share` of it, so that one schedule moves both. Weight decay is
    decoupled in both. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/

    All that changes between steps is read from tensors where the rate is one: a step can be
    captured in a CUDA graph.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        ns_steps: int,
        adam_share: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "ns_steps": ns_steps,
            "adam_share": adam_share,
            "betas": betas,
            "eps": eps,
        }
        super().__init__(params, defaults)
        matrices = [p for group in self.param_groups for p in group["params"] if _is_matrix(p)]
        self._last = matrices[-1] if matrices else None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update what has a gradient; returns what `closure` does, which computes them anew."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            hidden = [p for p in given if _is_matrix(p) and p is not self._last]
            others = [p for p in given if not _is_matrix(p) or p is self._last]
            if hidden:
                self._step_muon(group, hidden)
            if others:
                self._step_adamw(group, others)
        return loss

    def _step_muon(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        grads = [p.grad for p in weights]
        buffers = [self._kept(p, "momentum_buffer") for p in weights]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])  # type: ignore[arg-type]
        if group["nesterov"]:
            buffers = torch._foreach_lerp(grads, buffers, group["momentum"])  # type: ignore[arg-type, assignment]
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for weight, buffer in zip(weights, buffers, strict=True):
            matrix = buffer.flatten(1)
            by_shape.setdefault((matrix.shape[0], matrix.shape[1]), []).append((weight, matrix))
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for (rows, columns), pairs in by_shape.items():
            updates = orthogonal(torch.stack([matrix for _, matrix in pairs]), group["ns_steps"])
            updates = updates * (-group["lr"] * math.sqrt(max(1, rows / columns)))
            for (weight, _), update in zip(pairs, updates, strict=True):
                weight.add_(update.view(weight.shape))

    def _step_adamw(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for p in weights:
            if "step" not in self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
        adamw(
            weights,
            [p.grad for p in weights],  # type: ignore[misc]
            [self._kept(p, "exp_avg") for p in weights],
            [self._kept(p, "exp_avg_sq") for p in weights],
            [],
            [self.state[p]["step"] for p in weights],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"] * group["adam_share"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _kept(self, weight: Tensor, name: str) -> Tensor:
        """Return a part of the state of `weight`, which begins at zero."""
        state = self.state[weight]
        if name not in state:
            state[name] = torch.zeros_like(weight)
        kept: Tensor = state[name]
        return kept


def _is_matrix(weight: Tensor) -> bool:
    """Say whether `weight` has rows and columns, more than one of each."""
    return weight.ndim > 1 and 1 < len(weight) < weight.numel()


def orthogonal(matrices: Tensor, num_steps: int) -> Tensor:
    """Move the singular values of `matrices` (N, R, C) towards 1; returns float32 (N, R, C).

    Newton-Schulz: each step applies a polynomial X -> (a + b XX' + c XX'XX') X. All of them are of
    the first XX', so that their product, as small as the shorter side, is iterated and X multiplied
    once: on a CPU a quarter of the time where X is (128, 1600), no more than iterating X in
    bfloat16. This form needs float32: errors of rounding at 0 grow 12-fold a step, 7 at most.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    wide = (matrices.mT if is_tall else matrices).float()
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    gram = wide @ wide.mT  # XX', (N, R, R)
    product = factor = _factor(gram)
    for _ in range(num_steps - 1):
        gram = factor @ (gram @ factor)
        factor = _factor(gram)
        product = factor @ product
    updates: Tensor = product @ wide
    return updates.mT if is_tall else updates


def _factor(gram: Tensor) -> Tensor:
    """Return what a step multiplies X by, a + b XX' + c XX'XX', for XX' (N, R, R)."""
    a, b, c = QUINTIC
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor
