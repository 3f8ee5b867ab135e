"""Training many batches between two visits of Lightning's hooks, which cost more than a step."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fmnist import graphs
from fmnist.classifier import Classifier
from fmnist.data import Batch, Batches

PER_STEP_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


class Steps(Protocol):
    def run(self, begin: int, end: int) -> tuple[int, Tensor, Batch]:
        """Train on batches `begin` to `end` - 1 of the epoch, or on some of them.

        Returns the number of the next batch, and the last loss and batch.
        """
        ...


class ChunkedLoop(_TrainingEpochLoop):
    """Lightning's epoch loop, with all steps between two points of the log as one.

    The steps, their order and the state that is saved are those of the loop it replaces. Hooks of
    batches are called for the last batch of a chunk only: see `why_not`.
    """

    def __init__(self, trainer: pl.Trainer, say: Callable[[str], None]) -> None:
        replaced = trainer.fit_loop.epoch_loop
        super().__init__(trainer, replaced.min_steps, replaced.max_steps)
        self._say = say
        self._steps: Steps | None = None

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if self.restarting:  # an epoch that was complete when it was saved
            super().advance(data_fetcher)
            return
        self.val_loop.restarting = False
        trainer, module = self.trainer, self.trainer.lightning_module
        assert isinstance(module, Classifier)
        begin, every = self.batch_idx + 1, trainer.log_every_n_steps
        end = min((begin // every + 1) * every, int(trainer.num_training_batches))
        end, loss, batch = self._train(module, begin, end)
        self._count(end - begin)
        self.batch_progress.is_last_batch = end == trainer.num_training_batches
        for callback in trainer.callbacks:
            callback.on_train_batch_end(trainer, module, {"loss": loss}, batch, end - 1)
        module.on_train_batch_end({"loss": loss}, batch, end - 1)

    def _train(self, module: Classifier, begin: int, end: int) -> tuple[int, Tensor, Batch]:
        batches = self.trainer.train_dataloader
        assert isinstance(batches, Batches)
        if begin == 0:
            batches.draw()
        if self._steps is None:
            self._steps = self._choose(module, batches)
        return self._steps.run(begin, end)

    def _choose(self, module: Classifier, batches: Batches) -> Steps:
        if self.trainer.strategy.root_device.type == "cuda":
            needs = graphs.why_not(self.trainer, module)
            if needs is None:
                return graphs.GraphedSteps(self.trainer, module, batches, self._say)
            self._say(f"Note: {needs} cannot be in a CUDA graph; without, a GPU waits for Python.")
        return EagerSteps(self.trainer, module, batches)

    def _count(self, num_steps: int) -> None:
        """Move on all the counters that a checkpoint holds."""
        optimizer = self.automatic_optimization.optim_progress.optimizer
        counters = (
            self.batch_progress,
            optimizer.step,
            optimizer.zero_grad,
            self.scheduler_progress,
        )
        for counter in counters:
            counter.total.increment_by(num_steps)
            counter.current.increment_by(num_steps)
        self._batches_that_stepped += num_steps - 1  # the last one by on_advance_end


class EagerSteps:
    """Steps one by one: forward, backward, optimizer, schedule; for about a second at a time.

    So that the progress bar moves and Ctrl-C is heard.
    """

    MAX_S = 1.0

    def __init__(self, trainer: pl.Trainer, module: Classifier, batches: Batches) -> None:
        self.module, self.batches = module, batches
        self.context = trainer.precision_plugin.forward_context
        self.optimizer = trainer.optimizers[0]
        self.weights = list(module.parameters())
        self.clip = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, LambdaLR)
        self.scheduler = scheduler
        self.lean = LeanUpdate(self.optimizer) if can_lean(self.optimizer) else None

    def run(self, begin: int, end: int) -> tuple[int, Tensor, Batch]:
        deadline = time.monotonic() + self.MAX_S
        update = self.lean or self.optimizer.step
        if self.lean and begin == 0:
            self.lean.forget()  # a callback may have frozen or freed weights between epochs
        for i in range(begin, end):
            batch = self.batches.batch(i)
            with self.context():
                loss = self.module.training_step(batch, i)
            for weight in self.weights:
                weight.grad = None
            loss.backward()  # type: ignore[no-untyped-call]
            if self.clip[0] is not None:
                self.module.configure_gradient_clipping(self.optimizer, *self.clip)
            update()
            self.scheduler.step()
            if time.monotonic() > deadline:
                break
        return i + 1, loss.detach(), batch


def can_lean(optimizer: Optimizer) -> bool:
    """Say whether LeanUpdate takes `optimizer`: a plain fused Adam or AdamW, on the CPU."""
    return (
        type(optimizer) in (Adam, AdamW)
        and all(
            group["fused"] and not group["amsgrad"] and not group["maximize"]
            for group in optimizer.param_groups
        )
        and all(p.device.type == "cpu" for group in optimizer.param_groups for p in group["params"])
    )


class LeanUpdate:
    """A step of Adam or AdamW by the kernel that torch.optim calls, on the optimizer's own state.

    What its class does around the kernel at every step takes longer than the kernel.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.groups: list[tuple[dict[str, Any], list[Tensor], list[list[Tensor]]]] = []
        self.forget()

    def forget(self) -> None:
        """Take the next step by the optimizer itself, and find its weights and state anew."""
        self.weights = [w for group in self.optimizer.param_groups for w in group["params"]]
        self.given: list[bool] = []  # which of them had a gradient

    @torch.no_grad()
    def __call__(self) -> None:
        given = [weight.grad is not None for weight in self.weights]
        if given != self.given:
            self.optimizer.step()  # makes the state of what has none yet
            found = [self._tensors(group) for group in self.optimizer.param_groups]
            self.groups = [part for part in found if part[1]]  # the kernel takes no empty lists
            self.given = given
            return
        for group, weights, (firsts, seconds, counts) in self.groups:
            torch._foreach_add_(counts, 1)
            kernel = torch._fused_adam_
            if group["decoupled_weight_decay"]:
                kernel = torch._fused_adamw_
            kernel(
                weights,
                [weight.grad for weight in weights],  # type: ignore[misc]
                firsts,
                seconds,
                [],
                counts,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def _tensors(self, group: dict[str, Any]) -> Any:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        states = [self.optimizer.state[weight] for weight in weights]
        names = ("exp_avg", "exp_avg_sq", "step")
        return group, weights, [[state[name] for state in states] for name in names]


def install(trainer: pl.Trainer, say: Callable[[str], None]) -> None:
    """Give `trainer` the loop of chunks; `say` is told when a graph cannot be made."""
    trainer.fit_loop.epoch_loop = ChunkedLoop(trainer, say)


def why_not(trainer: pl.Trainer, module: pl.LightningModule, known: tuple[type, ...]) -> str | None:
    """Name the setting that needs Lightning's own loop, or return None.

    `known` are the callbacks whose hooks of batches may be called for the last of a chunk only.
    """
    strategy, precision = trainer.strategy, trainer.precision_plugin
    interval = getattr(trainer, "val_check_interval", None)  # not set where it is a time
    reasons = {
        "trainer.fast_dev_run": bool(trainer.fast_dev_run),  # type: ignore[attr-defined]
        "trainer.accumulate_grad_batches": trainer.accumulate_grad_batches > 1,
        "trainer.max_steps": trainer.max_steps != -1,
        "trainer.min_steps": trainer.min_steps is not None,
        "trainer.val_check_interval": isinstance(interval, int) or interval != 1.0,
        "trainer.reload_dataloaders_every_n_epochs": bool(
            trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
        ),
        "trainer.profiler": not isinstance(trainer.profiler, PassThroughProfiler),  # type: ignore[attr-defined]
        "trainer.strategy": type(strategy) is not SingleDeviceStrategy,
        "trainer.precision": type(precision) not in (Precision, MixedPrecision)
        or getattr(precision, "scaler", None) is not None,
        "the network's class": type(module) is not Classifier,
    }
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(callback, known) and _has_hooks_of_steps(callback):
            reasons[f"the callback {type(callback).__name__}"] = True
    return next((setting for setting, is_on in reasons.items() if is_on), None)


def _has_hooks_of_steps(callback: Callback) -> bool:
    return any(getattr(type(callback), h) is not getattr(Callback, h) for h in PER_STEP_HOOKS)
