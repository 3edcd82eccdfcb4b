"""Throughput against peak memory, batch by batch: what each model achieves in the same memory.

A comparison at equal batch size is unfair to the model that needs less memory: it could take more sequences at once.
Here both have the same budget, and each the largest batch that fits into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.study import CellSummary, Study
from dlmbench.charts import frames, style, throughput
from dlmbench.types import Run

_MOST_NUMBERS = 12  # lines of a shape that a caption names
DEVICE = "all of the device's memory: larger batches ran out of it"
TRIED = "the largest peak that both models were measured up to"


@dataclass(frozen=True, kw_only=True)
class EqualMemoryPoint(frames.Point):
    """kind: curve or baseline, and oom for a batch that did not fit.

    budget_bytes: what both models may use at these lengths; budget says why that much. is_largest: the largest batch
    known to fit into it, where all larger ones that were tried are known not to.
    """

    model: str = ""
    steps: float | None = None
    peak_bytes: float | None = None
    source: str = ""
    tokens_per_s: float | None = None
    tokens_per_s_low: float | None = None
    tokens_per_s_high: float | None = None
    budget_bytes: float | None = None
    budget: str = ""
    is_largest: bool | None = None


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every cell with throughput and peak memory or out of memory, and the largest batch within the budget."""
    rows = [row for kind, cell in frames.cells_by_kind(study) if (row := _point(kind, study, cell)) is not None]
    if not any(r.kind != "oom" for r in rows):
        return frames.table(EqualMemoryPoint, [], "no cell has both its throughput and its peak memory")
    device = float(run.environment.memory_bytes) if run.environment else None
    marked: list[EqualMemoryPoint] = []
    for shape in dict.fromkeys((r.prompt_tokens, r.new_tokens) for r in rows):
        marked += _with_budget([r for r in rows if (r.prompt_tokens, r.new_tokens) == shape], device)
    return frames.table(EqualMemoryPoint, marked, "")


def _point(kind: str, study: Study, summary: CellSummary) -> EqualMemoryPoint | None:
    cell, series = summary.cell, study.label(summary.cell)
    columns: dict[str, Any] = {"note": summary.reason, "model": cell.model.key, "steps": cell.steps}
    # The peak at which an allocation failed is not the memory that the cell needs.
    if summary.status == "oom":
        return EqualMemoryPoint.of(cell, "oom", series, **columns)
    if summary.throughput is None or summary.memory is None:
        return None
    columns |= {"peak_bytes": summary.memory.bytes, "source": summary.memory.source}
    columns |= frames.median_columns("tokens_per_s", summary.throughput)
    return EqualMemoryPoint.of(cell, "baseline" if kind == "baseline" else "curve", series, **columns)


def _with_budget(rows: Sequence[EqualMemoryPoint], device_bytes: float | None) -> list[EqualMemoryPoint]:
    """The rows of one shape with the budget that all models share, and the largest batch of each line in it."""
    tops = []
    for model in dict.fromkeys(r.model for r in rows):
        own = [r for r in rows if r.model == model]
        # A model that ran out of memory was measured up to its limit; one that did not could use more.
        if not any(r.kind == "oom" for r in own):
            tops.append(max(r.peak_bytes or 0.0 for r in own))
    known = [r.peak_bytes for r in rows if r.peak_bytes is not None]
    if len({r.model for r in rows}) < 2 or not known:
        return list(rows)
    limit = min(tops) if tops else (device_bytes or max(known))
    why = TRIED if tops else DEVICE
    lines: dict[tuple[str, float | None], list[EqualMemoryPoint]] = {}
    for r in rows:
        lines.setdefault((r.series, r.steps), []).append(r)
    marked = []
    for line in lines.values():
        best = _largest(line, limit, sorted({r.batch_size or 0 for r in rows if r.model == line[0].model}))
        marked += [
            replace(r, budget_bytes=limit, budget=why, is_largest=r.kind != "oom" and r.batch_size == best)
            for r in line
        ]
    return marked


