"""Hydra's grammar of overrides: parse words, make them fit, compose a config from them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from fmnist import resolving
from fmnist.errors import UsageError, shortened
from fmnist.messages import CONF_DIR, first_line, hydra_message

PLUGINS = re.compile(r"hydra[./](sweeper|launcher)\b")
MAX_LENGTH = 20_000
MAX_COMMAS = 1_000  # Hydra's parser takes four times as long for twice as many
EMPTY = ("experiment=null",)  # the group of which none may be chosen


@contextmanager
def composing() -> Iterator[None]:
    """Let Hydra find conf/ for what is parsed and composed inside, also within hydra.main."""
    active = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = active


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse each word; raises UsageError for one that Hydra cannot read."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed: list[Override] = []
    for word in overrides:
        if word.lstrip("+") in EMPTY:
            continue
        if len(word) > MAX_LENGTH or word.count(",") > MAX_COMMAS:
            raise UsageError(
                f"An override must have at most {MAX_LENGTH:,} characters and {MAX_COMMAS:,} "
                f"commas, got {shortened(word)}"
            )
        try:
            parsed += parser.parse_overrides([word])
        except (HydraException, ValueError, RecursionError):  # of long numbers, of deep lists
            raise UsageError(
                f"Cannot read {shortened(repr(word))}. Write key=value or group=option; "
                "quote values with spaces, commas or brackets: 'note=\"a, b\"'."
            ) from None
    return parsed


def is_group(override: Override) -> bool:
    """Say whether an override chooses a file of conf/ instead of setting a key."""
    key = override.key_or_group
    return "/" in key or ((CONF_DIR / key).is_dir() and not isinstance(override._value, dict))


def normal(override: Override) -> str:
    """Return an override that Hydra composes whether or not the key is there yet.

    Unknown keys are ours to refuse: Hydra lets `+trainer.max_epoch=3` pass, and hints at just that
    where it stops at `trainer.max_epoch=3`.
    """
    assert override.input_line is not None
    line = override.input_line.lstrip("+")
    if is_group(override) and override._value is None:
        raise UsageError(f"{line} leaves nothing. Choose one of its options: see --help.")
    ours = not override.key_or_group.startswith("hydra") or PLUGINS.match(override.key_or_group)
    if override.type == OverrideType.DEL or not ours:
        return str(override.input_line)
    return line if is_group(override) else f"++{line}"


def compose(overrides: list[str]) -> tuple[DictConfig, DictConfig]:
    """Compose conf/train.yaml; returns the config and Hydra's own section of it.

    Raises UsageError where Hydra cannot.
    """
    try:
        cfg = hydra_compose("train", overrides, return_hydra_config=True)
        with open_dict(cfg):
            hydra = cfg.pop("hydra")
        return cfg, hydra
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
        problem = getattr(error, "problem", None) or first_line(error)
        raise UsageError(f"{where} is not valid YAML: {problem}.") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"A config file is not UTF-8 text: {error}.") from None
    except Exception as error:  # Hydra meets a file it cannot read, or a cycle, with any type
        raise resolving.told(error) or UsageError(hydra_message(error)) from None


def compose_plain(overrides: list[str]) -> dict[str, Any]:
    """Return the composed config as plain data, unchecked and unresolved."""
    with composing():
        cfg, _ = compose(overrides)
    return OmegaConf.to_container(cfg)  # type: ignore[return-value]
