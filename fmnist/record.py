"""A run is a folder, and run.json is its record: what was asked for, what came out. Torch-free.

`decide` is the one rule of what a start in a folder does: start, resume, return the finished
result, or refuse.
"""

import contextlib
import datetime
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fmnist import facts, lock, origin
from fmnist.errors import UsageError, UserError
from fmnist.reading import read_json
from fmnist.schema import flatten

SCHEMA = 1
RECORD = "run.json"
CHECKPOINTS = ("last.ckpt", "previous.ckpt")  # what resuming reads, best first
ENDED = ("finished", "pruned")  # the states that no start changes
MAX_NAME_LENGTH = 120

# Keys that say where, how and how loudly a run happens, not what is trained.
NOT_IDENTITY = {
    "name",
    "figures",
    "checkpoints",
    "test",
    "note",
    "logger.kind",
    "data.dir",
    "data.source",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.sync_batchnorm",
    "trainer.profiler",
    "trainer.log_every_n_steps",
    "trainer.num_sanity_val_steps",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
}
_ABSENT = "(not set)"
Monitor = Callable[[Sequence[Mapping[str, float]]], bool]  # rows of metrics.csv -> prune?
Defaults = Callable[[Sequence[str]], Mapping[str, Any]]  # overrides -> flat config


class Record:
    """run.json of one run, rewritten whole and atomically by every `update`.

    Where several processes train together, all but the first only read (`writes` is false). Nothing
    is written when `guard` raises: a process that lost its folder leaves it to the one that has it.
    """

    def __init__(self, folder: Path, data: dict[str, Any], writes: bool = True) -> None:
        self.folder = folder
        self.data = data
        self.writes = writes
        self.guard: Callable[[], None] = lambda: None
        self._began: float | None = None  # when this process's attempt did

    def update(self, **fields: Any) -> None:
        self.data |= fields
        if self._began is not None:
            attempts = self.data["attempts"]
            attempts[-1]["seconds"] = round(time.monotonic() - self._began, 3)
            self.data["duration_s"] = round(sum(a.get("seconds", 0) for a in attempts), 3)
        if self.writes:
            self.guard()
            text = json.dumps(self.data, indent=2) + "\n"
            write_atomically(self.folder / RECORD, text)

    @property
    def scores(self) -> dict[str, float]:
        return dict(self.data.get("scores", {}))

    @property
    def status(self) -> str:
        """The recorded status; `running` without a living process reads `interrupted`."""
        if self.data["status"] == "running" and not lock.is_held(self.folder):
            return "interrupted"
        return str(self.data["status"])

    def open_attempt(self, start_epoch: int) -> None:
        """Append this process's attempt, which goes on from `start_epoch` finished epochs."""
        here = {"start_epoch": start_epoch, "pid": os.getpid(), "host": socket.gethostname()}
        self.data["attempts"].append({**here, **origin.commit(), "seconds": 0.0})
        self.data.pop("error", None)
        self._began = time.monotonic()
        self.update(status="running")


def is_run(folder: Path) -> bool:
    """Say whether there is a record in `folder`, as far as that can be looked at."""
    try:
        return (folder / RECORD).exists()
    except OSError:  # a name too long, a folder not ours to look into: reading tells
        return False


def read(folder: Path) -> Record:
    """Read the record of a run folder; raises UserError when it is missing or damaged.

    A fact that is not of its kind counts as not recorded.
    """
    path = folder / RECORD
    try:
        data = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{folder} is no run folder: {RECORD} is missing.") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Restore it, or delete the folder and run again."
        ) from None
    if not _is_record(data):
        raise UserError(
            f"{path} is not a record of this version of fmnist (schema {SCHEMA}). "
            "Choose another name=..."
        )
    return Record(folder, facts.known(data))


def _is_record(data: Any) -> bool:
    kinds = {"config": dict, "overrides": list, "attempts": list, "scores": dict, "status": str}
    return (
        isinstance(data, dict)
        and data.get("schema") == SCHEMA
        and all(isinstance(data.get(key), kind) for key, kind in kinds.items())
        and all(isinstance(word, str) for word in data["overrides"])
    )


