"""What a command line asks for, one run or a sweep, checked before anything starts. Torch-free."""

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fmnist import groups, resolving, section
from fmnist import overrides as words
from fmnist.config import check, settle
from fmnist.errors import UsageError
from fmnist.messages import CONF_DIR, first_line

# Axes that would change no result, or under which no two jobs could be compared.
NO_AXES = ("name", "note", "figures", "checkpoints", "logger", "data.dir", "metric", "test")

MAX_JOBS = 10_000  # and values of an axis


class Axis(NamedTuple):
    """A key that a sweep varies: over listed values, or over numbers between two ends."""

    key: str
    kind: Literal["choice", "range", "interval"]
    values: list[str]  # as typed; of an interval, its two ends
    is_group: bool
    low: float = 0
    high: float = 0  # inclusive
    step: float = 0
    log: bool = False

    @property
    def is_integer(self) -> bool:
        return all(isinstance(x, int) for x in (self.low, self.high, self.step))

    def word(self, value: str) -> str:
        return f"{self.key}={value}"


class Command(NamedTuple):
    """A checked command line."""

    overrides: list[str]  # all of it, as Hydra takes it
    fixed: list[str]  # what all jobs share, likewise
    axes: dict[str, Axis]
    cases: dict[str, list[str]]  # sets of overrides, one of which each job has
    cfg: DictConfig  # composed with the first case and the first value of every axis
    hydra: DictConfig  # Hydra's own section of it
    folders: list[Path]  # of config groups

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
    if config_dir and not config_dir.is_dir():
        raise UsageError(f"--config-dir must be a folder of config groups, got {config_dir}.")
    if config_dir:
        groups.check(config_dir)
    folders = [CONF_DIR, config_dir] if config_dir else [CONF_DIR]
    with words.composing(), resolving.environment(overrides):
        section.check_words(overrides)
        parsed = words.parse(overrides)
        _check_repeats(parsed)
        fixed = [words.normal(o) for o in parsed if not o.is_sweep_override()]
        swept = [o for o in parsed if o.is_sweep_override()]
        searched = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []
        cfg, hydra = words.compose(searched + fixed)
        section.check(hydra, overrides, config_dir)
        given = {o.key_or_group for o in parsed}
        preset = words.parse(_preset_words(hydra.sweeper.get("params"), given))
        fixed += [words.normal(o) for o in preset if not o.is_sweep_override()]
        swept += [o for o in preset if o.is_sweep_override()]
        cases = _cases(hydra.sweeper.get("cases"))
        axes = {a.key: a for a in (_axis(o, "n_trials" in hydra.sweeper) for o in swept)}
        typed = [words.normal(o) for o in swept if o not in preset]
        command = Command(fixed + typed, searched + fixed, axes, cases, cfg, hydra, folders)
        if command.is_sweep:
            command = command._replace(cfg=_first(command))
        config = check(command.cfg, overrides, folders)
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
                yield [*case, *varied], check(composed[files], typed, command.folders)


def point(command: Command, varied: Mapping[str, str]) -> dict[str, Any]:
    """Return the checked config of one point of a search: a value for every axis."""
    chosen = [(axis, axis.word(varied[key])) for key, axis in command.axes.items()]
    typed = [word for _, word in chosen]
    with words.composing():
        has_groups = any(axis.is_group for axis, _ in chosen)
        cfg = _compose(command, typed) if has_groups else _with(command.cfg, chosen)
    return check(cfg, [*command.typed, *typed], command.folders)


def _compose(command: Command, varied: Sequence[str]) -> DictConfig:
    """Compose what all jobs share with the words of one."""
    more = [words.normal(o) for o in words.parse(varied)]
    return words.compose(command.fixed + more)[0]


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
            command.settle(check(candidate, [*overrides, word], command.folders))
    for case in list(command.cases.values())[1:]:
        command.settle(check(_first(command, case), [*overrides, *case], command.folders))
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


def _axis(override: Override, is_search: bool) -> Axis:
    key, group = str(override.get_key_element()).lstrip("+"), words.is_group(override)
    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        return _interval(override, value, is_search)
    _check_length(override, value)
    texts = list(override.sweep_string_iterator())
    if not texts:
        raise UsageError(f"{override.input_line} matches nothing. Give at least one value.")
    if isinstance(value, RangeSweep):
        if "log" in value.tags:
            raise UsageError(
                f"{override.input_line}: a range has even steps. For a logarithmic scale write "
                "tag(log, interval(low, high)), and int(interval(low, high)) for whole numbers."
            )
        numbers = list(value.range())
        low, high, step = min(numbers), max(numbers), abs(value.step)
        return Axis(key, "range", texts, group, low, high, step)
    return Axis(key, "choice", texts, group)


def _check_length(override: Override, value: Any) -> None:
    """Refuse a range that never ends, or an axis that nobody could wait for."""
    if isinstance(value, RangeSweep):
        start, stop, step = (float(x) for x in (value.start, value.stop, value.step))  # type: ignore[arg-type]
        if step == 0 or not all(map(math.isfinite, (start, stop, step))):
            raise UsageError(f"{override.input_line} must be a range of finite ends and a step.")
        num_values = (stop - start) / step
    else:
        num_values = len(getattr(value, "list", ()))
    if num_values > MAX_JOBS:
        raise UsageError(
            f"{override.key_or_group} must have at most {MAX_JOBS:,} values, got {num_values:,.0f}."
        )


def _interval(override: Override, value: IntervalSweep, is_search: bool) -> Axis:
    line, low, high = override.input_line, value.start, value.end
    assert low is not None
    assert high is not None
    if not is_search:
        raise UsageError(
            f"{line} is a continuous range, which the grid cannot enumerate. List values "
            "(optim.lr=1e-3,3e-3), or search it with hydra/sweeper=optuna."
        )
    log = "log" in value.tags
    if not (math.isfinite(low) and math.isfinite(high)) or low >= high or (log and low <= 0):
        rule = "0 < low < high" if log else "low < high"
        raise UsageError(f"{line} must be an interval with {rule}, both finite.")
    step = 1 if isinstance(low, int) and isinstance(high, int) else 0.0
    key = str(override.get_key_element()).lstrip("+")
    return Axis(key, "interval", [str(low), str(high)], False, low, high, step, log)
