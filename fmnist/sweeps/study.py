"""A search as an Optuna study that any process can stop, repeat, top up or share.

The study is a journal file in the sweep's folder. Each trial is a job like any other: its record
tells how it ended, so a study is brought up to date from its folders.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from fmnist import lock, record, schema
from fmnist.axes import Axis
from fmnist.command import point
from fmnist.errors import UsageError
from fmnist.overrides import compose_plain
from fmnist.sweeps import plan
from fmnist.sweeps.journal import JOURNAL, FileLock, open_journal
from fmnist.sweeps.plan import Job, Sweep
from fmnist.sweeps.sampler import SeededSampler, make_pruner

PRUNED = "pruned"  # marks a trial whose job has been told to end
REFUSED = "refused"  # why a trial's values do not go together

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
        self._held: dict[int, FileLock] = {}  # held by whoever proposed a trial, until it is told
        self._seen: set[int] = set()
        path = jobs.folder / JOURNAL
        if not writes and not path.exists():
            storage: Any = optuna.storages.InMemoryStorage()
        else:
            record.claim(plan.SWEEPS, jobs.name, "")
            storage = open_journal(path)
        self._study = optuna.create_study(
            storage=storage,
            study_name=jobs.name,
            direction="maximize" if self.metric == "val/acc" else "minimize",
            sampler=SeededSampler(int(config.seed), settings),
            pruner=make_pruner(settings, int(config.trainer.max_epochs)),
            load_if_exists=True,
        )
        self._check_same()

    def close(self) -> None:
        """Leave the trials that are not told to others."""
        while self._held:
            self._held.popitem()[1].release()

    def known(self) -> dict[int, Job]:
        """Return the jobs of the trials that the study holds, by number."""
        with self._turn():
            trials = [t for t in self._trials() if t.state != TrialState.FAIL]
            jobs = {trial.number: self._job(self._trial(trial)) for trial in trials}
        return {number: job for number, job in jobs.items() if job is not None}

    def refused(self) -> list[str]:
        """Tell which proposals were no valid configs, and why."""
        return [str(t.user_attrs[REFUSED]) for t in self._trials() if REFUSED in t.user_attrs]

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
            if job is None:
                continue
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
                self._held.pop(number).release()

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _abandoned(self) -> Trial | None:
        """Return an unfinished trial that nobody works on, as it was."""
        for frozen in self._trials(TrialState.RUNNING):
            if frozen.number in self._seen:
                continue
            self._seen.add(frozen.number)
            if self._hold(frozen.number):
                trial = self._trial(frozen)
                job = self._job(trial)
                if job is not None and not lock.is_held(job.folder):
                    return trial
                if frozen.number in self._held:
                    self._held.pop(frozen.number).release()
        return None

    def _new(self) -> Trial | None:
        if len(self._trials()) >= self.settings["n_trials"]:
            return None
        trial = self._study.ask()
        self._seen.add(trial.number)
        self._hold(trial.number)
        return trial

    def _turn(self) -> contextlib.AbstractContextManager[None]:
        """Let one process at a time draw values."""
        if not self.jobs.folder.exists():  # only looked at
            return contextlib.nullcontext()
        return FileLock(self.jobs.folder / ".asking")

    def _hold(self, number: int) -> bool:
        """Mark a trial as this process's; False where another one that lives has it."""
        guard = FileLock(self.jobs.folder / f".trial-{number}")
        if guard.acquire(wait=False):
            self._held[number] = guard
            return True
        return False

    def _trial(self, frozen: FrozenTrial) -> Trial:
        """Open a stored trial again; a value it lacks is drawn as it would have been."""
        return Trial(self._study, frozen._trial_id)

    def _job(self, trial: Trial) -> Job | None:
        """Return what a trial runs; the values it lacks are drawn.

        None for values that do not go together: the trial is told as failed, with the reason.
        """
        axes = self.jobs.command.axes
        values = {key: _suggest(trial, axis) for key, axis in axes.items()}
        words = [axes[key].word(value) for key, value in values.items()]
        try:
            return self.jobs.job(words, point(self.jobs.command, values))
        except UsageError as error:
            trial.set_user_attr(REFUSED, f"{','.join(words)}: {error}")
            self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            if trial.number in self._held:
                self._held.pop(trial.number).release()
            return None

    def _check_same(self) -> None:
        """Refuse to go on with a study of another recipe or space; raises UsageError."""
        command = self.jobs.command
        spaces = {key: plan.space(axis, is_search=True) for key, axis in command.axes.items()}
        mine = {
            "config": compose_plain(command.fixed),
            "overrides": command.typed,
            "axes": json.dumps(spaces, sort_keys=True),
        }
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
        if known["axes"] != mine["axes"]:
            raise UsageError(
                f"{self.jobs.folder} was searched over another space ({known['axes']}, "
                f"now {mine['axes']}). Choose another name=..."
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
            storage=open_journal(folder / JOURNAL),
            pruner=make_pruner(search, config["trainer"]["max_epochs"]),
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


def _check(jobs: Sweep) -> None:
    config = jobs.command.cfg
    validated = config.trainer.get("limit_val_batches") != 0 and schema.has_validation(config.data)
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
