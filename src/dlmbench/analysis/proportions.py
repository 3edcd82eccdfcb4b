"""Proportions: intervals and tests for items that are right or wrong, such as the answers of a task.

A bootstrap of zeros and ones fails where nearly all items agree: its resamples hardly differ, so it is too sure. Score
intervals invert the test instead, with the variance that the tested value itself implies.
"""

from __future__ import annotations

import math
from collections.abc import Callable

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
    value = (only_first - only_second) / n
    return _inverted(lambda d: float(paired_score(only_first, only_second, n, d)), value, confidence)


def unpaired_score(first: int, n_first: int, second: int, n_second: int, difference: float) -> float:
    """Score statistic of H0: p_first - p_second = `difference`, of two independent samples.

    With the variance under H0, at the restricted maximum of the likelihood (Farrington and Manning, Statist. Med. 9,
    1990, appendix). first, second: how many of n_first and n_second are right. Positive where the first is better than
    H0 says; zero where the counts agree with H0 exactly.
    """
    p1, p2, ratio, d = first / n_first, second / n_second, n_second / n_first, difference
    excess = p1 - p2 - d
    a, b = 1 + ratio, -(1 + ratio + p1 + ratio * p2 + d * (ratio + 2))
    c, e = d * d + d * (2 * p1 + ratio + 1) + p1 + ratio * p2, -p1 * d * (1 + d)
    v = (b / (3 * a)) ** 3 - b * c / (6 * a * a) + e / (2 * a)
    u = math.copysign(math.sqrt(max(0.0, (b / (3 * a)) ** 2 - c / (3 * a))), v)
    angle = (math.pi + math.acos(min(1.0, max(-1.0, v / u**3)))) / 3 if u else 0.0
    q1 = min(1.0, max(0.0, d, 2 * u * math.cos(angle) - b / (3 * a)))
    q2 = min(1.0, max(0.0, q1 - d))
    variance = q1 * (1 - q1) / n_first + q2 * (1 - q2) / n_second
    if variance <= 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def unpaired_difference(
    first: int, n_first: int, second: int, n_second: int, confidence: float = CONFIDENCE
) -> Interval:
    """p_first - p_second of two independent samples with the score interval of `unpaired_score`."""
    value = first / n_first - second / n_second
    return _inverted(lambda d: unpaired_score(first, n_first, second, n_second, d), value, confidence)


def _inverted(score: Callable[[float], float], value: float, confidence: float) -> Interval:
    """The differences that a score test does not reject."""
    z = float(_scipy.norm.isf((1 - confidence) / 2))

    def end(sign: float, edge: float) -> float:
        def gap(difference: float) -> float:
            return score(difference) - sign * z

        near, far = (value, edge) if abs(value) < 1 else (value - sign * 1e-9, edge)
        if near == far or gap(near) * gap(far * (1 - 1e-12)) > 0:
            return edge
        return float(optimize.brentq(gap, near, far * (1 - 1e-12)))

    return Interval(value, end(1.0, -1.0), end(-1.0, 1.0))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value that both have the same proportion right (McNemar, Psychometrika 12, 1947)."""
    n = only_first + only_second
    return float(_scipy.binomtest(only_first, n).pvalue) if n else 1.0
