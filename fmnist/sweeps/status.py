"""What SLURM and the folder of each job say, side by side, and what to type next. Torch-free."""

import contextlib
import os
import shlex
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fmnist import lock, record
from fmnist.errors import UserError
from fmnist.sweeps import plan, script, slurm, trials
from fmnist.sweeps.plan import State
from fmnist.sweeps.scheduler import Entry
from fmnist.sweeps.script import Line

NUM_LOGS = 8  # of the workers of a search
NUM_SHOWN = 20  # jobs that need no look, unless all are asked for
WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT")
RANKS = ("failed", "interrupted", "ending", "running", "queued", "to do")  # what to look at first


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
        reason = f"({self.entry.reason})" if self.entry.reason not in ("None", "") else ""
        told = self.entry.id, self.entry.state.lower(), self.entry.node, reason
        return " ".join(filter(None, told))

    @property
    def kind(self) -> str:
        """Return what the job counts as: what SLURM says of it goes before an older record."""
        if self.entry is None or self.state.has_ended:
            return self.state.status
        if self.entry.state in WAITING:
            return "queued"
        return "ending" if self.entry.state == "COMPLETING" else "running"

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
            found[row.kind] = found.get(row.kind, 0) + 1
        return dict(sorted(found.items()))

    @property
    def _has_trials_left(self) -> bool:
        """Say whether a search is not complete, as far as its journal tells."""
        return self.is_search and trials.num_left(self.folder) != 0

    def next(self) -> list[str]:
        """Return what to type next, each with what it does."""
        active = [row.entry for row in self.rows if row.entry] + self.workers
        left = [row for row in self.rows if row.needs_look and row.entry is None]
        lines = []
        if self.again and (left or self._has_trials_left) and not self.workers:
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
    entries = {_place(folder, t.line, t.entry.is_array): t.entry for t in tasks if t.line.folder}
    workers = [task.entry for task in tasks if task.line.folder is None]
    records = sorted(folder.glob(f"*/{record.RECORD}"))
    places = [path.parent for path in records] or [folder] * (folder / record.RECORD).exists()
    logs, again, is_search = _submitted(folder)
    knows_all = not trouble and not workers  # of which nobody can say at which trials they are
    rows = []
    for place in dict.fromkeys([*places, *logs]):
        is_told = knows_all and (is_search or place in logs)
        rows.append(_row(place, entries.get(place), logs.get(place), is_told))
    return Overview(folder, rows, workers, again, is_search, trouble)


def _place(folder: Path, line: Line, is_array: bool) -> Path:
    """Return where a task's run lies; its line says so for whoever submitted it, there."""
    return folder / line.folder.name if line.folder and is_array else folder


def _row(place: Path, entry: Entry | None, log: Path | None, is_told: bool) -> Row:
    """Look at a job. `is_told`: SLURM would say so, if it ran there."""
    state, goal = plan.state(place), None
    if state.status == plan.ELSEWHERE:  # than here, which goes without saying
        is_gone = is_told and (entry is None or entry.state in WAITING) and not _beats(place)
        state = state._replace(status="interrupted" if is_gone else "running")
    with contextlib.suppress(UserError, LookupError, TypeError, ValueError, OverflowError):
        # what it says of itself is told
        goal = int(record.read(place).data["config"]["trainer"]["max_epochs"])
    return Row(place.name, entry, state, goal, log if log and log.exists() else None)


def _beats(place: Path) -> bool:
    """Say whether the process in a folder showed itself lately; one of this machine does live."""
    holder = lock.read(place) or {}
    age_s = time.time() - (lock.stamp(place / lock.LOCK) or 0) / 1e9
    return holder.get("host") == socket.gethostname() or age_s < lock.QUIET_S


def _submitted(folder: Path) -> tuple[dict[Path, Path], str, bool]:
    """Return the log of each job that was submitted, of its newest start, and the newest line.

    And whether that was a search, whose workers are at no job of their own.
    """
    found = []
    for path in (folder / script.FOLDER).glob(f"*{script.SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # refused by SLURM, just now
            found.append((path.stat().st_mtime_ns, path, script.read(path)))
    logs, again, is_search = {}, "", False
    for _, path, text in sorted(found):
        again = text.again
        for i, line in enumerate(text.lines):
            is_search = is_search or line.folder is None
            if line.folder:
                log = slurm.log_path(path, i if text.is_array else None)
                logs[_place(folder, line, text.is_array)] = log
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
    shown = sorted(found.rows, key=lambda row: (*RANKS, row.kind).index(row.kind))
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
