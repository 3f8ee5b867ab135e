"""Train a run, or use one: the functions behind the scripts, for notebooks too.

    from fmnist.run import load, train
    run = train(["trainer.max_epochs=2", "name=demo"])
    probs = load("runs/demo").predict(images)

Importing this module imports no torch, so that finished runs and mistakes answer at once.
"""

import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from fmnist import config as configs
from fmnist import record
from fmnist.errors import Interrupted, UserError

if TYPE_CHECKING:
    from fmnist.model import Model

RUNS = Path("runs")


def train(
    cfg: DictConfig | Mapping[str, Any] | Sequence[str] = (),
    *,
    overrides: Sequence[str] = (),
    folder: Path | None = None,
    axes: Sequence[str] | None = None,
) -> record.Record:
    """Train what `cfg` asks for, or return the stored record where that was done before.

    Args:
        cfg: a composed config, or overrides as on the command line.
        overrides: what a user typed to get a composed `cfg`, for the record.
        folder: where the run lives; runs/<name> when None.
        axes: the keys a sweep varies; None for a single run. Decides what `auto` means.

    Raises:
        UsageError: a mistake in the config, or a folder made with another one; nothing was started.
        UserError: the data, the folder or the training itself failed.
    """
    if not isinstance(cfg, DictConfig | Mapping):
        overrides, cfg = list(cfg), configs.compose(list(cfg))
    config = settle(configs.check(cfg, overrides), axes)
    name = config["name"]
    place = folder or (RUNS / record.short(name) if name else None)
    decision = record.decide(place, config, overrides) if place else "start"
    if decision == "finished" and place:
        return record.read(place)
    from fmnist import build  # seconds of torch, only when there is work

    with build.quiet():
        build.check_trainer(config)
    module, data = build.classifier(config), build.data(config)
    data.prepare_data()
    place = place or record.claim(RUNS, None, config["model"]["_target_"].rpartition(".")[2])
    record.claim(place.parent, place.name, "")
    run = record.start(place, config, overrides) if decision == "start" else record.read(place)
    if axes is None:
        record.point_latest(place)
    _fit_recorded(run, config, data, module)
    return run


def settle(config: dict[str, Any], axes: Sequence[str] | None) -> dict[str, Any]:
    """Replace each `auto` by what it means for a single run (axes None) or for a job of a sweep."""
    single = axes is None
    repetition = single or list(axes or ()) == ["seed"]
    meanings = {
        "test": repetition,
        "figures": "all" if single else "none",
        "checkpoints": "all" if single else "best",
    }
    settled = {key: config[key] if config[key] != "auto" else meanings[key] for key in meanings}
    return config | settled


def load(folder: str | Path) -> "Model":
    """Return the trained model of a run folder; raises UserError when it has none."""
    from fmnist.model import load_model

    return load_model(Path(folder))


def _fit_recorded(run: record.Record, config: dict[str, Any], data: Any, module: Any) -> None:
    """Fit, and let run.json tell the truth however it ends."""
    from fmnist.fit import Log, fit

    try:
        fit(run, config, data, module, Log(run.folder / "train.log"))
    except (Interrupted, KeyboardInterrupt) as signal:
        run.close_attempt(status="interrupted", error=str(signal) or "SIGINT")
        raise
    except UserError as error:
        run.close_attempt(status="failed", error=str(error))
        raise
    except BaseException as error:
        record.write_atomically(run.folder / "error.txt", traceback.format_exc())
        run.close_attempt(status="failed", error=f"{type(error).__name__}: {error}")
        print(f"This is a bug; its traceback is in {run.folder}/error.txt", file=sys.stderr)
        raise
