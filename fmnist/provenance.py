"""What an exported model tells of the run it is from, and nothing of this machine. Torch-free."""

import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from fmnist import CLASSES, record
from fmnist.schema import flatten

_FACTS = ("commit", "dirty", "data_hash", "split_hash", "best_epoch", "selected_on", "partial")
_PLACES = ("data.dir", "data.source")
_NOT_TRAINED = ("name", "note", "figures", "checkpoints", "test", *_PLACES)
_SECTIONS = ("model.", "optim.", "augment.")
_SETTINGS = ("seed", "metric", "select", "data.batch_size", "data.val_size", "trainer.max_epochs")


def describe(run: record.Record, created: str) -> dict[str, Any]:
    """Return the metadata of a file exported from `run` at the time `created`."""
    return {
        "class_names": list(CLASSES),
        "run": run.folder.resolve().name,
        "created": created,
        "fmnist": record.versions()["fmnist"],
        "versions": run.data.get("versions", {}),
        **{key: run.data[key] for key in _FACTS if key in run.data},
        "config": without_places(run.data["config"]),
        "scores": run.scores,
    }


def without_places(value: Any, key: str = "") -> Any:
    """Return a config without folders of a machine: of an absolute path its last part stays."""
    if isinstance(value, Mapping):
        return {k: without_places(v, f"{key}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if key in _PLACES:
        return None
    return _last_part(value) if isinstance(value, str) else value


def settings(run: record.Record) -> dict[str, Any]:
    """Return what decides how a run trains, key by key; callbacks that are off are left out."""
    config = without_places(run.data["config"])
    kept = {
        key: value
        for key, value in flatten(config).items()
        if key in _SETTINGS or (key.startswith(_SECTIONS) and not key.endswith("_partial_"))
    }
    used = {k: v for k, v in config.get("callbacks", {}).items() if None not in v.values()}
    return kept | flatten(used, "callbacks.")


def command(run: record.Record) -> str:
    """Return the line that trains a run again, wherever that is."""
    words = []
    for word in run.data["overrides"]:
        key, sign, value = word.partition("=")
        if key.lstrip("+") not in _NOT_TRAINED:
            words.append(shlex.quote(key + sign + _last_part(value)))
    return " ".join(["python scripts/train.py", *words])


def _last_part(text: str) -> str:
    windows = PureWindowsPath(text)  # takes / and \ for what they are
    is_place = PurePosixPath(text).is_absolute() or windows.is_absolute() or text.startswith("~")
    return windows.name if is_place else text
