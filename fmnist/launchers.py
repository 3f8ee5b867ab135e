"""Where the jobs of a sweep run, as Hydra launchers."""

import hashlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from fmnist import record
from fmnist.config import Command
from fmnist.errors import BusyError, UserError

SWEEPS = Path("sweeps")
ELSEWHERE = "running elsewhere"


def register() -> None:
    """Make our launchers known to Hydra; `basic` takes the place of Hydra's own.

    Hydra 1.3 instantiates plugins only under a name in the package hydra_plugins.
    """
    target = f"hydra_plugins.fmnist.{LocalLauncher.__name__}"
    Plugins.instance().class_name_to_class[target] = LocalLauncher
    ConfigStore.instance().store(group="hydra/launcher", name="basic", node={"_target_": target})


def sweep_name(command: Command) -> str:
    """Name a sweep after its axes and what else was asked for: the same line, the same folder."""
    if command.cfg.name is not None:
        return record.short(str(command.cfg.name))
    words = [w.lstrip("+") for w in command.overrides]
    counted = [w for w in words if _key(w) not in record.NOT_IDENTITY and not w.startswith("hydra")]
    digest = hashlib.sha256("\n".join(sorted(counted)).encode()).hexdigest()[:8]
    axes = "-".join(axis.rpartition(".")[2] for axis in command.axes)
    return record.short(f"{axes}-{digest}")


class LocalLauncher(Launcher):
    """Runs one job after the other in this process. A job that fails costs itself alone."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run every job; raises SystemExit(1) at the end when one failed."""
        jobs = {self._job_name(overrides): overrides for overrides in job_overrides}
        results: dict[str, str] = {}
        for i, (name, overrides) in enumerate(jobs.items()):
            print(f"[{i + 1}/{len(jobs)}] {name}", file=sys.stderr, flush=True)
            results[name] = self._run(name, overrides, initial_job_idx + i)
        failed = {name: why for name, why in results.items() if why}
        busy = sum(why.startswith(ELSEWHERE) for why in failed.values())
        noun = "job" if len(jobs) == 1 else "jobs"
        print(
            f"\n{len(jobs) - len(failed)} of {len(jobs)} {noun} done, {len(failed) - busy} failed"
            + (f", {busy} {ELSEWHERE}" if busy else "")
        )
        for name, why in failed.items():
            print(f"  {name}: {why}")
        if len(failed) > busy:
            raise SystemExit(1)
        return [_done(overrides) for overrides in job_overrides]

    def _run(self, name: str, overrides: Sequence[str], number: int) -> str:
        """Run one job; returns why it failed, or nothing."""
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.num = number
            cfg.hydra.job.id = str(number)
            cfg.hydra.sweep.subdir = name
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        try:
            self.task_function(cfg)
        except BusyError as error:
            return f"{ELSEWHERE}: {error}"
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            return str(error)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
        return ""

    def _job_name(self, overrides: Sequence[str]) -> str:
        given = OverridesParser.create().parse_overrides(list(self.config.hydra.overrides.task))
        axes = {str(o.key_or_group) for o in given if o.is_sweep_override()}
        words = [w.lstrip("+") for w in overrides]
        return record.short(",".join(w for w in words if _key(w) in axes))


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _done(overrides: Sequence[str]) -> JobReturn:
    return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=None)
