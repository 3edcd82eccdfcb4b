"""What equal quality costs: throughput, energy and money of both models where diffusion writes as well.

A ratio says who wins; a bill is paid in tokens a second, joules a token and money a million tokens. Both models are
shown at S_parity of the same test, in the same cell shape.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlmbench.analysis.nouns import CellSummary, Curve
from dlmbench.analysis.stats import Interval


@dataclass(frozen=True)
class Bill:
    """What one model takes for its text, each with the interval of its median; None where it was not measured.

    joules_per_token is of generated tokens, idle power included. money_per_million_tokens is in the currency of the
    price that was given, None without one.
    """

    tokens_per_s: Interval | None
    joules_per_token: Interval | None
    money_per_million_tokens: Interval | None


@dataclass(frozen=True)
class EqualQuality:
    """Both models where their quality is equal by `metric` within `delta`; ratios stand in the curve's own Speedup."""

    metric: str
    delta: float
    steps: int
    target: Bill
    baseline: Bill


def at_equal_quality(
    curve: Curve, metric: str, delta: float = 0.0, price_per_hour: float | None = None
) -> EqualQuality | None:
    """The bills of both models at S_parity of `curve`; None where it is not reached, or no baseline was timed.

    price_per_hour: of the device that both models ran on.
    """
    found = curve.parity(metric, delta)
    if found is None or found.parity.steps is None or curve.baseline is None:
        return None
    point = curve.at(found.parity.steps)
    if point is None or point.throughput is None or curve.baseline.throughput is None:
        return None
    bills = (bill(c, price_per_hour) for c in (point, curve.baseline))
    return EqualQuality(metric, delta, found.parity.steps, *bills)


def bill(cell: CellSummary, price_per_hour: float | None = None) -> Bill:
    """What a cell takes for its text."""
    rate = cell.throughput.interval if cell.throughput else None
    joules = None
    if cell.energy is not None:
        tokens = cell.cell.batch_size * cell.cell.new_tokens
        joules = Interval(cell.energy.median / tokens, cell.energy.low / tokens, cell.energy.high / tokens)
    money = None
    if rate is not None and price_per_hour is not None:
        per_s = price_per_hour / 3600 * 1e6
        # The faster end of the rate is the cheaper end of the bill.
        money = Interval(per_s / rate.value, per_s / rate.high, per_s / rate.low)
    return Bill(rate, joules, money)
