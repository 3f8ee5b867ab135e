"""What a training leaves behind: history, checkpoints, TensorBoard events, outputs."""

import contextlib
import csv
import io
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

Row = dict[str, float]
Write = Callable[[Path, str], None]


class Events(TensorBoardLogger):
    """TensorBoard events at the top of the run folder, and no other file.

    What an earlier attempt left from `first_step` on is not shown. A first attempt says so too (0):
    TensorBoard takes the first such mark of a run for its beginning and drops nothing at it.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        super().__init__(
            str(folder), name="", version="", default_hp_metric=False, purge_step=first_step
        )

    def save(self) -> None:
        """Flush; Lightning's own would also write hparams.yaml, which run.json makes redundant."""
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Flush only: closing after the fit would start a second file for the test."""
        self.experiment.flush()

    @rank_zero_only
    def log_config(self, config: Mapping[str, Any], scores: Mapping[str, float], step: int) -> None:
        """Show the config as text, and both in HPARAMS; `config` is flat, `step` the scores'."""
        from torch.utils.tensorboard.summary import hparams

        plain = {k: v if type(v) in (int, float, str) else json.dumps(v) for k, v in config.items()}
        lines = "\n".join(f"    {key}: {value}" for key, value in plain.items())
        self.experiment.add_text("config", lines)
        # The page opens with the first five names, so these come before the curves'.
        self.log_metrics({f"best/{name}": value for name, value in scores.items()}, step)
        # The first of the three summaries lists columns, and TensorBoard 2.21 takes the list of any
        # one run for all. Without it the columns are those of all runs, what differs first.
        for summary in hparams(plain, {})[1:]:  # type: ignore[no-untyped-call]
            self.experiment.file_writer.add_summary(summary)

    def close(self) -> None:
        self.experiment.close()


@contextlib.contextmanager
def quiet_writers() -> Iterator[None]:
    """Keep the thread that writes events from printing a traceback where the disk fails.

    It notes the error, and the next call of its writer raises that (TensorBoard 2.21).
    """
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        is_disk = isinstance(arguments.exc_value, OSError)
        if not (is_disk and type(arguments.thread).__name__ == "_AsyncWriterThread"):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


