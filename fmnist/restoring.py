"""Where a run goes on, and whether all that a checkpoint holds fits the training that does.

Lightning takes optimizers, loops and callbacks as they come: the first step would fail on what does
not fit, or worse, would not.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from fmnist import checkpoint, record
from fmnist.checkpoint import CheckpointError
from fmnist.errors import UserError

MAX_COUNT = 2**53
_ROW = ("epoch", "step", "lr", "images_per_s", "epoch_s")  # numbers of each epoch in the history
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what Adam keeps of each weight it has changed
_WEIGHTS = ("state_dict", "current_model_state")  # the latter beside an average, EMA's


def resume_point(
    folder: Path, module: nn.Module, say: Callable[[str], None]
) -> tuple[str, dict[str, Any]] | None:
    """Return the name and the content of the newest checkpoint with whole weights of `module`.

    Of those only the rest. None when there is no checkpoint yet; raises UserError when all there
    are are damaged.
    """
    damaged = []
    for name in record.CHECKPOINTS:
        path = folder / "checkpoints" / name
        if not path.exists():
            continue
        try:
            state = checkpoint.read_own(path, module)
            return name, {key: value for key, value in state.items() if key not in _WEIGHTS}
        except CheckpointError as error:
            damaged.append(name)
            say(f"Warning: {path} is damaged ({error}); trying the one before it.")
    if damaged:
        raise UserError(
            f"{folder}/checkpoints: {' and '.join(damaged)} cannot be read. Restore one from a "
            "copy, or delete the folder checkpoints to train from scratch."
        )
    return None


class Restoring(Callback):
    """Compares `state`, of the checkpoint at `path`, with what a training has when it begins.

    `epoch` is its last one, from 0.
    """

    def __init__(self, path: Path, state: Mapping[str, Any]) -> None:
        self.path = path
        self.state = state
        self.epoch = int(state["epoch"])
        self.next_step = int(state["global_step"]) + 1
        self._is_done = False

    def check(self, trainer: pl.Trainer) -> None:
        """Compare what is there before the fit; raises UserError."""
        callbacks = {c.state_key: c.state_dict() for c in trainer.callbacks}  # type: ignore[attr-defined]
        with self.explaining():
            _compare(self.state.get("callbacks"), {k: v for k, v in callbacks.items() if v})
            _compare(self.state.get("loops"), {"fit_loop": trainer.fit_loop.state_dict()})
            rows = self.state["callbacks"].get("History", {}).get("rows")
            if rows is not None:
                _check_rows(rows)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare what Lightning has made by now, and is about to restore; raises UserError."""
        schedulers = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
        with self.explaining():
            _compare(self.state.get("lr_schedulers"), schedulers)
            saved = self.state.get("optimizer_states")
            if not isinstance(saved, list) or len(saved) != len(trainer.optimizers):
                raise CheckpointError("its optimizer_states are of other optimizers")
            for optimizer, state in zip(trainer.optimizers, saved, strict=True):
                _check_optimizer(state, optimizer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._is_done = True
        self.state = {}  # Lightning has it by now

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Raise UserError for what is wrong in the checkpoint, until all of it is restored."""
        try:
            yield
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:  # whatever Lightning and torch say to values that do not fit
            if self._is_done or "allocate memory" in str(error) or "out of memory" in str(error):
                raise
            reason = " ".join(str(error).split())[:200].rstrip(".")
            if not isinstance(error, CheckpointError):
                reason = f"{type(error).__name__}: {reason}"
            raise UserError(
                f"{self.path} does not fit this run ({reason}). Delete it to go on from the "
                "checkpoint before it, or the folder checkpoints to train from scratch."
            ) from error


def _compare(found: Any, ours: Any, place: str = "it") -> None:
    """Raise CheckpointError where `found` is of another form than `ours`, in what both have."""
    if isinstance(ours, Mapping):
        if not isinstance(found, dict):
            raise CheckpointError(f"{place} is no dict")
        for key, value in ours.items():
            if key in found:
                _compare(found[key], value, f"{place}.{key}" if place != "it" else str(key))
    elif isinstance(ours, list | tuple):
        if not isinstance(found, list | tuple) or (ours and len(found) != len(ours)):
            raise CheckpointError(f"{place} is no list of {len(ours)}")
        for value, other in zip(found, ours, strict=bool(ours)):
            _compare(value, other, place)
    elif isinstance(ours, Tensor):
        if not isinstance(found, Tensor) or found.shape != ours.shape:
            raise CheckpointError(f"{place} is no tensor of {list(ours.shape)}")
    elif not _is_alike(found, ours):
        raise CheckpointError(f"{place} is {found!r:.50}")


def _is_alike(found: Any, ours: Any) -> bool:
    """Say whether a plain value could be there in place of `ours`."""
    if isinstance(ours, bool):
        return isinstance(found, bool)
    if isinstance(ours, int):
        return isinstance(found, int) and not isinstance(found, bool) and -1 <= found < MAX_COUNT
    if isinstance(ours, float):
        return isinstance(found, int | float) and not isinstance(found, bool)
    return not isinstance(found, dict | list | Tensor)


def _check_rows(rows: Sequence[Any]) -> None:
    """Raise CheckpointError unless these are the rows of a history, one after the other."""
    before = 0.0
    for row in rows:
        if not isinstance(row, dict) or not all(_is_alike(row.get(key), 0.0) for key in _ROW):
            raise CheckpointError("a row of its history is damaged")
        if not all(isinstance(k, str) and _is_alike(v, 0.0) for k, v in row.items()):
            raise CheckpointError("a row of its history is damaged")
        if not before < row["epoch"] < MAX_COUNT:
            raise CheckpointError("the epochs of its history are not in order")
        before = row["epoch"]


def _check_optimizer(saved: Any, optimizer: Optimizer) -> None:
    """Raise CheckpointError unless `saved` is the state of such an optimizer of these weights."""
    groups = saved.get("param_groups") if isinstance(saved, dict) else None
    state = saved.get("state") if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not isinstance(groups, list):
        raise CheckpointError("its optimizer_states are damaged")
    ours = optimizer.state_dict()["param_groups"]
    _compare(groups, ours, "param_groups")
    if any(set(mine) - set(theirs) for mine, theirs in zip(ours, groups, strict=True)):
        raise CheckpointError("its param_groups lack a key")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbers = [number for group in groups for number in group["params"]]
    if numbers != list(range(len(weights))) or not set(state) <= set(numbers):
        raise CheckpointError("its optimizer_states are of other weights")
    for number, kept in state.items():
        if not isinstance(kept, dict):
            raise CheckpointError(f"state {number} of its optimizer is damaged")
        if isinstance(optimizer, Adam):
            _check_moments(kept, groups, number)
        for name, value in kept.items():
            weight = weights[number]
            if isinstance(value, Tensor) and value.dim() and value.shape != weight.shape:
                shapes = f"{list(value.shape)}, not {list(weight.shape)}"
                raise CheckpointError(f"{name} of weight {number} in its optimizer is {shapes}")
            if not isinstance(value, Tensor | int | float | None):
                raise CheckpointError(f"{name} of weight {number} in its optimizer is damaged")


def _check_moments(kept: Mapping[str, Any], groups: Sequence[Any], number: int) -> None:
    """Raise CheckpointError unless all moments of a weight, as large as it is, are there."""
    group = next(group for group in groups if number in group["params"])
    needed = (*_MOMENTS, *["max_exp_avg_sq"] * bool(group["amsgrad"]))
    for name in needed:
        value = kept.get(name)
        if not isinstance(value, Tensor) or (name == "step") != (value.dim() == 0):
            raise CheckpointError(f"{name} of weight {number} in its optimizer is damaged")
