"""What an exported model tells of the run it is from, and nothing of this machine. Torch-free."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from fmnist import CLASSES, origin, record
from fmnist.compare.collection import fact

_FACTS: dict[str, type] = {
    "commit": str,
    "dirty": bool,
    "data_hash": str,
    "split_hash": str,
    "best_epoch": int,
    "selected_on": str,
    "partial": bool,
    "num_parameters": int,
    "epochs_done": int,
    "device": str,
    "precision": str,
    "versions": dict,
    "weights": dict,
}
_PRIVATE = ("data.dir", "data.source", "note")  # of the config
_NOT_TRAINED = ("name", "figures", "checkpoints", "test", *_PRIVATE)
_PATH = re.compile(  # file:///x, /x/y, ~/x, C:\\x; its last part is the group
    r"""(?:file:/*|(?<![\w.):/])(?:/|~[\w-]*/|[A-Za-z]:[\\/]))(?:[^'",;:\[\](){}\n]*[\\/])?([^'",;:\[\](){}\n/\\]*)"""
)


def facts(run: record.Record) -> dict[str, Any]:
    """Return what the record tells beside config and scores, where it is of its kind."""
    known = {key: fact(run.data.get(key), kind) for key, kind in _FACTS.items()}
    known["weights"] = without_places(known["weights"])
    return {key: value for key, value in known.items() if value is not None}


def describe(run: record.Record, config: Mapping[str, Any], created: str) -> dict[str, Any]:
    """Return the metadata of a file exported from `run`, of `config`, at the time `created`."""
    return {
        "class_names": list(CLASSES),
        "run": run.folder.resolve().name,
        "created": created,
        "fmnist": origin.versions()["fmnist"],
        **facts(run),
        "config": without_places(config),
        "scores": run.scores,
    }


def without_places(value: Any, key: str = "") -> Any:
    """Return a config without notes and folders of a machine: of a path its last part stays."""
    if isinstance(value, Mapping):
        return {k: without_places(v, f"{key}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if key in _PRIVATE:
        return None
    return _shortened(value) if isinstance(value, str) else value


def settings(run: record.Record, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides how a run trains, key by key; callbacks that are off are left out."""
    given = {"config": without_places(config), "overrides": run.data["overrides"]}
    kept = record.identity(given)
    off = [
        f"callbacks.{name}."
        for name, values in config.get("callbacks", {}).items()
        if None in values.values()
    ]
    return {
        key: value
        for key, value in kept.items()
        if not key.startswith(tuple(off)) and not key.endswith("._partial_")
    }


def command(run: record.Record) -> str:
    """Return the line that trains a run again, wherever that is."""
    words = []
    for word in run.data["overrides"]:
        key, sign, value = word.partition("=")
        name = key.lstrip("+~")
        if name not in _NOT_TRAINED and not name.startswith("hydra"):
            words.append(shlex.quote(key + sign + _shortened(value)))
    return " ".join(["python scripts/train.py", *words])


def _shortened(text: str) -> str:
    """Return `text` with its absolute paths cut to their last parts."""
    return _PATH.sub(r"\1", text)