class History(Checkpoint):
    """One row of numbers per epoch: metrics.csv, the loggers, and `rows` for figures and scores.

    `images_per_s` is of the training alone, `epoch_s` the whole time since the epoch before ended:
    its checkpoint, then training, validation and logging.

    A Checkpoint by type, because Lightning calls those last: after the module has its scores, and
    before `Checkpoints` saves the rows.
    """

    COLUMNS = (
        "epoch",
        "step",
        "train/loss",
        "train/acc",
        "val/loss",
        "val/acc",
        "lr",
        "images_per_s",
        "epoch_s",
    )

    def __init__(self, path: Path, write: Write, say: Callable[[str], None]) -> None:
        self.path = path
        self.write = write
        self.say = say
        self.rows: list[Row] = []
        self.cut = False  # an epoch was ended early, by max_steps or max_time
        self._started = self._trained = self._ended = 0.0
        self._num_images = 0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "cut": self.cut}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self.cut = state_dict["cut"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ended = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()
        self._num_images = 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if batch_idx + 1 == trainer.num_training_batches:
            float(outputs["loss"])  # waits for a GPU to finish what is timed
        self._trained = time.perf_counter()
        self._num_batches = batch_idx + 1
        self._num_images = self._num_batches * len(batch[1]) * trainer.world_size
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            point = {"train/loss_step": float(outputs["loss"])}
            if not trainer.is_last_batch:  # or the row of the epoch would repeat it at this step
                point["lr"] = _learning_rate(trainer)
            self._log(trainer, point)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.cut |= self._num_batches < trainer.num_training_batches
        row: Row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row |= pl_module.scores  # type: ignore[arg-type]
        before, self._ended = self._ended, time.perf_counter()
        row |= {
            "lr": _learning_rate(trainer),
            "images_per_s": round(self._num_images / (self._trained - self._started), 1),
            "epoch_s": round(self._ended - before, 3),
        }
        self.rows.append(row)
        self._log(trainer, {k: v for k, v in row.items() if k not in ("epoch", "step")})
        if trainer.is_global_zero:
            self.write(self.path, _csv(self.rows, self.COLUMNS))
            self.say(epoch_line(row, trainer.max_epochs))

    def _log(self, trainer: pl.Trainer, numbers: Mapping[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(dict(numbers), step=trainer.global_step)


class Checkpoints(Checkpoint):
    """best.ckpt, last.ckpt and previous.ckpt in `folder`, written at the end of every epoch.

    `best` is the epoch with the best `metric` (`best_epoch`, 1-based), or the last one when
    `metric` is None. Whatever the moment of a kill, `last` is a whole checkpoint whose idea of the
    best epoch agrees with best.ckpt, or a resume from it makes best.ckpt anew. `saved` is told the
    epochs done.
    """

    def __init__(self, folder: Path, metric: str | None, saved: Callable[[int], None]) -> None:
        self.folder = folder
        self.metric = metric
        self.saved = saved
        self.best_epoch = 0
        self.best_score = math.nan
        self.stopped = False

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "stopped": self.stopped,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_epoch = state_dict["best_epoch"]
        self.best_score = state_dict["best_score"]
        self.stopped = state_dict["stopped"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = self.stopped  # early stopping had ended this run before it was killed

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        score = pl_module.scores.get(self.metric) if self.metric else None  # type: ignore[union-attr,operator]
        # Not validated: the last epoch is best, as long as none was.
        is_best = math.isnan(self.best_score) if score is None else self._improves(float(score))
        if is_best:
            self.best_epoch = epoch
            self.best_score = math.nan if score is None else float(score)
        self.stopped = trainer.should_stop
        new = self.folder / "new.ckpt"
        trainer.save_checkpoint(new)  # on every process: it gathers
        if trainer.is_global_zero:
            self._rotate(new, is_best)
            self.saved(epoch)
        trainer.strategy.barrier()  # or another process reads the best.ckpt of the epoch before

    def _improves(self, score: float) -> bool:
        if math.isnan(self.best_score):
            return True
        return score > self.best_score if self.metric == "val/acc" else score < self.best_score

    def _rotate(self, new: Path, is_best: bool) -> None:
        with new.open("rb") as file:
            os.fsync(file.fileno())
        last = self.folder / "last.ckpt"
        if is_best:
            _link(new, self.folder / "best.ckpt")
        if last.exists():
            _link(last, self.folder / "previous.ckpt")
        os.replace(new, last)


class Outputs(Callback):
    """Collects the logits (N, K) and labels (N,) of one evaluation, on the CPU."""

    def __init__(self) -> None:
        self._outputs: list[Mapping[str, Tensor]] = []

    def take(self) -> tuple[Tensor, Tensor]:
        """Return (probs float32 (N, K), labels int64 (N,)) and forget them."""
        logits = torch.cat([o["logits"] for o in self._outputs])
        labels = torch.cat([o["labels"] for o in self._outputs])
        self._outputs.clear()
        return logits.softmax(dim=1).cpu(), labels.cpu()

    def on_test_batch_end(self, *args: Any) -> None:
        self._outputs.append(args[2])

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:  # not the validation within a fit
            self._outputs.append(args[1])


def epoch_line(row: Mapping[str, float], num_epochs: int | None) -> str:
    """Put a row of the history into one line: loss and accuracy of each split, speed."""
    parts = [f"epoch {row['epoch']:.0f}/{num_epochs}"]
    for split in ("train", "val"):
        if f"{split}/acc" in row:
            parts.append(f"{split} {row[f'{split}/loss']:.4f} {row[f'{split}/acc']:6.2%}")
    return "  ".join([*parts, f"{row['images_per_s']:,.0f} images/s", f"{row['epoch_s']:.1f} s"])


def _learning_rate(trainer: pl.Trainer) -> float:
    """Return the last layer's: that of all, unless a backbone learns more slowly."""
    return float(trainer.optimizers[0].param_groups[-1]["lr"])


def _csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _link(source: Path, target: Path) -> None:
    """Let `target` be the file `source` in one step, without copying where links are possible."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        temporary.write_bytes(source.read_bytes())
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # two names of one file are left alone by rename(2)
