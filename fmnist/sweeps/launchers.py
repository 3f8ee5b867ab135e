"""Where the jobs of a sweep run, as Hydra launchers: here, one after the other, or in a pool."""

import sys
import traceback
from collections.abc import Iterable, Sequence, Sized

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from fmnist.errors import BusyError, UserError


class JobLauncher(Launcher):
    """Base of our launchers. They take jobs one by one, so that a search can wait for results."""

    num_workers = 1

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def compose(self, overrides: Sequence[str], number: int) -> tuple[DictConfig, DictConfig]:
        """Return the config of a job, with and without Hydra's section."""
        whole = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(whole):
            whole.hydra.job.num = number
            whole.hydra.job.id = str(number)
            cfg = whole.copy()
            del cfg["hydra"]
        return whole, cfg


class LocalLauncher(JobLauncher):
    """Runs one job after the other in this process. A job that fails costs itself alone."""

    def launch(
        self, job_overrides: Iterable[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run every job; a Ctrl-C or SIGTERM ends them all and is raised."""
        total = f"/{len(job_overrides)}" if isinstance(job_overrides, Sized) else ""
        returns = []
        for i, overrides in enumerate(job_overrides):
            whole, cfg = self.compose(overrides, initial_job_idx + i)
            print(f"[{i + 1}{total}] {whole.hydra.sweep.subdir}", file=sys.stderr, flush=True)
            HydraConfig.instance().set_config(whole)
            returns.append(self._run(cfg, overrides))
        return returns

    def _run(self, cfg: DictConfig, overrides: Sequence[str]) -> JobReturn:
        try:
            value = self.task_function(cfg)
            return JobReturn(overrides, status=JobStatus.COMPLETED, _return_value=value)
        except (Exception, SystemExit) as error:
            # Kept without its traceback, whose frames hold the network and its gradients.
            told = explain(error)
            return JobReturn(overrides, status=JobStatus.FAILED, _return_value=told)


def explain(error: BaseException) -> UserError:
    """Say on stderr why a job failed, and return it in a word that holds nothing alive."""
    if isinstance(error, BusyError):
        print(error, file=sys.stderr, flush=True)
        return BusyError(str(error))
    if isinstance(error, UserError):
        print(f"Error: {error}", file=sys.stderr, flush=True)
        return UserError(str(error))
    traceback.print_exception(error)
    return UserError(f"{type(error).__name__}: {error}")
