"""S_parity on curves whose answer is known by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmbench.analysis.parity import PerText, Repetitions, common_prompts, speedup_at_parity, steps_to_parity
from dlmbench.analysis.stats import bootstrap_indices, ratio_of_sums

N = 100
INDICES = bootstrap_indices(N, 1000, seed=0)
HARDNESS = np.random.default_rng(9).normal(0, 0.5, N)


def texts(level: float, noise: float = 0.02, seed: int = 0, weight: float = 64.0) -> PerText:
    values = level + HARDNESS + np.random.default_rng(seed).normal(0, noise, N)
    return PerText(tuple(range(N)), values * weight, np.full(N, weight))


def parity(levels: dict[int, float], delta: float = 0.0, base: float = 1.0, higher: bool = False, log: bool = True):
    curve = {k: texts(v, seed=k) for k, v in levels.items()}
    baseline = texts(base, seed=999)
    return steps_to_parity(curve, baseline, delta=delta, log_scale=log, higher_is_better=higher, indices=INDICES)


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
    assert 0.05 < found.points[-1].probability < 0.95


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
    found = steps_to_parity({4: same}, same, delta=0, log_scale=True, higher_is_better=False, indices=INDICES)
    assert (found.outcome, found.points[0].probability) == ("reached_at_smallest", 1.0)


def test_the_probability_is_the_share_of_resamples_corrected_for_few_texts():
    curve, base = texts(1.0, seed=1), texts(1.0, seed=2)
    found = steps_to_parity({4: curve}, base, delta=0, log_scale=True, higher_is_better=False, indices=INDICES)
    # The same by a loop over resamples, one at a time.
    wins = [
        curve.totals[i].sum() / curve.weights[i].sum() <= base.totals[i].sum() / base.weights[i].sum() for i in INDICES
    ]
    share = float(np.mean(wins))
    assert found.points[0].probability == pytest.approx(share, abs=0.01)
    # A resample spreads by sqrt(99/100) too little, and Student's t with 99 degrees belongs where the normal stands.
    corrected = scipy.stats.t.cdf(scipy.stats.norm.ppf(share) * np.sqrt(0.99), 99)
    assert found.points[0].probability == pytest.approx(corrected)


def test_too_few_prompts_prove_nothing():
    for n, outcome in ((1, "undecided"), (4, "undecided"), (5, "reached_at_smallest")):
        better = PerText(tuple(range(n)), np.full(n, 0.5) + np.arange(n) * 0.01, np.ones(n))
        base = PerText(tuple(range(n)), np.full(n, 1.0), np.ones(n))
        options = {"delta": 0, "log_scale": True, "higher_is_better": False, "indices": bootstrap_indices(n, 200, 0)}
        found = steps_to_parity({4: better}, base, **options)
        assert found.outcome == outcome
        assert found.points[0].gap.is_known == (n > 1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=6), st.sampled_from([0.0, 0.1, 0.2]))
def test_definition_holds_for_any_curve(levels, delta):
    found = parity({2**i: v for i, v in enumerate(levels)}, delta)
    passing = [p.steps for p in found.points if p.passes]
    assert found.literal_steps == (min(passing) if passing else None)
    if found.steps is not None:
        assert found.low_steps is not None
        assert found.low_steps <= found.steps <= (found.high_steps or math.inf)
    from_here = [p.steps for p in found.points if all(q.passes for q in found.points if q.steps >= p.steps)]
    assert found.steps == (min(from_here) if from_here else None)


def repetitions(latency: float, energy: float | None = None) -> Repetitions:
    times = np.full(12, latency)
    return Repetitions(times, 64 / times, None if energy is None else np.full(12, energy))


def test_speedup_at_parity_without_noise_is_the_ratio():
    curve = {8: texts(2.0), 16: texts(0.9), 32: texts(0.9)}
    found = steps_to_parity(curve, texts(1.0), delta=0, log_scale=True, higher_is_better=False, indices=INDICES)
    times = {8: repetitions(0.1, 5.0), 16: repetitions(0.2, 10.0), 32: repetitions(0.4, 20.0)}
    speedup = speedup_at_parity(found, times, repetitions(0.5, 4.0))
    assert speedup is not None
    assert (speedup.steps, speedup.low_steps, speedup.high_steps, speedup.is_bounded) == (16, 16, 16, True)
    assert speedup.share_reached == 1.0
    for ratio, expected in ((speedup.latency, 2.5), (speedup.throughput, 2.5), (speedup.energy, 0.4)):
        assert ratio is not None
        assert (ratio.value, ratio.low, ratio.high) == pytest.approx((expected,) * 3)


def test_not_knowing_s_parity_widens_the_speedup():
    # K = 16 barely passes: with other prompts parity might as well lie at 32, twice as slow.
    curve = {8: texts(2.0, 0.05, 1), 16: texts(0.984, 0.05, 2), 32: texts(0.8, 0.05, 3)}
    base = texts(1.0, 0.05, 4)
    found = steps_to_parity(curve, base, delta=0, log_scale=True, higher_is_better=False, indices=INDICES)
    assert 0.95 < found.points[1].probability < 0.975
    assert (found.steps, found.low_steps, found.high_steps) == (16, 16, 32)
    speedup = speedup_at_parity(
        found, {8: repetitions(0.1), 16: repetitions(0.2), 32: repetitions(0.4)}, repetitions(0.4)
    )
    assert speedup is not None
    assert speedup.latency is not None
    assert (speedup.latency.low, speedup.latency.value, speedup.latency.high) == pytest.approx((1.0, 2.0, 2.0))
    assert speedup.energy is None
    untimed = speedup_at_parity(found, {16: repetitions(0.2)}, repetitions(0.4))
    assert untimed is not None
    assert not untimed.is_bounded
    # Counted here resample by resample: parity lies at the first K from which on none is worse.
    good = {
        k: ratio_of_sums(t.totals, t.weights, INDICES) <= ratio_of_sums(base.totals, base.weights, INDICES)
        for k, t in curve.items()
    }
    at_16 = (~good[8] & good[16] & good[32]).mean()
    assert 0 < at_16 < 1
    assert untimed.share_reached == pytest.approx(at_16)
    assert {p.steps for p in found.points if p.share} == {16, 32}


def test_no_parity_no_speedup_and_an_untimed_k_is_named():
    curve, base = {8: texts(2.0), 16: texts(0.8)}, texts(1.0)
    options = {"delta": 0, "log_scale": True, "higher_is_better": False, "indices": INDICES}
    never = steps_to_parity({8: curve[8]}, base, **options)
    assert (never.low_steps, never.high_steps) == (None, None)
    assert speedup_at_parity(never, {8: repetitions(1.0)}, repetitions(1.0)) is None
    found = steps_to_parity(curve, base, **options)
    untimed = speedup_at_parity(found, {8: repetitions(1.0)}, repetitions(1.0))
    assert untimed is not None
    assert (untimed.steps, untimed.latency, untimed.is_bounded) == (16, None, False)


def test_one_repetition_has_a_ratio_and_no_interval():
    found = steps_to_parity(
        {8: texts(0.5)}, texts(1.0), delta=0, log_scale=True, higher_is_better=False, indices=INDICES
    )
    once = Repetitions(np.array([0.2]), np.array([320.0]))
    speedup = speedup_at_parity(found, {8: once}, repetitions(0.4))
    assert speedup is not None
    assert speedup.latency is not None
    assert speedup.latency.value == pytest.approx(2.0)
    assert not speedup.latency.is_known


def test_common_prompts_and_alignment():
    a = PerText((3, 1, 2), np.array([30.0, 10.0, 20.0]), np.ones(3))
    b = PerText((2, 3, 4), np.zeros(3), np.ones(3))
    assert common_prompts([a, b]) == (2, 3)
    assert a.only((2, 3)).totals.tolist() == [20.0, 30.0]


@pytest.mark.e2e
def test_parity_is_claimed_wrongly_at_most_as_often_as_alpha():
    """Truly equal models, fresh prompts each time: P(claim) is about alpha, the level of a one-sided test."""
    rng = np.random.default_rng(0)
    claims = 0
    for _ in range(1000):
        a, b = (PerText(tuple(range(60)), rng.normal(1, 0.1, 60), np.ones(60)) for _ in range(2))
        found = steps_to_parity(
            {1: a}, b, delta=0, log_scale=True, higher_is_better=False, indices=bootstrap_indices(60, 500, 1)
        )
        claims += found.reached
    assert 25 <= claims <= 80
