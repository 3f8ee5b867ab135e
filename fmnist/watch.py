"""What follows a run without changing it: progress, signals, and word of it to other processes."""

import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.callbacks import ProgressBar as LightningProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fmnist.callbacks import History
from fmnist.errors import Interrupted
from fmnist.lock import Lock
from fmnist.mates import Mates


class Phases(Callback):
    """Tells other processes, through the folder's lock, what this one is doing."""

    def __init__(self, lock: Lock) -> None:
        self.lock = lock

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.lock.check()
        self.lock.note(f"training epoch {trainer.current_epoch + 1}")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.lock.note(f"validating epoch {trainer.current_epoch + 1}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.lock.check()  # before anything is saved
        self.lock.note(f"saving epoch {trainer.current_epoch + 1}")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.lock.note("testing")


class StopOnSignal(Callback):
    """Ends the run with `Interrupted` at the next batch after SIGINT or SIGTERM.

    SIGUSR2 is how SIGTERM comes through srun. The handler only sets a flag. A second Ctrl-C ends at
    once. What stops one of several processes stops all.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

    def __init__(self, mates: Mates | None = None) -> None:
        self.mates = mates
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopOnSignal":
        with contextlib.suppress(ValueError):  # not in the main thread, as in some notebooks
            for signum in self.SIGNALS:
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def _take_back(self) -> None:
        """Replace Lightning's handler, which talks to the other processes wherever they are.

        Its broadcast (2.6) meets their gradients: all of them hang.
        """
        if self._before:
            signal.signal(signal.SIGTERM, self._note)

    def on_sanity_check_start(self, *_: Any) -> None:
        self._take_back()

    def on_train_start(self, *_: Any) -> None:
        self._take_back()

    def on_validation_start(self, *_: Any) -> None:
        self._take_back()

    def on_test_start(self, *_: Any) -> None:
        self._take_back()

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def check(self) -> None:
        if self.mates is not None:
            self.mates.check()
        if self.signum is not None:
            if self.mates is not None:
                self.mates.note_signal(self.signum)
            raise Interrupted(self.signum)

    def on_train_batch_end(self, *_: Any) -> None:
        self.check()

    def on_validation_batch_end(self, *_: Any) -> None:
        self.check()

    def on_test_batch_end(self, *_: Any) -> None:
        self.check()

    def _note(self, signum: int, _: FrameType | None) -> None:
        if self.signum == signal.SIGINT == signum:
            raise KeyboardInterrupt
        self.signum = signal.SIGTERM if signum == signal.SIGUSR2 else signum


class Prune(Checkpoint):
    """Ends the run after the first epoch for whose rows `monitor` returns True.

    A Checkpoint by type, to be called once the epoch's checkpoint is whole: a killed run asks the
    same question again. The last epoch is never pruned, nor one of several processes.
    """

    def __init__(self, monitor: Callable[[Sequence[Mapping[str, float]]], bool], history: History):
        self.monitor = monitor
        self.history = history
        self.pruned = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.history.rows:
            self._ask(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ask(trainer)

    def _ask(self, trainer: pl.Trainer) -> None:
        is_last = trainer.should_stop or len(self.history.rows) == trainer.max_epochs
        if self.monitor(self.history.rows) and not is_last and trainer.world_size == 1:
            self.pruned = trainer.should_stop = True


class ProgressBar(LightningProgressBar):
    """A rich progress bar on stderr with loss and accuracy, redrawn at most ten times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._updated = 0.0

    def disable(self) -> None:
        self._progress = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._progress is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[numbers]}"),
            )
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
            self._task = self._progress.add_task("", total=None, numbers="")
        self._progress.reset(self._task, total=int(trainer.num_training_batches), numbers="")
        self._progress.update(
            self._task, description=f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        now = time.monotonic()
        if self._progress is None or now - self._updated < 0.1:
            return
        self._updated = now
        numbers = _numbers(pl_module)
        self._progress.update(self._task, completed=batch_idx + 1, numbers=numbers)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._progress is not None:
            done, numbers = int(trainer.num_training_batches), _numbers(pl_module)
            self._progress.update(self._task, completed=done, numbers=numbers, refresh=True)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _numbers(pl_module: pl.LightningModule) -> str:
    """Put the means of the epoch's steps that are counted by now into words."""
    tally: Any = pl_module.tallies["train_split"]  # type: ignore[index]
    if not tally.update_called:
        return ""
    sums = tally.compute()
    return f"loss {sums['loss']:.3f}  acc {sums['acc']:.1%}"
