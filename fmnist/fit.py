"""Train one run in its folder: fit, test the selected epoch, draw, record."""

import ctypes
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from fmnist import CLASSES, build, record, sources
from fmnist.callbacks import (
    Checkpoints,
    Events,
    History,
    Outputs,
    ProgressBar,
    StopOnSignal,
)
from fmnist.classifier import Classifier
from fmnist.data import FashionMNISTData
from fmnist.errors import Interrupted, UserError
from fmnist.gallery import Gallery

Say = Callable[[str], None]


def fit(
    run: record.Record,
    config: dict[str, Any],
    data: FashionMNISTData,
    module: Classifier,
    say: Say,
) -> None:
    """Carry the run in `run.folder` to its end, from its checkpoint if there is one.

    `data` is prepared. `config` has no `auto` left. Raises Interrupted after a signal, UserError
    for what a user can mend; what has been saved by then stays.
    """
    with StopOnSignal() as stop, build.quiet():
        _keep_memory()
        try:
            _fit(run, config, data, module, stop, say)
        except SIGTERMException:  # Lightning notes the signal too, and looks at an epoch's end
            raise Interrupted(signal.SIGTERM) from None


def _keep_memory() -> None:
    """Let glibc keep freed memory instead of handing it to the kernel and faulting it in again.

    Every step frees and asks for the same few megabytes; on virtual machines the page faults can
    cost half of the training time. See mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no private mappings
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never shrink the heap


def _fit(
    run: record.Record,
    config: dict[str, Any],
    data: FashionMNISTData,
    module: Classifier,
    stop: StopOnSignal,
    say: Say,
) -> None:
    folder = run.folder
    checkpoint = resume_point(folder, say) if run.data["attempts"] else None
    events = None
    if config["logger"]["kind"] == "tensorboard":
        events = Events(folder, purge_step=checkpoint["global_step"] + 1 if checkpoint else None)
    select_best = config["select"] == "best" and config["data"]["val_size"] > 0
    history = History(folder / "metrics.csv", record.write_atomically, say)
    outputs = Outputs()
    checkpoints = Checkpoints(
        folder / "checkpoints",
        config["metric"] if select_best else None,
        saved=lambda epoch: run.update(epochs_done=epoch),
    )
    callbacks: list[pl.Callback] = [stop, outputs, history, checkpoints]
    if sys.stderr.isatty() and config["trainer"].get("enable_progress_bar") is not False:
        callbacks.append(ProgressBar())
    trainer = build.trainer(config, folder, callbacks, events)
    (folder / "checkpoints").mkdir(exist_ok=True)
    record.attempt(run, start_epoch=checkpoint["epoch"] + 1 if checkpoint else 0)
    data.setup()
    run.update(
        num_parameters=sum(p.numel() for p in module.net.parameters()),
        device=_device_name(trainer),
        precision=str(trainer.precision),
        partial=build.is_partial(config),
        split_hash=data.split_hash,
        data_hash=sources.data_hash(),
        selected_on="val" if select_best else "last",
    )
    path = folder / "checkpoints" / checkpoint["name"] if checkpoint else None
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    stop.check()
    if not history.rows:
        raise UserError("Training ended before one epoch was complete; nothing was kept.")
    _finish(run, config, data, trainer, module, history, checkpoints, outputs, events)


def _finish(
    run: record.Record,
    config: dict[str, Any],
    data: FashionMNISTData,
    trainer: pl.Trainer,
    module: Classifier,
    history: History,
    checkpoints: Checkpoints,
    outputs: Outputs,
    events: Events | None,
) -> None:
    """Score the selected checkpoint, draw, tidy up, and only then call the run finished."""
    best = run.folder / "checkpoints" / "best.ckpt"
    row = next(r for r in history.rows if r["epoch"] == checkpoints.best_epoch)
    scores = {k: v for k, v in row.items() if k.startswith(("train/", "val/"))}
    gallery = Gallery(run.folder / "figures", config["figures"], CLASSES, events)
    images, labels = data.arrays("train")
    gallery.training(images[:200], labels[:200], history.rows, checkpoints.best_epoch)
    split = "test" if config["test"] else "val" if len(data.val_indices) else None
    if split is not None and (split == "test" or config["figures"] == "all"):
        evaluate = trainer.test if split == "test" else trainer.validate
        evaluate(module, datamodule=data, ckpt_path=best, verbose=False, weights_only=True)
        if split == "test":
            scores |= {k: v for k, v in module.scores.items() if k.startswith("test/")}
        probs, labels = outputs.take()
        images = data.arrays(split)[0][: len(labels)]
        gallery.evaluation(images, labels, probs, int(history.rows[-1]["step"]))
    if events is not None:
        _log_config(events, run, scores)
    _tidy(run.folder / "checkpoints", config["checkpoints"])
    run.close_attempt(
        status="finished",
        scores=scores,
        best_epoch=checkpoints.best_epoch,
        images_per_s=round(sum(r["images_per_s"] for r in history.rows) / len(history.rows), 1),
    )


def resume_point(folder: Path, say: Say) -> dict[str, Any] | None:
    """Return {name, epoch (0-based), global_step} of the newest whole checkpoint, or None."""
    for name in record.CHECKPOINTS:
        path = folder / "checkpoints" / name
        if not path.exists():
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            return {"name": name, "epoch": state["epoch"], "global_step": state["global_step"]}
        except Exception as error:  # torch.load raises half a dozen types for a damaged file
            say(f"{path} is damaged ({type(error).__name__}); trying the one before it.")
    return None


def _log_config(events: Events, run: record.Record, scores: dict[str, float]) -> None:
    flat = {k: v if isinstance(v, int | float | str) else str(v) for k, v in _flat(run).items()}
    lines = "\n".join(f"    {key}: {value}" for key, value in flat.items())
    events.experiment.add_text("config", lines)
    events.log_hyperparams(flat, {f"score/{k.replace('/', '_')}": v for k, v in scores.items()})
    events.close()


def _flat(run: record.Record) -> dict[str, Any]:
    return record.identity(run.data)


def _tidy(folder: Path, keep: str) -> None:
    names = {"all": (), "best": record.CHECKPOINTS, "none": (*record.CHECKPOINTS, "best.ckpt")}
    for name in names[keep]:
        (folder / name).unlink(missing_ok=True)
    if keep == "none":
        folder.rmdir()


def _device_name(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{trainer.world_size} x {name}" if trainer.world_size > 1 else name


class Log:
    """Says a line on stderr and keeps it, with the time, in the run's train.log."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
