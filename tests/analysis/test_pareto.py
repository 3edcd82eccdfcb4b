"""The Pareto front of points placed by hand."""

from __future__ import annotations

import numpy as np

from dlmbench.analysis.stats import on_front


def test_front_of_points_placed_by_hand():
    latency = np.array([1.0, 2.0, 2.0, 3.0, 3.0, np.nan])
    quality = np.array([0.1, 0.5, 0.4, 0.5, 0.9, 2.0])
    assert on_front(latency, quality).tolist() == [True, True, False, False, True, False]
    assert on_front(np.array([1.0, 1.0]), np.array([1.0, 1.0])).tolist() == [True, True]
