"""Compose a config with Hydra and check it, so that nothing wrong reaches data or devices.

Torch-free: a typo answers in a fraction of a second.
"""

import importlib.machinery
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pydantic import BaseModel, ValidationError

from fmnist import arguments, resolving, schema
from fmnist import overrides as words
from fmnist.choices import Choices
from fmnist.errors import UsageError
from fmnist.messages import (
    CONF_DIR,
    Typed,
    suggest,
    validation_message,
)

MAX_WORD = 1000  # characters of an override that is read back
NAME_PATTERN = re.compile(r"[A-Za-z0-9._=,+-]+")


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose and check one config from `overrides` as on the command line."""
    with words.composing():
        parsed = words.parse(overrides)
        sweep = next((o for o in parsed if o.is_sweep_override()), None)
        if sweep is not None:
            raise UsageError(
                f"{sweep.key_or_group} has several values, which is a sweep: "
                "use scripts/train.py -m."
            )
        cfg, _ = words.compose([words.normal(o) for o in parsed])
    check(cfg, overrides)
    return cfg


def settle(config: dict[str, Any], varied: Sequence[str] | None = None) -> dict[str, Any]:
    """Replace each `auto` by what it means for a single run, or in a sweep that varies `varied`.

    Raises UsageError for a sweep that selects and would do so on the test set.
    """
    repetition = varied is None or list(varied) == ["seed"]  # nothing is selected
    if not repetition and config["data"]["val_from"] == "test":
        raise UsageError(
            "data.val_from=test cannot be in a sweep that varies more than seed: a search never "
            "reads the test set. Vary seed alone, or set data.val_from=train data.val_size=5000."
        )
    meanings = {
        "test": repetition,
        "figures": "all" if varied is None else "none",
        "checkpoints": "all" if varied is None else "best",
    }
    chosen = {key: config[key] if config[key] != "auto" else meanings[key] for key in meanings}
    return config | chosen


def recompose(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the config that a record's overrides mean today; empty where they fit no more.

    They come from a folder: words that read other folders, or look anything up, are left out.
    """
    words = [word for word in overrides if _is_plain(word)]
    try:
        return check(compose(words))
    except UsageError:  # made with files that are not here
        return {}


def _is_plain(word: str) -> bool:
    is_of_hydra = word.lstrip("+~").startswith("hydra")
    return len(word) <= MAX_WORD and not is_of_hydra and ".." not in word and "${" not in word


def defaults(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the flat config that `overrides` mean today, with Lightning's defaults filled in.

    For records that older code wrote; only the latter where the overrides fit no more.
    """
    return schema.trainer_defaults() | schema.flatten(recompose(overrides))


def check(
    cfg: DictConfig | Mapping[str, Any],
    overrides: Sequence[str] = (),
    folders: Sequence[Path] = (CONF_DIR,),
    choices: Choices | None = None,
) -> dict[str, Any]:
    """Return the resolved config as plain data, or raise UsageError for its first mistake.

    `overrides` are the words a user typed, to name a key the way they wrote it; what they did not
    type is looked for in the YAML files of `folders`. `choices` are given where some of these may
    come from anybody: a class of a network must be among them.
    """
    with resolving.environment(overrides):
        config = resolving.resolve(cfg)
    config.pop("hydra", None)
    for key in ("name", "note"):  # name=7 is a name, though YAML reads a number
        if isinstance(config.get(key), int | float) and not isinstance(config[key], bool):
            config[key] = str(config[key])
    typed = Typed(overrides, folders)
    check_section(schema.Root, config, "", typed)
    for section, known in arguments.TARGETS.items():
        _check_target(config, section, known, typed, choices)
    _check_together(config)
    return config


def check_section(model: type[BaseModel], values: Any, prefix: str, typed: Typed) -> None:
    """Check what stands at `prefix` in a config; raises UsageError for its first mistake."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        raise UsageError(validation_message(model, error, prefix, typed)) from None


def _check_target(
    config: dict[str, Any],
    section: str,
    known: Mapping[str, Any],
    typed: Typed,
    choices: Choices | None,
) -> None:
    values: Any = config
    for part in section.split("."):
        values = values[part]
    arguments = dict(values)
    target = arguments.pop("_target_", None)
    if section != "model":
        arguments.pop("_partial_", None)
    if not isinstance(target, str) or not target:
        raise UsageError(
            f"{section}._target_ must name a class or function, got {target!r}. "
            f"Shipped: {', '.join(known)}."
        )
    if target in known:
        check_section(known[target], arguments, f"{section}.", typed)
    elif section != "model" or target.startswith("fmnist.") or "." not in target:
        raise UsageError(f"Unknown {section}._target_ {target!r}.{suggest(target, known)}")
    elif place := resolving.find_call(arguments):
        raise UsageError(
            f"{section}.{place}: an argument of a class of your own is plain data, nothing is "
            "called for it. Leave it out."
        )
    else:
        if choices:
            choices.check_network(target)
        _check_importable(target)


def _check_together(config: dict[str, Any]) -> None:
    name = config["name"]
    if name == "latest":
        raise UsageError("name=latest is the link to the newest run. Choose another name.")
    if name is not None and (not NAME_PATTERN.fullmatch(name) or ".." in name or name == "."):
        raise UsageError(
            f"name must consist of letters, digits and ._=,+- without '..', got {name!r}."
        )
    for key in ("limit_train_batches", "max_steps"):
        if config["trainer"].get(key) == 0:
            raise UsageError(f"trainer.{key} must be > 0 to train, got {config['trainer'][key]!r}.")
    _check_validation(config)
    if (
        config["optim"]["optimizer"].get("nesterov")
        and not config["optim"]["optimizer"]["momentum"]
    ):
        raise UsageError(
            "optim.optimizer.nesterov=true needs optim.optimizer.momentum > 0, got 0.0. "
            "Set a momentum or nesterov=false."
        )


def _check_validation(config: dict[str, Any]) -> None:
    patience = config["callbacks"]["early_stopping"]["patience"]
    if patience is not None and not schema.has_validation(config["data"]):
        raise UsageError(
            f"callbacks.early_stopping.patience={patience} watches the validation split, but "
            "data.val_size is 0. Hold images out with data.val_size=5000, or set patience to null."
        )
    if config["data"]["val_from"] == "train":
        return
    if (size := config["data"]["val_size"]) > 0:
        raise UsageError(
            "data.val_from=test holds no training images out: data.val_size must be 0, "
            f"got {size}. Set data.val_size=0, or data.val_from=train."
        )
    if config["select"] == "last":
        raise UsageError(
            "data.val_from=test selects the best epoch on the test set, got select=last. Set "
            "select=best; the last weights need no validation: data.val_from=train data.val_size=0."
        )
    if config["test"] is False:
        raise UsageError(
            "data.val_from=test reads the test set every epoch, got test=false. Set test=auto, or "
            "data.val_from=train and data.val_size=5000."
        )


def _check_importable(target: str) -> None:
    """Refuse a class whose package is found neither where Python looks nor in the folder of here.

    Nothing of it runs. Raises UsageError.
    """
    name = target.split(".", maxsplit=1)[0]
    here = [str(Path.cwd())]
    try:
        found = importlib.util.find_spec(name) or importlib.machinery.PathFinder.find_spec(
            name, here
        )
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise UsageError(
            f"model._target_={target}: no module {name!r} can be imported. Put its folder on "
            "PYTHONPATH or install it."
        )
