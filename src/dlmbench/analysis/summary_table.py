"""The summary table: one row per cell of a run, for the console and the CSV."""

from __future__ import annotations

from dataclasses import dataclass

from dlmbench.analysis.quality import metric_for
from dlmbench.analysis.results import CellSummary, Study
from dlmbench.types import Cell


@dataclass(frozen=True)
class SummaryRow:
    """One row of the table; None where not measured. memory_source names the counter that was read."""

    model: str
    steps: int | None
    block_length: int | None
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    status: str
    latency_s: float | None
    latency_low_s: float | None
    latency_high_s: float | None
    tokens_per_s: float | None
    memory_bytes: int | None
    memory_source: str | None
    likelihood: float | None
    validity: float | None
    speedup: float | None
    n: int


def summary_rows(study: Study) -> list[SummaryRow]:
    """A row for every cell, baselines first, then the curves by ascending steps. likelihood is nats/token of the
    reference (lower is better), validity a share, speedup the baseline's latency over the cell's, n timed repetitions.
    """
    return [_row(study, c) for c in study.cells]


def _row(study: Study, summary: CellSummary) -> SummaryRow:
    cell = summary.cell
    latency, memory = summary.latency, summary.memory
    likelihood, validity = (summary.quality_in(metric_for(m)) for m in ("likelihood", "validity"))
    return SummaryRow(
        model=study.label(cell),
        steps=cell.steps,
        block_length=block_length(cell),
        batch_size=cell.batch_size,
        prompt_tokens=cell.prompt_tokens,
        new_tokens=cell.new_tokens,
        status=summary.status_text,
        latency_s=latency.median if latency else None,
        latency_low_s=latency.low if latency and latency.interval.is_known else None,
        latency_high_s=latency.high if latency and latency.interval.is_known else None,
        tokens_per_s=summary.throughput.median if summary.throughput else None,
        memory_bytes=memory.bytes if memory else None,
        memory_source=memory.source if memory else None,
        likelihood=likelihood.value if likelihood else None,
        validity=validity.value if validity else None,
        speedup=summary.speedup.value if summary.speedup else None,
        n=latency.n if latency else 0,
    )


def block_length(cell: Cell) -> int | None:
    """Positions in a block: all new tokens for a diffusion cell without a set length, None for a baseline."""
    value = cell.knob("block_length")
    if isinstance(value, int):
        return value
    return cell.new_tokens if cell.model.role == "target" else None
