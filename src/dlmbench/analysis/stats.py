"""Medians, intervals and resampling, all vectorised.

Latencies are skewed and have outliers, so the centre is the median and its interval comes from order statistics, which
make no assumption on the distribution. Shape legend: R repetitions, N texts, D bootstrap draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats as _scipy

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]
CONFIDENCE = 0.95
# Three interquartile ranges beyond the quartiles: Tukey's "far out", about 2 in a million of a normal sample.
FENCE = 3.0
# The extremes of so many values hold the median with 1 - 2 / 2^6 = 96.9%, those of one less with 93.8%.
LEAST_COVERED = 6
# The standard error of a median is itself estimated, from few values too narrowly: this widens it. The coverage that it
# gives is among the simulations of docs/reliability.md ("within one process").
WIDER = 0.4
# Autocorrelation and modes are looked for in this many repetitions of one process or more.
LEAST_TESTED = 10
# The share of the variance that two groups must explain to count as two modes.
TWO_MODES = 0.9

_T = TypeVar("_T")
_K = TypeVar("_K")


def group_by(items: Iterable[_T], key: Callable[[_T], _K]) -> dict[_K, list[_T]]:
    """Items with an equal key together, keys and items in order of appearance."""
    groups: dict[_K, list[_T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval, in the estimate's unit; NaN ends are unknown."""

    value: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether there is an interval: a single repetition or prompt has none."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def as_dict(self) -> dict[str, float | None]:
        """For JSON, which has no NaN: unknown ends are None."""
        low, high = (self.low, self.high) if self.is_known else (None, None)
        return {"value": self.value, "low": low, "high": high}

    def times(self, factor: float) -> Interval:
        """The same in another unit, for a positive factor."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Summary:
    """A sample in a few numbers, in its own unit.

    low, high: the interval of the median. covered: whether it reaches `confidence`; where n is too small it does not,
    and low, high are the extremes. sd: None for a single value. outliers: how many are flagged; none is dropped.
    processes: how many the interval rests on; below three it holds within them only.
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
    processes: int = 1

    @property
    def half_width(self) -> float:
        """Half the interval as a share of the median; infinite where the median is 0."""
        return (self.high - self.low) / 2 / abs(self.median) if self.median else float("inf")

    @property
    def interval(self) -> Interval:
        """The median with its interval, which is unknown for a single value."""
        return Interval(self.median, *((self.low, self.high) if self.n > 1 else (math.nan, math.nan)))

    def rate(self, count: float) -> Summary:
        """`count` in each of these times, in seconds, as a rate per second."""
        return replace(
            self,
            median=count / self.median,
            low=count / self.high,
            high=count / self.low,
            mean=count / self.mean,
            sd=None if self.sd is None else count * self.sd / self.mean**2,
            p10=count / self.p90,
            p90=count / self.p10,
        )


def summarise(values: Sequence[float] | FloatArray) -> Summary:
    """Summary of values_R (R >= 1), with the interval of the median.

    It lies between the order statistics that hold the median too often, by the binomial distribution, and the next ones
    inwards (Hettmansperger and Sheather, Statistics and Probability Letters 4, 1986).
    """
    data = np.sort(np.asarray(values, dtype=np.float64))
    assert data.size, "nothing to summarise"
    covered = data.size >= LEAST_COVERED
    low, high = map(float, _scipy.mstats.median_cihs(data, 1 - CONFIDENCE) if covered else (data[0], data[-1]))
    p10, q1, q2, q3, p90 = (float(q) for q in np.quantile(data, (0.1, 0.25, 0.5, 0.75, 0.9)))
    reach = FENCE * (q3 - q1)
    return Summary(
        median=q2,
        low=low,
        high=high,
        mean=float(data.mean()),
        sd=float(data.std(ddof=1)) if data.size > 1 else None,
        p10=p10,
        p90=p90,
        n=int(data.size),
        outliers=int(np.count_nonzero((data < q1 - reach) | (data > q3 + reach))),
        covered=covered,
    )


