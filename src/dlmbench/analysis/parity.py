"""Steps to quality parity: the smallest step count whose quality matches the baseline's, and the speedup there.

Quality is oriented so that higher is better; f(k) is the target's at k steps and Q the baseline's, both over the same
prompts. S_parity is the smallest k such that it and every larger k pass P(f(k) >= Q - margin) >= 1 - alpha, P over one
bootstrap of the prompts shared by both models (pairing cancels how hard the prompts are), corrected for small samples.
Testing every larger k too keeps one lucky point from deciding.

Two things are uncertain about the speedup there, which step count parity needs and how long it takes: its interval
spans every step count at which parity may lie, each with the interval of its own ratio.
Shape legend: K step counts, N texts, R repetitions, D draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dlmbench.analysis.stats import (
    FloatArray,
    IndexArray,
    Interval,
    bootstrap_interval,
    effective_n,
    expanded_tail,
    ratio_interval,
    ratio_of_sums,
    share_to_probability,
)

Outcome = Literal["reached", "reached_at_smallest", "not_reached", "undecided"]
ALPHA = 0.05
# With fewer prompts even unanimous results are not significant at this level: (1/2)^4 > 0.05.
FEWEST_PROMPTS = 5
# Sums in another order differ by this much at most: equal texts are at parity.
ROUNDING = 1e-9
DELTAS = (0.0, 0.1, 0.2)


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
    """The test at one step count.

    value: the metric itself, in its unit. gap: f(k) - Q, oriented, without the margin: negative means worse than the
    baseline. probability: P(f(k) >= Q - margin). share: of the resamples, those in which parity lies at this step
    count; None for a single text, whose resamples are all itself.
    """

    steps: int
    value: float
    gap: Interval
    probability: float
    passes: bool
    share: float | None = 0.0


@dataclass(frozen=True)
class Parity:
    """Where quality parity is reached, if it is.

    steps: S_parity. literal_steps: the first k that passes by itself (it may be smaller where the curve is not
    monotone). is_monotone: False where some k is worse than the one before it, beyond noise at level ALPHA.
    low_steps, high_steps: between which step counts the true parity lies with confidence 1 - ALPHA, by the resampled
    quality itself and without a test; None: beyond the largest k measured, or nowhere. A single text leaves it
    anywhere: from the smallest k to beyond the largest. n: the fewest texts with weight at any k.
    """

    outcome: Outcome
    steps: int | None
    literal_steps: int | None
    delta: float
    margin: float
    points: tuple[ParityPoint, ...]
    is_monotone: bool
    n: int
    low_steps: int | None = None
    high_steps: int | None = None

    @property
    def reached(self) -> bool:
        """Whether S_parity exists on the grid."""
        return self.steps is not None


def margin_of(delta: float, log_scale: bool) -> float:
    """The margin in the metric's unit: ln(1 + delta) nats for a likelihood (perplexity within a factor), else delta."""
    return math.log1p(delta) if log_scale else delta


def _gaps(
    curve: Mapping[int, PerText], baseline: PerText, higher_is_better: bool, indices: IndexArray
) -> tuple[FloatArray, FloatArray]:
    """gap_K as measured and gap_KD in every draw, oriented, in ascending order of steps."""
    sign = 1.0 if higher_is_better else -1.0
    base_D = ratio_of_sums(baseline.totals, baseline.weights, indices)
    for score in curve.values():
        assert score.prompt_indices == baseline.prompt_indices, "parity needs the same prompts in the same order"
    gap_KD = np.stack([ratio_of_sums(curve[k].totals, curve[k].weights, indices) - base_D for k in sorted(curve)])
    gap_K = np.array([curve[k].value - baseline.value for k in sorted(curve)])
    return sign * gap_K, sign * gap_KD