def decide(
    folder: Path,
    config: Mapping[str, Any],
    overrides: Sequence[str],
    defaults: Defaults = lambda _: {},
) -> Literal["start", "resume", "finished"]:
    """Say what starting `config` in `folder` means. Reads only; nothing is changed.

    `defaults` gives the flat default config under a record's overrides, for keys it lacks.

    Raises:
        UsageError: the folder holds a run made with another config, or is no run at all.
    """
    if not folder.exists():
        return "start"
    if not (folder / RECORD).exists():
        if folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir()):
            return "start"  # new, or ended before its first record
        raise UsageError(
            f"{folder} exists but is no run: {RECORD} is missing. Choose another name=..."
        )
    record = read(folder)
    asked = {"config": dict(config), "overrides": list(overrides)}
    if changed := differences(record.data, asked, defaults):
        shown = "; ".join(f"{key}: {_plain(old)}, now {_plain(new)}" for key, old, new in changed)
        raise UsageError(
            f"{folder} was made with another config ({shown}). "
            "Choose another name=... or delete the folder."
        )
    if record.status in ENDED:
        return "finished"
    resumable = any((folder / "checkpoints" / name).exists() for name in CHECKPOINTS)
    return "resume" if resumable else "start"


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], defaults: Defaults = lambda _: {}
) -> list[tuple[str, Any, Any]]:
    """List (key, old, new) where two records disagree; a key that one lacks has its default."""
    before, after = identity(old), identity(new)
    usual = defaults(old["overrides"]) if before.keys() != after.keys() else {}
    found = []
    for key in sorted({*before, *after}):
        a, b = (side.get(key, usual.get(key, _ABSENT)) for side in (before, after))
        if a != b:
            found.append((key, a, b))
    return found


def identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat config keys that decide what a run trains.

    `trainer.precision` counts when the user typed it, not when a trainer group chose it.
    """
    typed = [word.lstrip("+").partition("=")[0] for word in record.get("overrides", [])]
    left_out = NOT_IDENTITY - {"trainer.precision"}
    if "trainer.precision" not in typed:
        left_out = left_out | {"trainer.precision"}
    return {k: v for k, v in flatten(record["config"]).items() if k not in left_out}


def claim(root: Path, name: str | None, suffix: str) -> Path:
    """Make and return the folder of a new run, or return the existing one of that name.

    Without a name a unique one is made from the time; two starts in one second get two folders.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        if name is not None:
            (root / name).mkdir(exist_ok=True)
            return root / name
        stamp = f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}_{short(suffix)}"
        for i in range(1, 10_000):
            folder = root / (stamp if i == 1 else f"{stamp}-{i}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir(exist_ok=False)
                return folder
    except OSError as error:
        raise UserError(
            f"Cannot make a run folder under {root.resolve()} ({error.strerror}). "
            "Start the command in a folder you can write to."
        ) from None
    raise UserError(f"Cannot find a free folder name under {root}.")


def open_record(folder: Path, config: dict[str, Any], overrides: Sequence[str]) -> Record:
    """Return the record of a run that starts in `folder`, with the attempts made there before.

    What a killed attempt left half-written is removed; the caller holds the folder's lock.
    """
    for path in folder.rglob(".*.tmp"):
        if path.is_symlink() or not path.is_dir():  # no folder is left by us
            path.unlink()
    if (folder / RECORD).exists():
        record = read(folder)  # equal in all that counts; where and how loudly may have changed
        record.data |= {"config": config, "overrides": list(overrides)}
        record.data["environment"] = origin.environment()
        return record
    record = Record(folder, {"schema": SCHEMA, "status": "running", "config": config})
    record.data |= {
        "overrides": list(overrides),
        "scores": {},
        "epochs_done": 0,
        "attempts": [],
        "seed": config["seed"],
        "note": config["note"],
        "started": origin.now(),
        "versions": origin.versions(),
        "environment": origin.environment(),
        **origin.commit(),
    }
    record.update()  # before anything else: what stands in the folder is then known for a run's
    return record


def short(name: str) -> str:
    """Return `name` made safe for a folder, at most 120 characters long; a hash marks a change."""
    safe = re.sub(r"[^A-Za-z0-9._=,+-]+", "-", name).replace("..", ".").strip("-") or "run"
    if len(safe) <= MAX_NAME_LENGTH and safe == name:
        return safe
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{safe[: MAX_NAME_LENGTH - 9]}-{digest}"


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` in one step; a reader sees the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a read-only file system refuses that too
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        raise UserError(
            f"Cannot write {path} ({error.strerror}). Free some space or make the folder writable, "
            "then type the same line again."
        ) from None


def _plain(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value
