"""The nouns of an analysis: what figures, table, report and answer are made of.

They hold numbers and say what is missing; how the numbers are found is in the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dlmbench.analysis.breakeven import BreakEven
from dlmbench.analysis.pareto import Front
from dlmbench.analysis.parity import Parity
from dlmbench.analysis.quality import MetricInfo, Quality
from dlmbench.analysis.speedup import Speedup
from dlmbench.analysis.stats import Interval, Summary
from dlmbench.types import Cell, Finding, Knobs, Status

RANDOM_WEIGHTS = "random weights: quality not measured"


@dataclass(frozen=True)
class PeakMemory:
    """Peak memory of one generation in bytes, and who counted it."""

    bytes: int
    source: str


@dataclass(frozen=True)
class CellSummary:
    """One cell in a few numbers; None where it was not measured.

    throughput: new tokens per second over the whole batch. energy: joules per generated batch. speedup: the baseline's
    latency over this cell's. first_text_s: time to the first token (baseline) or the first final block (diffusion).
    """

    cell: Cell
    status: Status | None
    reason: str
    latency: Summary | None = None
    throughput: Summary | None = None
    energy: Summary | None = None
    memory: PeakMemory | None = None
    quality: tuple[Quality, ...] = ()
    speedup: Interval | None = None
    first_text_s: float | None = None
    inter_token_s: float | None = None

    def quality_in(self, metric: str) -> Quality | None:
        """The quality by one metric's name."""
        return next((q for q in self.quality if q.metric.name == metric), None)


@dataclass(frozen=True)
class MetricParity:
    """Parity by one metric at one delta, and the speedup there."""

    metric: MetricInfo
    parity: Parity
    speedup: Speedup | None


@dataclass(frozen=True)
class Curve:
    """A target over its step counts, all else equal: one (sampler, knobs, B, P, G), with its baseline.

    quality_baseline: the baseline's quality; it may come from another batch size, for texts do not depend on it.
    missing: what could not be computed, and why.
    """

    label: str
    model: str
    sampler: str
    knobs: Knobs
    weights: str
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    points: tuple[CellSummary, ...]
    baseline: CellSummary | None
    quality_baseline: CellSummary | None
    parities: tuple[MetricParity, ...]
    break_even: BreakEven | None
    missing: tuple[str, ...]

    def parity(self, metric: str, delta: float = 0.0) -> MetricParity | None:
        """Parity by a metric's name at `delta`."""
        return next((p for p in self.parities if p.metric.name == metric and p.parity.delta == delta), None)

    @property
    def rank(self) -> tuple[bool, int]:
        """What to sort by for the best known break-even first: inside the step counts timed, then on most of them."""
        line = self.break_even
        if line is None or line.steps is None:
            return (True, 0)
        return (line.is_extrapolated, -line.points)

    def at(self, steps: int) -> CellSummary | None:
        """The point at `steps`."""
        return next((p for p in self.points if p.cell.steps == steps), None)


@dataclass(frozen=True)
class Study:
    """All that the figures, the table and the answer are made of. `others`: target cells without a step count."""

    name: str
    metrics: tuple[MetricInfo, ...]
    baselines: tuple[CellSummary, ...]
    curves: tuple[Curve, ...]
    others: tuple[CellSummary, ...]
    labels: Mapping[str, str]
    findings: tuple[Finding, ...]
    missing: tuple[str, ...]
    draws: int
    seed: int
    fronts: tuple[Front, ...] = ()

    def front(self, metric: str, batch_size: int, prompt_tokens: int, new_tokens: int) -> Front | None:
        """The Pareto front of one batch size and pair of lengths by one metric."""
        key = (metric, batch_size, prompt_tokens, new_tokens)
        return next((f for f in self.fronts if (f.metric, f.batch_size, f.prompt_tokens, f.new_tokens) == key), None)

    @property
    def cells(self) -> tuple[CellSummary, ...]:
        """Every cell of the run: baselines, then curves point by point, then the others."""
        return (*self.baselines, *(p for c in self.curves for p in c.points), *self.others)

    def label(self, cell: Cell) -> str:
        """The cell's model with the knobs that tell it from others, without K, B, P and G."""
        return self.labels[cell.id]
