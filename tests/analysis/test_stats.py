"""Medians, their intervals and resampling, against arithmetic done by hand or another way."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from dlmbench.analysis.stats import (
    WIDER,
    autocorrelation,
    bootstrap_indices,
    bootstrap_interval,
    expanded_tail,
    false_discovery,
    median_error,
    percentiles,
    ratio_of_sums,
    summarise,
    two_modes,
    widening,
)


@pytest.mark.parametrize(("n", "outer"), [(6, 1), (10, 2), (20, 6)])
def test_ranks_are_the_textbook_ones(n, outer):
    # Tables of the sign-test interval: n = 10 takes the 2nd and 9th value (97.9%), n = 20 the 6th and 15th (95.9%).
    found = summarise(np.arange(1.0, n + 1))
    assert found.covered
    assert outer <= found.low < outer + 1
    assert n - outer < found.high <= n + 1 - outer
    assert scipy.stats.binom.cdf(outer - 1, n, 0.5) <= 0.025 < scipy.stats.binom.cdf(outer, n, 0.5)
    assert not summarise(np.arange(5.0)).covered  # 1 - 2/32 = 93.75% is not enough


def test_summary_of_known_values():
    s = summarise([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    assert (s.median, s.mean, s.n, s.covered) == (5.5, 5.5, 10, True)
    # Ranks 2 and 9 hold the median with 1002/1024 (97.9%), ranks 3 and 8 with 912/1024 (89.1%). Of the way inwards to
    # 95%, (1002/1024 - 0.95) / (90/1024) = 0.3244, the values go 8 * 0.3244 / (2 + 6 * 0.3244) = 0.6576.
    assert (s.low, s.high) == pytest.approx((2.6576, 8.3424), abs=1e-4)
    assert s.sd == pytest.approx(3.0276503541)
    assert (s.p10, s.p90) == pytest.approx((1.9, 9.1))


def test_too_few_values_say_so():
    s = summarise([1.0, 3.0, 2.0])
    assert (s.low, s.high, s.covered) == (1.0, 3.0, False)
    assert summarise([2.0]).sd is None


def test_outliers_are_flagged_and_kept():
    values = [1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07, 1.08, 9.0]
    s = summarise(values)
    assert s.outliers == 1
    assert s.mean == pytest.approx(sum(values) / 10)  # 9.0 is still in it


def test_the_interval_of_the_median_covers():
    rng = np.random.default_rng(0)
    n, truth = 15, np.log(2)  # of the exponential distribution: skewed, as latencies are
    found = [summarise(rng.exponential(size=n)) for _ in range(1500)]
    share = np.mean([s.low <= truth <= s.high for s in found])
    assert abs(share - 0.95) < 0.0225  # 4 standard errors


def test_the_error_of_a_median_is_the_published_one():
    # 16 values: ranks round(8.5 - 4) = 4 and 13, P(Bin(16, 1/2) <= 3) = 697/65536.
    values = np.random.default_rng(4).permutation(np.arange(1.0, 17.0))
    assert scipy.stats.binom.cdf(3, 16, 0.5) == pytest.approx(697 / 65536)
    error = (13 - 4) / (2 * scipy.stats.norm.ppf(1 - 697 / 65536)) * (1 + WIDER / 16)
    assert median_error(values) == pytest.approx(error * widening(values))
    assert np.isnan(median_error([1.0]))
    assert median_error([2.0, 2.0]) == 0


def ar1(rho: float, n: int, rng: np.random.Generator) -> np.ndarray:
    values = rng.normal(size=n)
    for i in range(1, n):
        values[i] += rho * values[i - 1]
    return values


def test_values_that_follow_each_other_widen_the_error():
    rng = np.random.default_rng(5)
    following = np.mean([autocorrelation(ar1(0.8, 30, rng)) for _ in range(300)])
    independent = np.mean([autocorrelation(rng.normal(size=30)) for _ in range(300)])
    assert following == pytest.approx(0.8, abs=0.1)
    assert independent == pytest.approx(0.0, abs=0.04)
    assert autocorrelation(rng.normal(size=9)) is None
    assert autocorrelation(np.ones(20)) is None
    # sqrt((1 + r) / (1 - r)) at r = 0.8 is 3.
    assert np.median([widening(ar1(0.8, 200, rng)) for _ in range(50)]) == pytest.approx(3, rel=0.2)


def test_two_modes_are_found_and_one_is_not_taken_for_two():
    rng = np.random.default_rng(6)
    both = np.concatenate([rng.normal(1.0, 0.01, 12), rng.normal(1.2, 0.01, 8)])
    assert two_modes(both) == pytest.approx((1.0, 1.2), abs=0.01)
    assert median_error(both) >= 0.049
    assert sum(two_modes(rng.normal(size=20)) is not None for _ in range(500)) <= 2
    assert sum(two_modes(rng.exponential(size=20)) is not None for _ in range(500)) <= 8
    assert two_modes(np.ones(20)) is None
    assert two_modes([1.0] * 4 + [2.0] * 4) is None  # too few to tell


def test_false_discoveries_by_hand():
    # Benjamini and Hochberg: p_(i) * m / i, made monotone from the largest down.
    assert false_discovery([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert false_discovery([]) == []


@pytest.mark.parametrize("n", [5, 12, 32, 1000])
def test_the_interval_over_few_texts_is_students(n):
    rng = np.random.default_rng(n)
    values = rng.normal(size=n)
    # A bootstrap so fine that it is normal: exact quantiles of N(mean, sd sqrt((n - 1) / n) / sqrt(n)).
    spread = values.std(ddof=0) / np.sqrt(n)
    draws = scipy.stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000, values.mean(), spread)
    low, high = bootstrap_interval(draws, n)
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=2e-3, abs=2e-3)


def test_one_text_has_no_interval():
    assert np.isnan(bootstrap_interval(np.ones(5), 1)).all()
    assert expanded_tail(0.025, 1) == 0.0


def test_ratio_of_sums_by_hand():
    totals, weights = np.array([1.0, 4.0, 9.0]), np.array([1.0, 2.0, 3.0])
    indices = np.array([[0, 1, 2], [2, 2, 2], [0, 0, 1]])
    assert ratio_of_sums(totals, weights, indices).tolist() == [14 / 6, 3.0, 6 / 4]
    nothing = ratio_of_sums(np.zeros(3), np.zeros(3), indices)
    assert np.isnan(nothing).all()


def test_bootstrap_has_the_standard_error_of_the_mean():
    rng = np.random.default_rng(1)
    values = rng.normal(size=200)
    indices = bootstrap_indices(200, 4000, seed=3)
    assert (indices == bootstrap_indices(200, 4000, seed=3)).all()
    spread = ratio_of_sums(values, np.ones(200), indices).std()
    assert spread == pytest.approx(values.std() / np.sqrt(200), rel=0.05)


def test_percentiles_leave_out_what_is_not_a_number():
    assert percentiles(np.array([1.0, np.nan, 1.0])) == (1.0, 1.0)
    assert all(np.isnan(percentiles(np.array([np.nan]))))
