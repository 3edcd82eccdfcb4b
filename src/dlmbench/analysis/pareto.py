"""The Pareto front of latency and quality: the points that no other point dominates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlmbench.analysis.stats import FloatArray


def on_front(latency_N: FloatArray, quality_N: FloatArray) -> NDArray[np.bool_]:
    """front_N: True where no other point is at least as fast and at least as good, and better in one of the two.

    quality_N is oriented: higher is better. A point whose latency or quality is not a number is never on the front, and
    beats nothing.
    """
    faster_NN = latency_N[:, None] <= latency_N
    better_NN = quality_N[:, None] >= quality_N
    strict_NN = (latency_N[:, None] < latency_N) | (quality_N[:, None] > quality_N)
    beaten_N = (faster_NN & better_NN & strict_NN).any(axis=0)
    return np.asarray(np.isfinite(latency_N) & np.isfinite(quality_N) & ~beaten_N)
