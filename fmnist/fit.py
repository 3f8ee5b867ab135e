"""Train one run in its folder: fit, test the selected epoch, draw, record."""

import contextlib
import math
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from fmnist import (
    CLASSES,
    build,
    checkpoint,
    chunks,
    cluster,
    layout,
    origin,
    process,
    record,
    schema,
    sources,
)
from fmnist.callbacks import Checkpoints, Events, History, Outputs, quiet_writers
from fmnist.classifier import Classifier
from fmnist.data import FashionMNISTData
from fmnist.errors import Interrupted, UserError
from fmnist.gallery import Gallery
from fmnist.lock import Lock
from fmnist.log import Log, say_nothing
from fmnist.mates import Mates
from fmnist.restoring import Restoring, resume_point
from fmnist.watch import Phases, ProgressBar, Prune, StopOnSignal

Say = Callable[[str], None]
Config = dict[str, Any]


def fit(
    run: record.Record,
    config: Config,
    data: FashionMNISTData,
    module: Classifier,
    lock: Lock | None = None,
    monitor: record.Monitor | None = None,
    mates: Mates | None = None,
) -> None:
    """Carry the run in `run.folder` to its end, from its checkpoint if there is one.

    `data` is prepared, `lock` held (None: by the process this one follows), `mates` train with this
    process, and `config` has no `auto` left. Raises Interrupted after a signal, UserError for what
    a user can mend; what has been saved by then stays.
    """
    layout.check(run.folder)
    if run.scores:  # ended between its last two writes
        run.open_attempt(start_epoch=run.data.get("epochs_done", 0))
    else:
        with StopOnSignal(mates) as stop, build.quiet(), quiet_writers():
            process.keep_memory()
            process.forget_nvml()
            try:
                watchers: list[pl.Callback] = [stop, Phases(lock)] if lock else [stop]
                _Fit(run, config, data, module, watchers, monitor, mates).carry_out()
            except SIGTERMException:  # Lightning notes the signal too, and looks at epochs' ends
                raise Interrupted(signal.SIGTERM) from None
            except SystemExit:  # Lightning's answer to the KeyboardInterrupt of a second Ctrl-C
                stop.check()
                raise
            stop.check()
    if lock:
        lock.check()
        lock.note("recording")
        _complete(run, config)


