"""What the jobs of a sweep are, as Hydra sweepers: the points of a grid, or Optuna's proposals."""

import itertools
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from fmnist import consent
from fmnist import overrides as words
from fmnist.command import points, read_command
from fmnist.errors import Interrupted, UsageError, exit_codes, raising
from fmnist.sweeps import plan, slurm
from fmnist.sweeps.launchers import JobLauncher
from fmnist.sweeps.plan import Job, Outcome, Sweep
from fmnist.sweeps.script import Line
from fmnist.sweeps.slurm import SlurmLauncher, Submitter

if TYPE_CHECKING:
    from fmnist.sweeps.study import Study


NUM_SHOWN = 5  # settings, after a sweep
NOT_TYPED = ("hydra.mode=", "hydra.sweeper.dry_run=")  # what -m and --dry-run become


class JobSweeper(Sweeper):
    """Base of our sweepers: plan, run what is missing, tell what became of it.

    A sweep is derived from its folder alone, so that repeating a line completes it.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.master = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep that the overrides `arguments` describe; exits 1 when a job failed."""
        with exit_codes(), raising(signal.SIGTERM):
            command = read_command([*self.master.hydra.overrides.hydra, *arguments], self._folder())
            jobs = Sweep(command)
            plan.check_folder(jobs.folder)
            if self.settings["dry_run"]:
                self.preview(jobs)
            else:
                self.complete(jobs)

    def preview(self, jobs: Sweep) -> None:
        raise NotImplementedError

    def complete(self, jobs: Sweep) -> None:
        raise NotImplementedError

    def submitter(self, jobs: Sweep) -> Submitter | None:
        """Return what hands the jobs to SLURM, None where they run under this process."""
        if not isinstance(self.launcher, SlurmLauncher):
            return None
        return self.launcher.submitter(jobs.folder, slurm.again(self._folder(), self.words()))

    def show(
        self, lines: Sequence[str], submitter: Submitter | None, tasks: Sequence[Line]
    ) -> None:
        """Print a preview; where it is to be submitted, the script alone on stdout."""
        print("\n".join(lines), file=sys.stdout if submitter is None else sys.stderr)
        if submitter is not None:
            for text in submitter.preview(tasks):
                print(text, end="")

    def hand_over(self, submitter: Submitter, outcome: Outcome, lines: Sequence[Line]) -> None:
        """Submit what is missing, and with hydra.launcher.wait tell what became of it."""
        receipt = submitter.submit(lines)
        print("\n".join(receipt.lines()), flush=True)
        if submitter.settings["wait"]:
            if lines:
                slurm.wait(outcome.sweep.folder)
            self.see(outcome)
            conclude(outcome)
            if any(not plan.state(job.folder).has_ended for job in outcome.jobs):
                raise SystemExit(1)

    @property
    def workers(self) -> int:
        """How many jobs the launcher runs at a time; one where a foreign launcher does not say."""
        return getattr(self.launcher, "num_workers", 1)

    def see(self, outcome: Outcome) -> None:
        """Take in the jobs that others have made meanwhile: in a grid there are none."""

    def words(self) -> list[str]:
        """Return the overrides that were typed."""
        given = self.master.hydra.overrides
        asked = [word.lstrip("+") for word in [*given.hydra, *given.task]]
        return [word for word in asked if not word.startswith(NOT_TYPED)]

    def _folder(self) -> Path | None:
        """Return the folder of --config-dir."""
        sources = self.master.hydra.runtime.config_sources
        paths = [s.path for s in sources if s.provider == "command-line"]
        return Path(paths[0]) if paths else None


class Grid(JobSweeper):
    """Every combination of the axes' values, those that are missing."""

    def preview(self, jobs: Sweep) -> None:
        planned, submitter = self._plan(jobs), self.submitter(jobs)
        head = f"{jobs.folder}: {len(planned)} {'job' if len(planned) == 1 else 'jobs'}"
        lines = self._lines(Outcome(jobs, planned)) if submitter else []
        self.show([head, *plan.preview(planned, self.workers)], submitter, lines)

    def complete(self, jobs: Sweep) -> None:
        outcome = Outcome(jobs, self._plan(jobs))
        if submitter := self.submitter(jobs):
            return self.hand_over(submitter, outcome, self._lines(outcome))
        left = outcome.left
        try:
            returns = launch(self.launcher, [arguments(job) for job in left])
            note_failures(outcome, left, returns)
        except (Interrupted, KeyboardInterrupt):
            tell(outcome)
            raise
        return conclude(outcome)

    def _lines(self, outcome: Outcome) -> list[Line]:
        """Return the line of each job that has not ended."""
        config_dir = self._folder()
        trust = consent.is_given()
        return [Line(job.overrides, job.folder, config_dir, trust) for job in outcome.left]

    def _plan(self, jobs: Sweep) -> list[Job]:
        return plan.unique(jobs.job(*point) for point in points(jobs.command))


