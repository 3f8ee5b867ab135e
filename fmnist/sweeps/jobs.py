"""One job of a sweep: what a launcher hands over, and how a process carries it out."""

import contextlib
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from fmnist import config as configs
from fmnist import record, run


class Task(NamedTuple):
    """A job as plain data, for this process or another one."""

    config: dict[str, Any]  # checked, without `auto`
    overrides: list[str]
    folder: str
    search: dict[str, Any] | None = None  # of a trial: the settings of hydra.sweeper

    @classmethod
    def read(cls, cfg: DictConfig, hydra: Any) -> "Task":
        """Make a task of a job's config and of Hydra's section of it."""
        overrides = [word.lstrip("+") for word in hydra.overrides.task]
        config = configs.check(cfg, overrides)
        search = None
        if hydra.sweeper.get("trial") is not None:
            names = ("trial", "pruner", "n_warmup_trials", "n_warmup_epochs")
            search = {name: hydra.sweeper[name] for name in names}
        return cls(config, overrides, str(Path(hydra.sweep.dir) / hydra.sweep.subdir), search)


def run_job(cfg: DictConfig) -> float | None:
    """Carry out the job that Hydra's current config is, in the way any launcher calls it."""
    done = carry_out(Task.read(cfg, HydraConfig.get()))
    return done.scores.get(cfg.metric)


def carry_out(task: Task) -> record.Record:
    """Train one job in this process and leave the process as it was before.

    Raises what run.train raises.
    """
    monitor = None
    if task.search is not None:
        from fmnist.sweeps.study import Monitor  # Optuna, only for those who search

        monitor = Monitor(Path(task.folder).parent, task.config, task.search)
    with _freed():
        return run.train(
            task.config, overrides=task.overrides, folder=Path(task.folder), monitor=monitor
        )


@contextlib.contextmanager
def _freed() -> Iterator[None]:
    """Free what a job held, on the GPU too."""
    try:
        yield
    finally:
        gc.collect()
        gc.freeze()  # what is left stays, so the next job need not look through all of torch
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
