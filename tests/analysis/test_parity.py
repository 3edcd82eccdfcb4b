"""S_parity on curves whose answer is known by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmbench.analysis.parity import (
    ALPHA,
    PerText,
    common_prompts,
    difference,
    speedup_at_parity,
    steps_to_parity,
)
from dlmbench.analysis.replication import Estimate, Ratio

N = 100
OPTIONS = {"delta": 0, "log_scale": True, "higher_is_better": False}
HARDNESS = np.random.default_rng(9).normal(0, 0.5, N)


def texts(level: float, noise: float = 0.02, seed: int = 0, weight: float = 64.0) -> PerText:
    values = level + HARDNESS + np.random.default_rng(seed).normal(0, noise, N)
    return PerText(tuple(range(N)), values * weight, np.full(N, weight))


def parity(levels: dict[int, float], delta: float = 0.0, base: float = 1.0, higher: bool = False, log: bool = True):
    curve = {k: texts(v, seed=k) for k, v in levels.items()}
    baseline = texts(base, seed=999)
    return steps_to_parity(curve, baseline, delta=delta, log_scale=log, higher_is_better=higher)


FALLING = {8: 2.0, 16: 1.4, 32: 1.15, 64: 1.05, 128: 0.95}


@pytest.mark.parametrize(
    ("delta", "outcome", "steps"),
    [(0.0, "reached", 128), (0.1, "reached", 64), (0.2, "reached", 32), (2.0, "reached_at_smallest", 8)],
)
def test_margins_are_factors_of_perplexity(delta, outcome, steps):
    # ln 1.1 = 0.095, ln 1.2 = 0.182, ln 3 = 1.099: the levels above 1.0 that each allows.
    found = parity(FALLING, delta)
    assert (found.outcome, found.steps, found.margin) == (outcome, steps, math.log1p(delta))


def test_not_reached_is_a_result_with_a_gap():
    found = parity({8: 2.0, 16: 1.5, 32: 1.126})
    assert (found.outcome, found.steps, found.literal_steps) == ("not_reached", None, None)
    gap = found.points[-1].gap
    assert gap.value == pytest.approx(-0.126, abs=0.01)
    assert gap.low < gap.value < gap.high < 0
    # Prompts differ by 0.5 nats, the models by 0.02: unpaired, the interval would be some +-0.14 wide.
    assert gap.high - gap.low < 0.02


def test_too_close_to_call_is_undecided():
    found = parity({8: 2.0, 16: 1.0005})
    assert found.outcome == "undecided"
    assert min(found.points[-1].p_good, found.points[-1].p_worse) > ALPHA / 2


def test_every_larger_k_must_pass_too():
    found = parity({8: 2.0, 16: 0.9, 32: 1.2, 64: 0.9})
    assert (found.steps, found.literal_steps, found.is_monotone) == (64, 16, False)
    lost = parity({8: 2.0, 16: 0.9, 32: 1.2})
    assert (lost.outcome, lost.steps, lost.literal_steps) == ("undecided", None, 16)


def test_a_plateau_within_noise_is_monotone():
    assert parity({8: 2.0, 16: 0.900, 32: 0.9005, 64: 0.900}).is_monotone


def test_higher_is_better_turns_the_curve():
    found = parity({8: 0.2, 16: 0.9, 32: 1.1}, base=1.0, higher=True, log=False)
    assert (found.outcome, found.steps) == ("reached", 32)
    assert parity({8: 0.2, 16: 0.9, 32: 1.1}, delta=0.2, higher=True, log=False).steps == 16


def test_equal_texts_are_at_parity():
    same = texts(1.0)
    found = steps_to_parity({4: same}, same, delta=0, log_scale=True, higher_is_better=False)
    assert found.outcome == "reached_at_smallest"
    assert found.points[0].p_worse == 1.0
    # All differences are equal, so there is no spread to test with: that takes more prompts.
    few = same.only(range(99))
    assert not steps_to_parity({4: few}, few, **OPTIONS).decides
    # One or two that differ are no spread either.
    nearly = PerText(few.prompt_indices, few.totals + np.where(np.arange(99) < 2, 0.1, 0.0), few.weights)
    assert not steps_to_parity({4: nearly}, few, **OPTIONS).decides


def test_the_tests_are_t_tests_where_differences_are_normal():
    curve, base = texts(1.0, seed=1), texts(1.0, seed=2)
    found = steps_to_parity({4: curve}, base, **OPTIONS).points[0]
    gaps = (base.totals - curve.totals) / 64
    expected = scipy.stats.ttest_1samp(gaps, 0, alternative="greater")
    assert found.p_good == pytest.approx(expected.pvalue, abs=0.02)
    assert found.p_worse == pytest.approx(1 - expected.pvalue, abs=0.02)
    interval = scipy.stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert (found.gap.low, found.gap.high) == pytest.approx((interval.low, interval.high), abs=5e-4)


@pytest.mark.parametrize(("n", "outcome"), [(1, "undecided"), (12, "undecided"), (31, "undecided"), (32, "reached")])
def test_nothing_is_as_good_below_32_prompts(n, outcome):
    rng = np.random.default_rng(0)
    base = PerText(tuple(range(n)), np.full(n, 1.0), np.ones(n))
    curve = {2: 2.0, 4: 0.5}
    scores = {k: PerText(base.prompt_indices, v + 0.01 * rng.normal(size=n), np.ones(n)) for k, v in curve.items()}
    found = steps_to_parity(scores, base, **OPTIONS)
    assert found.outcome == outcome
    assert found.points[0].gap.is_known == (n > 1)


def test_scores_that_are_not_numbers_decide_nothing():
    base = texts(1.0)
    lost = PerText(base.prompt_indices, np.zeros(N), np.zeros(N))
    found = steps_to_parity({4: lost}, base, **OPTIONS)
    assert found.outcome == "undecided"
    assert (found.points[0].p_good, found.points[0].p_worse, found.points[0].p_worse_jointly) == (1, 1, 1)


def test_ties_on_a_plateau_stay_in_the_range():
    """A step count is excluded only by a bound for all together, so one that looks worse by chance stays."""
    lost = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        base = PerText(tuple(range(64)), rng.normal(1.0, 0.3, 64), np.ones(64))
        tied = {
            k: PerText(base.prompt_indices, base.totals + rng.normal(0, 0.1, 64), base.weights) for k in range(4, 12)
        }
        worse = PerText(base.prompt_indices, base.totals + rng.normal(0.5, 0.1, 64), base.weights)
        low = steps_to_parity({2: worse, **tied}, base, **OPTIONS).low_steps
        lost += low != 4
    assert lost <= 5  # 2.5% of 60 is 1.5; a bound for each alone loses 11


def test_a_stricter_level_widens_the_range():
    found = parity({8: 1.010, 16: 1.004, 32: 0.994, 64: 0.98})
    usual, strict = found.plausible_steps(), found.plausible_steps(ALPHA / 100)
    assert set(usual) < set(strict)


def right(share: float, n: int, seed: int) -> PerText:
    return PerText(tuple(range(n)), (np.random.default_rng(seed).random(n) < share).astype(float), np.ones(n))


def test_answers_that_are_right_or_wrong_are_not_bootstrapped():
    # All 40 right in both: a bootstrap has no spread and would call any margin proved.
    n = 40
    same = PerText(tuple(range(n)), np.ones(n), np.ones(n))
    options = {"delta": 0.02, "log_scale": False, "higher_is_better": True}
    found = steps_to_parity({4: same}, same, **options)
    assert found.outcome == "undecided"
    # Tango's interval for no discordant pair: +-z^2 / (n + z^2).
    z = scipy.stats.norm.ppf(0.975)
    assert found.points[0].gap.high == pytest.approx(z**2 / (n + z**2))
    assert steps_to_parity({4: right(0.9, 400, 1)}, right(0.3, 400, 2), **options).outcome == "reached_at_smallest"
    assert steps_to_parity({4: right(0.3, 400, 1)}, right(0.9, 400, 2), **options).outcome == "not_reached"


def test_a_difference_of_two_scores():
    a, b = texts(1.0, seed=1), texts(0.9, seed=2)
    change, p_value = difference(a, b)
    assert change.low < 0.1 < change.high
    assert p_value < 0.001
    one, other = right(0.5, 200, 1), right(0.5, 200, 2)
    only_one = int((one.totals > other.totals).sum())
    only_other = int((one.totals < other.totals).sum())
    exact = scipy.stats.binomtest(only_one, only_one + only_other).pvalue
    assert difference(one, other)[1] == pytest.approx(exact)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=6), st.sampled_from([0.0, 0.1, 0.2]))
def test_definition_holds_for_any_curve(levels, delta):
    found = parity({2**i: v for i, v in enumerate(levels)}, delta)
    good = {p.steps: p.p_good <= ALPHA / 2 for p in found.points}
    passing = [k for k, passes in good.items() if passes]
    assert found.literal_steps == (min(passing) if passing else None)
    if found.steps is not None:
        assert found.low_steps is not None
        assert found.low_steps <= found.steps
        assert found.plausible_steps()[-1] == found.steps
    from_here = [k for k in good if all(passes for j, passes in good.items() if j >= k)]
    assert found.steps == (min(from_here) if from_here else None)


def ratios(base_s: float, seconds: dict[int, float], error: float = 1e-9) -> dict[int, Ratio]:
    base, *own = (Estimate(math.log(s), error**2, 4, 3, 12) for s in (base_s, *seconds.values()))
    return {k: base.over(e) for k, e in zip(seconds, own, strict=True)}


def test_speedup_at_parity_without_noise_is_the_ratio():
    found = parity({8: 2.0, 16: 0.9, 32: 0.9})
    assert found.plausible_steps() == (16,)
    speedup = speedup_at_parity(found, ratios(0.5, {8: 0.1, 16: 0.2, 32: 0.4}))
    assert speedup is not None
    assert (speedup.value, speedup.low, speedup.high) == pytest.approx((2.5,) * 3)


def test_not_knowing_s_parity_widens_the_speedup():
    # K = 16 is neither as good nor worse: parity lies there or at 32, twice as slow.
    found = parity({8: 2.0, 16: 1.0005, 32: 0.8})
    assert (found.steps, found.low_steps, found.plausible_steps()) == (32, 16, (16, 32))
    speedup = speedup_at_parity(found, ratios(0.4, {8: 0.1, 16: 0.2, 32: 0.4}))
    assert speedup is not None
    assert (speedup.low, speedup.value, speedup.high) == pytest.approx((1.0, 1.0, 2.0))


def test_no_parity_no_speedup_and_none_of_an_untimed_k():
    never = parity({8: 2.0})
    assert (never.low_steps, never.steps, never.plausible_steps()) == (None, None, ())
    assert speedup_at_parity(never, ratios(1.0, {8: 1.0})) is None
    assert speedup_at_parity(parity({8: 2.0, 16: 0.8}), ratios(1.0, {8: 1.0})) is None


def test_one_repetition_has_a_ratio_and_no_interval():
    speedup = speedup_at_parity(parity({8: 0.5}), ratios(0.4, {8: 0.2}, error=math.nan))
    assert speedup is not None
    assert speedup.value == pytest.approx(2.0)
    assert not speedup.is_known


def test_common_prompts_and_alignment():
    a = PerText((3, 1, 2), np.array([30.0, 10.0, 20.0]), np.ones(3))
    b = PerText((2, 3, 4), np.zeros(3), np.ones(3))
    assert common_prompts([a, b]) == (2, 3)
    assert a.only((2, 3)).totals.tolist() == [20.0, 30.0]
