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
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from fmnist import lock, record, schema
from fmnist.command import point
from fmnist.errors import UsageError, UserError
from fmnist.overrides import compose_plain
from fmnist.sweeps import plan
from fmnist.sweeps.claims import Claims
from fmnist.sweeps.journal import FileLock, open_journal, readable
from fmnist.sweeps.looks import Looks
from fmnist.sweeps.plan import Job, Sweep
from fmnist.sweeps.sampler import SeededSampler, make_pruner, suggest
from fmnist.sweeps.trials import GOAL, JOURNAL

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
        self._claims = Claims(jobs.folder)  # a trial is whose who proposed it, until it is told
        path = jobs.folder / JOURNAL
        if not writes and not path.exists():
            storage: Any = optuna.storages.InMemoryStorage()
        else:
            record.claim(plan.SWEEPS, jobs.name, "")
            storage = open_journal(path)
        with readable(path):
            self._study = optuna.create_study(
                storage=storage,
                study_name=jobs.name,
                direction="maximize" if self.metric == "val/acc" else "minimize",
                sampler=SeededSampler(int(config.seed), settings),
                pruner=make_pruner(settings, int(config.trainer.max_epochs)),
                load_if_exists=True,
            )
            self._check_same()
            if writes and settings[GOAL] > self._study.user_attrs.get(GOAL, 0):
                self._study.set_user_attr(GOAL, settings[GOAL])
            running = self._trials(TrialState.RUNNING)
        self._failures = {trial.number: _num_failures(self._runs(trial)) for trial in running}

    def close(self) -> None:
        """Leave the trials that are not told to others."""
        self._claims.release_all()

    def known(self) -> dict[int, Job]:
        """Return the jobs of the trials that the study holds, by number."""
        with self._turn():
            trials = [t for t in self._trials() if t.state != TrialState.FAIL]
            jobs = {trial.number: self._job(self._trial(trial)) for trial in trials}
        return {number: job for number, job in jobs.items() if job is not None}

    def refused(self) -> list[str]:
        """Tell which proposals were no valid configs, and why."""
        return [str(t.user_attrs[REFUSED]) for t in self._trials() if REFUSED in t.user_attrs]

    def num_left(self) -> int:
        """Return how many trials are still to be run: those to be proposed, and those begun."""
        trials = self._trials()
        has_ended = [t.state.is_finished() or self._state(t).has_ended for t in trials]
        return max(int(self.settings[GOAL]), len(trials)) - sum(has_ended)

    def propose(self) -> Iterator[tuple[int, Job]]:
        """Yield trials to run until the study has `n_trials`, and those that a dead process left.

        Trials that have ended meanwhile are told before each new one is asked for.
        """
        while True:
            self.tell()
            trial, _ = self._abandoned(self._claims.looks)
            with self._turn():
                trial = trial or self._new()
                job = self._job(trial) if trial else None
            if trial is None:
                trial = self._last_abandoned()
                if trial is None:
                    return
                with self._turn():
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
            if self._tell(number, plan.state(job.folder)):
                del self._asked[number]
                self._claims.release(number)

    def tell_ended(self) -> None:
        """Tell Optuna of all trials that have ended and that nobody came to tell."""
        for trial in self._trials(TrialState.RUNNING):
            self._tell(trial.number, self._state(trial))

    def _tell(self, number: int, now: plan.State) -> bool:
        with contextlib.suppress(UpdateFinishedTrialError):  # another process was faster
            if now.status == "finished":
                self._study.tell(number, now.scores[self.metric], skip_if_finished=True)
            elif now.status == "pruned":
                self._study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
        return now.has_ended

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _abandoned(self, looks: Looks) -> tuple[Trial | None, bool]:
        """Return an unfinished trial that nobody works on, which is this process's from now on.

        And whether all others are known to be worked on, as far as `looks` can tell.
        """
        is_sure = True
        for frozen in self._trials(TrialState.RUNNING):
            number, runs = frozen.number, self._runs(frozen)
            if number in self._asked or _num_failures(runs) > self._failures.get(number, 0):
                continue  # tried since this process started: the next start's
            alive = self._claims.is_alive(number, runs, looks)
            is_sure = is_sure and alive is not None
            if alive is False and self._claims.take(number):
                if self._trials()[number].state == TrialState.RUNNING:  # still
                    return self._trial(frozen), is_sure
                self._claims.release(number)
        return None, is_sure

    def _last_abandoned(self) -> Trial | None:
        """Return an abandoned trial, or None once each is seen to be worked on."""
        looks = Looks()  # a process that was alive earlier may have died since
        trial, is_sure = self._abandoned(looks)
        while not (trial or is_sure):
            lock.pause()
            trial, is_sure = self._abandoned(looks)
        return trial

    def _new(self) -> Trial | None:
        number = len(self._trials())
        if number >= self.settings[GOAL]:
            return None
        while not self._claims.take(number):  # first, or others would find it abandoned
            if self._claims.is_alive(number, [], self._claims.looks):
                break  # at work for a study that was deleted
            lock.pause()
        return self._study.ask()

    def _runs(self, frozen: FrozenTrial) -> list[Path]:
        """Return the folder of a trial's job; none while its values are being drawn."""
        if frozen.params.keys() != self.jobs.command.axes.keys():
            return []
        with contextlib.suppress(UsageError):
            return [self._make(self._trial(frozen)).folder]
        return []

    def _state(self, frozen: FrozenTrial) -> plan.State:
        return next(map(plan.state, self._runs(frozen)), plan.State("to do"))

    def _turn(self) -> contextlib.AbstractContextManager[None]:
        """Let one process at a time draw values."""
        if not self.jobs.folder.exists():  # only looked at
            return contextlib.nullcontext()
        return FileLock(self.jobs.folder / ".asking")

    def _trial(self, frozen: FrozenTrial) -> Trial:
        """Open a stored trial again; a value it lacks is drawn as it would have been."""
        return Trial(self._study, frozen._trial_id)

    def _job(self, trial: Trial) -> Job | None:
        """Return what a trial runs; the values it lacks are drawn.

        None for values that do not go together: the trial is told as failed, with the reason.
        """
        try:
            return self._make(trial)
        except UsageError as error:
            with contextlib.suppress(UpdateFinishedTrialError):  # another process was faster
                trial.set_user_attr(REFUSED, str(error))
                self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            self._claims.release(trial.number)
            return None

    def _make(self, trial: Trial) -> Job:
        axes = self.jobs.command.axes
        values = {key: suggest(trial, axis) for key, axis in axes.items()}
        words = [axes[key].word(value) for key, value in values.items()]
        try:
            return self.jobs.job(words, point(self.jobs.command, values))
        except UsageError as error:
            raise UsageError(f"{','.join(words)}: {error}") from None

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


def _num_failures(runs: Sequence[Path]) -> int:
    """Return how often the job of a trial was started where it failed, else 0."""
    for folder in runs:
        if plan.state(folder).status == "failed":
            with contextlib.suppress(UserError, KeyError, TypeError):
                return len(record.read(folder).data["attempts"])
            return 1
    return 0


def _check(jobs: Sweep) -> None:
    config = jobs.command.cfg
    validated = config.trainer.get("limit_val_batches") != 0 and schema.has_validation(config.data)
    if not validated or config.trainer.check_val_every_n_epoch > config.trainer.max_epochs:
        raise UsageError(
            f"A search needs {config.metric} of every job. Hold images out with data.val_size=5000 "
            "and validate within trainer.max_epochs."
        )
