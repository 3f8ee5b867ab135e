"""Train a run, or use one: the functions behind the scripts, for notebooks too.

    from fmnist.run import load, train
    run = train(["trainer.max_epochs=2", "name=demo"])
    probs = load("runs/demo").predict(images)

Importing this module imports no torch, so that finished runs and mistakes answer at once.
"""

import contextlib
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from fmnist import config as configs
from fmnist import process, record
from fmnist.errors import NO_FILES, REFUSALS, Interrupted, UsageError, UserError
from fmnist.lock import Lock, refuse_if_busy

if TYPE_CHECKING:
    from fmnist.model import Model

RUNS = Path("runs")
FOLDER_VARIABLE = "FMNIST_RUN_FOLDER"  # from the first process of a run to those it starts


def train(
    cfg: DictConfig | Mapping[str, Any] | str | Sequence[str] = (),
    *,
    overrides: Sequence[str] = (),
    folder: Path | None = None,
    monitor: record.Monitor | None = None,
) -> record.Record:
    """Train what `cfg` asks for, or return the stored record where that was done before.

    `cfg` is a composed config, or overrides as on the command line; `overrides` is what a user
    typed to get a composed one, for the record. The run lives in `folder`, or runs/<name>.
    `monitor` is shown the rows of the history (as in metrics.csv) after every epoch; once it
    returns True the run ends as `pruned`.

    Raises:
        UsageError: a mistake in the config, or a folder made with another one; nothing was started.
        UserError: the data, the folder or the training itself failed.
    """
    if not isinstance(cfg, DictConfig | Mapping):
        overrides = [cfg] if isinstance(cfg, str) else list(cfg)
        cfg = configs.compose(overrides)
    config = configs.settle(configs.check(cfg, overrides))
    if is_follower():
        return _follow(config)
    name = config["name"]
    place = folder or (RUNS / record.short(name) if name else None)
    decision = record.decide(place, config, overrides, configs.defaults) if place else "start"
    if decision == "finished" and place:
        return record.read(place)
    if place:
        refuse_if_busy(place)
    process.import_torch()  # seconds, only when there is work
    from fmnist import build

    with build.isolated():
        goes_on = decision == "resume"
        return _start(config, overrides, place, bool(name or folder), goes_on, monitor)


def _start(
    config: dict[str, Any],
    overrides: Sequence[str],
    place: Path | None,
    is_named: bool,
    goes_on: bool,
    monitor: record.Monitor | None,
) -> record.Record:
    """Build all that can fail, claim the folder `place` or a new one, and train in it."""
    from fmnist import build, weights

    with build.quiet():
        build.check_trainer(config)
    data = build.data(config)
    found = record.read(place) if place and (place / record.RECORD).exists() else None
    has_weights = found is not None and (goes_on or found.scores)  # these: all but its last write
    module, taken = weights.begin(config, found.data if found and has_weights else None)
    data.prepare_data()
    place = place or record.claim(RUNS, None, config["model"]["_target_"].rpartition(".")[2])
    record.claim(place.parent, place.name, "")
    os.environ[FOLDER_VARIABLE] = str(place.resolve())
    with Lock(place) as lock:
        decision = record.decide(place, config, overrides, configs.defaults)
        if decision == "finished":  # by another process, just now
            return record.read(place)
        run = record.open_record(place, config, overrides)
        if taken:
            run.data["weights"] = taken
        if place.parent == RUNS:
            record.point_latest(place)
        with contextlib.nullcontext() if is_named else _resume_line(place):
            _fit_recorded(run, config, data, module, lock, monitor)
    return run


def preview(cfg: DictConfig, overrides: Sequence[str]) -> str:
    """Say what `train` would do with `cfg`; nothing is changed. Raises UsageError as it does."""
    config = configs.settle(configs.check(cfg, overrides))
    if not config["name"]:
        return f"A new run would start, in {RUNS}/<time>."
    place = RUNS / record.short(config["name"])
    decision = record.decide(place, config, overrides, configs.defaults)
    if decision == "start":
        return f"{place} would start."
    found = record.read(place)
    if decision == "finished":
        return f"{place} has {found.status}: {found.data['epochs_done']} epochs."
    goal = config["trainer"]["max_epochs"]
    return f"{place} would go on: {found.data['epochs_done']} of {goal} epochs are done."


