"""Medians, their intervals and resampling, against arithmetic done by hand or another way."""

from __future__ import annotations

import numpy as np
import pytest

from dlmbench.analysis.stats import (
    bootstrap_indices,
    median_ranks,
    percentiles,
    ratio_interval,
    ratio_of_sums,
    summarise,
)


def test_ranks_are_the_textbook_ones():
    # Tables of the sign-test interval: n = 10 takes the 2nd and 9th value (97.9%), n = 20 the 6th and 15th (95.9%).
    assert median_ranks(10) == (2, 9)
    assert median_ranks(20) == (6, 15)
    assert median_ranks(6) == (1, 6)
    assert median_ranks(5) is None  # 1 - 2/32 = 93.75% is not enough


def test_summary_of_known_values():
    s = summarise([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    assert (s.median, s.low, s.high, s.mean, s.n, s.covered) == (5.5, 2.0, 9.0, 5.5, 10, True)
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
    # 15 values: ranks 4 and 12, exact coverage 1 - 2 * P(Bin(15, 1/2) <= 3) = 96.48%; 4 standard errors are 1.9%.
    assert abs(share - 0.96484) < 0.019


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


def test_ratio_interval_holds_the_true_ratio_and_is_exact_without_noise():
    exact = ratio_interval([3.0] * 8, [2.0] * 8)
    assert (exact.value, exact.low, exact.high) == (1.5, 1.5, 1.5)
    rng = np.random.default_rng(2)
    noisy = ratio_interval(rng.normal(3, 0.03, 40), rng.normal(2, 0.02, 40))
    assert noisy.low < 1.5 < noisy.high
    assert noisy.high - noisy.low < 0.03


def test_percentiles_leave_out_what_is_not_a_number():
    assert percentiles(np.array([1.0, np.nan, 1.0])) == (1.0, 1.0)
    assert all(np.isnan(percentiles(np.array([np.nan]))))
