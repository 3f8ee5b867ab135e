"""What became of a submission, and what its tasks wait for, in lines for a user."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fmnist.sweeps.scheduler import Entry

SAME_S = 60.0  # of waiting for the same, before it is told


class Receipt(NamedTuple):
    """What became of a submission."""

    folder: Path
    ids: list[str]
    num_submitted: int
    others: list[Entry]  # the tasks that SLURM had already of what was to be submitted

    @property
    def num_active(self) -> int:
        """Return how many tasks were there already that will come to run, or do."""
        return sum(not (entry.is_ending or entry.is_held) for entry in self.others)

    def lines(self) -> Iterator[str]:
        """Say what was submitted, what was there already, how to look at it and how to end it."""
        ids = " ".join(self.ids)
        if ids:
            yield f"Submitted {_tasks(self.num_submitted)} of {self.folder} as {ids}."
        elif not self.others:
            yield "Nothing is left to submit."
        if number := self.num_active:
            yield f"{_tasks(number)} {'waits or runs' if number == 1 else 'wait or run'} already."
        if number := sum(entry.is_ending for entry in self.others):
            are = "is" if number == 1 else "are"
            yield f"{_tasks(number)} {are} ending: type the line again in a minute."
        yield from held(self.others)
        yield f"Status: python scripts/status.py {self.folder}"
        if ids:
            yield f"Stop:   scancel {ids}"


class Watch:
    """Tells what tasks wait for, once where that stays the same for SAME_S seconds."""

    def __init__(self) -> None:
        self._reasons: set[str] = set()
        self._since = time.monotonic()
        self._is_told = False

    def see(self, entries: Sequence[Entry]) -> list[str]:
        """Return the lines to print now, none where there is nothing new to tell."""
        waiting = [entry for entry in entries if entry.state != "RUNNING"]
        reasons = {_reason(entry) for entry in waiting}
        if reasons != self._reasons:
            self._reasons, self._since, self._is_told = reasons, time.monotonic(), False
        if self._is_told or time.monotonic() - self._since < SAME_S:
            return []
        self._is_told = True
        free = [_reason(entry) for entry in waiting if not entry.is_held]
        counts = [f"{_tasks(free.count(reason))} ({reason})" for reason in sorted({*free})]
        return [*([f"Waiting for {', '.join(counts)}."] if free else []), *held(waiting)]


def held(entries: Sequence[Entry]) -> Iterator[str]:
    """Say which tasks start only when they are released, and how."""
    if found := [entry for entry in entries if entry.is_held]:
        are = "is" if len(found) == 1 else "are"
        reasons = ", ".join(sorted({entry.reason for entry in found}))
        jobs = ",".join(sorted({entry.job for entry in found}))
        yield f"{_tasks(len(found))} {are} held ({reasons}). To release: scontrol release {jobs}"


def _reason(entry: Entry) -> str:
    if entry.is_ending:
        return "ending"
    return entry.state.lower() if entry.reason == "None" else entry.reason


def _tasks(number: int) -> str:
    return "1 task" if number == 1 else f"{number:,} tasks"
