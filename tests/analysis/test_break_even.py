"""Break-even on lines whose crossing is known."""

from __future__ import annotations

import numpy as np
import pytest

from dlmbench.analysis.break_even import break_even


def test_an_exact_line_crosses_where_algebra_says():
    # latency = 0.02 + 0.01 k meets 0.18 s at k = 16.
    found = break_even({k: np.full(10, 0.02 + 0.01 * k) for k in (8, 32, 64)}, np.full(10, 0.18))
    assert found is not None
    assert (found.intercept_s, found.slope_s) == pytest.approx((0.02, 0.01))
    assert (found.steps, found.low, found.high) == pytest.approx((16, 16, 16))
    assert found.largest_residual < 1e-12
    assert not found.is_extrapolated


def test_the_interval_holds_the_crossing_and_the_line_is_numpys():
    rng = np.random.default_rng(0)
    times = {k: 0.02 + 0.01 * k + rng.gamma(2, 0.002, 30) for k in (4, 8, 16, 32)}
    found = break_even(times, 0.12 + rng.gamma(2, 0.002, 30))
    assert found is not None
    slope, intercept = np.polyfit(list(times), [np.median(t) for t in times.values()], 1)
    assert (found.slope_s, found.intercept_s) == pytest.approx((slope, intercept))
    assert found.low is not None
    assert found.high is not None
    assert found.low < 10 < found.high
    assert found.high - found.low < 1.5


def test_a_bent_curve_shows_in_the_residual():
    found = break_even({1: np.array([1.0]), 2: np.array([2.0]), 3: np.array([6.0])}, np.array([3.0]))
    assert found is not None
    # The line is -2 + 2.5 k; at k = 1 it says 0.5 where 1.0 was measured.
    assert found.largest_residual == pytest.approx(0.5)


def test_what_has_no_crossing_says_why():
    assert break_even({8: np.array([1.0])}, np.array([1.0])) is None
    flat = break_even({8: np.array([1.0]), 16: np.array([1.0])}, np.array([1.0]))
    assert flat is not None
    assert flat.steps is None
    assert "does not grow" in flat.reason
    beyond = break_even({8: np.array([0.8]), 16: np.array([1.6])}, np.array([4.0]))
    assert beyond is not None
    assert beyond.steps == pytest.approx(40)
    assert beyond.is_extrapolated


def test_two_points_fit_any_line_and_one_repetition_has_no_interval():
    two = break_even({8: np.full(5, 1.0), 16: np.full(5, 2.0)}, np.full(5, 1.5))
    three = break_even({8: np.full(5, 1.0), 16: np.full(5, 2.0), 32: np.full(5, 4.0)}, np.full(5, 1.5))
    assert two is not None
    assert three is not None
    assert (two.is_checked, three.is_checked) == (False, True)
    once = break_even({8: np.array([1.0]), 16: np.array([2.0])}, np.array([1.5]))
    assert once is not None
    assert (once.steps, once.low, once.high) == (12, None, None)
