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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats as _scipy

from dlmbench.analysis.proportions import is_binary, mcnemar, paired_difference, paired_score
from dlmbench.analysis.replication import Estimate
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
    shared = set(scores[0].prompt_indices) if scores else set()
    for score in scores[1:]:
        shared &= set(score.prompt_indices)
    return tuple(sorted(shared))


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
    ones are. low_steps, high_steps: between which step counts the true S_parity lies; None: beyond the largest k
    measured, or nowhere.
    """

    outcome: Outcome
    steps: int | None
    literal_steps: int | None
    low_steps: int | None
    high_steps: int | None


@dataclass(frozen=True)
class Parity:
    """Where quality parity is reached, if it is.

    delta: the margin as it is named, margin: the same in the metric's unit. is_monotone: False where some k is worse
    than the one before it, beyond noise. n: the fewest texts with weight at any k. is_unanimous: see `Gaps`.
    """

    delta: float
    margin: float
    points: tuple[ParityPoint, ...]
    is_monotone: bool
    n: int
    is_unanimous: bool = False

    @property
    def decides(self) -> bool:
        """Whether there are enough prompts for any statement."""
        return self.n >= (LEAST_UNANIMOUS if self.is_unanimous else LEAST_PROMPTS)

    def at(self, alpha: float = ALPHA) -> ParityRange:
        """Outcome and range at the two-sided level `alpha`."""
        grid = [p.steps for p in self.points]
        good = [self.decides and p.p_good <= alpha / 2 for p in self.points]
        worse = [self.decides and p.p_worse_jointly <= alpha / 2 for p in self.points]
        first = len(grid) - next((i for i, passes in enumerate(reversed(good)) if not passes), len(grid))
        low = max((i + 1 for i, is_worse in enumerate(worse) if is_worse), default=0)
        outcome: Outcome = "undecided"
        if first < len(grid):
            outcome = "reached" if first else "reached_at_smallest"
        elif self.decides and all(p.p_worse <= alpha / 2 for p in self.points):
            outcome = "not_reached"
        by_row = dict(enumerate(grid))
        return ParityRange(
            outcome,
            by_row.get(first),
            by_row.get(good.index(True)) if any(good) else None,
            by_row.get(low),
            by_row.get(first),
        )

    @functools.cached_property
    def _usual(self) -> ParityRange:
        return self.at(ALPHA)

    @property
    def outcome(self) -> Outcome:
        """The outcome at ALPHA."""
        return self._usual.outcome

    @property
    def steps(self) -> int | None:
        """S_parity at ALPHA."""
        return self._usual.steps

    @property
    def literal_steps(self) -> int | None:
        """The first k that is as good by itself at ALPHA."""
        return self._usual.literal_steps

    @property
    def low_steps(self) -> int | None:
        """The smallest step count at which S_parity may lie, at ALPHA."""
        return self._usual.low_steps

    @property
    def reached(self) -> bool:
        """Whether S_parity exists on the grid."""
        return self.steps is not None


def margin_of(delta: float, log_scale: bool) -> float:
    """The margin in the metric's unit: ln(1 + delta) nats for a likelihood (perplexity within a factor), else delta."""
    return math.log1p(delta) if log_scale else delta


