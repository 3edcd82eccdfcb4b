"""Break-even on lines whose crossing is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from dlmbench.analysis.break_even import break_even
from dlmbench.analysis.replication import Estimate


def at(seconds: float, error: float = 1e-9, df: float = 8) -> Estimate:
    """A latency with its relative error, from three processes."""
    return Estimate(math.log(seconds), error**2, df, 3, 12)


def line(*steps: int, error: float = 1e-9) -> dict[int, Estimate]:
    return {k: at(0.02 + 0.01 * k, error) for k in steps}


def test_an_exact_line_crosses_where_algebra_says():
    # latency = 0.02 + 0.01 k meets 0.18 s at k = 16.
    found = break_even(line(8, 32, 64), at(0.18))
    assert found is not None
    assert (found.intercept_s, found.slope_s) == pytest.approx((0.02, 0.01))
    assert (found.steps, found.low, found.high) == pytest.approx((16, 16, 16))
    assert found.largest_residual < 1e-9
    assert (found.is_extrapolated, found.is_rough) == (False, False)


def test_k_is_interpolated_between_the_two_step_counts_that_bracket_it():
    # The line through all is bent; between 8 and 16 latency goes from 0.1 to 0.3 s, and 0.2 s lies half way.
    found = break_even({8: at(0.1), 16: at(0.3), 32: at(2.0)}, at(0.2))
    assert found is not None
    assert (found.steps, found.low, found.high) == pytest.approx((12, 12, 12))
    assert not found.is_rough


def test_the_interval_holds_the_crossing_and_the_line_is_numpys():
    rng = np.random.default_rng(0)
    hits, widths = 0, []
    for _ in range(200):
        noise = {k: rng.normal(0, 0.01) for k in (4, 8, 16, 32, 0)}
        times = {k: at((0.02 + 0.01 * k) * math.exp(noise[k]), 0.01) for k in (4, 8, 16, 32)}
        found = break_even(times, at(0.12 * math.exp(noise[0]), 0.01))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 10 <= found.high
        widths.append(found.high - found.low)
    slope, intercept = np.polyfit(list(times), [t.value for t in times.values()], 1)
    assert (found.slope_s, found.intercept_s) == pytest.approx((slope, intercept))
    assert hits >= 186  # 93%
    assert np.mean(widths) < 1.5


@pytest.mark.parametrize(
    ("times", "base"),
    [
        ({8: 0.8, 16: 1.6}, 4.0),  # beyond both
        ({8: 0.8, 16: 1.6, 32: 3.2}, 8.0),  # on a checked line, but outside it
        ({8: 1.0, 16: 1.4, 32: 1.2, 64: 2.0}, 1.3),  # crossed more than once, and no line
    ],
)
def test_anything_else_is_about_and_has_no_interval(times, base):
    found = break_even({k: at(t) for k, t in times.items()}, at(base))
    assert found is not None
    assert found.is_rough
    assert (found.low, found.high) == (None, None)
    assert found.text().startswith("about ")
    assert [replace(found, steps=k).text() for k in (7.62, 99.4, 99.7, 212.0)] == [
        f"about {k}" for k in (7, 99, 99, 212)
    ]


def test_a_bent_curve_shows_in_the_residual_and_steps_that_get_slower_too():
    found = break_even({1: at(1.0), 2: at(2.0), 3: at(6.0)}, at(3.0))
    assert found is not None
    # The line is -2 + 2.5 k; at k = 1 it says 0.5 where 1.0 was measured. A step takes 1 s, then 4 s.
    assert found.largest_residual == pytest.approx(0.5)
    assert found.rise == pytest.approx(3)
    straight = break_even(line(8, 16, 64), at(0.3))
    assert straight is not None
    assert straight.rise == pytest.approx(0, abs=1e-6)


def test_what_has_no_crossing_says_why():
    assert break_even({8: at(1.0)}, at(1.0)) is None
    flat = break_even({8: at(1.0), 16: at(1.0)}, at(1.0))
    assert flat is not None
    assert flat.steps is None
    assert "does not grow" in flat.reason


def test_two_points_fit_any_line_and_one_repetition_has_no_interval():
    two = break_even({8: at(1.0), 16: at(2.0)}, at(1.5))
    three = break_even({8: at(1.0), 16: at(2.0), 32: at(4.0)}, at(1.5))
    assert two is not None
    assert three is not None
    assert (two.is_checked, three.is_checked) == (False, True)
    once = break_even({8: at(1.0, math.nan), 16: at(2.0, math.nan)}, at(1.5, math.nan))
    assert once is not None
    assert (once.steps, once.low, once.high) == (pytest.approx(12), None, None)
