"""Means over seeds and paired differences, with Student's t.

By hand: to import scipy.special costs a third of the time that a table of 1,000 runs takes.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

EQUAL = 1e-9  # differences this close are one: an image more or less changes a score by over 1e-5


class Summary(NamedTuple):
    """Mean, standard deviation (of a sample) and 95 % confidence interval of the mean.

    All but the mean are None for n = 1, which says nothing about the spread.
    """

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None


class Comparison(NamedTuple):
    """A paired two-sided t-test of the mean difference of n pairs.

    Without a spread in the differences there is no interval, t or p: None.
    """

    difference: float
    n: int
    sd: float
    low: float | None = None
    high: float | None = None
    t: float | None = None
    p: float | None = None


def summarize(values: Sequence[float]) -> Summary:
    """Summarize one or more values; nan where one is nan."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = _quantile(n - 1) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def compare_paired(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Test whether `first` minus `second` has mean 0; both hold the n >= 2 pairs in one order."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    n, mean, sd, low, high = summarize(differences)
    if max(differences) - min(differences) <= EQUAL:
        return Comparison(mean, n, 0.0)
    assert sd is not None
    t = mean / (sd / math.sqrt(n))
    return Comparison(mean, n, sd, low, high, t, tails(t, n - 1))


def tails(t: float, degrees: int) -> float:
    """Return the probability that Student's t with `degrees` of freedom is beyond -t or t."""
    return _incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)


@functools.cache
def _quantile(degrees: int) -> float:
    """Return the 97.5 % point of Student's t, by bisection."""
    low, high = 1.9, 12.8  # those of infinitely many degrees and of one lie between
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tails(middle, degrees) > 0.05 else (low, middle)
    return low


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function by its continued fraction.

    https://dlmf.nist.gov/8.17.E22, which converges fast below x = (a + 1) / (a + b + 2).
    """
    if x == 0:
        return 0.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    fraction = 1.0
    for m in range(100, 0, -1):
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1 + even / (1 + odd / fraction)
    fraction = 1 - (a + b) * x / (a + 1) / fraction
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(scale + a * math.log(x) + b * math.log1p(-x)) / (a * fraction)
