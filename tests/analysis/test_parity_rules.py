"""The rules on quality: what may be called as good, between which step counts, and by which metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dlmbench.analysis.compare import compare
from dlmbench.analysis.parity import LEAST_PROMPTS, LEAST_UNANIMOUS, PerText, difference, steps_to_parity
from dlmbench.analysis.proportions import mcnemar, paired_difference, paired_score, proportion
from dlmbench.analysis.quality import MetricInfo
from dlmbench.types import Run
from support.synthetic_run import ENVIRONMENT, per_text, target_cell

GRID = (16, 32, 64, 128, 256)


def texts(values: np.ndarray, weight: float = 64.0) -> PerText:
    return PerText(tuple(range(len(values))), np.asarray(values, dtype=float) * weight, np.full(len(values), weight))


def parity(curve: dict[int, np.ndarray], base: np.ndarray, delta: float = 0.0):
    scored = {k: texts(v) for k, v in curve.items()}
    return steps_to_parity(scored, texts(base), delta=delta, log_scale=True, higher_is_better=False)


def answers(curve: np.ndarray, base: np.ndarray, delta: float = 0.02):
    scored = {8: texts(curve, 1.0)}
    return steps_to_parity(scored, texts(base, 1.0), delta=delta, log_scale=False, higher_is_better=True)


def test_a_plateau_of_ties_does_not_push_the_range_up():
    """Every K ties with the baseline, so parity lies at the smallest; resampled quantiles missed it in a third."""
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found = parity({k: rng.normal(1, 0.2, 64) for k in GRID}, np.ones(64))
        held += found.low_steps == GRID[0]
    assert held >= 55


def test_a_step_count_is_excluded_where_it_or_a_larger_one_is_worse():
    rng = np.random.default_rng(0)
    levels = dict(zip(GRID, (1.0, 1.3, 1.0, 0.8, 0.8), strict=True))
    found = parity({k: rng.normal(v, 0.1, 64) for k, v in levels.items()}, np.ones(64))
    assert (found.low_steps, found.steps) == (64, 128)


def test_looking_at_more_step_counts_makes_it_harder_to_exclude_one():
    rng = np.random.default_rng(3)
    base = np.ones(64)
    curve = {k: rng.normal(1, 0.2, 64) for k in GRID}
    together = {p.steps: p for p in parity(curve, base).points}
    for k in GRID:
        (alone,) = parity({k: curve[k]}, base).points
        assert together[k].p_worse == alone.p_worse
        assert together[k].p_worse_jointly > alone.p_worse_jointly


@pytest.mark.parametrize("n", [1, 5, 12, LEAST_PROMPTS - 1])
def test_few_prompts_decide_nothing(n):
    better, worse = np.linspace(0.1, 0.2, n), np.linspace(3.0, 4.0, n)
    for curve in ({8: better}, {8: worse}, {8: worse, 16: better}):
        found = parity(curve, np.ones(n))
        assert (found.decides, found.outcome, found.steps) == (False, "undecided", None)
    assert not answers(np.ones(n), np.zeros(n)).reached


def test_equal_differences_need_a_hundred_prompts():
    for n, reached in ((LEAST_PROMPTS, False), (LEAST_UNANIMOUS - 1, False), (LEAST_UNANIMOUS, True)):
        base = np.linspace(1, 2, n)
        assert parity({8: base - 0.5}, base).reached is reached
        assert parity({8: base}, base).reached is reached


def test_the_smallest_enough_prompts_decide():
    rng = np.random.default_rng(0)
    base = rng.normal(1.5, 0.5, LEAST_PROMPTS)
    assert parity({8: base - 0.5 + rng.normal(0, 0.1, LEAST_PROMPTS)}, base).outcome == "reached_at_smallest"
    assert parity({8: base + 0.5 + rng.normal(0, 0.1, LEAST_PROMPTS)}, base).outcome == "not_reached"


def test_one_text_has_no_interval():
    found = parity({8: np.array([1.0])}, np.array([1.0]))
    assert not found.points[0].gap.is_known
    assert found.outcome == "undecided"


def test_right_and_wrong_answers_are_not_resampled():
    # Resamples of equal answers are all equal, so they left no doubt; 100 items leave 2 points or more.
    for n in (32, 100):
        found = answers(np.ones(n), np.ones(n))
        assert not found.reached
        gap = found.points[0].gap
        assert gap.high - gap.low > 0.04
    assert answers(np.ones(1000), np.ones(1000)).reached


def test_a_lucky_dozen_of_answers_proves_nothing():
    """2.1 points worse: every set of 12 without the one item in 40 that shows it was called as good."""
    rng = np.random.default_rng(0)
    for n in (12, 32, 100):
        claims = 0
        for _ in range(60):
            claims += answers(rng.random(n) >= 0.025, np.ones(n)).reached
        assert claims == 0


def test_neighbouring_step_counts_of_answers_are_compared_by_the_score_test():
    n = 40
    base = np.ones(n)
    one_less, many_less = base.copy(), base.copy()
    one_less[0] = 0
    many_less[:20] = 0
    for after, monotone in ((one_less, True), (many_less, False)):
        curve = {8: texts(base, 1.0), 16: texts(after, 1.0)}
        found = steps_to_parity(curve, texts(base, 1.0), delta=0.02, log_scale=False, higher_is_better=True)
        assert found.is_monotone is monotone


def test_rare_large_losses_are_followed():
    """A t interval of skewed differences is too short on the side of the losses; the studentised one is not."""
    rng = np.random.default_rng(2)
    losses = np.where(np.arange(64) % 16 == 0, 3.0, 0.0) + rng.normal(0, 0.01, 64)
    gap = parity({8: 1 + losses}, np.ones(64)).points[0].gap
    assert gap.value - gap.low > 1.5 * (gap.high - gap.value)


def test_the_score_statistic_by_hand():
    # n = 100, 8 right alone against 2: at difference 0 the statistic is McNemar's, (8 - 2) / sqrt(10).
    assert float(paired_score(8, 2, 100, 0.0)) == pytest.approx(6 / math.sqrt(10))
    found = paired_difference(8, 2, 100)
    for end, sign in ((found.low, 1), (found.high, -1)):
        assert float(paired_score(8, 2, 100, end)) == pytest.approx(sign * 1.959964, abs=1e-5)
    # Two equal models on 32 items: Tango's interval is z^2 / (n + z^2) on either side.
    none = paired_difference(0, 0, 32)
    assert (none.low, none.high) == pytest.approx((-3.8415 / 35.8415, 3.8415 / 35.8415), abs=1e-4)


def test_proportions_near_the_edge_keep_an_interval():
    assert proportion(32, 32).low == pytest.approx(32 / (32 + 3.8415), abs=1e-4)  # Wilson: n / (n + z^2)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 6) == pytest.approx(2 / 64)


def test_a_difference_of_answers_is_mcnemars():
    right, wrong = np.ones(40), np.ones(40)
    wrong[:5] = 0
    found, p_value = difference(texts(wrong, 1.0), texts(right, 1.0))
    assert (found.value, p_value) == (-0.125, pytest.approx(2 / 32))


@pytest.mark.parametrize(("cells", "verdict"), [(1, "worse"), (16, "no difference shown")])
def test_one_small_p_value_among_many_scores_is_no_verdict(cells, verdict):
    of = [target_cell(k) for k in range(1, cells + 1)]
    noise = np.where(np.arange(40) % 2 == 0, 1.0, -1.0)
    runs = []
    for shift in (0.0, 0.38):  # p = 0.02 for the first cell, 1 for the others
        scores = [per_text(c, "likelihood", (noise + (shift if c is of[0] else 0)) * bool(shift), 1.0) for c in of]
        runs.append(Run("run", "run", ENVIRONMENT, tuple(of), (), (), tuple(t for ts in scores for t in ts)))
    (first,) = compare(*runs).pairs[0].quality
    assert first.p_value is not None
    assert 0.01 < first.p_value < 0.05
    assert first.verdict == verdict


@pytest.mark.parametrize("name", ["distinct_1", "distinct_2", "distinct_3", "repetition", "unigram_entropy"])
def test_diagnostics_decide_nothing(name):
    assert not MetricInfo(name, "share", higher_is_better=True).decides


@pytest.mark.parametrize(("name", "margin"), [("likelihood", 0.1), ("perplexity", 0.1), ("oracle_validity", 0.02)])
def test_quality_metrics_have_a_leading_margin_and_none(name, margin):
    metric = MetricInfo(name, "nats/token", higher_is_better=False)
    assert metric.decides
    assert metric.margin == margin
    assert {0.0, margin} <= set(metric.margins)