def resume(folder: str | Path) -> record.Record:
    """Go on with the run in `folder`, wherever it was copied to, with the config of its record.

    Raises what `train` raises; UserError for a config that this version cannot read.
    """
    run = record.read(Path(folder))
    try:
        config = configs.revive(run.data["config"], run.data["overrides"])
    except UsageError as error:
        raise UserError(f"{Path(folder) / record.RECORD}: {error}") from None
    return train(config, overrides=run.data["overrides"], folder=Path(folder))


@contextlib.contextmanager
def _resume_line(folder: Path) -> Iterator[None]:
    """Say how to go on with a run that has no name, first and, if it does not finish, last."""
    line = f"If interrupted, go on with: python scripts/resume.py {shlex.quote(str(folder))}"
    print(line, file=sys.stderr)
    try:
        yield
    except BaseException:
        print(line, file=sys.stderr)
        raise


def is_follower() -> bool:
    """Say whether this process was started by a first one that trains with it (trainer=ddp)."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def _follow(config: dict[str, Any]) -> record.Record:
    """Train beside the first process, which decides, locks and writes."""
    process.import_torch()
    from fmnist import build
    from fmnist.fit import fit

    if FOLDER_VARIABLE not in os.environ:
        raise UserError(
            "This process is one of several, but not started by fmnist. "
            "Start one process with trainer=ddp trainer.devices=N; it starts the others."
        )
    data = build.data(config)
    data.prepare_data()
    run = record.read(Path(os.environ[FOLDER_VARIABLE]))
    run.writes = False
    fit(run, config, data, build.classifier(config, run.data.get("weights")), None)
    return run


def load(folder: str | Path) -> "Model":
    """Return the trained model of a run folder; raises UserError when it has none."""
    process.import_torch()
    from fmnist.model import load_model

    return load_model(Path(folder))


def _fit_recorded(
    run: record.Record,
    config: dict[str, Any],
    data: Any,
    module: Any,
    lock: Lock,
    monitor: record.Monitor | None,
) -> None:
    """Fit, and let run.json tell the truth however it ends."""
    from fmnist.fit import fit

    try:
        fit(run, config, data, module, lock, monitor)
    except (Interrupted, KeyboardInterrupt) as signal:
        _close(run, status="interrupted", error=str(signal) or "SIGINT")
        raise
    except BaseException as error:
        explained = _explain(error, run.folder, config)
        if explained is None:
            _note_bug(run, error)
            raise
        _close(run, status="failed", error=str(explained))
        if explained is error:
            raise
        raise explained from error


def _explain(error: BaseException, folder: Path, config: dict[str, Any]) -> UserError | None:
    """Return what a user can do about `error`, or None for a bug of ours."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in NO_FILES:
        return UserError(
            f"{error.strerror}: this process may open no more. Raise the limit with ulimit -n "
            "4096, then type the same line again: it goes on from the last checkpoint."
        )
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return UserError(
            f"Cannot write in {folder} ({error.strerror}). Free some space or make the folder "
            "writable, then type the same line again: it goes on from the last checkpoint."
        )
    if _is_out_of_memory(error):
        return UserError(
            f"Out of memory with data.batch_size={config['data']['batch_size']}. Take a smaller "
            "one under another name=..., or free some memory and type the same line again."
        )
    if isinstance(error, ValueError) and "Expected more than 1 value per channel" in str(error):
        return UserError(
            "Batch normalisation cannot train on batches of one image, got data.batch_size="
            f"{config['data']['batch_size']}. Set data.batch_size >= 2 for each process, under "
            "another name=..."
        )
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    """Recognise Python's error, CUDA's, and the plain RuntimeError of torch's CPU allocator."""
    name, text = type(error).__name__, str(error)
    return name in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in text


def _note_bug(run: record.Record, error: BaseException) -> None:
    with contextlib.suppress(UserError):
        record.write_atomically(run.folder / "error.txt", traceback.format_exc())
        print(f"This is a bug; its traceback is in {run.folder}/error.txt", file=sys.stderr)
    _close(run, status="failed", error=f"{type(error).__name__}: {error}")


def _close(run: record.Record, **fields: Any) -> None:
    """Record the end; where even that cannot be written, readers see that the process is gone."""
    with contextlib.suppress(UserError):
        run.update(**fields)
