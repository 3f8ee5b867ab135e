"""Muon against its definition in float64, AdamW against torch's, and both across a kill."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fmnist import models, proof, run
from fmnist.muon import Muon, orthogonal

FAST = ["data.batch_size=50", "data.val_size=100", "trainer.max_epochs=2", "trainer=cpu"]
SETTINGS: dict[str, Any] = {
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 0.1,
    "ns_steps": 5,
    "adam_share": 0.15,
    "betas": (0.9, 0.99),
    "eps": 1e-8,
}


def matrices(*shape: int, condition: float = 30.0) -> Tensor:
    """Draw matrices whose singular values fall evenly from 1 to 1 / `condition`."""
    generator = torch.Generator().manual_seed(sum(shape))
    left, values, right = torch.linalg.svd(
        torch.randn(*shape, generator=generator, dtype=torch.float64), full_matrices=False
    )
    return (left * torch.linspace(1, 1 / condition, values.shape[-1])) @ right


def quintic(matrix: Tensor, num_steps: int) -> Tensor:
    """Iterate as the definition has it, in float64."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.double() / matrix.double().norm()
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(num_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


@pytest.mark.parametrize("shape", [(64, 288), (128, 1600), (32, 9), (16, 16)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    values = torch.linalg.svdvals(orthogonal(matrices(1, *shape), 5)[0])
    assert values.min() > 0.65
    assert values.max() < 1.25


@pytest.mark.parametrize("num_steps", [1, 3, 5, 7])
@pytest.mark.parametrize("shape", [(64, 288), (32, 9)])
def test_product_of_small_factors_is_the_iteration(shape: tuple[int, int], num_steps: int) -> None:
    given = matrices(2, *shape)
    found = orthogonal(given.float(), num_steps)
    assert found.dtype == torch.float32
    for matrix, ours in zip(given, found, strict=True):
        error = (ours - quintic(matrix, num_steps)).norm() / ours.norm()
        assert error < 1e-4


def test_singular_values_near_zero_stay_bounded() -> None:
    """Rounding must not grow into anything: a gradient may have any rank."""
    for num_steps in range(1, 8):
        for matrix in (matrices(1, 64, 288, condition=1e9), torch.ones(1, 64, 288)):
            values = torch.linalg.svdvals(orthogonal(matrix, num_steps)[0])
            assert values.max() < 1.3
    assert not orthogonal(torch.zeros(1, 8, 8), 5).any()


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = models.cnn_bn(channels=(4, 8), hidden=16, dropout=0.0)
    return net.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


def take_steps(
    net: nn.Sequential, optimizers: Sequence[torch.optim.Optimizer], num_steps: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=generator) / 10
        for optimizer in optimizers:
            optimizer.step()


def by_part(net: nn.Sequential) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what Muon takes and what AdamW takes, by name: written out by hand."""
    hidden = ("conv1.weight", "conv2.weight", "dense1.weight")
    named = dict(net.named_parameters())
    rest = {name: p for name, p in named.items() if name not in hidden}
    return {name: named[name] for name in hidden}, rest


@pytest.mark.parametrize("nesterov", [True, False])
def test_hidden_weights_move_as_a_plain_float64_loop_moves_them(nesterov: bool) -> None:
    ours, plain = small_net(), small_net()
    settings = SETTINGS | {"nesterov": nesterov}
    take_steps(ours, [Muon(ours.parameters(), lr=0.02, **settings)], 3)
    hidden = {name: p.detach().double() for name, p in by_part(plain)[0].items()}
    momenta = {name: torch.zeros_like(p) for name, p in hidden.items()}
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for name, parameter in plain.named_parameters():
            grad = torch.randn(parameter.shape, generator=generator).double() / 10
            if name not in hidden:
                continue
            momenta[name] = 0.9 * momenta[name] + 0.1 * grad
            moved = 0.9 * momenta[name] + 0.1 * grad if nesterov else momenta[name]
            rows = moved.reshape(len(moved), -1)
            scale = max(1, rows.shape[0] / rows.shape[1]) ** 0.5
            update = scale * quintic(rows, 5).view(moved.shape)
            hidden[name] = hidden[name] * (1 - 0.02 * 0.1) - 0.02 * update
    for name, weight in by_part(ours)[0].items():
        torch.testing.assert_close(weight.double(), hidden[name], atol=5e-4, rtol=0.0)


def test_all_else_moves_as_adamw_moves_it() -> None:
    ours, theirs = small_net(), small_net()
    rest = by_part(theirs)[1]
    assert set(rest) >= {"norm1.weight", "norm3.bias", "dense2.weight", "dense2.bias"}
    adamw = torch.optim.AdamW(
        rest.values(), lr=0.02 * 0.15, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, fused=True
    )
    take_steps(ours, [Muon(ours.parameters(), lr=0.02, **SETTINGS)], 4)
    take_steps(theirs, [adamw], 4)
    for name, weight in by_part(ours)[1].items():
        assert torch.equal(weight, rest[name]), name


def test_who_takes_what_is_seen_from_shapes_and_order() -> None:
    net = small_net()
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    optimizer = Muon(groups, lr=0.02, **SETTINGS)
    take_steps(net, [optimizer], 1)
    kept = {name: set(optimizer.state[p]) for name, p in net.named_parameters()}
    assert kept.pop("conv1.weight") == {"momentum_buffer"}
    assert kept.pop("conv2.weight") == kept.pop("dense1.weight") == {"momentum_buffer"}
    assert all(names == {"step", "exp_avg", "exp_avg_sq"} for names in kept.values())
    scales = [nn.Parameter(torch.ones(shape)) for shape in [(8, 1, 1), (1, 5, 6), (7,), (4, 1, 3)]]
    for scale in scales:
        scale.grad = torch.ones_like(scale)
    optimizer = Muon([*scales, *nn.Linear(3, 2).parameters()], lr=0.02, **SETTINGS)
    optimizer.step()
    assert ["exp_avg" in optimizer.state[scale] for scale in scales] == [True, True, True, False]
    linear = nn.Linear(3, 2)
    linear.weight.grad = torch.ones(2, 3)
    alone = Muon(linear.parameters(), lr=0.02, **SETTINGS)
    alone.step()
    assert "exp_avg" in alone.state[linear.weight]


def test_frozen_weights_stay_and_wake() -> None:
    net, names = small_net(), ("conv1.weight", "norm1.bias")
    optimizer = Muon(net.parameters(), lr=0.02, **SETTINGS)
    before = {name: net.get_parameter(name).detach().clone() for name in names}
    for name in names:
        net.get_parameter(name).requires_grad = False
    take_steps(net, [optimizer], 2)
    for name in names:
        assert torch.equal(net.get_parameter(name), before[name])
        net.get_parameter(name).requires_grad = True
    take_steps(net, [optimizer], 1)
    assert not any(torch.equal(net.get_parameter(name), before[name]) for name in names)


def test_state_is_saved_and_goes_on_bit_for_bit(tmp_path: Any) -> None:
    whole, begun, resumed = small_net(), small_net(), small_net()
    optimizers = [Muon(net.parameters(), lr=0.02, **SETTINGS) for net in (whole, begun, resumed)]
    for net, optimizer in ((whole, optimizers[0]), (begun, optimizers[1])):
        take_steps(net, [optimizer], 2)
    torch.save([begun.state_dict(), optimizers[1].state_dict()], tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(weights)
    optimizers[2].load_state_dict(state)
    for net, optimizer in ((whole, optimizers[0]), (resumed, optimizers[2])):
        take_steps(net, [optimizer], 2)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_rate_on_the_device_is_a_number() -> None:
    plain, other = small_net(), small_net()
    rates = (0.02, torch.tensor(0.02))
    for net, rate in zip((plain, other), rates, strict=True):
        optimizer = Muon(net.parameters(), lr=0.02, **SETTINGS)
        optimizer.param_groups[0]["lr"] = rate
        take_steps(net, [optimizer], 2)
    for one, two in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


class Killed(BaseException):
    """Ends a run as a kill would: nothing after it is executed."""


@pytest.mark.usefixtures("small_data", "workdir")
def test_a_killed_run_ends_as_if_nothing_had_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*FAST, "optim.lr=0.02", "figures=none", "augment=strong", "model.dropout=0.2"]
    words += ["optim.optimizer.weight_decay=0.1", "trainer.gradient_clip_val=1.0"]
    whole = run.train([*words, "name=whole"])
    assert whole.scores["val/acc"] > 0.5
    update = run.record.Record.update
    with monkeypatch.context() as patch:

        def die(self: run.record.Record, **fields: object) -> None:
            update(self, **fields)
            if fields.get("epochs_done") == 1:
                raise Killed

        patch.setattr(run.record.Record, "update", die)
        with pytest.raises(Killed):
            run.train([*words, "name=killed"])
    resumed = run.train([*words, "name=killed"])
    assert [attempt["start_epoch"] for attempt in resumed.data["attempts"]] == [0, 1]
    assert proof.differences(whole.folder, resumed.folder) == []
