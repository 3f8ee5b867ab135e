"""What SLURM and the folder of each job say, side by side, and what to type next. Torch-free."""

import contextlib
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fmnist import record
from fmnist.errors import UserError
from fmnist.sweeps import plan, script, slurm
from fmnist.sweeps.plan import State
from fmnist.sweeps.scheduler import Entry

NUM_LOGS = 8  # of the workers of a search
NUM_SHOWN = 20  # jobs that need no look, unless all are asked for


class Row(NamedTuple):
    """One job."""

    label: str
    entry: Entry | None  # None: SLURM does not have it, or not any more
    state: State
    goal: int | None  # epochs
    log: Path | None  # of its newest start

    @property
    def needs_look(self) -> bool:
        """Say whether something is to be done or waited for."""
        return not self.state.has_ended

    @property
    def slurm(self) -> str:
        if self.entry is None:
            return "-"
        where = self.entry.node if self.entry.state == "RUNNING" else f"({self.entry.reason})"
        return f"{self.entry.id} {self.entry.state.lower()} {where}"

    @property
    def said(self) -> str:
        """Return what the folder says."""
        epochs = f"{self.state.epochs_done}" + (f"/{self.goal}" if self.goal else "")
        status = (
            f"{self.state.status}, {epochs} epochs" if self.state.epochs_done else self.state.status
        )
        return f"{status}: {self.state.error}" if self.state.error else status


class Overview(NamedTuple):
    """A sweep or a run as SLURM and its folders have it."""

    folder: Path
    rows: list[Row]
    workers: list[Entry]  # of a search, which are at no job of their own
    again: str  # the line that submits what is missing, "" where none was submitted
    is_search: bool
    trouble: str  # why SLURM could not be asked

    @property
    def counts(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for row in self.rows:
            waits = row.entry is not None and row.entry.state == "PENDING"
            kind = "queued" if waits and not row.state.has_ended else row.state.status
            found[kind] = found.get(kind, 0) + 1
        return dict(sorted(found.items()))

    def next(self) -> list[str]:
        """Return what to type next, each with what it does."""
        active = [row.entry for row in self.rows if row.entry] + self.workers
        left = [row for row in self.rows if row.needs_look and row.entry is None]
        lines = []
        if self.again and (left or self.is_search) and not self.workers:
            lines.append(f"Go on:  {self.again}")
        elif left and not self.workers and (self.folder / record.RECORD).exists():
            lines.append(f"Go on:  python scripts/resume.py {shlex.quote(str(self.folder))}")
        if active:
            jobs = sorted({entry.job for entry in active})
            lines.append(f"Stop:   scancel {' '.join(jobs)}")
        if any(row.state.status == "finished" for row in self.rows) and len(self.rows) > 1:
            lines.append(f"Table:  python scripts/compare.py {shlex.quote(str(self.folder))}")
        return lines


def find(name: str) -> Path:
    """Return the folder of the sweep or run `name`, or of that path; raises UserError."""
    places = [Path(name), plan.SWEEPS / name, Path("runs") / name]
    for place in places:
        if name and any((place / part).exists() for part in (record.RECORD, script.FOLDER)):
            return place
        if name and place.parent in (plan.SWEEPS, Path("runs")) and place.is_dir():
            return place
    raise UserError(
        f"There is no sweep or run {name}: looked for {', '.join(map(str, places))}. "
        "Type this in the folder where the jobs were submitted."
    )


def overview(folder: Path) -> Overview:
    """Bring together what the scripts, SLURM and the folders of a sweep or run say."""
    trouble, tasks = "", []
    try:
        tasks = slurm.known(folder)
    except UserError as error:
        trouble = str(error)
    entries = {task.line.folder: task.entry for task in tasks if task.line.folder}
    workers = [task.entry for task in tasks if task.line.folder is None]
    records = sorted(folder.glob(f"*/{record.RECORD}"))
    places = [path.parent for path in records] or [folder] * (folder / record.RECORD).exists()
    logs, again, is_search = _submitted(folder)
    rows = [_row(p, entries.get(p), logs.get(p)) for p in dict.fromkeys([*places, *logs])]
    return Overview(folder, rows, workers, again, is_search, trouble)


def _row(place: Path, entry: Entry | None, log: Path | None) -> Row:
    state, goal = plan.state(place), None
    if state.status == plan.ELSEWHERE:  # than here, which goes without saying
        state = state._replace(status="running")
    with contextlib.suppress(UserError, KeyError, TypeError):  # what it says of itself is told
        goal = int(record.read(place).data["config"]["trainer"]["max_epochs"])
    return Row(place.name, entry, state, goal, log if log and log.exists() else None)


def _submitted(folder: Path) -> tuple[dict[Path, Path], str, bool]:
    """Return the log of each job that was submitted, of its newest start, and the newest line.

    And whether that was a search, whose workers are at no job of their own.
    """
    paths = (folder / script.FOLDER).glob(f"*{script.SUFFIX}")
    logs, again, is_search = {}, "", False
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)):
        text = path.read_text("utf-8")
        again = script.again(text)
        for i, words in enumerate(script.tasks(text)):
            place = script.line(words).folder
            is_search = is_search or place is None
            if place:
                logs[place] = slurm.log_path(path, i if script.is_array(text) else None)
    return logs, again, is_search


def lines(found: Overview, shows_all: bool) -> Sequence[str]:
    """Return the overview as lines: counts, the jobs, what to type next."""
    counts = ", ".join(f"{number:,} {kind}" for kind, number in found.counts.items())
    noun = "job" if len(found.rows) == 1 else "jobs"
    told = [f"{found.folder}: {len(found.rows):,} {noun}{': ' if counts else ''}{counts}"]
    if found.trouble:
        told.append(f"This is what the folders say; SLURM could not be asked. {found.trouble}")
    if found.workers:
        told.append(f"{len(found.workers)} workers: {' '.join(e.id for e in found.workers)}")
    if found.is_search:
        newest = sorted((found.folder / script.FOLDER).glob("*.log"), key=os.path.getmtime)
        told += [f"  log: {path}" for path in newest[-NUM_LOGS:]]
    ranks = {"failed": 0, "interrupted": 1, "running": 2, "to do": 3}
    shown = sorted(found.rows, key=lambda row: ranks.get(row.state.status, 4))
    if not shows_all:
        shown = shown[:NUM_SHOWN]
    return [*told, *_table(shown), *_rest(len(found.rows) - len(shown)), *found.next()]


def _table(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    table = [("job", "SLURM", "folder"), *((row.label, row.slurm, row.said) for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in (0, 1)]
    made = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in table]
    logs = [f"  log: {row.log}" if row.log and row.needs_look else None for row in rows]
    paired = zip(made[1:], logs, strict=True)
    return ["", made[0], *(text for pair in paired for text in pair if text), ""]


def _rest(number: int) -> list[str]:
    return [f"... and {number:,} more: --all", ""] if number else []
