"""Compose a config with Hydra and check it, so that nothing wrong reaches data or devices.

Torch-free: a typo answers in a fraction of a second.
"""

import copy
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from fmnist import schema
from fmnist.errors import UsageError
from fmnist.messages import (
    CONF_DIR,
    TARGETS,
    Typed,
    first_line,
    hydra_message,
    suggest,
    validation_message,
)

NAME_PATTERN = re.compile(r"[A-Za-z0-9._=,+-]+")


class Command(NamedTuple):
    """A checked command line."""

    overrides: list[str]  # as Hydra takes them
    axes: dict[str, list[str]]  # key -> values, of a sweep
    cfg: DictConfig  # composed with the first value of every axis


def read_command(overrides: Sequence[str], config_dir: Path | None = None) -> Command:
    """Parse, compose and check `overrides`, with every single value of every axis.

    Values are checked one axis at a time: the cost is the sum of the axes' lengths, no product.

    Raises:
        UsageError: naming the key as typed, what was got, and the nearest valid one.
    """
    if config_dir and not config_dir.is_dir():
        raise UsageError(f"--config-dir must be a folder of config groups, got {config_dir}.")
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        parsed = _parse([word for word in overrides if word.lstrip("+") != "experiment=null"])
        sweeps = [o for o in parsed if o.is_sweep_override()]
        axes = {str(o.get_key_element()): _axis_values(o) for o in sweeps}
        fixed = [_as_hydra(o) for o in parsed if not o.is_sweep_override()]
        searched = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []
        folders = [CONF_DIR, config_dir] if config_dir else [CONF_DIR]
        first = [f"{key}={values[0]}" for key, values in axes.items()]
        cfg = _compose(searched + fixed + _normal(first))
        check(cfg, overrides, folders)
        fixed_only = ("name", "note", "figures", "checkpoints", "logger", "data.dir")
        for axis in axes:
            if axis in fixed_only:
                raise UsageError(f"{axis} cannot be varied in a sweep: it changes no result.")
        for sweep in sweeps:
            for candidate, word in _variants(sweep, cfg, searched + fixed, axes):
                check(candidate, [*overrides, word], folders)
    return Command(fixed + [_as_hydra(o) for o in sweeps], axes, cfg)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose and check one config from `overrides` as on the command line."""
    command = read_command(overrides)
    if command.axes:
        axis = next(iter(command.axes))
        raise UsageError(f"{axis} has several values, which is a sweep: use scripts/train.py -m.")
    return command.cfg


def revive(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Check a config read from a record, giving keys that older code did not know their default."""
    try:
        today = check(compose(overrides))
    except UsageError:  # made with files that are not here
        today = {}
    return check(OmegaConf.merge(today, dict(config)))  # type: ignore[arg-type]


