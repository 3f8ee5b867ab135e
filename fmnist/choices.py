"""What the words of a command choose by themselves, apart from what files bring along. Torch-free.

A file of --config-dir may come from anybody. It sets values; code runs only where a user names it,
by a word or by the choice of the file that is made for it: model=NAME, hydra/launcher=NAME.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from fmnist import consent
from fmnist import overrides as words
from fmnist.errors import UsageError
from fmnist.messages import CONF_DIR

SHELL = ("setup", "container", "python", "extra")  # settings of a launcher that end in a script
_LAUNCHER = "hydra.launcher"
_MAX_NAME = 200  # characters of a file that could be in conf/


class Choices:
    """The choices of typed words, where more files can be chosen than those of conf/.

    conf/ lies beside the program's own code and counts as the user's.
    """

    def __init__(self, overrides: Sequence[str], config_dir: Path) -> None:
        self._overrides = overrides
        self._searched = f"hydra.searchpath=[file://{config_dir.resolve()}]"

    def check_network(self, target: str) -> None:
        """Refuse a class that a file names of its own accord; raises UsageError."""
        if not consent.is_given() and target not in self._networks:
            raise UsageError(
                f"model._target_={target} is named by a file that was not chosen by model=NAME, "
                f"and is not imported. Type model=NAME or model._target_={target}; or, if you "
                "trust whoever made the file, add --trust."
            )

    def check_launcher(self, hydra: DictConfig) -> None:
        """Refuse shell that a file brings into the script of a job; raises UsageError."""
        given = hydra.launcher
        found = {key: given[key] for key in SHELL if OmegaConf.is_dict(given) and key in given}
        if not any(found.values()):
            return
        own = self._launcher
        for key, value in found.items():
            if value and value != own.get(key):
                raise UsageError(
                    f"hydra.launcher.{key} runs in the job and is set by a file that was not "
                    f"chosen by hydra/launcher=NAME, got {value!r}. Type it, or keep it in a file "
                    "of hydra/launcher and choose that."
                )

    @functools.cached_property
    def _networks(self) -> frozenset[str]:
        """Name the classes of networks that are chosen by words or stand in conf/model."""

        def has(key: str) -> bool:
            return key in ("model", "model._target_")

        found = set()
        names = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml"))
        tried = [[f"model={name}"] for name in names]
        for chosen in [*tried, *self._alternatives(has)]:
            cfg, _ = self._compose(chosen)
            if OmegaConf.is_dict(cfg.get("model")):
                found.add(str(cfg.model.get("_target_")))
        return frozenset(found)

    @property
    def _launcher(self) -> dict[str, Any]:
        """Return the settings of the launcher that are typed, or stand in the file of a word."""
        chosen = next(self._alternatives(lambda key: key.replace("/", ".").startswith(_LAUNCHER)))
        _, hydra = self._compose(chosen)
        launcher = hydra.get("launcher")
        return dict(launcher) if OmegaConf.is_dict(launcher) else {}

    def _alternatives(self, has: Callable[[str], bool]) -> Iterator[list[str]]:
        """Yield the words of a user's own, each value of an axis by itself.

        They are those whose key is asked for by `has`, and those that choose a file of conf/.
        """
        fixed: list[str] = []
        varied: list[str] = []
        for override in words.parse(self._overrides):
            key = override.key_or_group
            if override.type == OverrideType.DEL:
                continue
            for value in _values(override):
                if has(key) or _is_in_conf(f"{key}/{value}.yaml"):
                    word = f"{key}={value}" if words.is_group(override) else f"++{key}={value}"
                    (varied if override.is_sweep_override() else fixed).append(word)
        yield fixed
        yield from ([*fixed, word] for word in varied)

    def _compose(self, chosen: Sequence[str]) -> tuple[DictConfig, DictConfig]:
        """Compose what is chosen; nothing, where it does not fit together without the rest."""
        try:
            return words.compose([self._searched, *chosen])
        except UsageError:
            return OmegaConf.create(), OmegaConf.create()


def _is_in_conf(file: str) -> bool:
    return len(file) < _MAX_NAME and (CONF_DIR / file).is_file()


def _values(override: Override) -> Iterator[str]:
    """Yield each value of an override, as typed."""
    if override.is_discrete_sweep():
        yield from override.sweep_string_iterator()
    elif not override.is_sweep_override():
        yield str(override.get_value_element_as_str())