def _largest(line: Sequence[EqualMemoryPoint], limit: float, tried: Sequence[int]) -> int | None:
    """The largest batch of a line within `limit`, None where the line lacks a larger one that was tried."""
    by_batch = {r.batch_size: r for r in line}
    for batch in reversed(tried):
        row = by_batch.get(batch)
        if row is None:
            return None
        if row.peak_bytes is not None and row.peak_bytes <= limit:
            return batch
    return None


def _measured(frame: pd.DataFrame) -> tuple[pd.DataFrame, int, str]:
    """The rows that fitted into memory, with their peak as `x`, and the bytes and the name of its unit."""
    size, unit = frames.memory_unit(frame["peak_bytes"].max())
    fitted = frame[frame["kind"] != "oom"]
    return fitted.assign(x=fitted["peak_bytes"].astype(float) / size), size, unit


def caption(frame: pd.DataFrame) -> str:
    """What is shown, and at each shape what fits into the same memory."""
    sources = " and ".join(s for s in dict.fromkeys(frame["source"]) if s)
    size, unit = frames.memory_unit(frame["peak_bytes"].max())
    text = (
        f"Throughput against peak memory of one generation ({sources}, weights included), a line through the batch "
        "sizes of each step count (numbers at the baseline's); medians with 95% intervals. Rings: the largest batch "
        "that fits into the same memory (dashed vertical line); no ring where a larger batch was not measured."
    )
    for prompt, new in frames.shapes(frame):
        best = frames.rows(frame, prompt_tokens=prompt, new_tokens=new, is_largest=True)
        if best.empty:
            continue
        numbers = [
            f"{frames.with_steps(r.series, r.steps)} B={r.batch_size:.0f} {r.tokens_per_s:.0f} tokens/s"
            for r in frames.each(best)
        ]
        shown = ", ".join(numbers)
        if len(best) > _MOST_NUMBERS:
            shown = f"{len(best)} lines, whose numbers are in the table beside the figure"
        budget = f"{float(best['budget_bytes'].iloc[0]) / size:.1f} {unit} ({best['budget'].iloc[0]})"
        text += f" P={prompt}, G={new}, {budget}: {shown}."
    return text


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each pair of lengths; colour is K, the shape the sampler's settings."""
    measured, size, unit = _measured(frame)
    shown = style.named(measured).sort_values(["prompt_tokens", "new_tokens", "batch_size"], kind="stable")
    shown = shown.assign(
        panel=[frames.shape_title(r.prompt_tokens, r.new_tokens) for r in frames.each(shown)],
        budget_size=shown["budget_bytes"].astype(float) / size,
        line=throughput.line_names(shown),
    )
    shown = style.with_tooltip(shown, throughput=("tokens_per_s", "new tokens/s"), peak_memory=("x", unit))
    tips, looks = style.tooltip(shown, "source", "budget"), throughput.line_looks(shown)
    if curves := frames.names(shown, kind="curve"):
        looks.shape = style.series_looks(shown).shape
        looks.shape["legend"]["values"] = curves
    values = [*shown["tokens_per_s_low"], *shown["tokens_per_s_high"]]
    x: Any = alt.X("x:Q", title=f"peak memory [{unit}]", scale=alt.Scale(zero=False, padding=12))
    x.axis = alt.Axis(tickCount=4)
    y = style.axis("tokens_per_s", "throughput [new tokens/s]", values)
    budget = alt.Chart().transform_aggregate(budget_size="max(budget_size)", groupby=["panel"])
    limit = budget.transform_filter("isValid(datum.budget_size)").mark_rule(strokeDash=style.DASHED, color=style.MUTED)
    # Batch sizes are readable on one line only; the others are in the tooltips.
    label = style.where("baseline").transform_calculate(text="'B=' + datum.batch_size").mark_text(align="left", dx=5)
    layers = [
        limit.encode(x=style.of(x, "budget_size")),
        *style.curves(alt.Chart(), x, y, "tokens_per_s", looks, tips, order="batch_size", detail=["series", "line"]),
        style.ring(alt.Chart().transform_filter("datum.is_largest"), x, y, tips),
        label.encode(x=x, y=y, text="text:N", color=looks.color),
    ]
    return style.panels(layers, shown)
