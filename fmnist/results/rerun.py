"""Run the experiments that fit this machine, each as an ordinary sweep in a process of its own."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fmnist import origin, record
from fmnist.errors import Interrupted, UsageError
from fmnist.results import plan
from fmnist.sweeps.plan import Job, state

TRAIN = Path(__file__).resolve().parents[2] / "scripts" / "train.py"


def check_tree() -> None:
    """Raise UsageError unless the code is a commit: other runs would not be recorded."""
    code = origin.commit()
    if not code:
        raise UsageError("Results name a commit: run this in a git checkout.")
    if code["dirty"]:
        raise UsageError(
            "The tree has uncommitted changes, so no commit could be named beside the results. "
            "Commit or stash them first, also those of results that were rendered before."
        )


def check_runs(jobs: Sequence[Job]) -> None:
    """Raise UsageError where completing `jobs` would mix runs of several commits."""
    if all(state(job.folder).has_ended for job in jobs):
        return
    head = origin.commit()["commit"]
    for job in jobs:
        if not (job.folder / record.RECORD).exists():
            continue
        data = record.read(job.folder).data
        commits = [part["commit"] for part in (data, *data["attempts"]) if part.get("commit")]
        others = {commit[:7] for commit in commits or ["unknown"]} - {head[:7]}
        if others:
            raise UsageError(
                f"{job.folder} is of commit {', '.join(sorted(others))}, and now it is {head[:7]}: "
                "they would not be one result. Check that commit out to complete the runs, or "
                f"delete {job.folder.parent} to begin anew."
            )


def run(name: str, command: Sequence[str] = (sys.executable, str(TRAIN))) -> bool:
    """Run an experiment, or what is left of it; returns whether all its runs ended well.

    A signal is handed on to the process, which is waited for: what it began can be gone on with.
    """
    words = [*command, "-m", *plan.overrides(name)]
    # A process group of its own, or Ctrl-C would reach it twice.
    with subprocess.Popen(words, process_group=0) as child:
        try:
            return child.wait() == 0
        except (KeyboardInterrupt, Interrupted):
            child.send_signal(signal.SIGTERM)
            child.wait()
            raise
