"""What one word of a sweep varies: a key and its values, or a range of numbers. Torch-free."""

import math
from typing import Any, Literal, NamedTuple

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from fmnist import overrides as words
from fmnist.errors import UsageError

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


def read_axis(override: Override, is_search: bool) -> Axis:
    """Read what an override varies; raises UsageError for what is endless or no such axis."""
    key, group = str(override.get_key_element()).lstrip("+"), words.is_group(override)
    value: Any = override.value()
    if key.startswith(("hydra.", "hydra/")):
        raise UsageError(
            f"{key} is of the sweep as a whole, and takes one value, got {override.input_line}."
        )
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
