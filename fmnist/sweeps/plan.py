"""A sweep is a folder of jobs: its name, the folder of each job, and what is done. Torch-free."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fmnist import config as configs
from fmnist import lock, record
from fmnist.axes import Axis
from fmnist.command import Command
from fmnist.errors import BusyError, UsageError, UserError
from fmnist.overrides import compose_plain

SWEEPS = Path("sweeps")
ELSEWHERE = "running elsewhere"


class Job(NamedTuple):
    """One run of a sweep."""

    words: list[str]  # what sets it apart from the others
    overrides: list[str]  # all that makes it, whatever started it
    config: dict[str, Any]  # checked, without `auto`
    folder: Path

    @property
    def label(self) -> str:
        return self.folder.name


class State(NamedTuple):
    """What a job's folder says."""

    status: str  # that of its record, "running elsewhere", or "to do"
    epochs_done: int = 0
    scores: Mapping[str, float] = {}
    error: str = ""
    duration_s: float = 0.0

    @property
    def has_ended(self) -> bool:
        return self.status in record.ENDED


def sweep_name(command: Command) -> str:
    """Name a sweep after what it varies and a hash of that and of all that decides its results.

    The same request has the same folder, however it is typed.
    """
    if command.cfg.name is not None:
        return record.short(str(command.cfg.name))
    chosen, usual = (
        record.identity({"config": compose_plain(fixed), "overrides": command.typed})
        for fixed in (command.fixed, [])
    )
    decisive = {k: v for k, v in chosen.items() if k not in usual or usual[k] != v}
    axes = {a.key: space(a, command.is_search) for a in command.axes.values()}
    cases = sorted(command.cases.values())
    text = json.dumps(_plain([decisive, axes, cases]), sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    names = sorted(key.rpartition(".")[2] for key in command.varied)
    return record.short(f"{'-'.join(names)}-{digest}")


def space(axis: Axis, is_search: bool) -> list[Any]:
    """Return what an axis stands for: to a grid its values, to a search how they are drawn too."""
    drawn = [axis.kind, axis.step, axis.log] if is_search else []
    return [*drawn, *sorted({_number(value) for value in axis.values})]


class Sweep:
    """The jobs of the folder `sweeps/<name>`, found by what they train, whatever they are called.

    Folders that hold no readable record are left alone.
    """

    def __init__(self, command: Command, defaults: record.Defaults = configs.defaults) -> None:
        self.command = command
        self.name = sweep_name(command)
        self.folder = SWEEPS / self.name
        self.defaults = defaults
        self._places: dict[str, Path] = {}  # identity -> folder
        self._taken: set[str] = set()
        self._records: list[record.Record] = []
        for path in sorted(self.folder.glob(f"*/{record.RECORD}")):
            self._taken.add(path.parent.name)
            try:
                found = record.read(path.parent)
            except UserError:
                continue
            self._records.append(found)
            self._places.setdefault(_mark(found.data), path.parent)

    def job(self, words: Sequence[str], config: dict[str, Any]) -> Job:
        """Return the job that `words` make, in the folder of an equal one if there is any."""
        config = self.command.settle(config) | {"name": self.name}
        settled = [f"{key}={_text(config[key])}" for key in ("test", "figures", "checkpoints")]
        typed = [word for word in self.command.typed if not word.startswith("name=")]
        overrides = [*typed, *words, *settled, f"name='{self.name}'"]
        asked = {"config": config, "overrides": overrides}
        mark = _mark(asked)
        if mark not in self._places:
            self._places[mark] = self._older(asked) or self._free(words, mark)
        return Job(list(words), overrides, config, self._places[mark])

    def _free(self, words: Sequence[str], mark: str) -> Path:
        name = record.short(",".join(words) or "default")
        if name in self._taken:  # of another config: the same words with other ones beside them
            name = record.short(f"{name}-{hashlib.sha256(mark.encode()).hexdigest()[:8]}")
        self._taken.add(name)
        return self.folder / name

    def _older(self, asked: Mapping[str, Any]) -> Path | None:
        """Find an equal run whose record lacks keys, because older code wrote it."""
        keys = record.identity(asked).keys()
        for old in self._records:
            if record.identity(old.data).keys() < keys and not record.differences(
                old.data, asked, self.defaults
            ):
                return old.folder
        return None


def unique(jobs: Iterable[Job]) -> list[Job]:
    """Return each job once: those that train the same share a folder."""
    return list({job.folder: job for job in reversed(list(jobs))}.values())[::-1]


def state(folder: Path) -> State:
    """Read what is known of the job in `folder`."""
    if not (folder / record.RECORD).exists():
        return State(ELSEWHERE if lock.is_held(folder) else "to do")
    try:
        run = record.read(folder)
    except UserError as error:
        return State("failed", error=str(error))
    status = ELSEWHERE if run.status not in record.ENDED and lock.is_held(folder) else run.status
    data = run.data
    numbers = int(data.get("epochs_done", 0)), float(data.get("duration_s", 0.0))
    return State(status, numbers[0], run.scores, str(data.get("error", "")), numbers[1])


class Outcome:
    """What became of the jobs of a sweep, told at its end."""

    def __init__(self, sweep: Sweep, jobs: Iterable[Job]) -> None:
        self.sweep = sweep
        self.jobs = list(jobs)
        self.before = {job.folder: state(job.folder) for job in self.jobs}
        self.errors: dict[Path, BaseException] = {}  # of jobs that raised or died

    @property
    def left(self) -> list[Job]:
        """The jobs that have not ended yet."""
        return [job for job in self.jobs if not self.before[job.folder].has_ended]

    def add(self, job: Job) -> None:
        """Take in a job that a search has asked for."""
        if job.folder not in self.before:
            self.jobs.append(job)
            self.before[job.folder] = state(job.folder)

    def note(self, job: Job, error: BaseException) -> None:
        """Take in why a job did not end."""
        self.errors[job.folder] = error

    def summary(self) -> tuple[list[str], bool]:
        """Return lines that tell how each job ended, and whether one failed."""
        groups: dict[str, list[str]] = {}
        for job in self.jobs:
            now, error = state(job.folder), self.errors.get(job.folder, "")
            kind = self._kind(job, now)
            groups.setdefault(kind, []).append(f"  {kind}: {job.label}")
            if kind in ("failed", ELSEWHERE):
                groups[kind][-1] += f": {error or now.error}".rstrip(": ")
        kinds = ("done", "pruned", "skipped", "failed", ELSEWHERE, "interrupted", "not started")
        counts = [f"{len(groups[kind])} {kind}" for kind in kinds if kind in groups]
        skipped = " (finished before)" if "skipped" in groups else ""
        noun = "job" if len(self.jobs) == 1 else "jobs"
        head = f"{len(self.jobs)} {noun} in {self.sweep.folder}: {', '.join(counts)}"
        head = head.replace(" skipped", f" skipped{skipped}")
        lines = [line for kind in kinds[3:] for line in groups.get(kind, [])]
        return [head, *lines], "failed" in groups

    def _kind(self, job: Job, now: State) -> str:
        if self.before[job.folder].has_ended:
            return "skipped"
        if now.has_ended:
            return "done" if now.status == "finished" else now.status
        if now.status == ELSEWHERE:
            return ELSEWHERE
        has_failed = not isinstance(self.errors.get(job.folder, BusyError()), BusyError)
        if has_failed or now.status == "failed":
            return "failed"
        return "interrupted" if now.status == "interrupted" else "not started"


def preview(jobs: Sequence[Job], workers: int, num_more: int = 0) -> list[str]:
    """Say for each job what is done, and estimate the time that is left from the finished ones.

    `num_more` jobs are still to be proposed; `workers` run at a time.
    """
    states = [state(job.folder) for job in jobs]
    lines = []
    for job, now in zip(jobs, states, strict=True):
        goal = job.config["trainer"]["max_epochs"]
        more = f"  {now.epochs_done} of {goal} epochs" if 0 < now.epochs_done < goal else ""
        if "val/acc" in now.scores:
            more += f"  val/acc {now.scores['val/acc']:.2%}"
        status = "done" if now.status == "finished" else now.status
        lines.append(f"  {status:<12}  {job.label}{more}")
    return [*lines, _time_left(jobs, states, workers, num_more)]


def _time_left(jobs: Sequence[Job], states: Sequence[State], workers: int, num_more: int) -> str:
    ended = [s for s in states if s.has_ended and s.epochs_done]
    goals = [job.config["trainer"]["max_epochs"] for job in jobs]
    epochs = sum(g - s.epochs_done for g, s in zip(goals, states, strict=True) if not s.has_ended)
    if num_more and goals:
        epochs += num_more * sum(goals) / len(goals)
    if not epochs and not num_more:
        return "Nothing is left to do."
    if not ended:
        return "Time left: unknown until a first job is done."
    epoch_s = sum(s.duration_s for s in ended) / sum(s.epochs_done for s in ended)
    basis = f"{epoch_s:.1f} s an epoch in {len(ended)} ended, {workers} at a time"
    return f"Time left: about {_duration(epochs * epoch_s / workers)} ({basis})."


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def check_folder(folder: Path) -> None:
    """Refuse a sweep where a file or a run stands; raises UsageError."""
    if (folder / record.RECORD).exists() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} is no folder of jobs. Choose another name=...")


def _mark(data: Mapping[str, Any]) -> str:
    return json.dumps(_plain(record.identity(data)), sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    """Write equal numbers alike: 0.0 as 0."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(text: str) -> str:
    """Write the number that a word means, or the word."""
    try:
        return f"{float(text):.12g}"
    except ValueError:
        return text


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
