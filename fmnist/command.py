"""What a command line asks for, one run or a sweep, checked before anything starts. Torch-free."""

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fmnist import groups, resolving, section
from fmnist import overrides as words
from fmnist.axes import MAX_JOBS, Axis, read_axis
from fmnist.choices import Choices
from fmnist.config import check, settle
from fmnist.errors import UsageError
from fmnist.messages import CONF_DIR, first_line

# Axes that would change no result, or under which no two jobs could be compared.
NO_AXES = ("name", "note", "figures", "checkpoints", "logger", "data.dir", "metric", "test")


class Command(NamedTuple):
    """A checked command line."""

    overrides: list[str]  # all of it, as Hydra takes it
    fixed: list[str]  # what all jobs share, likewise
    axes: dict[str, Axis]
    cases: dict[str, list[str]]  # sets of overrides, one of which each job has
    cfg: DictConfig  # composed with the first case and the first value of every axis
    hydra: DictConfig  # Hydra's own section of it
    folders: list[Path]  # of config groups
    choices: Choices | None  # of the words, where there are files of --config-dir

    @property
    def is_sweep(self) -> bool:
        return bool(self.axes or self.cases)

    @property
    def is_search(self) -> bool:
        return "n_trials" in self.hydra.sweeper

    @property
    def varied(self) -> list[str]:
        """Name what differs from job to job."""
        return [self.preset] * bool(self.cases) + list(self.axes)

    def check(self, cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
        return check(cfg, overrides, self.folders, self.choices)

    def settle(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the config of one job without `auto`; a search selects, even among seeds.

        Raises UsageError where it would select on the test set.
        """
        return settle(config, [*self.varied, "trial"] if self.is_search else self.varied)

    @property
    def preset(self) -> str:
        """Name the file of conf/sweep that was chosen."""
        return str(self.hydra.runtime.choices.get("sweep") or "cases")

    @property
    def typed(self) -> list[str]:
        """Return what all jobs share, for their records."""
        return [w.lstrip("+") for w in self.fixed if not w.lstrip("+~").startswith("hydra")]


def read_command(overrides: Sequence[str], config_dir: Path | None = None) -> Command:
    """Parse, compose and check `overrides`, with every single value of every axis.

    Values are checked one axis at a time: the cost is the sum of the axes' lengths, no product.

    Raises:
        UsageError: naming the key as typed, what was got, and the nearest valid one.
    """
    if config_dir:
        groups.check(config_dir)
    folders = [CONF_DIR, config_dir] if config_dir else [CONF_DIR]
    choices = Choices(overrides, config_dir) if config_dir else None
    with words.composing(), resolving.environment(overrides):
        section.check_words(overrides)
        parsed = words.parse(overrides)
        _check_repeats(parsed)
        fixed = [words.normal(o) for o in parsed if not o.is_sweep_override()]
        swept = [o for o in parsed if o.is_sweep_override()]
        searched = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []
        cfg, hydra = words.compose(searched + fixed)
        section.check(hydra, overrides, choices)
        given = {o.key_or_group for o in parsed}
        preset = words.parse(_preset_words(hydra.sweeper.get("params"), given))
        if alone := [words.normal(o) for o in preset if not o.is_sweep_override()]:
            fixed += alone
            cfg, with_alone = words.compose(searched + fixed)
            section.check(with_alone, overrides, choices)
        swept += [o for o in preset if o.is_sweep_override()]
        cases = _cases(hydra.sweeper.get("cases"))
        axes = {a.key: a for a in (read_axis(o, "n_trials" in hydra.sweeper) for o in swept)}
        typed = [words.normal(o) for o in swept if o not in preset]
        command = Command(
            fixed + typed, searched + fixed, axes, cases, cfg, hydra, folders, choices
        )
        if command.is_sweep:
            command = command._replace(cfg=_first(command))
        config = command.check(command.cfg, overrides)
        _check_sweep(command, overrides)
        if command.is_sweep:
            command.settle(config)
    return command


def points(command: Command) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Yield the words and the checked config of every point of a grid, as typed: last axis first.

    Composing takes 40 ms, so it is done once for each combination of files.
    """
    composed: dict[tuple[str, ...], DictConfig] = {}
    with words.composing():
        for case in list(command.cases.values()) or [[]]:
            lists = [[(a, a.word(v)) for v in a.values] for a in command.axes.values()]
            for chosen in itertools.product(*lists):
                files = (*case, *(word for axis, word in chosen if axis.is_group))
                varied = [word for _, word in chosen]
                if files not in composed:
                    composed[files] = _compose(command, [*case, *varied])
                _set(composed[files], chosen)  # every axis, so that nothing of another point stays
                typed = [*command.typed, *case, *varied]
                yield [*case, *varied], command.check(composed[files], typed)


def point(command: Command, varied: Mapping[str, str]) -> dict[str, Any]:
    """Return the checked config of one point of a search: a value for every axis."""
    chosen = [(axis, axis.word(varied[key])) for key, axis in command.axes.items()]
    typed = [word for _, word in chosen]
    with words.composing():
        has_groups = any(axis.is_group for axis, _ in chosen)
        cfg = _compose(command, typed) if has_groups else _with(command.cfg, chosen)
        return command.check(cfg, [*command.typed, *typed])


def _compose(command: Command, varied: Sequence[str]) -> DictConfig:
    """Compose what all jobs share with the words of one; raises UsageError as read_command does."""
    more = [words.normal(o) for o in words.parse(varied)]
    cfg, hydra = words.compose(command.fixed + more)
    if command.choices is not None:  # a file that one of the words chooses may come from anybody
        section.check(hydra, more, command.choices)
    return cfg


def _with(cfg: DictConfig, chosen: Iterable[tuple[Axis, str]]) -> DictConfig:
    """Return a composed config with other values, forty times faster than composing anew."""
    changed = copy.deepcopy(cfg)
    _set(changed, chosen)
    return changed


def _set(cfg: DictConfig, chosen: Iterable[tuple[Axis, str]]) -> None:
    """Give a composed config other values.

    The files it is made of stay: a word that chooses one is passed over.
    """
    for axis, word in chosen:
        if not axis.is_group:
            (override,) = words.parse([word])
            OmegaConf.update(cfg, axis.key, override.value())


def _first(command: Command, case: Sequence[str] | None = None, **chosen: str) -> DictConfig:
    """Compose with a case and the first value of each axis, but for those that are `chosen`."""
    if case is None:
        case = next(iter(command.cases.values()), [])
    axes = command.axes.values()
    return _compose(command, [*case, *(a.word(chosen.get(a.key, a.values[0])) for a in axes)])


def _check_sweep(command: Command, overrides: Sequence[str]) -> None:
    """Check each value of each axis, with the first ones of the others, and each case."""
    for axis in command.axes.values():
        if axis.key in NO_AXES:
            reason = "it is what jobs are compared by" if axis.key == "metric" else None
            reason = reason or "it changes no result"
            raise UsageError(f"{axis.key} cannot be varied in a sweep: {reason}.")
        for value in axis.values[1:]:
            word = axis.word(value)
            if axis.is_group:
                candidate = _first(command, **{axis.key: value})
            else:
                candidate = _with(command.cfg, [(axis, word)])
            command.settle(command.check(candidate, [*overrides, word]))
    for case in list(command.cases.values())[1:]:
        command.settle(command.check(_first(command, case), [*overrides, *case]))
    num_jobs = math.prod(len(axis.values) for axis in command.axes.values())
    if not command.is_search and num_jobs * max(len(command.cases), 1) > MAX_JOBS:
        raise UsageError(f"A sweep must have at most {MAX_JOBS:,} jobs, got {num_jobs:,}.")
    if command.is_search and not command.axes:
        raise UsageError(
            "A search needs a key to vary, such as optim.lr='tag(log, interval(1e-4,1e-2))'."
        )
    if command.is_search and command.cases:
        raise UsageError("hydra.sweeper.cases belong to a grid: leave out hydra/sweeper=optuna.")


def _check_repeats(parsed: Sequence[Override]) -> None:
    """Refuse a key that is varied and given once more; of plain values Hydra takes the last."""
    for axis in (o for o in parsed if o.is_sweep_override()):
        same = [o.input_line for o in parsed if o.key_or_group == axis.key_or_group]
        if len(same) > 1:
            raise UsageError(f"{axis.key_or_group} is given twice: {' and '.join(map(str, same))}.")


def _preset_words(params: Mapping[str, Any] | None, given: set[str]) -> list[str]:
    """Return the axes of a preset, but those whose key the command line sets."""
    try:
        return [f"{key}={value}" for key, value in (params or {}).items() if key not in given]
    except OmegaConfBaseException as error:
        raise resolving.told(error) or _unresolved("params", error) from None


def _cases(given: Mapping[str, Any] | None) -> dict[str, list[str]]:
    try:
        cases = {str(name): value for name, value in (given or {}).items()}
        return {name: _words(name, value) for name, value in cases.items()}
    except OmegaConfBaseException as error:
        raise resolving.told(error) or _unresolved("cases", error) from None


def _words(name: str, value: Any) -> list[str]:
    if not OmegaConf.is_list(value) or not all(isinstance(word, str) for word in value):
        raise UsageError(f"hydra.sweeper.cases.{name} must be a list of overrides, got {value!r}.")
    return list(value)


def _unresolved(key: str, error: Exception) -> UsageError:
    return UsageError(f"hydra.sweeper.{key} does not resolve: {first_line(error)}")
