"""Medians, intervals and resampling, all vectorised.

Latencies are skewed and have outliers, so the centre is the median and its interval comes from order statistics, which
assume nothing of the distribution. Shape legend: R repetitions, N texts, D bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats as _scipy

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]
CONFIDENCE = 0.95
# Three interquartile ranges beyond the quartiles: Tukey's "far out", about 2 in a million of a normal sample.
FENCE = 3.0


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval, in the estimate's unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """A sample in a few numbers, in its own unit.

    low, high: the interval of the median. covered: whether it reaches `confidence`; where n is too small it does not,
    and low, high are the extremes. sd: None for a single value. outliers: how many are flagged; none is dropped.
    """

    median: float
    low: float
    high: float
    mean: float
    sd: float | None
    p10: float
    p90: float
    n: int
    outliers: int
    covered: bool
    confidence: float = CONFIDENCE

    @property
    def half_width(self) -> float:
        """Half the interval as a share of the median; infinite where the median is 0."""
        return (self.high - self.low) / 2 / abs(self.median) if self.median else float("inf")

    @property
    def interval(self) -> Interval:
        """The median with its interval."""
        return Interval(self.median, self.low, self.high)


def median_ranks(n: int, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """Ranks (from 1) of two order statistics that hold the median with `confidence` or more, None if n is too small.

    The number of values below the median is Binomial(n, 1/2), whatever the distribution (Conover, Practical
    Nonparametric Statistics, "confidence interval for a quantile").
    """
    lower = int(_scipy.binom.ppf((1 - confidence) / 2, n, 0.5))
    # ppf gives the first rank whose tail is at least alpha/2; the tail left out must not exceed it.
    return (lower, n + 1 - lower) if lower >= 1 else None


def summarise(values: Sequence[float] | FloatArray, confidence: float = CONFIDENCE) -> Summary:
    """Summary of values_R (R >= 1), with the distribution-free interval of the median."""
    data = np.sort(np.asarray(values, dtype=np.float64))
    assert data.size, "nothing to summarise"
    ranks = median_ranks(data.size, confidence)
    low, high = (ranks[0] - 1, ranks[1] - 1) if ranks else (0, data.size - 1)
    p10, q1, q2, q3, p90 = (float(q) for q in np.quantile(data, (0.1, 0.25, 0.5, 0.75, 0.9)))
    reach = FENCE * (q3 - q1)
    return Summary(
        median=q2,
        low=float(data[low]),
        high=float(data[high]),
        mean=float(data.mean()),
        sd=float(data.std(ddof=1)) if data.size > 1 else None,
        p10=p10,
        p90=p90,
        n=int(data.size),
        outliers=int(np.count_nonzero((data < q1 - reach) | (data > q3 + reach))),
        covered=ranks is not None,
        confidence=confidence,
    )


def percentiles(draws_D: FloatArray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The central interval of bootstrap draws; draws that are not a number are left out."""
    known = draws_D[np.isfinite(draws_D)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


def bootstrap_indices(n: int, draws: int, seed: int) -> IndexArray:
    """indices_DN: which of n texts each of `draws` resamples holds. Sharing them pairs what is computed."""
    return np.random.default_rng(seed).integers(0, n, size=(draws, n), dtype=np.intp)


def ratio_of_sums(totals: FloatArray, weights: FloatArray, indices: IndexArray) -> FloatArray:
    """ratios_D = sum of totals_N / sum of weights_N over each resample of indices_DN; nan for no weight."""
    above, below = totals[indices].sum(axis=1), weights[indices].sum(axis=1)
    return np.asarray(np.divide(above, below, out=np.full(len(indices), np.nan), where=below != 0), dtype=np.float64)


def resampled_medians(values: Sequence[float] | FloatArray, draws: int, seed: int | Sequence[int]) -> FloatArray:
    """medians_D of `draws` resamples of values_R."""
    data = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, data.size, size=(draws, data.size))
    return np.asarray(np.median(data[picks], axis=1), dtype=np.float64)


def ratio_interval(
    a: Sequence[float] | FloatArray,
    b: Sequence[float] | FloatArray,
    draws: int = 2000,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """median(a) / median(b) with its bootstrap interval; a and b are independent samples in the same unit."""
    ratios = resampled_medians(a, draws, (seed, 1)) / resampled_medians(b, draws, (seed, 2))
    low, high = percentiles(ratios, confidence)
    return Interval(float(np.median(np.asarray(a)) / np.median(np.asarray(b))), low, high)
