"""Steps to quality parity: the smallest step count whose quality matches the baseline's, and the speedup there.

Quality is turned so that higher is better; f(k) is the target's at k steps and Q the baseline's, both over the same
prompts. S_parity is the smallest k such that it and every larger k pass P(f(k) >= Q - margin) >= 1 - alpha, P over one
bootstrap of the prompts shared by both models (pairing cancels how hard the prompts are). Asking it of every larger k
too keeps one lucky point from deciding. Shape legend: K step counts, N texts, D draws, R repetitions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dlmbench.analysis.stats import (
    CONFIDENCE,
    FloatArray,
    IndexArray,
    Interval,
    percentiles,
    ratio_of_sums,
)

Outcome = Literal["reached", "reached_at_smallest", "not_reached", "undecided"]
ALPHA = 0.05
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
    baseline. probability: P(f(k) >= Q - margin).
    """

    steps: int
    value: float
    gap: Interval
    probability: float
    passes: bool


@dataclass(frozen=True)
class Parity:
    """Where quality parity is reached, if it is.

    steps: S_parity. literal_steps: the first k that passes by itself (it may be smaller where the curve is not
    monotone). is_monotone: False where some k is worse than the one before it, beyond noise at level alpha.
    """

    outcome: Outcome
    steps: int | None
    literal_steps: int | None
    delta: float
    margin: float
    alpha: float
    points: tuple[ParityPoint, ...]
    is_monotone: bool
    n: int

    @property
    def reached(self) -> bool:
        """Whether S_parity exists on the grid."""
        return self.steps is not None


@dataclass(frozen=True)
class Repetitions:
    """What the timed repetitions of one cell measured: arrays_R; energy_j is None where it is unknown."""

    latency_s: FloatArray
    tokens_per_s: FloatArray
    energy_j: FloatArray | None = None


@dataclass(frozen=True)
class Speedup:
    """Baseline over target at S_parity: above 1 the target is better.

    share_reached: the share of draws in which parity was reached at a step count with times; the intervals are over
    those draws. throughput is target over baseline, energy baseline over target, None where not measured.
    """

    steps: int
    latency: Interval | None
    throughput: Interval | None
    energy: Interval | None
    share_reached: float


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
    alpha: float = ALPHA,
    log_scale: bool,
    higher_is_better: bool,
    indices: IndexArray,
) -> Parity:
    """S_parity of `curve` (steps -> scores) against `baseline`; all on the same prompts, which `indices_DN` resample.

    Outcomes: reached_at_smallest (the smallest k measured already passes: the true S_parity may be smaller), reached,
    not_reached (P <= alpha for every k), undecided (anything else: more prompts are needed).
    """
    assert curve, "a curve needs a point"
    steps = sorted(curve)
    margin = margin_of(delta, log_scale)
    gap_K, gap_KD = _gaps(curve, baseline, higher_is_better, indices)
    probability_K = (gap_KD >= -margin).mean(axis=1)
    passes_K = probability_K >= 1 - alpha
    first = int(_smallest_passing(passes_K[:, None])[0])
    outcome: Outcome
    if first == 0:
        outcome = "reached_at_smallest"
    elif first < len(steps):
        outcome = "reached"
    elif bool((probability_K <= alpha).all()):
        outcome = "not_reached"
    else:
        outcome = "undecided"
    # One test for each neighbouring pair: shared among them (Bonferroni), else long plateaus look broken by chance.
    falls = (np.diff(gap_KD, axis=0) < 0).mean(axis=1) >= 1 - alpha / max(len(steps) - 1, 1)
    points = tuple(
        ParityPoint(k, curve[k].value, Interval(float(gap_K[i]), *percentiles(gap_KD[i])), float(p), bool(passes_K[i]))
        for i, (k, p) in enumerate(zip(steps, probability_K, strict=True))
    )
    return Parity(
        outcome=outcome,
        steps=steps[first] if first < len(steps) else None,
        literal_steps=steps[int(np.argmax(passes_K))] if passes_K.any() else None,
        delta=delta,
        margin=margin,
        alpha=alpha,
        points=points,
        is_monotone=not bool(falls.any()),
        n=len(baseline.prompt_indices),
    )


def parity_draws(
    parity: Parity,
    curve: Mapping[int, PerText],
    baseline: PerText,
    *,
    higher_is_better: bool,
    indices: IndexArray,
) -> NDArray[np.intp]:
    """steps_D: S_parity as each resample of the prompts would have found it, 0 where it would not have.

    A resample stands for another set of prompts, and would be put to the same test: its gap less the distance between
    gap and alpha-quantile seen in the whole bootstrap. (Judging a resample by its bare gap would redraw an easier
    question than the one that was asked; a bootstrap within each draw would cost its square.)
    """
    gap_K, gap_KD = _gaps(curve, baseline, higher_is_better, indices)
    caution_K = gap_K - np.quantile(np.nan_to_num(gap_KD, nan=-np.inf), parity.alpha, axis=1, method="lower")
    passes_KD = gap_KD - caution_K[:, None] >= -parity.margin
    grid = np.array([*sorted(curve), 0])
    return np.asarray(grid[_smallest_passing(passes_KD)])


def _ratio_at(
    steps_D: NDArray[np.intp], at: int, above: FloatArray, below: Mapping[int, FloatArray], seed: int
) -> tuple[Interval | None, float]:
    """median(above) / median(below[at]) with its interval over draws of both the times and the steps."""
    if at not in below:
        return None, 0.0
    draws = len(steps_D)
    rng = np.random.default_rng((seed, 3))

    def medians(values: FloatArray) -> FloatArray:
        return np.asarray(np.median(values[rng.integers(0, values.size, size=(draws, values.size))], axis=1))

    above_D = medians(above)
    ratio_D = np.full(draws, np.nan)
    for k, values in sorted(below.items()):
        here = steps_D == k
        ratio_D = np.where(here, above_D / medians(values), ratio_D)
    share = float(np.isfinite(ratio_D).mean())
    if not share:
        return None, 0.0
    low, high = percentiles(ratio_D, CONFIDENCE)
    return Interval(float(np.median(above) / np.median(below[at])), low, high), share


def speedup_at_parity(
    parity: Parity,
    curve: Mapping[int, PerText],
    baseline: PerText,
    times: Mapping[int, Repetitions],
    baseline_times: Repetitions,
    *,
    higher_is_better: bool,
    indices: IndexArray,
    seed: int = 0,
) -> Speedup | None:
    """Speedup at S_parity, resampling prompts and repetitions together; None where parity is not reached.

    S_parity is redrawn each time, so that not knowing it widens the interval.
    """
    if parity.steps is None:
        return None
    steps_D = parity_draws(parity, curve, baseline, higher_is_better=higher_is_better, indices=indices)
    at = parity.steps
    latency, share = _ratio_at(steps_D, at, baseline_times.latency_s, {k: t.latency_s for k, t in times.items()}, seed)
    # The throughput ratio is target over baseline: the same arrangement, upside down.
    slow, _ = _ratio_at(
        steps_D, at, 1 / baseline_times.tokens_per_s, {k: 1 / t.tokens_per_s for k, t in times.items()}, seed
    )
    energy = None
    if baseline_times.energy_j is not None:
        known = {k: t.energy_j for k, t in times.items() if t.energy_j is not None}
        energy, _ = _ratio_at(steps_D, at, baseline_times.energy_j, known, seed)
    return Speedup(steps=at, latency=latency, throughput=slow, energy=energy, share_reached=share)
