"""The records an analysis returns: what figures, tables, report and answer are made from.

They hold numbers and what is missing; the modules beside this one compute them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from dlmbench.analysis.break_even import BreakEven
from dlmbench.analysis.parity import ALPHA, Outcome, Parity
from dlmbench.analysis.quality import MetricInfo, Quality
from dlmbench.analysis.replication import Estimate, Ratio
from dlmbench.analysis.stats import Interval, Summary
from dlmbench.types import Cell, Finding, Status

VerdictOutcome = Literal["diffusion", "baseline", "undecided"]
RANDOM_WEIGHTS = "random weights: quality not measured"


@dataclass(frozen=True)
class PeakMemory:
    """Peak memory of one generation in bytes, and the counter it was read from."""

    bytes: int
    source: str


@dataclass(frozen=True)
class CellSummary:
    """One cell in a few numbers; None where it was not measured.

    seconds: of one generation, with the error of that; energy: its joules, idle power included, without ends where one
    process was measured. ratio: the baseline's latency over this cell's. adjusted_p: that it is 1, adjusted for all
    ratios of the run (Benjamini and Hochberg). traced_first_s: time to the first token (baseline) or the first
    final block (diffusion) of one generation. inter_token_s: (L_e2e - L_prefill) / (N - 1) of the latency in this
    record. new_tokens, useful_tokens: of one generation, over the whole batch; useful ones are those up to and with the
    first end of text. busy_before: how long the device had been busy before a repetition, as text.
    """

    cell: Cell
    status: Status | None
    reason: str
    latency: Summary | None = None
    seconds: Estimate | None = None
    energy: Interval | None = None
    memory: PeakMemory | None = None
    quality: tuple[Quality, ...] = ()
    ratio: Ratio | None = None
    adjusted_p: float = 1.0
    traced_first_s: float | None = None
    inter_token_s: float | None = None
    new_tokens: float | None = None
    useful_tokens: float | None = None
    busy_before: str | None = None

    @property
    def speedup(self) -> Interval | None:
        """The baseline's latency over this cell's, with its interval; above 1 this cell is faster."""
        return self.ratio.interval() if self.ratio else None

    @property
    def pace(self) -> Literal["faster", "slower", "unclear", "unknown"]:
        """Against the baseline, with false discoveries among all cells of the run held at 5%."""
        if self.ratio is None:
            return "unknown"
        if self.adjusted_p > ALPHA:
            return "unclear"
        return "faster" if self.ratio.log > 0 else "slower"

    @property
    def throughput(self) -> Summary | None:
        """New tokens per second over the whole batch."""
        return self.latency.rate(self.new_tokens) if self.latency and self.new_tokens else None

    @property
    def useful_throughput(self) -> Summary | None:
        """Useful tokens per second over the whole batch; None where texts are not real."""
        return self.latency.rate(self.useful_tokens) if self.latency and self.useful_tokens else None

    def quality_in(self, metric: str) -> Quality | None:
        """The quality by one metric's name."""
        return next((q for q in self.quality if q.metric.name == metric), None)

    @property
    def joules_per_token(self) -> Interval | None:
        """Energy of a new token; None where not measured."""
        return self.energy.times(1 / (self.cell.batch_size * self.cell.new_tokens)) if self.energy else None

    @property
    def joules_per_useful_token(self) -> Interval | None:
        """Energy of a token up to and with the first end of text; None where texts are not real."""
        return self.energy.times(1 / self.useful_tokens) if self.energy and self.useful_tokens else None

    @property
    def block_length(self) -> int | None:
        """Positions in a block: all new tokens for a diffusion cell without a set length, None for a baseline."""
        value = self.cell.knob("block_length")
        if isinstance(value, int):
            return min(value, self.cell.new_tokens)
        return self.cell.new_tokens if self.cell.model.role == "target" else None

    @property
    def first_text_s(self) -> float | None:
        """Time to the first text; of a text in one block the latency, which many timed generations tell better."""
        if self.latency and self.traced_first_s is not None and self.block_length == self.cell.new_tokens:
            return self.latency.median
        return self.traced_first_s

    @property
    def status_text(self) -> str:
        """The status, also of a cell that has none yet."""
        return self.status or ("unfinished" if self.latency else "not measured")


@dataclass(frozen=True)
class MetricParity:
    """Parity by one metric at one delta."""

    metric: MetricInfo
    parity: Parity

    @property
    def text(self) -> str:
        """The step count from which diffusion is as good, as text."""
        return self.parity.text(self.parity.points[-1].steps)


@dataclass(frozen=True)
class Curve:
    """A target over its step counts, all else equal: one (sampler, knobs, B, P, G), with its baseline.

    quality_baseline: the baseline whose quality is compared; of another batch size only where this one was not scored.
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

    def parity(self, metric: str, delta: float | None = None) -> MetricParity | None:
        """Parity by a metric's name at `delta`, or at the metric's leading margin."""
        found = ((p, p.metric.margin if delta is None else delta) for p in self.parities if p.metric.name == metric)
        return next((p for p, wanted in found if p.parity.delta == wanted), None)

    def headline(self) -> MetricParity | None:
        """Parity by the headline metric, the scored quality metric of the smallest rank, at its leading margin."""
        exact = [p for p in self.parities if p.parity.delta == p.metric.margin]
        return min(exact, key=lambda p: p.metric.rank, default=None)

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


@dataclass(frozen=True)
class Verdict:
    """The verdict on one curve: diffusion at one batch size and length, over its step counts.

    reason: why, as a clause. settles: what would settle it, "" where it is settled. alpha: the two-sided level it was
    tested at. metric, margin: of the parity it rests on, None where quality is not known. low_steps, high_steps: the
    range of S_parity at that level. speed: the baseline's latency over diffusion's at S_parity, over that range.
    faster_steps, slower_steps: the step counts shown to be so, whatever the quality. evidence: ids of the cells.
    """

    label: str
    baseline: str | None
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    outcome: VerdictOutcome
    reason: str
    settles: str
    alpha: float
    metric: str | None
    margin: float | None
    parity: Outcome | None
    parity_steps: int | None
    low_steps: int | None
    high_steps: int | None
    speed: Interval | None
    faster_steps: tuple[int, ...]
    slower_steps: tuple[int, ...]
    break_even: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """Everything that figures, tables and the answer are made of.

    verdicts: one per curve, in their order. others: target cells without a step count.
    """

    metrics: tuple[MetricInfo, ...]
    baselines: tuple[CellSummary, ...]
    curves: tuple[Curve, ...]
    verdicts: tuple[Verdict, ...]
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