def defaults(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the flat config that `overrides` mean today, with Lightning's defaults filled in.

    For records that older code wrote; only the latter where the overrides fit no more.
    """
    fields = schema.Trainer.model_fields
    flat = {f"trainer.{k}": f.default for k, f in fields.items() if not f.is_required()}
    try:
        return flat | schema.flatten(check(compose(overrides)))
    except UsageError:
        return flat


def check(
    cfg: DictConfig | Mapping[str, Any],
    overrides: Sequence[str] = (),
    folders: Sequence[Path] = (CONF_DIR,),
) -> dict[str, Any]:
    """Return the resolved config as plain data, or raise UsageError for its first mistake.

    `overrides` are the words a user typed, to name a key the way they wrote it; what they did not
    type is looked for in the YAML files of `folders`.
    """
    try:
        plain = OmegaConf.to_container(OmegaConf.create(cfg), resolve=True, throw_on_missing=True)  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise UsageError(f"The config does not resolve: {first_line(error)}") from None
    assert isinstance(plain, dict)
    config = {str(key): value for key, value in plain.items() if key != "hydra"}
    for key in ("name", "note"):  # name=7 is a name, though YAML reads a number
        if isinstance(config.get(key), int | float) and not isinstance(config[key], bool):
            config[key] = str(config[key])
    typed = Typed(overrides, folders)
    _check_section(schema.Root, config, "", typed)
    for section, known in TARGETS.items():
        _check_target(config, section, known, typed)
    _check_together(config)
    return config


def _check_section(model: type[BaseModel], values: Any, prefix: str, typed: Typed) -> None:
    try:
        model.model_validate(values)
    except ValidationError as error:
        raise UsageError(validation_message(model, error, prefix, typed)) from None


def _check_target(
    config: dict[str, Any], section: str, known: Mapping[str, Any], typed: Typed
) -> None:
    values: Any = config
    for part in section.split("."):
        values = values[part]
    arguments = dict(values)
    target = arguments.pop("_target_", None)
    arguments.pop("_partial_", None)
    if not isinstance(target, str) or not target:
        raise UsageError(
            f"{section}._target_ must name a class or function, got {target!r}. "
            f"Shipped: {', '.join(known)}."
        )
    if target in known:
        _check_section(known[target], arguments, f"{section}.", typed)
    elif target.startswith(("fmnist.", "torch.optim.")) or "." not in target:
        raise UsageError(f"Unknown {section}._target_ {target!r}.{suggest(target, known)}")
    elif not _importable(target):
        raise UsageError(
            f"{section}._target_={target}: no module {target.split('.')[0]!r} can be imported. "
            "Put its folder on PYTHONPATH or install it."
        )


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
    patience = config["callbacks"]["early_stopping"]["patience"]
    if patience is not None and config["data"]["val_size"] == 0:
        raise UsageError(
            f"callbacks.early_stopping.patience={patience} watches the validation split, but "
            "data.val_size is 0. Hold images out with data.val_size=5000, or set patience to null."
        )
    if (
        config["optim"]["optimizer"].get("nesterov")
        and not config["optim"]["optimizer"]["momentum"]
    ):
        raise UsageError(
            "optim.optimizer.nesterov=true needs optim.optimizer.momentum > 0, got 0.0. "
            "Set a momentum or nesterov=false."
        )


def _importable(target: str) -> bool:
    try:
        return importlib.util.find_spec(target.split(".", maxsplit=1)[0]) is not None
    except (ImportError, ValueError):
        return False


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed: list[Override] = []
    for word in overrides:
        try:
            parsed += parser.parse_overrides([word])
        except HydraException:
            raise UsageError(
                f"Cannot read {word!r}. Write key=value or group=option; "
                "quote values with spaces, commas or brackets: 'note=\"a, b\"'."
            ) from None
    return parsed


def _is_group(override: Override) -> bool:
    key = override.key_or_group
    return "/" in key or ((CONF_DIR / key).is_dir() and not isinstance(override._value, dict))


def _as_hydra(override: Override) -> str:
    """Return an override that Hydra composes whether or not the key is there yet.

    Unknown keys are ours to refuse: Hydra lets `+trainer.max_epoch=3` pass, and hints at just that
    where it stops at `trainer.max_epoch=3`.
    """
    assert override.input_line is not None
    line = override.input_line.lstrip("+")
    if _is_group(override) and override._value is None:
        raise UsageError(f"{line} leaves nothing. Choose one of its options: see --help.")
    if override.type == OverrideType.DEL or override.key_or_group.startswith("hydra"):
        return str(override.input_line)
    return line if _is_group(override) else f"++{line}"


def _normal(overrides: Sequence[str]) -> list[str]:
    return [_as_hydra(o) for o in _parse(overrides)]


def _compose(overrides: list[str]) -> DictConfig:
    try:
        return hydra_compose("train", overrides)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
        problem = getattr(error, "problem", None) or first_line(error)
        raise UsageError(f"{where} is not valid YAML: {problem}.") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"A config file is not UTF-8 text: {error}.") from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UsageError(hydra_message(error)) from None


def _axis_values(override: Override) -> list[str]:
    if not override.is_discrete_sweep():
        raise UsageError(
            f"{override.input_line} is a continuous range, which the grid cannot enumerate. "
            "List values: optim.lr=1e-3,3e-3."
        )
    values = list(override.sweep_string_iterator())
    if not values:
        raise UsageError(f"{override.input_line} matches nothing. Give at least one value.")
    return values


def _variants(
    sweep: Override, cfg: DictConfig, fixed: list[str], axes: Mapping[str, list[str]]
) -> Iterator[tuple[DictConfig, str]]:
    """Yield a config for each further value of one axis, with its override; the first is `cfg`."""
    key = str(sweep.get_key_element())
    for text in axes[key][1:]:
        word = f"{key}={text}"
        if _is_group(sweep):
            others = [f"{k}={v[0]}" for k, v in axes.items() if k != key]
            yield _compose(fixed + _normal([*others, word])), word
        else:  # forty times faster than composing
            candidate = copy.deepcopy(cfg)
            OmegaConf.update(candidate, sweep.key_or_group, _parse([word])[0].value())
            yield candidate, word
