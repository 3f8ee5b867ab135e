"""SLURM's own commands, as far as jobs need them. Torch-free; nothing goes through a shell."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fmnist.errors import UserError

TIMEOUT_S = 60.0  # for a controller that is busy
MAX_ARRAY = 1001  # SLURM's own default of MaxArraySize, one more than the highest index
# What a job that submits would hand on: its own place, and options that the script sets.
NOT_INHERITED = (
    *("SLURM_ARRAY_", "SLURM_RESTART_COUNT", "SLURM_STEP", "SBATCH_ARRAY", "SBATCH_SIGNAL"),
    *("SBATCH_TIMELIMIT", "SBATCH_NO_REQUEUE", "SBATCH_REQUEUE", "SBATCH_OPEN_MODE"),
    "SBATCH_JOB_NAME",
)
MARK = "fmnist-"  # what a job's comment begins with; then comes the token of its script


class Entry(NamedTuple):
    """A task that SLURM knows and that has not ended."""

    token: str  # of the script it was submitted with
    job: str  # id of the array, or of the job where there is none
    number: int  # in the array, 0 where there is none
    is_array: bool
    state: str  # PENDING, RUNNING, COMPLETING, ...
    reason: str  # why it waits
    node: str

    @property
    def id(self) -> str:
        """Return what scancel and scontrol call it."""
        return f"{self.job}_{self.number}" if self.is_array else self.job


def submit(words: Sequence[str], script: str) -> str:
    """Hand `script` to sbatch with the options `words`; returns the job's id."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)}
    return _run(["sbatch", "--parsable", *words], script, kept).strip().partition(";")[0]


def queue() -> list[Entry]:
    """Return this user's tasks of ours that wait or run, one for each index of an array."""
    words = ["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%k|%F|%K|%T|%N|%r"]
    return [entry for line in _run(words).splitlines() if (entry := _entry(line))]


def requeue(job: str) -> None:
    """Put a running job of this user back into the queue; SLURM then ends it."""
    _run(["scontrol", "requeue", job])


def is_preempted(job: str) -> bool:
    """Say whether SLURM is about to take the nodes of a running job away for another one."""
    found = re.search(r"\bPreemptTime=(\S+)", _run(["scontrol", "show", "job", "-o", job]))
    return found is not None and found[1] not in ("None", "Unknown", "N/A")


def max_array_size() -> int:
    """Return how many tasks one array may have."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _run(["scontrol", "show", "config"]), re.M)
    return max(int(found[1]) if found else MAX_ARRAY, 2)


def has(command: str) -> bool:
    return shutil.which(command) is not None


def _entry(line: str) -> Entry | None:
    fields = line.split("|", 5)
    if len(fields) < 6 or not fields[0].startswith(MARK):  # of a job of another kind
        return None
    comment, job, index, state, node, reason = fields
    is_array = index.isdigit()
    number = int(index) if is_array else 0
    return Entry(comment.removeprefix(MARK), job, number, is_array, state, reason, node)


def _run(
    words: Sequence[str], text: str | None = None, environment: Mapping[str, str] = os.environ
) -> str:
    try:
        done = subprocess.run(
            list(words),
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            env={**environment, "SLURM_TIME_FORMAT": "standard"},
        )
    except FileNotFoundError:
        raise UserError(
            f"{words[0]} is not installed here. Type this on a machine from which SLURM jobs are "
            "submitted, or choose hydra/launcher=local | pool."
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{words[0]} gave no answer for {TIMEOUT_S:.0f} s. Look at the cluster with sinfo, "
            "then type the same line again."
        ) from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"it exited with {done.returncode}"
        raise UserError(f"{words[0]} failed: {said}")
    return done.stdout


def place(environment: dict[str, str] | None = None) -> tuple[str, int, int]:
    """Return id, index in the array and number of restarts of the job that this process is of.

    Raises UserError outside a job.
    """
    given = os.environ if environment is None else environment
    if "SLURM_JOB_ID" not in given:
        raise UserError("SLURM_JOB_ID is not set: this is to be run by SLURM, in a batch job.")
    restarts = int(given.get("SLURM_RESTART_COUNT", 0))
    if array := given.get("SLURM_ARRAY_JOB_ID"):
        index = int(given["SLURM_ARRAY_TASK_ID"])
        return f"{array}_{index}", index, restarts
    return given["SLURM_JOB_ID"], 0, restarts
