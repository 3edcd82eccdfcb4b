"""The Pareto front on points placed by hand, and how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from dlmbench.analysis.pareto import Contender, front_places, on_front
from dlmbench.analysis.parity import PerText
from dlmbench.analysis.stats import bootstrap_indices
from dlmbench.analysis.study import analyse
from support.synthetic_run import tiny_run

N = 50
INDICES = bootstrap_indices(N, 2000, seed=0)
HARDNESS = np.random.default_rng(1).normal(0, 1, N)


def test_front_of_points_placed_by_hand():
    latency = np.array([1.0, 2.0, 2.0, 3.0, 3.0, np.nan])
    quality = np.array([0.1, 0.5, 0.4, 0.5, 0.9, 2.0])
    assert on_front(latency, quality).tolist() == [True, True, False, False, True, False]
    assert on_front(np.array([1.0, 1.0]), np.array([1.0, 1.0])).tolist() == [True, True]


def contender(name: str, seconds: float, quality: float, noise: float = 0.0, times: float = 0.0) -> Contender:
    rng = np.random.default_rng(len(name) + ord(name[0]))
    # Noise whose mean is exactly 0, so that the value is exactly `quality`.
    errors = rng.normal(0, 1, N)
    values = quality + HARDNESS + noise * (errors - errors.mean()) / errors.std(ddof=1)
    latency = seconds + times * (np.arange(15) - 7)
    return Contender(name, latency, PerText(tuple(range(N)), values, np.ones(N)))


def places(*contenders: Contender):
    return {p.cell_id: p for p in front_places(contenders, True, INDICES)}


def test_what_is_clear_is_certain():
    found = places(contender("fast", 1, 0.1), contender("good", 3, 0.9), contender("bad", 4, 0.5))
    assert [(p.is_on_front, p.probability, p.verdict) for p in found.values()] == [
        (True, 1.0, "on the front"),
        (True, 1.0, "on the front"),
        (False, 0.0, "off the front"),
    ]
    assert [p.dominated_by for p in found.values()] == [None, None, "good"]


def test_pairing_makes_small_differences_count():
    # Prompts differ by 1, the models by 0.1 with noise of 0.02: unpaired, 50 prompts would decide nothing.
    found = places(contender("a", 1, 0.1, 0.02), contender("b", 2, 0.0, 0.02))
    assert (found["b"].verdict, found["b"].dominated_by) == ("off the front", "a")


def test_a_coin_toss_is_undecided():
    # Slower, and better by one standard error of the difference: on the front with P(t_49 > -1).
    noise = 0.1
    found = places(contender("a", 1, 0.0), contender("b", 2, noise / np.sqrt(N), noise))
    assert found["b"].is_on_front
    assert found["b"].probability == pytest.approx(scipy.stats.t.cdf(1, 49), abs=0.03)
    assert (found["b"].verdict, found["b"].dominated_by) == ("undecided", None)


def test_times_are_uncertain_too():
    # Equal quality by construction; medians 1.00 and 1.05, which these repetitions cannot tell apart.
    found = places(contender("a", 1.0, 0.5, times=0.1), contender("b", 1.05, 0.5, times=0.1))
    assert (found["a"].is_on_front, found["b"].is_on_front) == (True, False)
    assert found["b"].verdict == "undecided"


def test_a_study_has_a_front_for_every_shape_and_metric():
    study = analyse(tiny_run(batches=(1, 4), blocks=(None, 16)), draws=300)
    front = study.front("likelihood", 4, 64, 64)
    assert front is not None
    assert front.n == 64
    assert {p.cell_id for p in front.points} == {c.cell.id for c in study.cells if c.cell.batch_size == 4}
    base = next(b for b in study.baselines if b.cell.batch_size == 4)
    slow = next(c for c in study.curves if c.batch_size == 4 and "one block" in c.label).at(64)
    # The baseline is better than diffusion at K = 64, and many times as fast.
    assert front.of(slow.cell.id).dominated_by == base.cell.id
    assert front.of(base.cell.id).verdict == "on the front"
    assert study.front("likelihood", 2, 64, 64) is None
