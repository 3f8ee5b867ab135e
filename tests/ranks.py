"""Start the processes of a run as srun or torchrun would, quickly: torch is imported once for all.

`python tests/ranks.py FOLDER`: each line of stdin is a JSON list [KIND, SIZE, WORDS, FAULTS]; its
answer on stdout is a JSON list of exit codes and of what each process said. FAULTS maps a rank to
[SECONDS, SIGNAL] of a signal that it gets in the training, SECONDS 0 being its third step.
"""

import json
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import small

TRAIN = str(Path(__file__).resolve().parents[1] / "scripts" / "train.py")


def variables(kind: str, rank: int, size: int, job: str) -> dict[str, str]:
    """Return what the launcher sets for a process of one machine."""
    if kind == "torchrun":
        return {
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": job,
        }
    return {
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NAME": "train.sh",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(size),
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": str(size),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": "0",
        "SLURM_JOB_NODELIST": "nowhere[1-2]",
    }


def start(given: dict[str, str], words: list[str], signum: int, said: Any) -> int:
    """Fork a process that trains; it gets `signum` in its third step, if any."""
    child = os.fork()
    if child:
        return child
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    os.environ.update(given)
    if signum:
        from killer import Counter

        from fmnist.classifier import Classifier

        Counter(3, lambda *_: os.kill(os.getpid(), signum)).wrap(Classifier, "training_step")
    code = 0
    try:
        sys.argv = [TRAIN, *words]
        runpy.run_path(TRAIN, run_name="__main__")
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    import pytorch_lightning  # noqa: F401

    from fmnist import build, sources, weights  # noqa: F401

    folder = Path(sys.argv[1])
    sources.FILES.clear()
    sources.FILES.update(small.checksums(folder))
    os.environ["FMNIST_SYSTEM_DIR"] = str(folder)
    for line in sys.stdin:
        kind, size, words, signals, job = json.loads(line)
        files = [tempfile.TemporaryFile("w+") for _ in range(size)]  # noqa: SIM115
        pids = []
        for rank in reversed(range(size)):  # the first one comes last
            given = variables(kind, rank, size, job) if size > 1 else {}
            pids.insert(0, start(given, words, signals.get(str(rank), 0), files[rank]))
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        said = []
        for file in files:
            file.seek(0)
            said.append(file.read())
        print(json.dumps([codes, said]), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
