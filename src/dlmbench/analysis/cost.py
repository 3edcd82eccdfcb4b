"""Cost: what a million useful tokens of each cell cost, and the cheapest cell that reaches a given quality.

A run measures how long a generation takes and how good it is; a price per GPU hour combines the two. Useful tokens end
with the first end of text; where that has no meaning (random weights, the embedded corpus) all new tokens count, and
the row is marked. Texts of two models may differ in length at equal tokens, which a price per token cannot show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dlmbench.errors import BenchError, did_you_mean
from dlmbench.roofline.predict import per_million_tokens
from dlmbench.types import Cell

if TYPE_CHECKING:
    # Types only: the import loads numpy and scipy, and a plan with a price should answer at once.
    from dlmbench.analysis.results import Study


@dataclass(frozen=True)
class CellCost:
    """Cost of a million tokens of one cell, with the interval of its median latency.

    tokens: of one generation, over the whole batch, the mean of its repetitions; counted: which tokens those are.
    low, high: None for a single repetition, which has no interval.
    """

    cell: Cell
    label: str
    tokens: float
    counted: Literal["useful", "new"]
    per_million: float
    low: float | None
    high: float | None


def costs(study: Study, price_per_gpu_hour: float) -> tuple[CellCost, ...]:
    """What every timed cell costs, in the order of the summary.

    Raises:
        BenchError: the price is negative or not finite.
    """
    check_price(price_per_gpu_hour)
    found = []
    for summary in study.cells:
        if summary.latency is None:
            continue
        tokens = summary.useful_tokens or max(1.0, summary.new_tokens or 0.0)
        counted: Literal["useful", "new"] = "useful" if summary.useful_tokens else "new"
        cost = summary.latency.interval.times(per_million_tokens(1, tokens, price_per_gpu_hour))
        ends = (cost.low, cost.high) if cost.is_known else (None, None)
        found.append(CellCost(summary.cell, study.label(summary.cell), tokens, counted, cost.value, *ends))
    return tuple(found)


def check_price(price_per_gpu_hour: float) -> None:
    """Refuse a price that is negative or not finite.

    Raises:
        BenchError: it is one of these.
    """
    if not 0 <= price_per_gpu_hour < math.inf:
        raise BenchError(
            f"--price must be a number of at least 0, not {price_per_gpu_hour:g}", "For example: --price 2.5"
        )


# ---------------------------------------------------------------- the cheapest cell of a given quality


@dataclass(frozen=True)
class QualityGoal:
    """A quality to reach: parity with the baseline by `metric` ("": the headline metric), or a value of it."""

    metric: str = ""
    value: float | None = None


@dataclass(frozen=True)
class CheapestCell:
    """The cheapest cell of one length that is good enough, over all batch sizes; `cost` is None where none is."""

    prompt_tokens: int
    new_tokens: int
    goal: str
    cost: CellCost | None
    candidates: int


def goal_of(text: str | None, study: Study) -> QualityGoal:
    """`METRIC=VALUE` as a goal; None is parity by the headline metric.

    Raises:
        BenchError: another form, or a metric that the run was not scored with.
    """
    if text is None:
        return QualityGoal()
    metric, sign, value = text.partition("=")
    names = [m.name for m in study.metrics]
    if metric not in names:
        raise BenchError(f"--quality: this run has no metric '{metric}'", did_you_mean(metric, names))
    try:
        number = float(value) if sign else None
    except ValueError:
        number = math.nan
    if number is not None and not math.isfinite(number):
        raise BenchError(f"--quality: '{value}' is not a number", f"Write {metric}=1.2, or {metric} for parity by it")
    return QualityGoal(metric, number)


def cheapest(priced: Sequence[CellCost], study: Study, goal: QualityGoal) -> tuple[CheapestCell, ...]:
    """For each length, the cell of the smallest price among those that are good enough.

    At parity are the baseline itself and, on each curve, the step counts from S_parity on (margin 0). A given value
    is compared with the measured one, whatever its interval. Empty without a scored metric.
    """
    compared = [p.metric for c in study.curves for p in c.parities]
    if not goal.metric and not compared:
        return ()
    metric = goal.metric or min(compared, key=lambda m: m.rank).name
    good = dict.fromkeys(_at_parity(study, metric) if goal.value is None else _at_value(study, metric, goal.value))
    text = f"parity by {metric}" if goal.value is None else f"{metric} of {goal.value:g} or better"
    found = []
    for prompt, new in sorted({(c.cell.prompt_tokens, c.cell.new_tokens) for c in priced}):
        ways = [c for c in priced if (c.cell.prompt_tokens, c.cell.new_tokens) == (prompt, new) and c.cell.id in good]
        best = min(ways, key=lambda c: c.per_million, default=None)
        found.append(CheapestCell(prompt, new, text, best, len(ways)))
    return tuple(found)


def _at_parity(study: Study, metric: str) -> Iterator[str]:
    # Quality is taken to be the same at every batch size.
    for curve in study.curves:
        shown = curve.parity(metric)
        if shown is not None and curve.quality_baseline is not None:
            same_texts = curve.quality_baseline.cell.quality_key
            yield from (b.cell.id for b in study.baselines if b.cell.quality_key == same_texts)
            if (least := shown.parity.steps) is not None:
                yield from (p.cell.id for p in curve.points if (p.cell.steps or 0) >= least)


def _at_value(study: Study, metric: str, value: float) -> Iterator[str]:
    for summary in study.cells:
        quality = summary.quality_in(metric)
        if quality is not None and quality.oriented >= (value if quality.metric.higher_is_better else -value):
            yield summary.cell.id
