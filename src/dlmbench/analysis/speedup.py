"""What equal quality costs: the speedup at parity.

Two things are uncertain, which step count parity needs and how long it takes. The interval of the speedup spans every
step count at which parity may lie, each with the interval of its own ratio, so that both uncertainties are in it.
The price of every cell in money is in `analysis.cost`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dlmbench.analysis.parity import Parity
from dlmbench.analysis.stats import FloatArray, Interval, ratio_interval


@dataclass(frozen=True)
class Repetitions:
    """The timed repetitions of one cell as arrays_R; energy_j is None where it is unknown."""

    latency_s: FloatArray
    tokens_per_s: FloatArray
    energy_j: FloatArray | None = None


@dataclass(frozen=True)
class Speedup:
    """Baseline over target at S_parity: above 1 the target is better.

    throughput is target over baseline, energy baseline over target; None where not measured. low_steps, high_steps: the
    timed step counts that the intervals span. is_bounded: False where parity may also lie at a step count that was not
    timed, or beyond the largest: the intervals do not cover that case. share_reached: the share of the resamples
    in which parity lies at a step count that was timed.
    """

    steps: int
    latency: Interval | None
    throughput: Interval | None
    energy: Interval | None
    low_steps: int | None
    high_steps: int | None
    is_bounded: bool
    share_reached: float


def plausible_steps(parity: Parity) -> tuple[tuple[int, ...], bool]:
    """The step counts measured at which parity may lie, and whether it may lie beyond all of them."""
    grid = [p.steps for p in parity.points]
    low = parity.low_steps
    if low is None:
        return (), True
    high = parity.high_steps
    return tuple(k for k in grid if low <= k <= (grid[-1] if high is None else high)), high is None


def speedup_at_parity(
    parity: Parity, times: Mapping[int, Repetitions], baseline: Repetitions, draws: int = 2000, seed: int = 0
) -> Speedup | None:
    """Speedup at S_parity over `times` (steps -> repetitions); None where parity is not reached."""
    if parity.steps is None:
        return None
    at = parity.steps
    steps, beyond = plausible_steps(parity)
    timed = [k for k in steps if k in times]
    energies = {k: t.energy_j for k, t in times.items() if t.energy_j is not None}

    def over(above: FloatArray, below: Mapping[int, FloatArray]) -> Interval | None:
        if at not in below:
            return None
        ratios = {k: ratio_interval(above, below[k], draws, seed) for k in timed if k in below}
        low, high = np.min([r.low for r in ratios.values()]), np.max([r.high for r in ratios.values()])
        return Interval(ratios[at].value, float(low), float(high))

    return Speedup(
        steps=at,
        latency=over(baseline.latency_s, {k: t.latency_s for k, t in times.items()}),
        # Target over baseline in tokens a second is baseline over target in seconds a token.
        throughput=over(1 / baseline.tokens_per_s, {k: 1 / t.tokens_per_s for k, t in times.items()}),
        energy=None if baseline.energy_j is None else over(baseline.energy_j, energies),
        low_steps=min(timed, default=None),
        high_steps=max(timed, default=None),
        is_bounded=not beyond and len(timed) == len(steps),
        share_reached=sum(p.share or 0.0 for p in parity.points if p.steps in times),
    )