def false_discovery(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted by Benjamini and Hochberg (J. R. Statist. Soc. B 57, 1995), in the same order."""
    return [float(p) for p in _scipy.false_discovery_control(p_values)] if p_values else []


def percentiles(draws_D: FloatArray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The central interval of bootstrap draws; NaN draws are left out."""
    known = draws_D[np.isfinite(draws_D)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


@cache
def expanded_tail(tail: float, n: int) -> float:
    """The tail to cut from a bootstrap over n texts in place of the nominal `tail`, which is larger.

    A resample spreads by sqrt((n - 1) / n) too little, and its quantiles are those of the normal distribution instead
    of Student's t; both are corrected by a smaller tail (Hesterberg, The American Statistician 69, 2015, "expanded
    percentile").
    """
    return float(_scipy.norm.cdf(math.sqrt(n / (n - 1)) * _scipy.t.ppf(tail, n - 1))) if n > 1 else 0.0


def effective_n(weights_N: FloatArray) -> int:
    """The number of texts with weight: the sample size that intervals are based on."""
    return int(np.count_nonzero(weights_N))


def bootstrap_interval(draws_D: FloatArray, n: int) -> tuple[float, float]:
    """The interval from bootstrap draws_D over n texts; NaN for a single text."""
    if n < 2:
        return float("nan"), float("nan")
    return percentiles(draws_D, 1 - 2 * expanded_tail((1 - CONFIDENCE) / 2, n))


def bootstrap_indices(n: int, draws: int, seed: int) -> IndexArray:
    """indices_DN: which of n texts each of `draws` resamples holds. Sharing them pairs what is computed."""
    return np.random.default_rng(seed).integers(0, n, size=(draws, n), dtype=np.intp)


def ratio_of_sums(totals: FloatArray, weights: FloatArray, indices: IndexArray) -> FloatArray:
    """ratios_D = sum of totals_N / sum of weights_N over each resample of indices_DN; nan for no weight."""
    above, below = totals[indices].sum(axis=1), weights[indices].sum(axis=1)
    return np.asarray(np.divide(above, below, out=np.full(len(indices), np.nan), where=below != 0), dtype=np.float64)


@cache
def _width_in_errors(n: int) -> tuple[int, float]:
    """A rank, and how many standard errors of the median of n values lie between it and its mirror image.

    This follows from the binomial, for any distribution.
    """
    rank = max(1, round((n + 1) / 2 - math.sqrt(n)))
    return rank, float(2 * _scipy.norm.isf(_scipy.binom.cdf(rank - 1, n, 0.5)))


def median_error(values: Sequence[float] | FloatArray) -> float:
    """Standard error of the median of values_R, in the order they were taken and in their unit; NaN for one value.

    From two order statistics (Bonett and Price, Psychological Methods 7, 2002), widened by WIDER / n because it is
    itself estimated, by the autocorrelation of the values, and to half the distance of two modes where there are two.
    """
    data = np.asarray(values, dtype=np.float64)
    n = data.size
    if n < 2:
        return math.nan
    rank, width = _width_in_errors(n)
    ordered = np.sort(data)
    error = float(ordered[n - rank] - ordered[rank - 1]) / width * (1 + WIDER / n) * widening(data)
    modes = two_modes(data)
    return max(error, (modes[1] - modes[0]) / 4) if modes else error


def autocorrelation(values: Sequence[float] | FloatArray) -> float | None:
    """Lag-1 autocorrelation of values_R in the order they were taken; None below LEAST_TESTED values or without spread.

    Corrected for the bias -(1 + 4 r) / n of the sample autocorrelation (Kendall, Biometrika 41, 1954).
    """
    data = np.asarray(values, dtype=np.float64)
    centred = data - data.mean()
    square = float(centred @ centred)
    if data.size < LEAST_TESTED or square == 0:
        return None
    r = float(centred[1:] @ centred[:-1]) / square
    return min(0.9, r + (1 + 4 * r) / data.size)


def widening(values: Sequence[float] | FloatArray) -> float:
    """The factor by which positive autocorrelation widens an interval: sqrt((1 + r) / (1 - r)), at least 1."""
    r = autocorrelation(values)
    return math.sqrt((1 + r) / (1 - r)) if r is not None and r > 0 else 1.0


def two_modes(values: Sequence[float] | FloatArray) -> tuple[float, float] | None:
    """The means of two groups of values_R where there clearly are two, else None.

    Two groups, each a fifth of the values or more, explain nine tenths of the variance (the best split, as in Otsu,
    IEEE Transactions on Systems, Man and Cybernetics 9, 1979).
    """
    data = np.sort(np.asarray(values, dtype=np.float64))
    n = data.size
    centred = data - data.mean()
    square = float(centred @ centred)
    if n < LEAST_TESTED or square == 0:
        return None
    sizes = np.arange(1, n)
    below = np.cumsum(centred)[:-1]
    between = below**2 / sizes + below**2 / (n - sizes)
    edge = max(2, math.ceil(n / 5))
    split = edge + int(np.argmax(between[edge - 1 : n - edge]))
    if between[split - 1] < TWO_MODES * square:
        return None
    return float(data[:split].mean()), float(data[split:].mean())


def on_front(latency_N: FloatArray, quality_N: FloatArray) -> NDArray[np.bool_]:
    """The Pareto front_N: True where no other point is at least as fast and as good, and better in one of the two.

    quality_N is oriented: higher is better. A point whose latency or quality is not a number is never on the front, and
    beats nothing.
    """
    faster_NN = latency_N[:, None] <= latency_N
    better_NN = quality_N[:, None] >= quality_N
    strict_NN = (latency_N[:, None] < latency_N) | (quality_N[:, None] > quality_N)
    beaten_N = (faster_NN & better_NN & strict_NN).any(axis=0)
    return np.asarray(np.isfinite(latency_N) & np.isfinite(quality_N) & ~beaten_N)