@functools.cache
def bootstrap_counts(n: int, draws: int = DRAWS, seed: int = 0) -> FloatArray:
    """counts_DN: how often each of n texts is in each of `draws` resamples. Sharing them pairs what is computed."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


@dataclass(frozen=True)
class Gaps:
    """f(k) - Q at every step count, oriented, with the bootstrap of its studentised error.

    gap_K, error_K (standard error, 0 where all differences are equal), t_KD: draws of (gap - true gap) / error.
    is_unanimous: at some step count all differences are equal but for fewer than `LEAST_DISSENT`.
    """

    gap_K: FloatArray
    error_K: FloatArray
    t_KD: FloatArray
    is_unanimous: bool


def _influence(score: PerText) -> FloatArray:
    """How much each text moves the ratio of sums, to first order; the mean over texts is 0."""
    mean_weight = float(score.weights.mean())
    return (
        (score.totals - score.value * score.weights) / mean_weight
        if mean_weight
        else np.full(score.totals.size, np.nan)
    )


def gaps_of(scores_K: Sequence[PerText], baseline: PerText, sign: float, counts_DN: FloatArray) -> Gaps:
    """The gaps of `scores_K` to `baseline`, all on the same prompts, with their studentised draws.

    A draw's error is computed from the draw itself (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    section 12.5), which is what makes the tests follow skewed differences.
    """
    influence_KN = sign * np.stack([_influence(s) - _influence(baseline) for s in scores_K])
    n = influence_KN.shape[1]
    gap_K = sign * np.array([s.value - baseline.value for s in scores_K])
    error_K = influence_KN.std(axis=1, ddof=1) / math.sqrt(n) if n > 1 else np.zeros(len(scores_K))
    mean_KD = influence_KN @ counts_DN.T / n
    variance_KD = np.maximum((influence_KN**2) @ counts_DN.T / n - mean_KD**2, 0.0) / max(1, n - 1)
    t_KD = np.divide(mean_KD, np.sqrt(variance_KD), out=np.zeros_like(mean_KD), where=variance_KD > 0)
    dissent_K = (np.abs(influence_KN - np.median(influence_KN, axis=1, keepdims=True)) > ROUNDING).sum(axis=1)
    unanimous = bool((dissent_K < LEAST_DISSENT).any())
    return Gaps(gap_K, np.where(error_K < ROUNDING, 0.0, error_K), t_KD, unanimous)


def _p_value(extreme_D: NDArray[np.bool_]) -> float:
    """The share of draws that are as extreme, with the observed value as one more draw: never 0."""
    return (1 + int(extreme_D.sum())) / (1 + extreme_D.size)


def _studentised_points(
    steps: Sequence[int], scores: Sequence[PerText], gaps: Gaps, margin: float
) -> list[ParityPoint]:
    above_K = gaps.gap_K + margin + ROUNDING
    # A gap without any error is proved; one that is not a number gives p-values of 1 below.
    certain_K = np.where(np.isfinite(above_K), np.copysign(np.inf, above_K), np.nan)
    t_K = np.divide(above_K, gaps.error_K, out=certain_K, where=gaps.error_K > 0)
    lowest_D = gaps.t_KD.min(axis=0)
    low_K, high_K = np.quantile(gaps.t_KD, (ALPHA / 2, 1 - ALPHA / 2), axis=1)
    known = scores[0].totals.size > 1
    return [
        ParityPoint(
            steps=k,
            value=score.value,
            gap=Interval(
                float(gap), *map(float, (gap - high * error, gap - low * error) if known else (math.nan, math.nan))
            ),
            p_good=_p_value(~(t_D < t)),
            p_worse=_p_value(~(t_D > t)),
            p_worse_jointly=_p_value(~(lowest_D > t)),
        )
        for k, score, gap, error, t, t_D, low, high in zip(
            steps, scores, gaps.gap_K, gaps.error_K, t_K, gaps.t_KD, low_K, high_K, strict=True
        )
    ]


def _binary_points(
    steps: Sequence[int], scores: Sequence[PerText], baseline: PerText, margin: float, right: float
) -> list[ParityPoint]:
    """Score tests where a text is right (its total is `right`) or wrong; Bonferroni over the step counts."""
    base_N, n = baseline.totals == right, baseline.totals.size
    points = []
    for k, score in zip(steps, scores, strict=True):
        own_N = score.totals == right
        only_own, only_base = int((own_N & ~base_N).sum()), int((base_N & ~own_N).sum())
        z = float(paired_score(only_own, only_base, n, -margin - ROUNDING))
        p_worse = float(_scipy.norm.cdf(z))
        gap = paired_difference(only_own, only_base, n)
        points.append(
            ParityPoint(k, score.value, gap, float(_scipy.norm.sf(z)), p_worse, min(1.0, len(steps) * p_worse))
        )
    return points


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
    for score in scores:
        assert score.prompt_indices == baseline.prompt_indices, "parity needs the same prompts in the same order"
    margin, sign = margin_of(delta, log_scale), 1.0 if higher_is_better else -1.0
    binary = all(is_binary(s.totals, s.weights) for s in (*scores, baseline))

    def tested(
        at: Sequence[int], scores_K: Sequence[PerText], other: PerText, allowed: float
    ) -> tuple[list[ParityPoint], bool]:
        """The points, and whether their differences are unanimous."""
        if binary:
            return _binary_points(at, scores_K, other, allowed, right=float(higher_is_better)), False
        gaps = gaps_of(scores_K, other, sign, bootstrap_counts(len(other.prompt_indices), DRAWS, seed))
        return _studentised_points(at, scores_K, gaps, allowed), gaps.is_unanimous

    points, is_unanimous = tested(steps, scores, baseline, margin)
    # One test for each neighbouring pair (Bonferroni): otherwise long plateaus look broken by chance.
    falls = [
        tested([k], [after], before, 0.0)[0][0].p_worse <= ALPHA / 2 / (len(scores) - 1)
        for k, (before, after) in zip(steps[1:], itertools.pairwise(scores), strict=True)
    ]
    n = min(baseline.n, *(c.n for c in scores))
    return Parity(
        delta=delta,
        margin=margin,
        points=tuple(points),
        is_monotone=n < LEAST_PROMPTS or not any(falls),
        n=n,
        is_unanimous=is_unanimous,
    )


def difference(score: PerText, reference: PerText) -> tuple[Interval, float]:
    """score - reference over the same prompts, in the metric's unit, and the two-sided p-value that it is 0.

    By the same tests as parity, McNemar's where a text is right or wrong. 1 where there are too few prompts.
    """
    n, least = score.totals.size, LEAST_PROMPTS
    if is_binary(score.totals, score.weights) and is_binary(reference.totals, reference.weights):
        only_own = int((score.totals > reference.totals).sum())
        only_other = int((score.totals < reference.totals).sum())
        gap, p_value = paired_difference(only_own, only_other, n), mcnemar(only_own, only_other)
    else:
        gaps = gaps_of([score], reference, 1.0, bootstrap_counts(n))
        point = _studentised_points([0], [score], gaps, 0.0)[0]
        gap, p_value = point.gap, min(1.0, 2 * min(point.p_good, point.p_worse))
        if gaps.error_K[0] == 0 and abs(gaps.gap_K[0]) <= ROUNDING:
            p_value = 1.0
        least = LEAST_UNANIMOUS if gaps.is_unanimous else LEAST_PROMPTS
    return gap, p_value if min(score.n, reference.n) >= least else 1.0


# ---------------------------------------------------------------- the speedup at parity


@dataclass(frozen=True)
class CellCosts:
    """What one generation of a cell takes: seconds, and joules where they were measured."""

    latency_s: Estimate
    energy_j: Estimate | None = None


@dataclass(frozen=True)
class Speedup:
    """Baseline over target at S_parity: above 1 the target is better; energy None where not measured.

    low_steps, high_steps: the timed step counts that the intervals span. is_bounded: False where parity may also lie at
    a step count that was not timed: the intervals do not cover that case.
    """

    steps: int
    latency: Interval | None
    energy: Interval | None
    low_steps: int | None
    high_steps: int | None
    is_bounded: bool


def plausible_steps(parity: Parity, alpha: float = ALPHA) -> tuple[tuple[int, ...], bool]:
    """The step counts measured at which parity may lie, and whether it may lie beyond all of them."""
    grid, found = [p.steps for p in parity.points], parity.at(alpha)
    if found.low_steps is None:
        return (), True
    last = grid[-1] if found.high_steps is None else found.high_steps
    return tuple(k for k in grid if found.low_steps <= k <= last), found.high_steps is None


def speedup_at_parity(
    parity: Parity, costs: Mapping[int, CellCosts], baseline: CellCosts, alpha: float = ALPHA
) -> Speedup | None:
    """Speedup at S_parity over `costs` (by steps), both at the level `alpha`; None where parity is not reached."""
    at = parity.at(alpha).steps
    if at is None:
        return None
    steps, beyond = plausible_steps(parity, alpha)
    timed = [k for k in steps if k in costs]

    def over(above: Estimate | None, below: Mapping[int, Estimate | None]) -> Interval | None:
        known = {k: above.over(e).interval(1 - alpha) for k, e in below.items() if above is not None and e is not None}
        if at not in known:
            return None
        ratios = [known[k] for k in timed if k in known]
        return Interval(
            known[at].value, float(np.min([r.low for r in ratios])), float(np.max([r.high for r in ratios]))
        )

    return Speedup(
        steps=at,
        latency=over(baseline.latency_s, {k: c.latency_s for k, c in costs.items()}),
        energy=over(baseline.energy_j, {k: c.energy_j for k, c in costs.items()}),
        low_steps=min(timed, default=None),
        high_steps=max(timed, default=None),
        is_bounded=not beyond and len(timed) == len(steps),
    )
