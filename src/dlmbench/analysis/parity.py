"""Steps to quality parity: the smallest step count whose quality matches the baseline's, and the speedup there.

Quality is oriented so that higher is better; f(k) is the target's at k steps and Q the baseline's, both over the same
prompts, so that how hard a prompt is cancels. A step count is as good if f(k) >= Q - margin is shown, worse if
f(k) < Q - margin is shown, and undecided otherwise. S_parity is the smallest k such that it and every larger k are as
good; testing the larger ones too keeps one lucky point from deciding.

The range of S_parity is what the data leave open. Its upper end is S_parity itself. At its lower end a k is excluded
only if some j >= k is worse by a bound that holds for all step counts together (max-t): step counts that tie with the
baseline must not be excluded because one of several looked worse by chance. Tests are studentised bootstraps over
prompts, which follow skewed differences better than a t test, or score tests where a text is right or wrong.

Two things are uncertain about the speedup at parity, which step count it needs and how long that takes: its interval
spans every step count of the range, each with the interval of its own ratio.
Shape legend: K step counts, N texts, D draws.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats as _scipy

from dlmbench.analysis.proportions import is_binary, mcnemar, paired_difference, paired_score
from dlmbench.analysis.replication import Ratio
from dlmbench.analysis.stats import CONFIDENCE, FloatArray, Interval, effective_n

Outcome = Literal["reached", "reached_at_smallest", "not_reached", "undecided"]
# Two-sided: each of "as good" and "worse" is tested at half of it.
ALPHA = 1 - CONFIDENCE
# Below this many prompts nothing is called as good or worse: a rare large loss is too easily missed.
LEAST_PROMPTS = 32
# Where all differences are equal, but for a few, they have no spread to test with, and more prompts are needed.
LEAST_UNANIMOUS = 100
LEAST_DISSENT = 5
# Sums in another order differ by this much at most: equal texts are at parity.
ROUNDING = 1e-9
DRAWS = 10_000


@dataclass(frozen=True)
class PerText:
    """A metric text by text: totals_N over weights_N, for the prompts named by `prompt_indices`."""

    prompt_indices: tuple[int, ...]
    totals: FloatArray
    weights: FloatArray

    @property
    def value(self) -> float:
        """The aggregate: sum of totals over sum of weights; nan where the weights sum to 0."""
        weight = float(self.weights.sum())
        return float(self.totals.sum()) / weight if weight else float("nan")

    @property
    def n(self) -> int:
        """How many texts have weight: the sample size of the value."""
        return effective_n(self.weights)

    def only(self, prompts: Sequence[int]) -> PerText:
        """The same scores for `prompts`, in that order."""
        place = {p: i for i, p in enumerate(self.prompt_indices)}
        rows = np.array([place[p] for p in prompts], dtype=np.intp)
        return PerText(tuple(prompts), self.totals[rows], self.weights[rows])


def common_prompts(scores: Sequence[PerText]) -> tuple[int, ...]:
    """The prompts that every one of `scores` covers, sorted."""
    return tuple(sorted(set.intersection(*(set(s.prompt_indices) for s in scores))))


@dataclass(frozen=True)
class ParityPoint:
    """The tests at one step count.

    value: the metric itself, in its unit. gap: f(k) - Q, oriented, without the margin: negative means worse than the
    baseline. p_good: that f(k) < Q - margin. p_worse: that f(k) >= Q - margin; p_worse_jointly: the same, adjusted for
    having looked at all step counts. All one-sided.
    """

    steps: int
    value: float
    gap: Interval
    p_good: float
    p_worse: float
    p_worse_jointly: float


@dataclass(frozen=True)
class ParityRange:
    """What the tests say at one level.

    steps: S_parity, None where it is not reached. literal_steps: the first k that is as good by itself, whatever larger
    ones are. low_steps: the smallest k at which the true S_parity may lie, None where that is beyond the largest k
    measured, or nowhere; the largest is `steps`.
    """

    outcome: Outcome
    steps: int | None
    literal_steps: int | None
    low_steps: int | None

    @property
    def reached(self) -> bool:
        """Whether S_parity exists on the grid."""
        return self.steps is not None

    def text(self, largest: int) -> str:
        """S_parity, or where it may lie; `largest`: the most steps measured."""
        if self.outcome == "not_reached":
            return f"not up to {largest}"
        if self.steps is None:
            return f"undecided, {f'{self.low_steps} or more' if self.low_steps else f'beyond {largest}'} or never"
        text = f"{self.steps}" + (" or fewer" if self.outcome == "reached_at_smallest" else "")
        return text if self.low_steps == self.steps else f"{text} (perhaps {self.low_steps})"


@dataclass(frozen=True)
class Parity(ParityRange):
    """Where quality parity is reached, if it is: what the tests say at ALPHA, and the tests.

    delta: the margin as it is named, margin: the same in the metric's unit. is_monotone: False where some k is worse
    than the one before it, beyond noise. n: the fewest texts with weight at any k; decides: whether they are enough for
    any statement.
    """

    delta: float
    margin: float
    points: tuple[ParityPoint, ...]
    is_monotone: bool
    n: int
    decides: bool

    def at(self, alpha: float) -> ParityRange:
        """Outcome and range at the two-sided level `alpha`."""
        return _range(self.points, self.decides, alpha)

    def state_of(self, point: ParityPoint) -> str:
        """What the tests say of one step count at ALPHA, in words."""
        if not self.decides:
            return "too few prompts"
        if point.p_good <= ALPHA / 2:
            return "as good"
        return "worse" if point.p_worse_jointly <= ALPHA / 2 else "undecided"

    def plausible_steps(self, alpha: float = ALPHA) -> tuple[int, ...]:
        """The step counts measured at which parity may lie."""
        found = self.at(alpha)
        low, high = (math.inf if k is None else k for k in (found.low_steps, found.steps))
        return tuple(p.steps for p in self.points if low <= p.steps <= high)


def _range(points: Sequence[ParityPoint], decides: bool, alpha: float) -> ParityRange:
    good = [decides and p.p_good <= alpha / 2 for p in points]
    worse = [decides and p.p_worse_jointly <= alpha / 2 for p in points]
    first = len(points) - next((i for i, passes in enumerate(reversed(good)) if not passes), len(points))
    low = max((i + 1 for i, is_worse in enumerate(worse) if is_worse), default=0)
    outcome: Outcome = "undecided"
    if first < len(points):
        outcome = "reached" if first else "reached_at_smallest"
    elif decides and all(p.p_worse <= alpha / 2 for p in points):
        outcome = "not_reached"
    by_row = {i: p.steps for i, p in enumerate(points)}
    return ParityRange(outcome, by_row.get(first), by_row[good.index(True)] if any(good) else None, by_row.get(low))


def margin_of(delta: float, log_scale: bool) -> float:
    """The margin in the metric's unit: ln(1 + delta) nats for a likelihood (perplexity within a factor), else delta."""
    return math.log1p(delta) if log_scale else delta


