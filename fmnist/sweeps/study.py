"""A search as an Optuna study that any process can stop, repeat, top up or share.

The study is a journal file in the sweep's folder. Each trial is a job like any other: its record
tells how it ended, so a study is brought up to date from its folders.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from fmnist import lock, record
from fmnist.command import Axis, point
from fmnist.errors import UsageError, UserError
from fmnist.overrides import compose_plain
from fmnist.seeds import derive
from fmnist.sweeps import plan
from fmnist.sweeps.plan import Job, Sweep

JOURNAL = "study.journal"
PRUNED = "pruned"  # marks a trial whose job has been told to end
FEW_DIGITS = 4  # significant digits of a proposed number

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Study:
    """The trials of one sweep. `settings` are those of conf/hydra/sweeper/optuna.yaml."""

    def __init__(self, jobs: Sweep, settings: Mapping[str, Any], writes: bool = True) -> None:
        self.jobs = jobs
        self.settings = settings
        config = jobs.command.cfg
        self.metric = str(config.metric)
        _check(jobs)
        self._asked: dict[int, Job] = {}  # trials of this process that are not told yet
        self._seen: set[int] = set()
        path = jobs.folder / JOURNAL
        if not writes and not path.exists():
            storage: Any = optuna.storages.InMemoryStorage()
        else:
            record.claim(plan.SWEEPS, jobs.name, "")
            storage = _storage(path)
        self._turns = JournalFileSymlinkLock(str(jobs.folder / ".asking"))
        self._study = optuna.create_study(
            storage=storage,
            study_name=jobs.name,
            direction="maximize" if self.metric == "val/acc" else "minimize",
            sampler=SeededSampler(int(config.seed), settings),
            pruner=_pruner(settings, int(config.trainer.max_epochs)),
            load_if_exists=True,
        )
        self._check_same()

    def known(self) -> dict[int, Job]:
        """Return the jobs of the trials that the study holds, by number."""
        return {t.number: self._job(self._trial(t)) for t in self._trials()}

    def propose(self) -> Iterator[tuple[int, Job]]:
        """Yield trials to run until the study has `n_trials`: first those that a dead process left.

        Trials that have ended meanwhile are told before each new one is asked for.
        """
        while True:
            self.tell()
            with self._turn():
                trial = self._abandoned() or self._new()
            if trial is None:
                return
            job = self._job(trial)
            is_double = job.folder in {other.folder for other in self._asked.values()}
            self._asked[trial.number] = job
            if not is_double and not plan.state(job.folder).has_ended:
                yield trial.number, job

    def tell(self) -> None:
        """Tell Optuna how the trials of this process ended.

        One that failed stays open: the next start tries it again, under its own number.
        """
        for number, job in list(self._asked.items()):
            now = plan.state(job.folder)
            if now.status == "finished":
                self._study.tell(number, now.scores[self.metric], skip_if_finished=True)
            elif now.status == "pruned":
                self._study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
            if now.has_ended:
                del self._asked[number]

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _abandoned(self) -> Trial | None:
        """Return an unfinished trial that nobody works on, as it was."""
        for frozen in self._trials(TrialState.RUNNING):
            if frozen.number in self._seen:
                continue
            trial = self._trial(frozen)
            self._seen.add(frozen.number)
            if not lock.is_held(self._job(trial).folder):
                return trial
        return None

    def _new(self) -> Trial | None:
        if len(self._trials()) >= self.settings["n_trials"]:
            return None
        trial = self._study.ask()
        self._seen.add(trial.number)
        return trial

    def _trial(self, frozen: FrozenTrial) -> Trial:
        """Open a stored trial again; a value it lacks is drawn as it would have been."""
        return Trial(self._study, frozen._trial_id)

    def _job(self, trial: Trial) -> Job:
        """Return what a trial runs; the values it lacks are drawn."""
        axes = self.jobs.command.axes
        try:
            values = {key: _suggest(trial, axis) for key, axis in axes.items()}
        except ValueError as error:  # Optuna's word for other choices than before
            raise UsageError(
                f"{self.jobs.folder} was searched over other values ({error}). "
                "Choose another name=..."
            ) from None
        words = [axes[key].word(value) for key, value in values.items()]
        return self.jobs.job(words, point(self.jobs.command, values))

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Let one process at a time count the trials and add one."""
        self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release()

    def _check_same(self) -> None:
        """Refuse to go on with a study of another recipe; raises UsageError."""
        command = self.jobs.command
        mine = {"config": compose_plain(command.fixed), "overrides": command.typed}
        known = self._study.user_attrs.get("asked")
        if known is None:
            self._study.set_user_attr("asked", mine)
            return
        changed = record.differences(known, mine, self.jobs.defaults)
        if changed:
            shown = "; ".join(f"{key}: {old}, now {new}" for key, old, new in changed)
            raise UsageError(
                f"{self.jobs.folder} was searched with another config ({shown}). "
                "Choose another name=..."
            )


