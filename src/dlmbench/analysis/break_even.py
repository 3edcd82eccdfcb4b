"""Break-even: the step count at which diffusion takes as long as the baseline.

If every step costs the same, latency is a line in k; the line through the medians gives where it crosses the baseline's
latency, also between measured step counts. How far the medians are from that line is reported with it.
Shape legend: K step counts, R repetitions, D draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dlmbench.analysis.stats import FloatArray, median_draws, percentiles


@dataclass(frozen=True)
class BreakEven:
    """latency(k) = intercept_s + slope_s * k, and where it meets the baseline's latency.

    largest_residual: the largest distance of a median from the line, as a share of the median. steps: k*, None where
    there is none, for `reason`. is_extrapolated: k* is outside the step counts measured.
    share_crossing: the share of draws in which the line rises, over which low, high are taken; they are None where
    the line does not rise or a cell was timed only once. points: step
    counts the line rests on; through two, a line always fits.
    """

    intercept_s: float
    slope_s: float
    largest_residual: float
    steps: float | None
    low: float | None
    high: float | None
    is_extrapolated: bool
    share_crossing: float
    reason: str = ""
    points: int = 0

    @property
    def is_checked(self) -> bool:
        """Whether a bend would have shown in the residual."""
        return self.points > 2

    def text(self, one_decimal_below: float = 100) -> str:
        """k* and its interval in brackets, or why there is none. The ends have as many decimals as the value."""
        if self.steps is None:
            return f"none: {self.reason}"
        if self.steps < 1:
            return "below one step: by the fitted line a single step takes longer than the baseline"
        digits = 1 if self.steps < one_decimal_below else 0
        known = self.low is not None and self.high is not None and math.isfinite(self.low + self.high)
        ends = f" ({max(self.low or 0, 0):.{digits}f} to {max(self.high or 0, 0):.{digits}f})" if known else ""
        return f"{self.steps:.{digits}f}{ends}"


def fit_line(steps_K: FloatArray, latency_KD: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Least-squares (intercept_D, slope_D) of every column of latency_KD on steps_K, points weighted equally."""
    centred_K = steps_K - steps_K.mean()
    slope_D = centred_K @ latency_KD / (centred_K @ centred_K)
    return latency_KD.mean(axis=0) - slope_D * steps_K.mean(), slope_D


def break_even(
    latencies: Mapping[int, FloatArray], baseline: FloatArray, draws: int = 2000, seed: int = 0
) -> BreakEven | None:
    """Break-even of latencies (steps -> seconds_R) with the baseline's seconds_R; None below two step counts."""
    if len(latencies) < 2:
        return None
    steps = sorted(latencies)
    steps_K = np.array(steps, dtype=np.float64)
    median_K = np.array([np.median(latencies[k]) for k in steps])
    a, b = (float(x[0]) for x in fit_line(steps_K, median_K[:, None]))
    residual = float(np.max(np.abs(a + b * steps_K - median_K) / median_K))
    if b <= 0:
        reason = "latency does not grow with the step count"
        return BreakEven(a, b, residual, None, None, None, False, 0.0, reason, len(steps))
    latency_KD = np.stack([median_draws(latencies[k], draws, (seed, k)) for k in steps])
    a_D, b_D = fit_line(steps_K, latency_KD)
    rises = b_D > 0
    base_D = median_draws(baseline, draws, (seed, 0))
    cross_D = np.divide(base_D - a_D, b_D, out=np.full(draws, np.nan), where=rises)
    crossing = (float(np.median(baseline)) - a) / b
    outside = not steps[0] <= crossing <= steps[-1]
    low, high = percentiles(cross_D)
    known = math.isfinite(low) and math.isfinite(high)
    return BreakEven(
        intercept_s=a,
        slope_s=b,
        largest_residual=residual,
        steps=crossing,
        low=low if known else None,
        high=high if known else None,
        is_extrapolated=outside,
        share_crossing=float(rises.mean()),
        points=len(steps),
    )