@functools.cache
def bootstrap_counts(n: int, draws: int = DRAWS, seed: int = 0) -> FloatArray:
    """counts_DN: how often each of n texts is in each of `draws` resamples. Sharing them pairs what is computed."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


def _influence(score: PerText) -> FloatArray:
    """How much each text moves the ratio of sums, to first order; the mean over texts is 0."""
    mean_weight = float(score.weights.mean())
    if not mean_weight:
        return np.full(score.totals.size, np.nan)
    return (score.totals - score.value * score.weights) / mean_weight


def _p_values(extreme_KD: NDArray[np.bool_]) -> FloatArray:
    """The share of draws that are as extreme, with the observed value as one more draw: never 0."""
    return np.asarray((1 + extreme_KD.sum(axis=-1)) / (1 + extreme_KD.shape[-1]))


def _bootstrap_tests(
    steps: Sequence[int], scores: Sequence[PerText], baseline: PerText, margin: float, sign: float, seed: int = 0
) -> tuple[list[ParityPoint], bool]:
    """The tests at every step count, and whether all differences are equal at one, but for fewer than `LEAST_DISSENT`.

    A draw's error is computed from the draw itself (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    section 12.5), which is what makes the tests follow skewed differences.
    """
    n = baseline.totals.size
    counts_DN = bootstrap_counts(n, DRAWS, seed)
    influence_KN = sign * np.stack([_influence(s) - _influence(baseline) for s in scores])
    gap_K = sign * np.array([s.value - baseline.value for s in scores])
    error_K = influence_KN.std(axis=1, ddof=1) / math.sqrt(n) if n > 1 else np.zeros(len(scores))
    error_K = np.where(error_K < ROUNDING, 0.0, error_K)
    mean_KD = influence_KN @ counts_DN.T / n
    variance_KD = np.maximum((influence_KN**2) @ counts_DN.T / n - mean_KD**2, 0.0) / max(1, n - 1)
    t_KD = np.divide(mean_KD, np.sqrt(variance_KD), out=np.zeros_like(mean_KD), where=variance_KD > 0)
    above_K = gap_K + margin + ROUNDING
    # A gap without any error is proved; one that is not a number gives p-values of 1 below.
    certain_K = np.where(np.isfinite(above_K), np.copysign(np.inf, above_K), np.nan)
    t_K1 = np.divide(above_K, error_K, out=certain_K, where=error_K > 0)[:, None]
    low_K, high_K = (
        np.quantile(t_KD, (ALPHA / 2, 1 - ALPHA / 2), axis=1) if n > 1 else np.full((2, len(scores)), np.nan)
    )
    columns = (
        *(gap_K, gap_K - high_K * error_K, gap_K - low_K * error_K),
        *(_p_values(~(t_KD < t_K1)), _p_values(~(t_KD > t_K1)), _p_values(~(t_KD.min(axis=0) > t_K1))),
    )
    points = [
        ParityPoint(k, score.value, Interval(*row[:3]), *row[3:])
        for k, score, row in zip(steps, scores, np.stack(columns, axis=1).tolist(), strict=True)
    ]
    dissent_K = (np.abs(influence_KN - np.median(influence_KN, axis=1, keepdims=True)) > ROUNDING).sum(axis=1)
    return points, bool((dissent_K < LEAST_DISSENT).any())


def _score_tests(
    steps: Sequence[int], scores: Sequence[PerText], baseline: PerText, margin: float, right: float
) -> tuple[list[ParityPoint], bool]:
    """The same where a text is right (its total is `right`) or wrong: Bonferroni over the steps, never unanimous."""
    base_N, n = baseline.totals == right, baseline.totals.size
    points = []
    for k, score in zip(steps, scores, strict=True):
        own_N = score.totals == right
        alone = int((own_N & ~base_N).sum()), int((base_N & ~own_N).sum())
        z = float(paired_score(*alone, n, -margin - ROUNDING))
        p_worse = float(_scipy.norm.cdf(z))
        p_values = float(_scipy.norm.sf(z)), p_worse, min(1.0, len(steps) * p_worse)
        points.append(ParityPoint(k, score.value, paired_difference(*alone, n), *p_values))
    return points, False


def steps_to_parity(
    curve: Mapping[int, PerText],
    baseline: PerText,
    *,
    delta: float,
    log_scale: bool,
    higher_is_better: bool,
    seed: int = 0,
) -> Parity:
    """S_parity of `curve` (steps -> scores) against `baseline`; all on the same prompts.

    Outcomes: reached_at_smallest (the smallest k measured is as good already: the true S_parity may be smaller),
    reached, not_reached (worse at every k), undecided (anything else: more prompts are needed).
    """
    assert curve, "a curve needs a point"
    steps = sorted(curve)
    scores = [curve[k] for k in steps]
    same = {baseline.prompt_indices, *(s.prompt_indices for s in scores)}
    assert len(same) == 1, "parity needs the same prompts in the same order"
    tests: Callable[[Sequence[int], Sequence[PerText], PerText, float], tuple[list[ParityPoint], bool]]
    if all(is_binary(s.totals, s.weights) for s in (*scores, baseline)):
        tests = functools.partial(_score_tests, right=float(higher_is_better))
    else:
        tests = functools.partial(_bootstrap_tests, sign=1.0 if higher_is_better else -1.0, seed=seed)
    margin = margin_of(delta, log_scale)
    points, is_unanimous = tests(steps, scores, baseline, margin)
    # One test for each neighbouring pair (Bonferroni): otherwise long plateaus look broken by chance.
    falls = [
        tests([k], [after], before, 0.0)[0][0].p_worse <= ALPHA / 2 / (len(scores) - 1)
        for k, (before, after) in zip(steps[1:], itertools.pairwise(scores), strict=True)
    ]
    n = min(baseline.n, *(c.n for c in scores))
    decides = n >= (LEAST_UNANIMOUS if is_unanimous else LEAST_PROMPTS)
    is_monotone = n < LEAST_PROMPTS or not any(falls)
    return parity_of(points, decides, n=n, delta=delta, margin=margin, is_monotone=is_monotone)


def parity_of(
    points: Sequence[ParityPoint], decides: bool, *, n: int, delta: float, margin: float, is_monotone: bool
) -> Parity:
    """What tests at every step count say together; for the arguments see `Parity`."""
    found = vars(_range(points, decides, ALPHA))
    return Parity(
        **found, delta=delta, margin=margin, points=tuple(points), is_monotone=is_monotone, n=n, decides=decides
    )


def difference(score: PerText, reference: PerText) -> tuple[Interval, float]:
    """score - reference over the same prompts, in the metric's unit, and the two-sided p-value that it is 0.

    By the same tests as parity, McNemar's where a text is right or wrong. 1 where there are too few prompts.
    """
    least = LEAST_PROMPTS
    if is_binary(score.totals, score.weights) and is_binary(reference.totals, reference.weights):
        alone = int((score.totals > reference.totals).sum()), int((score.totals < reference.totals).sum())
        gap, p_value = paired_difference(*alone, score.totals.size), mcnemar(*alone)
    else:
        ((point,), is_unanimous) = _bootstrap_tests([0], [score], reference, margin=0.0, sign=1.0)
        gap, least = point.gap, LEAST_UNANIMOUS if is_unanimous else LEAST_PROMPTS
        is_same = abs(gap.value) <= ROUNDING and gap.low == gap.high
        p_value = 1.0 if is_same else min(1.0, 2 * min(point.p_good, point.p_worse))
    return gap, p_value if min(score.n, reference.n) >= least else 1.0


# ---------------------------------------------------------------- the speedup at parity


def speedup_at_parity(parity: Parity, ratios: Mapping[int, Ratio], alpha: float = ALPHA) -> Interval | None:
    """The baseline's latency over the target's at S_parity, both at the level `alpha`; None where it is not known.

    ratios: those latencies' ratios by steps. The interval spans the timed step counts at which parity may lie.
    """
    at = parity.at(alpha).steps
    if at is None or at not in ratios:
        return None
    spanned = [ratios[k].interval(1 - alpha) for k in parity.plausible_steps(alpha) if k in ratios]
    low, high = np.min([i.low for i in spanned]), np.max([i.high for i in spanned])
    return Interval(ratios[at].value, float(low), float(high))
