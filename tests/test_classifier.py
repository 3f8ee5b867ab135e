import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from fmnist import augment, models, schedules
from fmnist.classifier import Classifier, Tally
from fmnist.errors import UserError


class Batches:
    """A loader: Lightning would take a list for several."""

    def __init__(self, items: list[tuple[Tensor, Tensor]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.items[index]


pytestmark = pytest.mark.usefixtures("quiet")


def make(lr: float = 0.01, dropout: float = 0.0, **changes: Any) -> Classifier:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "optimizer": partial(torch.optim.SGD, momentum=0.0),
        "schedule": schedules.constant,
        "seed": 0,
        "test_flip": False,
    }
    net = models.mlp(widths=[16], dropout=dropout, init="torch")
    return Classifier(net=net, lr=lr, **(values | changes))


def trainer(**changes: Any) -> pl.Trainer:
    values: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 2,
    }
    return pl.Trainer(**(values | changes))


@pytest.fixture
def batches() -> Batches:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 20, 1, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (6, 20), generator=generator)
    return Batches(list(zip(images, labels, strict=True)))


def test_tally_equals_hand_counts_and_torchmetrics(batches: Batches) -> None:
    module, tally, accuracy = make(), Tally(), MulticlassAccuracy(10, average="micro")
    losses, right, seen = 0.0, 0, 0
    for images, labels in [*batches, (batches[0][0][:7], batches[0][1][:7])]:
        logits = module(images)
        loss = F.cross_entropy(logits, labels)
        tally.update(loss, logits, labels)
        accuracy.update(logits, labels)
        losses += loss.item() * len(labels)
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
            right += row.index(max(row)) == label
        seen += len(labels)
    scores = tally.compute()
    assert scores["acc"].item() == right / seen
    assert scores["acc"].item() == pytest.approx(accuracy.compute().item())
    assert scores["loss"].item() == pytest.approx(losses / seen, rel=1e-6)


def test_training_equals_a_plain_loop(batches: Batches) -> None:
    module, plain = make(), make()
    trainer().fit(module, batches, Batches(batches.items[:1]))
    for images, labels in batches:
        loss = F.cross_entropy(plain.net(images), labels)
        loss.backward()
        with torch.no_grad():
            for p in plain.net.parameters():
                assert p.grad is not None
                p.sub_(0.01 * p.grad)
                p.grad = None
    for ours, theirs in zip(module.net.parameters(), plain.net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_schedule_runs_from_first_to_last_step(batches: Batches) -> None:
    rates: list[float] = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(
            self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
        ) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    schedule = partial(schedules.one_cycle, warmup=0.0, start=1.0, end=0.1)
    trainer(max_epochs=2, callbacks=[Watch()]).fit(
        make(lr=1.0, schedule=schedule), batches, Batches(batches.items[:1])
    )
    assert len(rates) == 12
    assert rates[0] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)


def test_scores_are_of_the_epoch(batches: Batches) -> None:
    module = make(lr=1e-12)
    trainer().fit(module, batches, Batches(batches.items[:2]))
    logits = module(torch.cat([images for images, _ in batches.items[:2]]))
    labels = torch.cat([labels for _, labels in batches.items[:2]])
    assert module.scores["val/acc"] == (logits.argmax(1) == labels).double().mean().item()
    assert module.scores["val/loss"] == pytest.approx(F.cross_entropy(logits, labels).item())
    assert set(module.scores) == {"train/loss", "train/acc", "val/loss", "val/acc"}


def test_flip_averaging_is_the_mean_of_both_views(batches: Batches) -> None:
    module = make(test_flip=True).eval()
    images = batches[0][0]
    expected = (module.net(images) + module.net(images.flip(-1))) / 2
    torch.testing.assert_close(module.predict_logits(images), expected)
    torch.testing.assert_close(
        module.predict_logits(images), module.predict_logits(images.flip(-1))
    )