class Monitor:
    """Reports the epochs of a job's trial, and says whether to prune it.

    Called with all rows so far, it reports those that the study does not know yet: a resumed job
    repeats nothing and leaves nothing out.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], search: Mapping[str, Any]) -> None:
        self.metric = config["metric"]
        self.number = search["trial"]
        self._study = optuna.load_study(
            study_name=folder.name,
            storage=_storage(folder / JOURNAL),
            pruner=_pruner(search, config["trainer"]["max_epochs"]),
        )

    def __call__(self, rows: Sequence[Mapping[str, float]]) -> bool:
        frozen = self._study.get_trials(deepcopy=False)[self.number]
        if frozen.state != TrialState.RUNNING:  # an equal trial has ended it
            return False
        if PRUNED in frozen.user_attrs:
            return True
        trial = Trial(self._study, frozen._trial_id)
        for row in rows:
            epoch = int(row["epoch"])
            if self.metric in row and epoch not in frozen.intermediate_values:
                trial.report(row[self.metric], step=epoch)
        if trial.should_prune():  # a question that Hyperband answers once
            trial.set_user_attr(PRUNED, True)
        return PRUNED in trial.user_attrs


class SeededSampler(BaseSampler):
    """Draws the values of a trial from (seed, trial number, key) and the trials before it.

    A sampler of its own for each draw: what a process drew earlier has no influence. Real numbers
    are rounded to 4 significant digits, within their bounds.
    """

    def __init__(self, seed: int, settings: Mapping[str, Any]) -> None:
        self.seed = seed
        self.settings = settings

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._make(trial, "").infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn = self._make(trial, "").sample_relative(study, trial, search_space)
        return {name: _round(value, search_space[name]) for name, value in drawn.items()}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = self._make(trial, param_name)
        drawn = sampler.sample_independent(study, trial, param_name, param_distribution)
        return _round(drawn, param_distribution)

    def _make(self, trial: FrozenTrial, key: str) -> BaseSampler:
        seed = derive(self.seed, "trial", trial.number, key) % 2**32
        if self.settings["sampler"] == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():  # some arguments are called experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(seed=seed, n_startup_trials=self.settings["n_startup_trials"])


def _check(jobs: Sweep) -> None:
    config = jobs.command.cfg
    validated = config.trainer.get("limit_val_batches") != 0 and config.data.val_size > 0
    if not validated or config.trainer.check_val_every_n_epoch > config.trainer.max_epochs:
        raise UsageError(
            f"A search needs {config.metric} of every job. Hold images out with data.val_size=5000 "
            "and validate within trainer.max_epochs."
        )


def _suggest(trial: Trial, axis: Axis) -> str:
    """Draw a value, or return the one the trial has, as text."""
    if axis.kind == "choice":
        return str(trial.suggest_categorical(axis.key, axis.values))
    if axis.is_integer:
        low, high, step = int(axis.low), int(axis.high), int(axis.step)
        return str(trial.suggest_int(axis.key, low, high, step=step, log=axis.log))
    value = trial.suggest_float(axis.key, axis.low, axis.high, step=axis.step or None, log=axis.log)
    return f"{value:.10g}"


def _round(value: Any, distribution: BaseDistribution) -> Any:
    if not isinstance(distribution, FloatDistribution) or distribution.step is not None:
        return value
    rounded = float(f"{value:.{FEW_DIGITS}g}")
    return min(max(rounded, distribution.low), distribution.high)


def _pruner(settings: Mapping[str, Any], max_epochs: int) -> BasePruner:
    if settings["pruner"] == "median":
        return MedianPruner(settings["n_warmup_trials"], settings["n_warmup_epochs"])
    if settings["pruner"] == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=max_epochs, reduction_factor=3)
    return NopPruner()


def _storage(path: Path) -> JournalStorage:
    """Open a journal; a last line that a full disk or a power cut left torn is taken away."""
    guard = JournalFileSymlinkLock(str(path))
    try:
        if path.exists():
            guard.acquire()
            try:
                _mend(path)
            finally:
                guard.release()
        return JournalStorage(JournalFileBackend(str(path), lock_obj=guard))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Restore it from a copy, or delete it: finished "
            "jobs stay, the search starts anew."
        ) from None


def _mend(path: Path) -> None:
    with path.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