class Search(JobSweeper):
    """What Optuna proposes, until the study has `n_trials` trials; see study.py."""

    def preview(self, jobs: Sweep) -> None:
        study = self._study(jobs, writes=False)
        trials = study.known()
        left = max(self.settings["n_trials"] - len(trials), 0)
        noun = "trial" if len(trials) == 1 else "trials"
        head = f"{jobs.folder}: {len(trials)} {noun}, {left} more to be proposed"
        submitter, outcome = self.submitter(jobs), Outcome(jobs, trials.values())
        lines = self._lines(submitter, jobs.name, study.num_left()) if submitter else []
        self.show([head, *plan.preview(outcome.jobs, self.workers, left)], submitter, lines)

    def complete(self, jobs: Sweep) -> None:
        study = self._study(jobs)
        outcome = Outcome(jobs, study.known().values())
        if submitter := self.submitter(jobs):
            study.tell_ended()
            lines = self._lines(submitter, jobs.name, study.num_left())
            study.close()
            self.hand_over(submitter, outcome, lines)
            return
        try:
            if isinstance(self.launcher, JobLauncher):
                self._launch(study, outcome, sys.maxsize)
            else:
                while self._launch(study, outcome, self.settings["n_jobs"]):
                    pass
        except (Interrupted, KeyboardInterrupt):
            tell(outcome)
            raise
        finally:
            study.tell()
            study.close()
        for line in study.refused():
            print(f"Refused: {line}", file=sys.stderr)
        conclude(outcome)

    def _lines(self, submitter: Submitter, name: str, num_left: int) -> list[Line]:
        """Return a line for each worker: this one, run where the worker is."""
        replaced = ("hydra/launcher", "hydra.launcher", "name=")
        words = [word for word in self.words() if not word.startswith(replaced)]
        words += ["hydra/launcher=local", f"name='{name}'"]
        num_workers = min(submitter.settings["workers"], num_left)
        return [Line(words, None, self._folder(), consent.is_given())] * num_workers

    def see(self, outcome: Outcome) -> None:
        study = self._study(outcome.sweep)
        for job in study.known().values():
            if job.folder not in outcome.before:
                outcome.jobs.append(job)
                outcome.before[job.folder] = plan.State("to do")
        study.close()

    def _launch(self, study: "Study", outcome: Outcome, size: int) -> int:
        """Launch up to `size` trials, each proposed when there is a place for it."""
        launched: list[Job] = []

        def proposals() -> Iterator[list[str]]:
            for number, job in itertools.islice(study.propose(), size):
                outcome.add(job)
                launched.append(job)
                yield arguments(job, trial=number)

        returns = launch(self.launcher, proposals())
        note_failures(outcome, launched, returns)
        return len(launched)

    def _study(self, jobs: Sweep, writes: bool = True) -> "Study":
        try:
            from fmnist.sweeps.study import Study
        except ModuleNotFoundError:
            raise UsageError(
                "hydra/sweeper=optuna needs Optuna. Install it: pip install -e '.[optuna]'."
            ) from None
        return Study(jobs, self.settings, writes)


def tell(outcome: Outcome) -> bool:
    """Print what became of the jobs; returns whether one failed."""
    lines, has_failed = outcome.summary()
    print("\n" + "\n".join(lines), flush=True)
    return has_failed


def conclude(outcome: Outcome) -> None:
    """Print what became of the jobs, and how they compare; exits 1 when one failed."""
    has_failed = tell(outcome)
    folder = outcome.sweep.folder
    if any(plan.state(job.folder).status == "finished" for job in outcome.jobs):
        from fmnist import report  # and rich: not for --help and mistakes

        print()
        report.print_table([folder], top=NUM_SHOWN)
        print(f"\nAll of it: python scripts/compare.py {folder}")
        if not any(job.config["test"] for job in outcome.jobs):
            print(f"Test set:  python scripts/eval.py {folder}  (the best by val/acc, read once)")
    if has_failed:
        raise SystemExit(1)


def note_failures(outcome: Outcome, jobs: Iterable[Job], returns: Sequence[JobReturn]) -> None:
    for job, result in zip(jobs, returns, strict=False):
        if result.status == JobStatus.FAILED:
            outcome.note(job, result._return_value)


def launch(launcher: Launcher, jobs: Iterable[Sequence[str]]) -> Sequence[JobReturn]:
    """Hand jobs to a launcher: as they come to one of ours, as a list to another."""
    given = jobs if isinstance(launcher, JobLauncher) else list(jobs)
    return launcher.launch(given, initial_job_idx=0) if given else []  # type: ignore[arg-type]


def arguments(job: Job, **search: Any) -> list[str]:
    """Return the overrides that make a job in its folder, whoever composes them."""
    with words.composing():
        normal = [words.normal(o) for o in words.parse(job.overrides)]
    places = [f"hydra.sweep.dir='{job.folder.parent}'", f"hydra.sweep.subdir='{job.folder.name}'"]
    return [*normal, *places, *(f"hydra.sweeper.{k}={v}" for k, v in search.items())]
