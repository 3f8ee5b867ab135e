"""Numbers of results in words: percent, points, and how sure they are."""

import math
from collections.abc import Mapping

from fmnist.compare.statistics import EQUAL, Summary, summarize

NUM_TEST = 10_000  # test images


class Estimate(Summary):
    """A mean of fractions of 1, to be written as percent or as points.

    There is no interval for n = 1, nor where all values are equal: they tell of no spread.
    """

    __slots__ = ()

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
            return f"n = {self.n}, no interval"
        ends = (form.format(100 * end) for end in (self.low, self.high))
        return f"95 % interval {' to '.join(ends)}, n = {self.n}"


def estimate(values: Mapping[int, float]) -> Estimate | None:
    """Estimate the mean of values by seed; None where there are none."""
    if not values:
        return None
    found = Estimate(*summarize(list(values.values())))
    if max(values.values()) - min(values.values()) <= EQUAL:  # as statistics.compare_paired has it
        return found._replace(low=None, high=None)
    return found


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate | None:
    """Estimate `first` minus `second`, paired by seed; None where no seed is in both."""
    return estimate(_paired(first, second))


def span(first: Mapping[int, float], second: Mapping[int, float]) -> str:
    """Write the mean and the range of `first` minus `second`, paired by seed; "" without pairs.

    For what cannot be negative: an interval by Student's t could reach below 0.
    """
    values = _paired(first, second).values()
    if not values:
        return ""
    mean, low, high = (100 * x for x in (sum(values) / len(values), min(values), max(values)))
    return (
        f"{mean:.2f} points on the mean, {low:.2f} to {high:.2f} over the seeds, n = {len(values)}"
    )


def by_chance(accuracy: float, num_images: int = NUM_TEST) -> float:
    """Return half the 95 % interval that a choice of `num_images` images leaves to an accuracy.

    Fractions of 1; the normal approximation to the binomial distribution.
    """
    return 1.96 * math.sqrt(accuracy * (1 - accuracy) / num_images)


def _paired(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    return {seed: first[seed] - second[seed] for seed in first if seed in second}
