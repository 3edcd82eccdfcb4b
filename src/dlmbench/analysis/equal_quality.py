"""What equal quality costs: throughput and energy of both models where diffusion writes as well.

A ratio says who wins; a bill is paid in tokens a second and joules a token. Both models are shown in the same cell
shape, diffusion at S_parity. Money needs a price: it is told for every cell by `analysis.cost`.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlmbench.analysis.nouns import CellSummary, Curve, MetricParity
from dlmbench.analysis.stats import Interval


@dataclass(frozen=True)
class Bill:
    """What one model takes for its text, of generated tokens, each with the interval of its median.

    joules_per_token includes idle power; None where energy was not measured.
    """

    tokens_per_s: Interval
    joules_per_token: Interval | None


@dataclass(frozen=True)
class EqualQuality:
    """Both models where quality is equal: the bills at `steps` of the target.

    energy: the target's energy over the baseline's, None where one was not measured, or is zero within noise.
    Its interval spans every timed step count at which parity may lie, which those of the bills do not.
    """

    steps: int
    target: Bill
    baseline: Bill
    energy: Interval | None


def at_equal_quality(curve: Curve, shown: MetricParity) -> EqualQuality | None:
    """The bills of both models at S_parity of `shown`, one of the curve's parities.

    None where it is not reached, or not both were timed there.
    """
    point = None if shown.parity.steps is None else curve.at(shown.parity.steps)
    target, baseline = bill(point), bill(curve.baseline)
    if shown.parity.steps is None or target is None or baseline is None:
        return None
    ratio = shown.speedup.energy if shown.speedup else None
    # The ratio found with the speedup is the baseline's over the target's: above 1 the target is better.
    if ratio is None or ratio.value <= 0 or ratio.low <= 0:
        energy = None
    else:
        energy = Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)
    return EqualQuality(shown.parity.steps, target, baseline, energy)


def bill(cell: CellSummary | None) -> Bill | None:
    """What a cell takes for its text; None where it was not timed."""
    if cell is None or cell.throughput is None:
        return None
    tokens = cell.cell.batch_size * cell.cell.new_tokens
    return Bill(cell.throughput.interval, cell.energy.interval.times(1 / tokens) if cell.energy else None)
