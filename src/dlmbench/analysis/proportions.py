"""Proportions: intervals and tests for items that are right or wrong, such as the answers of a task.

A bootstrap of zeros and ones fails where nearly all items agree: its resamples hardly differ, so it is too sure. Score
intervals invert the test instead, with the variance that the tested value itself implies.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize
from scipy import stats as _scipy

from dlmbench.analysis.stats import CONFIDENCE, FloatArray, Interval


def is_binary(totals_N: FloatArray, weights_N: FloatArray) -> bool:
    """Whether every item is right or wrong: weight 1, total 0 or 1."""
    return bool(np.all(weights_N == 1) and np.all((totals_N == 0) | (totals_N == 1)))


def proportion(right: int, n: int) -> Interval:
    """A proportion with its score interval (Wilson, JASA 22, 1927)."""
    ends = _scipy.binomtest(right, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(right / n, float(ends.low), float(ends.high))


def paired_score(only_first: ArrayLike, only_second: ArrayLike, n: int, difference: float) -> FloatArray:
    """Score statistic of H0: p_first - p_second = `difference` over n paired items (Tango, Statist. Med. 17, 1998).

    only_first, only_second: how many items only the first, or only the second, has right. Standard normal under H0;
    positive where the first is better than H0 says. Zero where the counts agree with H0 exactly.
    """
    b, c = np.asarray(only_first, dtype=np.float64), np.asarray(only_second, dtype=np.float64)
    linear = -b - c + (2 * n - b + c) * difference
    root = np.sqrt(np.maximum(linear**2 + 8 * n * c * difference * (1 - difference), 0.0))
    share_second = np.maximum((root - linear) / (4 * n), 0.0)  # items that only the second has right, under H0
    variance = n * (2 * share_second + difference * (1 - difference))
    excess = b - c - n * difference
    safe = np.sqrt(np.maximum(variance, 0.0))
    return np.asarray(
        np.divide(excess, safe, out=np.where(excess == 0, 0.0, np.copysign(np.inf, excess)), where=safe > 0)
    )


def paired_difference(only_first: int, only_second: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """p_first - p_second over n paired items with Tango's score interval."""
    z = float(_scipy.norm.isf((1 - confidence) / 2))
    value = (only_first - only_second) / n

    def end(sign: float, edge: float) -> float:
        def gap(difference: float) -> float:
            return float(paired_score(only_first, only_second, n, difference)) - sign * z

        near, far = (value, edge) if abs(value) < 1 else (value - sign * 1e-9, edge)
        if near == far or gap(near) * gap(far * (1 - 1e-12)) > 0:
            return edge
        return float(optimize.brentq(gap, near, far * (1 - 1e-12)))

    return Interval(value, end(1.0, -1.0), end(-1.0, 1.0))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value that both have the same proportion right (McNemar, Psychometrika 12, 1947)."""
    n = only_first + only_second
    return float(_scipy.binomtest(only_first, n).pvalue) if n else 1.0