class _Fit:
    """The objects of one fit, in the order they are made."""

    def __init__(
        self,
        run: record.Record,
        config: Config,
        data: FashionMNISTData,
        module: Classifier,
        watchers: list[pl.Callback],
        monitor: record.Monitor | None,
        mates: Mates | None,
    ) -> None:
        self.run, self.config, self.data, self.module = run, config, data, module
        self.say = Log(run.folder / "train.log") if run.writes else say_nothing
        folder = run.folder
        layout.make(folder / "checkpoints")
        found = resume_point(folder, module, self.say)
        self.resumed = Restoring(folder / "checkpoints" / found[0], found[1]) if found else None
        self.events: Events | None = None
        if config["logger"]["kind"] == "tensorboard":
            first_step = self.resumed.next_step if self.resumed else 0
            self.events = Events(folder, first_step)
        self.select_best = config["select"] == "best" and schema.has_validation(config["data"])
        self.history = History(folder / "metrics.csv", record.write_atomically, self.say)
        self.outputs = Outputs()
        self.checkpoints = Checkpoints(
            folder / "checkpoints",
            config["metric"] if self.select_best else None,
            saved=lambda epoch: run.update(epochs_done=epoch),
        )
        callbacks = [*watchers, self.outputs, self.history, self.checkpoints]
        if self.resumed:
            callbacks.append(self.resumed)
        self.prune = Prune(monitor, self.history) if monitor else None
        if self.prune:
            callbacks.append(self.prune)
        bar = config["trainer"].get("enable_progress_bar") is not False
        if bar and run.writes and sys.stderr.isatty():
            callbacks.append(ProgressBar())
        environment = cluster.Environment(mates.launch, mates.port) if mates else None
        self.trainer = build.trainer(config, folder, callbacks, self.events, environment)
        if self.resumed:
            self.resumed.check(self.trainer)
        self._choose_loop()

    def _choose_loop(self) -> None:
        needs = chunks.why_not(self.trainer, self.module, (History, ProgressBar, StopOnSignal))
        if needs is None:
            chunks.install(self.trainer, self.say)
        else:
            self.say(f"Note: {needs} needs Lightning's own loop, which is slower.")

    def carry_out(self) -> None:
        self._open_attempt()
        try:
            with self.resumed.explaining() if self.resumed else contextlib.nullcontext():
                path = self.resumed.path if self.resumed else None
                self.trainer.fit(
                    self.module, datamodule=self.data, ckpt_path=path, weights_only=True
                )
            if not self.history.rows:
                raise UserError("Training ended before one epoch was complete; nothing was kept.")
            self._score()
        finally:
            if self.events is not None:
                self.events.close()

    def _open_attempt(self) -> None:
        self.data.setup()
        facts = {
            "device": _device_name(self.trainer),
            "precision": str(self.trainer.precision),
            "num_processes": self.trainer.world_size,
            "cpu": origin.cpu(),
            "num_threads": torch.get_num_threads(),
        }
        if self.resumed:
            self._warn_of_changes(facts)
        if self.trainer.world_size > 1:
            for line in cluster.explain_share(self.trainer.world_size, self.config, self.module):
                self.say(line)
        self.run.open_attempt(start_epoch=self.resumed.epoch + 1 if self.resumed else 0)
        self.run.update(
            **facts,
            num_parameters=sum(p.numel() for p in self.module.net.parameters()),
            split_hash=self.data.split_hash,
            data_hash=sources.data_hash(),
        )

    def _warn_of_changes(self, facts: Config) -> None:
        """Say what makes the rest of a resumed run differ from an uninterrupted one."""
        now = {**facts, **origin.versions()}
        before = {**self.run.data, **self.run.data.get("versions", {})}
        changed = [f"{k} was {before[k]}, is {v}" for k, v in now.items() if before.get(k, v) != v]
        if changed:
            self.say(f"Warning: not bit-equal from here: {'; '.join(changed)}.")
        code = [r.get("commit") for r in (self.run.data, origin.commit())]
        if code[0] != code[1]:
            self.say(f"Warning: the code changed since this run began: {code[0]}, now {code[1]}.")

    def _score(self) -> None:
        """Score the selected checkpoint, draw, and record both."""
        rows, best_epoch = self.history.rows, self._load_best()
        row = next((r for r in rows if r["epoch"] == best_epoch), None)
        if row is None:
            raise UserError(
                f"{self.run.folder}/checkpoints/best.ckpt is of epoch {best_epoch}, which the "
                "history lacks. Delete the folder checkpoints to train from scratch."
            )
        scores = {k: v for k, v in row.items() if k.startswith(("train/", "val/"))}
        if best_epoch != self.checkpoints.best_epoch:  # a resume that was not bit-equal
            self.say(f"Warning: best.ckpt is of epoch {best_epoch}; its scores are measured anew.")
            scores = self._evaluate("val")
            self.outputs.take()
        folder, which = self.run.folder / "figures", self.config["figures"]
        if not self.run.writes:
            which = "none"
        gallery = Gallery(folder, which, CLASSES, self.events)
        images, labels = self.data.arrays("train")
        gallery.training(images[:200], labels[:200], rows, best_epoch)
        gallery.augmented(self.data.train_dataloader())
        split = self._split_to_show()
        if split == "test" or (split == "val" and self.config["figures"] == "all"):
            scores |= self._evaluate(split)
            if self.run.writes:
                images, labels, probs = self._outputs(split)
                gallery.evaluation(images, labels, probs, int(rows[-1]["step"]))
        if self.events is not None:
            self.events.log_config(_hparams(self.run.data), scores, step=int(row["step"]))
        speeds = [r["images_per_s"] for r in rows]
        self.run.update(
            partial=build.is_partial(self.config) or self.history.cut,
            pruned=bool(self.prune and self.prune.pruned),
            selected_on=self._selected_on(),
            scores=scores,
            best_epoch=best_epoch,
            images_per_s=round(sum(speeds) / len(speeds), 1),
        )

    def _selected_on(self) -> str:
        """Name what the selected epoch is the best of."""
        if math.isnan(self.checkpoints.best_score):
            return "last"
        return "test" if self.config["data"]["val_from"] == "test" else "val"

    def _split_to_show(self) -> str | None:
        """Name the split that the figures and the last scores are of."""
        limits = self.config["trainer"]
        if self.config["test"] and limits.get("limit_test_batches") != 0:
            return "test"
        has_val = len(self.data.val_indices) > 0 and limits.get("limit_val_batches") != 0
        return "val" if has_val else None

    def _evaluate(self, split: str) -> dict[str, float]:
        """Return the scores of the loaded weights on `split`."""
        evaluate = self.trainer.test if split == "test" else self.trainer.validate
        evaluate(self.module, datamodule=self.data, verbose=False)
        return {k: v for k, v in self.module.scores.items() if k.startswith(f"{split}/")}

    def _load_best(self) -> int:
        """Load the weights of best.ckpt and return its epoch (1-based).

        By hand: `ckpt_path` would also bring back the callbacks as they were then. Raises UserError
        when the file cannot be read.
        """
        path = self.run.folder / "checkpoints" / "best.ckpt"
        try:
            state = checkpoint.read_own(path, self.module)
            self.module.load_state_dict(state["state_dict"])
            return int(state["epoch"]) + 1
        except (checkpoint.CheckpointError, RuntimeError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is missing or damaged ({error}). Restore it from a copy, "
                "or delete the folder checkpoints to train from scratch."
            ) from error

    def _outputs(self, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, labels and probs (N, K) of the evaluation of `split`."""
        images, labels = self.data.arrays(split)
        if self.trainer.world_size == 1:
            probs, labels = self.outputs.take()
            return images[: len(labels)], labels, probs
        with torch.inference_mode():  # the processes shared the images; the figures want all
            parts = [self.module.predict_logits(part) for part in torch.split(images, 1000)]
        return images, labels.cpu(), torch.cat(parts).softmax(dim=1).cpu()


def _complete(run: record.Record, config: Config) -> None:
    """Remove what a finished run does not keep, and only then call it finished."""
    folder, keep = run.folder / "checkpoints", config["checkpoints"]
    names = {"all": (), "best": record.CHECKPOINTS, "none": (*record.CHECKPOINTS, "best.ckpt")}
    for name in names[keep]:
        (folder / name).unlink(missing_ok=True)
    if keep == "none" and folder.exists() and not any(folder.iterdir()):  # nothing of the user's
        folder.rmdir()
    run.update(status="pruned" if run.data.pop("pruned", False) else "finished")


def _hparams(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config for TensorBoard's table: the same columns, in order, for every run."""
    keys = {k: v for k, v in schema.all_keys().items() if k not in record.NOT_IDENTITY}
    values = {**keys, **record.identity(data)}
    return {key: values[key] for key in sorted(values) if not key.endswith("_partial_")}


def _device_name(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
