"""Hydra's own section of a config: its sweeper and launcher are chosen, the rest is ours.

Hydra would call what it finds there (`_target_` of callbacks, `()` of logging, arguments of
plugins), wherever it comes from, and write where it says. Torch-free.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fmnist import overrides as words
from fmnist import resolving, schema
from fmnist.choices import Choices
from fmnist.config import check_section
from fmnist.errors import UsageError
from fmnist.messages import Typed

FREE = (
    *("sweeper.", "launcher.", "runtime.", "overrides.", "mode", "verbose"),
    *("job.name", "job.override_dirname", "job.id", "job.num", "job.config_name"),
)
REMEDIES = {
    "run": "Name the folder with name=...",
    "sweep": "Name the folder with name=...",
    "searchpath": "Add config groups with --config-dir.",
    "output_subdir": "run.json holds the config.",
}
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
MISSING = "(not set)"


def check(hydra: DictConfig, overrides: Sequence[str], choices: Choices | None) -> None:
    """Raise UsageError for what a command line or a config file may not change in the section.

    `choices` are given where files of --config-dir were read.
    """
    _check_plugins(hydra, overrides)
    if choices is not None:
        choices.check_launcher(hydra)
    elif not any("hydra" in word for word in overrides):
        return  # only shipped files were read
    for group, choice in hydra.runtime.choices.items():
        if ".." in str(choice):
            raise UsageError(f"{group}={choice} is no option: it names a file elsewhere.")
    found, usual = (_flat(section) for section in (hydra, words.compose([])[1]))
    if choices is not None:
        found["searchpath"] = usual["searchpath"]  # checked by the words that were typed
    for key in sorted({*found, *usual}):
        was, now = usual.get(key, MISSING), found.get(key, MISSING)
        if now != was and not key.startswith(FREE) and not _is_here(key, now):
            remedy = REMEDIES.get(key.partition(".")[0], "Leave it out.")
            raise UsageError(f"hydra.{key} is set by fmnist itself, got {now!r}. {remedy}")


def check_words(overrides: Sequence[str]) -> None:
    """Refuse hydra.searchpath as typed, before anything is read from there."""
    for word in overrides:
        if word.lstrip("+~").startswith("hydra.searchpath"):
            raise UsageError(f"{word.partition('=')[0]} is set by fmnist. {REMEDIES['searchpath']}")


def _is_here(key: str, value: Any) -> bool:
    """Recognise what Lightning types for the processes that it starts."""
    return key == "run.dir" and isinstance(value, str) and Path(value).resolve() == Path.cwd()


def _flat(section: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(section)
    return schema.flatten(plain)


def _check_plugins(hydra: DictConfig, overrides: Sequence[str]) -> None:
    """Check the settings of the sweeper and of the launcher."""
    typed = Typed(overrides, ())
    for key, known in (("sweeper", schema.SWEEPERS), ("launcher", schema.LAUNCHERS)):
        values: Any = OmegaConf.to_container(hydra[key]) if OmegaConf.is_dict(hydra[key]) else {}
        target = str(values.pop("_target_", None))
        if target in known:
            check_section(known[target], values, f"hydra.{key}.", typed)
        elif key == "sweeper":
            raise UsageError(f"hydra/sweeper must be grid | optuna, got {target}.")
        elif target != BASIC and not target.startswith("hydra_plugins."):
            raise UsageError(
                "hydra/launcher must be local | pool or an installed plugin of Hydra, "
                f"got {target}."
            )
        if place := resolving.find_call(values):
            raise UsageError(f"hydra.{key}.{place}: nothing is called from here. Leave it out.")