def _smallest_passing(passes_KD: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Row of the smallest k from which on every k passes, in each draw; the number of rows where there is none."""
    from_here_on = np.logical_and.accumulate(passes_KD[::-1], axis=0)[::-1]
    return np.asarray(len(passes_KD) - from_here_on.sum(axis=0))


def steps_to_parity(
    curve: Mapping[int, PerText],
    baseline: PerText,
    *,
    delta: float,
    log_scale: bool,
    higher_is_better: bool,
    indices: IndexArray,
) -> Parity:
    """S_parity of `curve` (steps -> scores) against `baseline`; all on the same prompts, which `indices_DN` resample.

    Outcomes: reached_at_smallest (the smallest k measured already passes: the true S_parity may be smaller), reached,
    not_reached (P <= ALPHA for every k), undecided (anything else: more prompts are needed).
    """
    assert curve, "a curve needs a point"
    steps = sorted(curve)
    margin = margin_of(delta, log_scale)
    gap_K, gap_KD = _gaps(curve, baseline, higher_is_better, indices)
    n = min(baseline.n, *(c.n for c in curve.values()))
    good_enough_KD = gap_KD >= -margin - ROUNDING
    probability_K = np.array([share_to_probability(s, n) for s in good_enough_KD.mean(axis=1)])
    decides = n >= FEWEST_PROMPTS
    passes_K = (probability_K >= 1 - ALPHA) & decides
    first = int(_smallest_passing(passes_K[:, None])[0])
    outcome: Outcome
    if first == 0:
        outcome = "reached_at_smallest"
    elif first < len(steps):
        outcome = "reached"
    elif decides and bool((probability_K <= ALPHA).all()):
        outcome = "not_reached"
    else:
        outcome = "undecided"
    # One test for each neighbouring pair (Bonferroni): otherwise long plateaus look broken by chance.
    share_falling = (np.diff(gap_KD, axis=0) < -ROUNDING).mean(axis=1)
    falls = [share_to_probability(s, n) >= 1 - ALPHA / (len(steps) - 1) for s in share_falling]
    # Where parity lies in each resample, without a test: the quantiles give the range of step counts.
    tail = expanded_tail(ALPHA / 2, n)
    first_D = _smallest_passing(good_enough_KD)
    low, high = (int(q) for q in np.quantile(first_D, (tail, 1 - tail), method="inverted_cdf"))
    low, high = min(low, first), max(high, first) if first < len(steps) else high
    if n < 2:
        low, high = 0, len(steps)
    points = tuple(
        ParityPoint(
            k,
            curve[k].value,
            Interval(float(gap_K[i]), *bootstrap_interval(gap_KD[i], n)),
            float(p),
            bool(passes_K[i]),
            float((first_D == i).mean()) if n > 1 else None,
        )
        for i, (k, p) in enumerate(zip(steps, probability_K, strict=True))
    )
    return Parity(
        outcome=outcome,
        steps=steps[first] if first < len(steps) else None,
        literal_steps=steps[int(np.argmax(passes_K))] if passes_K.any() else None,
        delta=delta,
        margin=margin,
        points=points,
        is_monotone=not (decides and any(falls)),
        n=n,
        low_steps=steps[low] if low < len(steps) else None,
        high_steps=steps[high] if high < len(steps) else None,
    )


# ---------------------------------------------------------------- the speedup at parity


@dataclass(frozen=True)
class Repetitions:
    """The timed repetitions of one cell as arrays_R; energy_j is None where it is unknown."""

    latency_s: FloatArray
    tokens_per_s: FloatArray
    energy_j: FloatArray | None = None


@dataclass(frozen=True)
class Speedup:
    """Baseline over target at S_parity: above 1 the target is better.

    throughput is target over baseline, energy baseline over target; None where not measured. low_steps, high_steps: the
    timed step counts that the intervals span. is_bounded: False where parity may also lie at a step count that was not
    timed, or beyond the largest: the intervals do not cover that case. share_reached: the share of the resamples
    in which parity lies at a step count that was timed.
    """

    steps: int
    latency: Interval | None
    throughput: Interval | None
    energy: Interval | None
    low_steps: int | None
    high_steps: int | None
    is_bounded: bool
    share_reached: float


def plausible_steps(parity: Parity) -> tuple[tuple[int, ...], bool]:
    """The step counts measured at which parity may lie, and whether it may lie beyond all of them."""
    grid = [p.steps for p in parity.points]
    low = parity.low_steps
    if low is None:
        return (), True
    high = parity.high_steps
    return tuple(k for k in grid if low <= k <= (grid[-1] if high is None else high)), high is None


def speedup_at_parity(
    parity: Parity, times: Mapping[int, Repetitions], baseline: Repetitions, draws: int = 2000, seed: int = 0
) -> Speedup | None:
    """Speedup at S_parity over `times` (steps -> repetitions); None where parity is not reached."""
    if parity.steps is None:
        return None
    at = parity.steps
    steps, beyond = plausible_steps(parity)
    timed = [k for k in steps if k in times]
    energies = {k: t.energy_j for k, t in times.items() if t.energy_j is not None}

    def over(above: FloatArray, below: Mapping[int, FloatArray]) -> Interval | None:
        if at not in below:
            return None
        ratios = {k: ratio_interval(above, below[k], draws, seed) for k in timed if k in below}
        low, high = np.min([r.low for r in ratios.values()]), np.max([r.high for r in ratios.values()])
        return Interval(ratios[at].value, float(low), float(high))

    return Speedup(
        steps=at,
        latency=over(baseline.latency_s, {k: t.latency_s for k, t in times.items()}),
        # Target over baseline in tokens a second is baseline over target in seconds a token.
        throughput=over(1 / baseline.tokens_per_s, {k: 1 / t.tokens_per_s for k, t in times.items()}),
        energy=None if baseline.energy_j is None else over(baseline.energy_j, energies),
        low_steps=min(timed, default=None),
        high_steps=max(timed, default=None),
        is_bounded=not beyond and len(timed) == len(steps),
        share_reached=sum(p.share or 0.0 for p in parity.points if p.steps in times),
    )
