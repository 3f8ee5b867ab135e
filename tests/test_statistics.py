import math
import random

import pytest
from scipy import stats

from fmnist.compare import statistics
from fmnist.compare.statistics import compare_paired, summarize


@pytest.mark.parametrize("n", [2, 3, 5, 12, 200])
def test_summary_agrees_with_scipy(n: int) -> None:
    draw = random.Random(n)
    values = [draw.gauss(0.92, 0.003) for _ in range(n)]
    summary = summarize(values)
    low, high = stats.t.interval(0.95, n - 1, stats.tmean(values), stats.sem(values))
    assert summary.n == n
    assert summary.mean == pytest.approx(stats.tmean(values), rel=1e-12)
    assert summary.sd == pytest.approx(stats.tstd(values), rel=1e-12)
    assert (summary.low, summary.high) == pytest.approx((low, high), rel=1e-12)


def test_quantiles_are_those_of_the_printed_tables() -> None:
    printed = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042, 120: 1.980}
    for degrees, value in printed.items():
        n = degrees + 1
        values = [0.0] * n
        values[0] = 1.0
        summary = summarize(values)
        assert summary.sd is not None
        assert summary.high is not None
        t = (summary.high - summary.mean) / (summary.sd / math.sqrt(n))
        assert t == pytest.approx(value, abs=6e-4)


def test_one_value_has_no_spread_and_equal_ones_have_none() -> None:
    assert summarize([0.9]) == (1, 0.9, None, None, None)
    assert summarize([0.1, 0.1, 0.1]) == pytest.approx((3, 0.1, 0.0, 0.1, 0.1), abs=1e-12)


def test_value_that_is_not_finite_makes_the_summary_nan() -> None:
    summary = summarize([0.3, math.nan])
    assert math.isnan(summary.mean)
    assert summary.n == 2


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30, 999, 5000])
@pytest.mark.parametrize("t", [0.0, 1e-3, 0.5, 1.9, 2.5, 12.0, 1e3, 1e8, 1e200])
def test_tails_agree_with_scipy(t: float, degrees: int) -> None:
    expected = 2 * stats.t.sf(t, degrees)
    assert statistics.tails(t, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert statistics.tails(-t, degrees) == statistics.tails(t, degrees)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_paired_test_agrees_with_scipy(n: int) -> None:
    draw = random.Random(n)
    first = [draw.gauss(0.925, 0.003) for _ in range(n)]
    second = [draw.gauss(0.922, 0.003) for _ in range(n)]
    found, expected = compare_paired(first, second), stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert found.t == pytest.approx(expected.statistic, rel=1e-9)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.difference == pytest.approx(stats.tmean(first) - stats.tmean(second), abs=1e-15)


def test_paired_test_of_a_textbook() -> None:
    """Student's own data: hours of sleep gained with two drugs (Biometrika 6, 1908, p. 20)."""
    first = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    second = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    found = compare_paired(first, second)
    assert found.difference == pytest.approx(1.58)
    assert found.t == pytest.approx(4.0621, abs=5e-5)
    assert found.p == pytest.approx(0.00283, abs=5e-6)


def test_sides_swapped_turn_the_sign() -> None:
    first, second = [0.90, 0.92, 0.93], [0.91, 0.91, 0.90]
    there, back = compare_paired(first, second), compare_paired(second, first)
    assert there.t is not None
    assert back.t == pytest.approx(-there.t)
    assert back.p == pytest.approx(there.p)
    assert back.difference == pytest.approx(-there.difference)


def test_equal_differences_have_no_t_and_no_p_whatever_the_rounding() -> None:
    first = [0.9262, 0.9250, 0.9247]
    found = compare_paired(first, [value - 0.001 for value in first])
    assert found.difference == pytest.approx(0.001)
    assert (found.sd, found.low, found.high, found.t, found.p) == (0.0, None, None, None, None)
    same = compare_paired(first, first)
    assert (same.difference, same.t, same.p) == (0.0, None, None)
