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

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "scripts" / "train.py"
CODE = ("conf", "fmnist", "scripts")  # what decides a result


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
    check_untracked()


def check_untracked() -> None:
    """Raise UsageError for files beside the code that no commit has: git calls the tree clean."""
    if found := untracked():
        raise UsageError(
            f"{', '.join(found)}: not under git, so the commit beside the results would not have "
            "them. Add and commit them, or move them away."
        )


def untracked() -> list[str]:
    """Return the files and folders of the code that git does not know; none outside a checkout."""
    try:
        command = ["git", "-C", str(ROOT), "status", "--porcelain", "--", *CODE]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line[3:] for line in done.stdout.splitlines() if line.startswith("??")]


def check_runs(name: str, jobs: Sequence[Job]) -> None:
    """Raise UsageError where what completing `jobs` gives could not be recorded.

    That are runs of several commits, of changed files, and resumed ones whose seconds count.
    """
    if all(state(job.folder).has_ended for job in jobs):
        return
    head = origin.commit()["commit"]
    for job in jobs:
        if not (job.folder / record.RECORD).exists():
            continue
        data = record.read(job.folder).data
        parts = [data, *data["attempts"]]
        again = f"Delete {job.folder} to run it again."
        if any(part.get("dirty") for part in parts):
            raise UsageError(f"{job.folder} ran with uncommitted changes. {again}")
        if name in plan.TIMED and not state(job.folder).has_ended:
            raise UsageError(f"{job.folder} was interrupted, and its seconds count. {again}")
        commits = [part["commit"] for part in parts if part.get("commit")]
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
