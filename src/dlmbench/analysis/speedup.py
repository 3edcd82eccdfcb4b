"""What equal quality costs: the speedup at parity, and what both models then spend on a token.

Two things are uncertain, which step count parity needs and how long it takes. The interval of the speedup spans every
step count at which parity may lie, each with the interval of its own ratio, so that both uncertainties are in it.
Beside the ratio, `at_equal_quality` gives throughput and energy of both models in the same cell shape, diffusion at
S_parity. The price of every cell in money is in `analysis.cost`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dlmbench.analysis.parity import Parity
from dlmbench.analysis.stats import FloatArray, Interval, ratio_interval

if TYPE_CHECKING:
    from dlmbench.analysis.results import CellSummary, Curve, MetricParity


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


@dataclass(frozen=True)
class Efficiency:
    """Throughput and energy of generated tokens for one model, each with the interval of its median.

    joules_per_token includes idle power; None where energy was not measured.
    """

    tokens_per_s: Interval
    joules_per_token: Interval | None


@dataclass(frozen=True)
class EqualQuality:
    """Both models where quality is equal, the target at `steps`.

    energy: the target's energy over the baseline's, None where one was not measured, or is zero within noise.
    Its interval spans every timed step count at which parity may lie; those of target and baseline do not.
    """

    steps: int
    target: Efficiency
    baseline: Efficiency
    energy: Interval | None


def at_equal_quality(curve: Curve, shown: MetricParity | None) -> EqualQuality | None:
    """Both models at S_parity of `shown`, one of the curve's parities.

    None where parity is not reached, or not both were timed there.
    """
    steps = shown.parity.steps if shown else None
    target = efficiency_of(curve.at(steps)) if steps is not None else None
    baseline = efficiency_of(curve.baseline)
    if shown is None or steps is None or target is None or baseline is None:
        return None
    ratio = shown.speedup.energy if shown.speedup else None
    # The ratio found with the speedup is the baseline's over the target's: above 1 the target is better.
    known = ratio is not None and ratio.value > 0 and not ratio.low <= 0
    energy = Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low) if ratio and known else None
    return EqualQuality(steps, target, baseline, energy)


def efficiency_of(cell: CellSummary | None) -> Efficiency | None:
    """Throughput and energy of a cell; None where it was not timed."""
    if cell is None or cell.throughput is None:
        return None
    tokens = cell.cell.batch_size * cell.cell.new_tokens
    return Efficiency(cell.throughput.interval, cell.energy.interval.times(1 / tokens) if cell.energy else None)
