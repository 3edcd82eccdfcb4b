"""The records an analysis returns: what figures, tables, report and answer are made from.

They hold numbers and what is missing; the modules beside this one compute them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from dlmbench.analysis.break_even import BreakEven
from dlmbench.analysis.parity import Parity, Speedup
from dlmbench.analysis.quality import MetricInfo, Quality
from dlmbench.analysis.stats import Interval, Summary
from dlmbench.types import Cell, Finding, Status

RANDOM_WEIGHTS = "random weights: quality not measured"
_T = TypeVar("_T")
_K = TypeVar("_K")


def group_by(items: Iterable[_T], key: Callable[[_T], _K]) -> dict[_K, list[_T]]:
    """Items with an equal key together, keys and items in order of appearance."""
    groups: dict[_K, list[_T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


@dataclass(frozen=True)
class PeakMemory:
    """Peak memory of one generation in bytes, and the counter it was read from."""

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

    @property
    def joules_per_token(self) -> Interval | None:
        """Energy of a new token with the interval of its median, idle power included; None where not measured."""
        tokens = self.cell.batch_size * self.cell.new_tokens
        return self.energy.interval.times(1 / tokens) if self.energy else None

    @property
    def block_length(self) -> int | None:
        """Positions in a block: all new tokens for a diffusion cell without a set length, None for a baseline."""
        value = self.cell.knob("block_length")
        if isinstance(value, int):
            return value
        return self.cell.new_tokens if self.cell.model.role == "target" else None

    @property
    def status_text(self) -> str:
        """The status, also of a cell that has none yet."""
        return self.status or ("unfinished" if self.latency else "not measured")


@dataclass(frozen=True)
class MetricParity:
    """Parity by one metric at one delta, and the speedup there."""

    metric: MetricInfo
    parity: Parity
    speedup: Speedup | None

    @property
    def latency_ratio(self) -> Interval | None:
        """The baseline's latency over diffusion's at S_parity; None where parity is not reached or was not timed."""
        return self.speedup.latency if self.speedup else None

    @property
    def energy_ratio(self) -> Interval | None:
        """Diffusion's energy at S_parity over the baseline's; None where not measured, or zero within noise.

        The interval spans every timed step count at which parity may lie.
        """
        ratio = self.speedup.energy if self.speedup else None  # the baseline's over diffusion's
        known = ratio is not None and ratio.value > 0 and not ratio.low <= 0
        return Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low) if ratio and known else None

    @property
    def outcome_text(self) -> str:
        """The outcome as text, with the step count."""
        parity = self.parity
        if parity.reached:
            smallest = ", the smallest step count scored" if parity.outcome == "reached_at_smallest" else ""
            return f"reached at K={parity.steps}{smallest}"
        return f"{parity.outcome.replace('_', ' ')} up to K={parity.points[-1].steps}"

    @property
    def margin_text(self) -> str:
        """The margin as text."""
        delta = self.parity.delta
        return f"a perplexity {delta:.0%} higher" if self.metric.log_scale else f"a margin of {delta:g}"


@dataclass(frozen=True)
class Curve:
    """A target over its step counts, all else equal: one (sampler, knobs, B, P, G), with its baseline.

    quality_baseline: the baseline's quality; it may come from another batch size, because texts do not depend on it.
    missing: what could not be computed, and why.
    """

    label: str
    model: str
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

    def headline(self, delta: float = 0.0) -> MetricParity | None:
        """Parity by the headline metric: that of the smallest rank among those scored."""
        exact = [p for p in self.parities if p.parity.delta == delta]
        return min(exact, key=lambda p: p.metric.rank, default=None)

    @property
    def nearest_parity(self) -> MetricParity | None:
        """The headline metric's parity at the smallest margin that reaches it; None where none does."""
        lead = self.headline()
        reached = [p for p in self.parities if lead and p.metric == lead.metric and p.parity.reached]
        return min(reached, key=lambda p: p.parity.delta, default=None)

    @property
    def rank(self) -> tuple[bool, int]:
        """Sort key, best known break-even first: within the step counts timed, then by how many there are."""
        line = self.break_even
        if line is None or line.steps is None:
            return (True, 0)
        return (line.is_extrapolated, -line.points)

    def at(self, steps: int | None) -> CellSummary | None:
        """The point at `steps`."""
        return next((p for p in self.points if p.cell.steps == steps), None)

    @property
    def timed(self) -> tuple[CellSummary, ...]:
        """The points that have a latency."""
        return tuple(timed_of(self.points))

    @property
    def lengths(self) -> tuple[int, int]:
        """Prompt and new tokens."""
        return self.prompt_tokens, self.new_tokens

    @property
    def untimed_reason(self) -> str:
        """Why the first point was not timed; empty where that is not on record."""
        return next((p.reason or p.status or "" for p in self.points), "")


@dataclass(frozen=True)
class Study:
    """Everything that figures, tables and the answer are made of. `others`: target cells without a step count."""

    metrics: tuple[MetricInfo, ...]
    baselines: tuple[CellSummary, ...]
    curves: tuple[Curve, ...]
    others: tuple[CellSummary, ...]
    labels: Mapping[str, str]
    findings: tuple[Finding, ...]
    missing: tuple[str, ...]

    @property
    def cells(self) -> tuple[CellSummary, ...]:
        """Every cell of the run: baselines, then curves point by point, then the others."""
        return (*self.baselines, *(p for c in self.curves for p in c.points), *self.others)

    def label(self, cell: Cell) -> str:
        """The cell's model with the knobs that distinguish it from others, without K, B, P and G."""
        return self.labels[cell.id]


def timed_of(cells: Iterable[CellSummary]) -> list[CellSummary]:
    """Those of `cells` that have a latency."""
    return [c for c in cells if c.latency is not None]
