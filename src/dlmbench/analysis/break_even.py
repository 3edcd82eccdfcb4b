"""Break-even k*: the step count at which diffusion takes as long as the baseline.

It is interpolated between two measured step counts that bracket it, or read from a line through three or more that
fits. Anything else is a rough value: it has no interval and decides nothing. Latency is a line in k if every step costs
the same; its intercept is what does not depend on k, such as the full forwards with which a cache is filled.
Shape legend: K step counts, D draws.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dlmbench.analysis.replication import Estimate
from dlmbench.analysis.stats import CONFIDENCE, FloatArray, percentiles

# A line is believed if no latency is further from it, as a share of the latency.
LARGEST_RESIDUAL = 0.03
# The time of a further step may grow by this share from the first to the last pair of step counts.
RISING_STEP = 0.03


@dataclass(frozen=True)
class BreakEven:
    """latency(k) = intercept_s + slope_s * k, and where it meets the baseline's latency.

    largest_residual: the largest distance of a latency from the line, as a share of the latency. steps: k*, None where
    there is none, for `reason`. low, high: its 95% interval, None for a rough value. is_rough: not bracketed by two
    measured step counts nor on a line that was checked, or from too few repetitions for a verdict. points: step counts
    measured; through two, a line always fits. rise: how much longer a step takes between the last two step counts than
    between the first two, as a share; None below three. between: the two measured step counts next to k*, where those
    bracket it.
    """

    intercept_s: float
    slope_s: float
    largest_residual: float
    steps: float | None
    low: float | None
    high: float | None
    is_rough: bool
    is_extrapolated: bool
    reason: str = ""
    points: int = 0
    rise: float | None = None
    between: tuple[int, int] | None = None

    @property
    def is_checked(self) -> bool:
        """Whether a bend would have shown in the residual."""
        return self.points > 2

    def text(self) -> str:
        """k* in whole steps with its interval or the measured K next to it, "about" without, or why there is none."""
        if self.steps is None:
            return f"none: {self.reason}"
        if self.steps < 1:
            return "below one step: by the fitted line a single step takes longer than the baseline"
        value = whole_steps(self.steps)
        if self.low is None or self.high is None:
            return f"{value} (between K={self.between[0]} and {self.between[1]})" if self.between else f"about {value}"
        return f"{value} ({whole_steps(self.low)} to {whole_steps(self.high)})"


def whole_steps(steps: float) -> int:
    """The most steps with which diffusion takes no longer than at k* = `steps`: those that a user can choose."""
    return max(math.floor(round(steps, 6)), 0)


def fit_line(steps_K: FloatArray, latency_KD: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Least-squares (intercept_D, slope_D) of every column of latency_KD on steps_K, points weighted equally."""
    centred_K = steps_K - steps_K.mean()
    slope_D = centred_K @ latency_KD / (centred_K @ centred_K)
    return latency_KD.mean(axis=0) - slope_D * steps_K.mean(), slope_D


def _draws(estimate: Estimate, draws: int, seed: tuple[int, int]) -> FloatArray:
    """Draws of the quantity from its t distribution on the log scale; NaN where its error is unknown."""
    t_D = np.random.default_rng(seed).standard_t(min(estimate.df, 1e6), draws)
    return np.asarray(np.exp(estimate.log + math.sqrt(estimate.variance) * t_D))


def _crossing(steps: list[int], latency_KD: FloatArray, base_D: FloatArray, bracket: int | None) -> FloatArray:
    """k*_D: between rows `bracket` and the next, or by the line through all; NaN where latency does not rise."""
    if bracket is None:
        intercept_D, slope_D = fit_line(np.array(steps, dtype=np.float64), latency_KD)
        start = 0
    else:
        start = steps[bracket]
        intercept_D = latency_KD[bracket]
        slope_D = (latency_KD[bracket + 1] - intercept_D) / (steps[bracket + 1] - start)
    out = np.full(base_D.shape, np.nan)
    return np.asarray(start + np.divide(base_D - intercept_D, slope_D, out=out, where=slope_D > 0))


def break_even(
    latencies: Mapping[int, Estimate], baseline: Estimate, draws: int = 2000, seed: int = 0
) -> BreakEven | None:
    """Break-even of latencies (steps -> seconds) with the baseline's; None below two step counts."""
    if len(latencies) < 2:
        return None
    steps = sorted(latencies)
    steps_K = np.array(steps, dtype=np.float64)
    latency_K = np.array([latencies[k].value for k in steps])
    a, b = (float(x[0]) for x in fit_line(steps_K, latency_K[:, None]))
    residual = float(np.max(np.abs(a + b * steps_K - latency_K) / latency_K))
    per_step = np.diff(latency_K) / np.diff(steps_K)
    rise = float(per_step[-1] / per_step[0] - 1) if len(steps) > 2 and per_step[0] > 0 else None
    if b <= 0:
        reason = "latency does not grow with the step count"
        return BreakEven(a, b, residual, None, None, None, True, False, reason, len(steps), rise)
    above = latency_K > baseline.value
    brackets = [i for i, (left, right) in enumerate(itertools.pairwise(above)) if not left and right]
    # Latencies that cross the baseline's more than once have no single bracket.
    bracket = brackets[0] if np.count_nonzero(above[1:] != above[:-1]) == 1 and brackets else None
    crossing = float(_crossing(steps, latency_K[:, None], np.array([baseline.value]), bracket)[0])
    outside = not steps[0] <= crossing <= steps[-1]
    used = steps if bracket is None else steps[bracket : bracket + 2]
    suffices = baseline.suffices and all(latencies[k].suffices for k in used)
    is_line = not outside and len(steps) > 2 and residual <= LARGEST_RESIDUAL
    is_rough = not suffices or (bracket is None and not is_line)
    ends: tuple[float | None, float | None] = (None, None)
    if not is_rough:
        latency_KD = np.stack([_draws(latencies[k], draws, (seed, k)) for k in steps])
        low, high = percentiles(_crossing(steps, latency_KD, _draws(baseline, draws, (seed, 0)), bracket), CONFIDENCE)
        ends = (low, high) if math.isfinite(low) and math.isfinite(high) else ends
    return BreakEven(
        intercept_s=a,
        slope_s=b,
        largest_residual=residual,
        steps=crossing,
        low=ends[0],
        high=ends[1],
        is_rough=is_rough,
        is_extrapolated=outside,
        points=len(steps),
        rise=rise,
        between=None if bracket is None else (steps[bracket], steps[bracket + 1]),
    )
