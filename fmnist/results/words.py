"""Numbers of results in words: percent, points, and how sure they are."""

from collections.abc import Mapping
from typing import NamedTuple

from fmnist.compare.statistics import summarize


class Estimate(NamedTuple):
    """A mean with its 95 % interval (Student's t) and sd, None for n = 1; fractions of 1."""

    mean: float
    n: int
    sd: float | None
    low: float | None
    high: float | None

    @property
    def percent(self) -> str:
        return f"{100 * self.mean:.2f} % ({self._sure('{:.2f}')})"

    @property
    def points(self) -> str:
        """Write a difference, in percentage points."""
        return f"{100 * self.mean:+.2f} points ({self._sure('{:+.2f}')})"

    @property
    def cell(self) -> str:
        """Write `mean ± sd`, in percent, for a table."""
        return f"{100 * self.mean:.2f}" + ("" if self.sd is None else f" ± {100 * self.sd:.2f}")

    def side(self, value: float) -> int:
        """Say where the whole interval lies: 1 above `value`, -1 below, 0 undecided."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > value) - (self.high < value)

    def _sure(self, form: str) -> str:
        if self.low is None or self.high is None:
            return "n = 1, no interval"
        ends = (form.format(100 * end) for end in (self.low, self.high))
        return f"95 % interval {' to '.join(ends)}, n = {self.n}"


def estimate(values: Mapping[int, float]) -> Estimate | None:
    """Estimate the mean of values by seed; None where there are none."""
    if not values:
        return None
    found = summarize(list(values.values()))
    return Estimate(found.mean, found.n, found.sd, found.low, found.high)


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate | None:
    """Estimate `first` minus `second`, paired by seed; None where no seed is in both."""
    return estimate({seed: first[seed] - second[seed] for seed in first if seed in second})