def test_predictions_are_float32_under_autocast(batches: Batches) -> None:
    module = make().eval()
    expected = module.predict_logits(batches[0][0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module.predict_logits(batches[0][0]), expected)


def test_dropout_is_a_function_of_seed_and_epoch(batches: Batches) -> None:
    def weights(seed: int) -> Tensor:
        module = make(dropout=0.5, seed=seed)
        torch.manual_seed(12345)
        trainer(max_epochs=2).fit(module, batches, Batches(batches.items[:1]))
        return module.net.get_parameter("logits.weight").detach()

    first = weights(seed=1)
    torch.rand(100)
    assert torch.equal(first, weights(seed=1))
    assert not torch.equal(first, weights(seed=2))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_loss_of_shares_is_the_shares_of_the_losses(
    batches: Batches, label_smoothing: float
) -> None:
    module, (images, labels) = make(label_smoothing=label_smoothing), batches[0]
    others = labels.roll(1)
    boxes = torch.tensor([[2, 3, 20, 28]]).repeat(20, 1)
    loss, logits = module.loss_of(images, augment.mix_labels(labels, others, boxes, 784, 10))
    kept = 1 - 18 * 25 / 784
    terms = [
        F.cross_entropy(logits, label, label_smoothing=label_smoothing)
        for label in (labels, others)
    ]
    torch.testing.assert_close(loss, kept * terms[0] + (1 - kept) * terms[1])


def test_train_acc_of_mixed_images_counts_the_larger_share(batches: Batches) -> None:
    shares = torch.tensor([0.3, 0.7])
    mixed = []
    for images, labels in batches:
        targets = shares[1] * F.one_hot(labels, 10) + shares[0] * F.one_hot((labels + 1) % 10, 10)
        mixed.append((images, targets))
    hard, soft = make(lr=0.0), make(lr=0.0)
    for module, items in ((hard, batches.items), (soft, mixed)):
        trainer().fit(module, Batches(items), batches)
    assert soft.scores["train/acc"] == hard.scores["train/acc"]
    assert soft.scores["train/loss"] != hard.scores["train/loss"]


def test_label_smoothing_spreads_a_share_of_the_target_in_training_alone(batches: Batches) -> None:
    module, (images, labels) = make(label_smoothing=0.2), batches[0]
    loss, logits = module.loss_of(images, labels)
    target = 0.8 * F.one_hot(labels, 10) + 0.2 / 10
    torch.testing.assert_close(loss, -(target * logits.log_softmax(dim=1)).sum(dim=1).mean())
    trainer().validate(module, batches, verbose=False)  # type: ignore[arg-type]
    plain = torch.stack([F.cross_entropy(module(x), y) for x, y in batches]).mean().item()
    assert module.scores["val/loss"] == pytest.approx(plain)


@pytest.mark.parametrize("decays_all", [True, False])
def test_weight_decay_spares_biases_unless_all_is_said(batches: Batches, decays_all: bool) -> None:
    optimizer = partial(torch.optim.SGD, weight_decay=0.5)
    module = make(lr=0.1, optimizer=optimizer, decays_all=decays_all)
    free = make(lr=0.1, optimizer=partial(torch.optim.SGD, weight_decay=0.0))
    before = {name: p.detach().clone() for name, p in module.net.named_parameters()}
    for each in (module, free):
        trainer(max_steps=1).fit(each, batches, batches)  # type: ignore[arg-type]
    undecayed = dict(free.net.named_parameters())
    for name, p in module.net.named_parameters():
        shrinks = decays_all or p.ndim > 1
        expected = undecayed[name] - shrinks * 0.1 * 0.5 * before[name]
        torch.testing.assert_close(p, expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_loss_names_epoch_and_step(batches: Batches, bad: float) -> None:
    module = make()
    steps = iter(range(100))
    whole_step = Classifier.training_step

    def step(self: Classifier, batch: Any, index: int) -> Tensor:
        loss = whole_step(self, batch, index)
        if next(steps) == 6 + 3:
            loss = loss * bad
            self._steps[-1] = (loss.detach(), *self._steps[-1][1:])
        return loss

    module.training_step = step.__get__(module)  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"not finite at epoch 2, step 10 \(batch 4 of the epoch\)"):
        trainer(max_epochs=3).fit(module, batches, Batches(batches.items[:1]))


def test_weights_that_are_not_finite_are_refused(batches: Batches) -> None:
    """Also where the loss is: a ReLU may hide them."""
    module = make()

    class Spoil(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            with torch.no_grad():
                next(module.parameters())[0, 0] = math.nan

    images = [torch.zeros_like(items[0]) for items in batches.items]
    black = Batches([(i, items[1]) for i, items in zip(images, batches.items, strict=True)])
    module.net[0].register_forward_hook(lambda *_: torch.zeros(20, 1, 28, 28))
    module.net[1].register_forward_hook(lambda *_: torch.zeros(20, 784))
    module.net[2].register_forward_hook(lambda *_: torch.ones(20, 16, requires_grad=True))
    with pytest.raises(UserError, match="weights are not finite after epoch 1. Lower optim.lr"):
        trainer(callbacks=[Spoil()]).fit(module, black, Batches(batches.items[:1]))
