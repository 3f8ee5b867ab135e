"""SLURM's own commands, as far as jobs need them. Torch-free; nothing goes through a shell."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from fmnist.errors import UserError

TIMEOUT_S = 60.0  # for a controller that is busy
MAX_ARRAY = 1001  # SLURM's own default of MaxArraySize, one more than the highest index
# What says how to reach SLURM. All else that begins with SLURM_ is of the job that submits.
REACHING = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_SACK_")
# What sbatch takes from the environment and none of our jobs can have, whatever is chosen: to be
# waited for, to be an array where it is a single run, to log elsewhere, processors of each GPU.
NEVER = ("SBATCH_WAIT", "SBATCH_ARRAY_INX", "SBATCH_ERROR", "SBATCH_CPUS_PER_GPU")
# What SLURM's commands say when they sent a request and heard no answer.
UNHEARD = re.compile(
    r"timed out|transmitted or received|reset by peer|broken pipe|unspecified error|unexpected "
    r"message|(send|receive|connection|communication|shutdown) failure",
    re.I,
)
MARK = "fmnist-"  # what a job's comment begins with; then comes the token of its script


class UnheardError(UserError):
    """SLURM gave no answer; what it was asked for may be done all the same."""


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

    @property
    def is_ending(self) -> bool:
        """Say whether SLURM cleans up after it; one that was requeued comes back after that."""
        return self.state == "COMPLETING"

    @property
    def is_held(self) -> bool:
        """Say whether it waits until somebody releases it."""
        waits = self.state == "PENDING" and re.search("held|hold", self.reason, re.I)
        return bool(waits) or self.state in ("REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")


def submit(words: Sequence[str], script: str) -> str:
    """Hand `script` to sbatch with the options `words`; returns the job's id.

    Options in the script alone would yield to the SBATCH_* variables of the environment.
    """
    return _run(["sbatch", "--parsable", *words], script).strip().partition(";")[0]


def queue() -> list[Entry]:
    """Return this user's tasks of ours that wait or run, one for each index of an array.

    Those in hidden partitions (-a) too.
    """
    words = ["squeue", "-a", "-h", "-r", "-u", str(os.getuid()), "-o", "%k|%F|%K|%T|%N|%r"]
    return [entry for line in _run(words).splitlines() if (entry := _entry(line))]


def requeue(job: str) -> None:
    """Put a running job of this user back into the queue; SLURM then ends it."""
    _run(["scontrol", "requeue", job])


def is_preempted(job: str) -> bool:
    """Say whether SLURM is about to take the nodes of a running job away for another one."""
    found = re.search(r"\bPreemptTime=(\S+)", _run(["scontrol", "show", "job", "-o", job]))
    return found is not None and found[1] not in ("None", "Unknown", "N/A")


def max_array_size() -> int:
    """Return how many tasks one array may have, SLURM's default where it cannot be asked."""
    said = ""
    with contextlib.suppress(UserError):  # sbatch needs no scontrol, and refuses what is too many
        said = _run(["scontrol", "show", "config"])
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.M)
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


def _environment(words: Sequence[str]) -> dict[str, str]:
    """Return the variables for a command of SLURM, none of which changes what `words` ask for.

    sbatch hands them on to the job.
    """
    asks_gpus = any(word.startswith(("--gpus", "--gres=gpu")) for word in words)

    def is_kept(name: str, value: str) -> bool:
        if name.startswith("SQUEUE_"):  # would leave some of our tasks out
            return False
        if name.startswith("SLURM_"):
            return name.startswith(REACHING)
        says_gpus = name.startswith("SBATCH_GPUS") or (name == "SBATCH_GRES" and "gpu" in value)
        return name not in NEVER and not (asks_gpus and says_gpus)

    kept = {name: value for name, value in os.environ.items() if is_kept(name, value)}
    return {**kept, "SLURM_TIME_FORMAT": "standard"}


def _run(words: Sequence[str], text: str | None = None) -> str:
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
            env=_environment(words),
        )
    except FileNotFoundError:
        raise UserError(
            f"{words[0]} is not installed here. Type this on a machine from which SLURM jobs are "
            "submitted, or choose hydra/launcher=local | pool."
        ) from None
    except subprocess.TimeoutExpired:
        raise UnheardError(
            f"{words[0]} gave no answer for {TIMEOUT_S:.0f} s. Look at the cluster with sinfo, "
            "then type the same line again."
        ) from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"it exited with {done.returncode}"
        is_unheard = done.returncode < 0 or UNHEARD.search(said)
        raise (UnheardError if is_unheard else UserError)(f"{words[0]} failed: {said}")
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
