"""Train a run, or use one: the functions behind the scripts, for notebooks too.

    from fmnist.run import load, train
    run = train(["trainer.max_epochs=2", "name=demo"])
    probs = load("runs/demo").predict(images)

Importing this module imports no torch, so that finished runs and mistakes answer at once.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig

from fmnist import config as configs
from fmnist import consent, endings, launch, layout, meeting, process, record, revival, team
from fmnist.errors import Interrupted, UsageError
from fmnist.lock import Lock, refuse_if_busy
from fmnist.mates import Follower, Mates

if TYPE_CHECKING:
    from fmnist.model import Model

RUNS = Path("runs")


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
    with team.together() as mates:
        if isinstance(mates, Follower):
            return _follow(mates, config, overrides)
        name = _name(config, overrides)
        place = folder or (RUNS / record.short(name) if name else None)
        decision = record.decide(place, config, overrides, configs.defaults) if place else "start"
        if decision == "finished" and place:
            meeting.tell(mates, do="finished", folder=str(place))
            return record.read(place)
        if place:
            refuse_if_busy(place)
        meeting.tell(mates, do="prepare")
        process.import_torch()  # seconds, only when there is work
        meeting.check(mates)
        from fmnist import build

        is_named = bool(config["name"] or folder)
        with build.isolated():
            return _start(_Asked(config, overrides, place, is_named, decision == "resume", monitor))


class _Asked(NamedTuple):
    """What is to be trained, and where."""

    config: dict[str, Any]
    overrides: Sequence[str]
    place: Path | None
    is_named: bool
    goes_on: bool
    monitor: record.Monitor | None


def _start(asked: _Asked) -> record.Record:
    """Find out how many processes train, and train with them."""
    from fmnist import build

    with build.quiet():
        size = build.check_trainer(asked.config, launch.find())
    with team.started(size) as mates:
        return _train(asked, mates)


def _train(asked: _Asked, mates: Mates | None) -> record.Record:
    """Build all that can fail, claim the folder or a new one, and train in it."""
    from fmnist import build, weights

    config, overrides, place = asked.config, asked.overrides, asked.place
    data = build.data(config)
    found = record.read(place) if place and (place / record.RECORD).exists() else None
    # Those that have begun: all but the last write of a run that ended.
    has_weights = found is not None and (asked.goes_on or found.scores)
    module, taken = weights.begin(config, found if has_weights else None)
    meeting.check(mates)
    data.prepare_data()
    meeting.check(mates)
    place = place or record.claim(RUNS, None, config["model"]["_target_"].rpartition(".")[2])
    record.claim(place.parent, place.name, "")
    with Lock(place) as lock:
        decision = record.decide(place, config, overrides, configs.defaults)
        if decision == "finished":  # by another process, just now
            meeting.tell(mates, do="finished", folder=str(place))
            return record.read(place)
        run = record.open_record(place, config, overrides)
        run.guard = lock.check
        run.data |= {"weights": taken} if taken else {}
        if place.parent == RUNS:
            layout.point_latest(place)
        with contextlib.nullcontext() if asked.is_named else endings.resume_line(place):
            _fit_recorded(run, config, data, module, lock, asked.monitor, mates)
    run.guard = lambda: None  # the lock is given back: what the caller notes takes nobody's folder
    return run


def check_folder(folder: str) -> Path:
    """Return the place of one run or of one job of a sweep; raises UsageError for any other."""
    parts = Path(folder).parts
    root, *names = parts or [""]
    if len(names) != {"runs": 1, "sweeps": 2}.get(root) or any(record.short(n) != n for n in names):
        raise UsageError(f"--folder must be runs/NAME or sweeps/NAME/JOB, got {folder!r}.")
    if layout.LATEST in names:
        raise UsageError(f"--folder {folder} is the link to the newest run. Choose another name.")
    return Path(folder)


def preview(cfg: DictConfig, overrides: Sequence[str], folder: Path | None = None) -> str:
    """Say what `train` would do with `cfg`; nothing is changed. Raises UsageError as it does."""
    config = configs.settle(configs.check(cfg, overrides))
    name = _name(config, overrides)
    if name is None and not folder:
        return f"A new run would start, in {RUNS}/<time>."
    place = folder or RUNS / record.short(str(name))
    decision = record.decide(place, config, overrides, configs.defaults)
    if decision == "start":
        return f"{place} would start."
    found = record.read(place)
    if decision == "finished":
        return f"{place} has {found.status}: {found.data.get('epochs_done', 0)} epochs."
    goal = config["trainer"]["max_epochs"]
    return f"{place} would go on: {found.data.get('epochs_done', 0)} of {goal} epochs are done."


def resume(folder: str | Path, trust: bool = False) -> record.Record:
    """Go on with the run in `folder`, wherever it was copied to, with the config of its record.

    `trust` lets that name classes of others, whose code then runs. Raises what `train` raises;
    UserError for a config that this version cannot read.
    """
    run = record.read(Path(folder))
    config = revival.revive(run, trust).config
    with consent.given(trust):
        place = layout.settle(Path(folder), RUNS)
        return train(config, overrides=run.data["overrides"], folder=place)


def _name(config: Mapping[str, Any], overrides: Sequence[str]) -> str | None:
    """Return the name of a run; one without, in a job, has that of the job and of what is asked.

    A job that is started again finds its run. Raises UsageError where it could not.
    """
    if config["name"]:
        return str(config["name"])
    job = launch.job_name()
    if job is not None:
        return f"{job}-{_digest(config, overrides)[:8]}"
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise UsageError(
            "name must be set where torchrun starts processes again (--max-restarts), got none. "
            "Set name=..., or --rdzv-id=..., so that they find their run."
        )
    return None


def _digest(config: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """Return a hash of all that decides what is trained."""
    identity = record.identity({"config": config, "overrides": list(overrides)})
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def follow() -> None:
    """Train beside the process that started this one, with its config."""
    with team.together() as mates:
        assert isinstance(mates, Follower)
        _follow(mates, None, ())


def _follow(
    mates: Follower, config: dict[str, Any] | None, overrides: Sequence[str]
) -> record.Record:
    """Train beside the first process, which decides, locks and writes."""
    if config is None:  # started to train
        process.import_torch()
    word = mates.listen()
    if word["do"] == "prepare":
        process.import_torch()
        word = mates.listen()
    if word["do"] == "finished":
        return record.read(Path(word["folder"]))
    if config is None:
        config = word["config"]
    elif _digest(config, overrides) != word["digest"]:
        raise UsageError(
            f"Process {mates.launch.rank} was started with another config than process 0. Type "
            "the same words for all."
        )
    from fmnist import build
    from fmnist.fit import fit

    run = record.Record(Path(word["folder"]), word["record"], writes=False)
    mates.port = word["port"]
    with build.isolated():
        data = build.data(config)
        data.prepare_data()  # on a disk of this machine
        module = build.classifier(config, revival.weights(run, consent.is_given()))
        mates.say_ready()
        try:
            fit(run, config, data, module, mates=mates)
        except Exception as error:
            explained = mates.explain(error) or endings.explain(error, run.folder, config)
            raise explained or error from error
    return run


def load(folder: str | Path, trust: bool = False) -> "Model":
    """Return the trained model of a run folder; raises UserError when it has none.

    `trust` lets its config name classes of others, whose code then runs.
    """
    process.import_torch()
    from fmnist.model import load_model

    return load_model(Path(folder), trust)


def _fit_recorded(
    run: record.Record,
    config: dict[str, Any],
    data: Any,
    module: Any,
    lock: Lock,
    monitor: record.Monitor | None,
    mates: Mates | None,
) -> None:
    """Fit, and let run.json tell the truth however it ends."""
    from fmnist.fit import fit

    try:
        meeting.begin(mates, run, _digest(run.data["config"], run.data["overrides"]))
        fit(run, config, data, module, lock, monitor, mates)
    except BaseException as error:
        reason = (mates.explain(error) if mates else None) or error
        if isinstance(reason, Interrupted | KeyboardInterrupt):
            endings.close(run, status="interrupted", error=str(reason) or "SIGINT")
            raise reason from None
        explained = endings.explain(reason, run.folder, config)
        if explained is None:
            endings.note_bug(run, error)
            raise
        endings.close(run, status=endings.status(explained), error=str(explained))
        if explained is error:
            raise
        raise explained from error
