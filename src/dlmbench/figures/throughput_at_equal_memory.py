"""Throughput against peak memory, batch by batch: what each model achieves in the same memory.

A comparison at equal batch size is unfair to the model that needs less memory: it could take more sequences at once.
Here both have the same budget, and each the largest batch that fits into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dlmbench.analysis.study import CellSummary, Study
from dlmbench.charts import frames, page, style
from dlmbench.types import Run

_X, _Y = "x", "tokens_per_s"  # x: the peak in the unit of the axis
_Y_TITLE = "throughput [new tokens/s]"
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
        "sizes (numbers) of each step count; medians with 95% intervals. Rings: the largest batch that fits into the "
        "same memory (vertical line); no ring where a larger batch was not measured."
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


def _draw_line(axes: Axes, own: pd.DataFrame, look: dict[str, Any], *, label: bool) -> None:
    """The line of a step count through its batch sizes, which are written above it where `label`."""
    style.with_intervals(axes, own, _X, _Y, order="batch_size", **look)
    for r in frames.each(own, is_largest=True):
        axes.plot(r.x, r.tokens_per_s, zorder=5, **style.RING)
    for r in frames.each(own) if label else ():
        text: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "path_effects": style.halo()}
        axes.annotate(f"B={r.batch_size:.0f}", (r.x, r.tokens_per_s), (0, 7), fontsize=6.5, **text)


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """A panel for each (prompt, new tokens); colour is K, marker and line style the sampler's settings."""
    measured, size, unit = _measured(frame)
    curves = frames.rows(measured, kind="curve")
    series, steps = frames.names(curves), frames.step_counts(curves)
    hues = dict(zip(steps, style.ordered_colours(len(steps)), strict=True))
    star, groups = style.baseline_look(8), frames.by_shape(measured)
    for axes, here in zip(style.panels(figure, groups, 2.9), groups.values(), strict=True):
        budget = here["budget_bytes"].dropna()
        if len(budget):
            axes.axvline(float(budget.iloc[0]) / size, **style.LIMIT)
        for name in frames.names(here, kind="baseline"):
            _draw_line(axes, frames.rows(here, kind="baseline", series=name), star, label=True)
        # Batch sizes are written on one line of diffusion: they are the same on the others.
        labelled = frames.rows(here, kind="curve").iloc[:1]
        for i, name in enumerate(series):
            own = frames.rows(here, kind="curve", series=name)
            for (k,), line in frames.groups(own, "steps"):
                look = style.look(i, hues.get(k, style.colour(i)))
                _draw_line(axes, line, look, label=bool(line.index.isin(labelled.index).any()))
        style.log_axis(axes, [*here["tokens_per_s_low"], *here["tokens_per_s_high"]])
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.margins(x=0.12, y=0.16)
        axes.set(xlabel=f"peak memory [{unit}]", ylabel=_Y_TITLE)
    handles = [style.key(f"K = {k:.0f}", color=hue, linewidth=4) for k, hue in hues.items()]
    handles += style.series_keys(series if len(series) == 1 else [frames.short(s) for s in series], "grey")
    handles += style.baseline_keys(measured, **star)
    if frame["budget_bytes"].notna().any():
        handles.append(style.key("equal memory", **style.LIMIT))
        handles.append(style.key("largest batch that fits", **style.RING))
    style.legend_below(figure, handles)


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    measured, size, unit = _measured(frame)
    series, steps = frames.names(frame, kind="curve"), frames.step_counts(frames.rows(measured, kind="curve"))
    hues = dict(zip(steps, page.ordered_colours(len(steps)), strict=True))
    groups = frames.by_shape(measured)
    chart = page.Chart(groups, f"peak memory [{unit}]", _Y_TITLE, panel_px=300)
    for panel, here in enumerate(groups.values()):
        for name in frames.names(here, kind="baseline"):
            own, shown = frames.rows(here, kind="baseline", series=name), f"{name} (autoregressive)"
            look = page.baseline_look()
            chart.line(panel, own, _X, _Y, shown, look, _hover, order="batch_size", label="B={batch_size}")
        for i, name in enumerate(series):
            for (k,), own in frames.groups(frames.rows(here, kind="curve", series=name), "steps"):
                look = page.look(i, hues.get(k, page.colour(i)))
                chart.line(panel, own, _X, _Y, frames.with_steps(name, k), look, _hover, order="batch_size")
        best = frames.rows(here, is_largest=True)
        if len(best):
            budget = float(best["budget_bytes"].iloc[0]) / size
            ends = float(here["tokens_per_s_low"].min()), float(here["tokens_per_s_high"].max())
            shown = f"equal memory: {page.number(budget)} {unit}, {best['budget'].iloc[0]}"
            chart.limit(panel, budget, ends, "equal memory", shown)
        chart.marks(panel, best, _X, _Y, "largest batch that fits", page.RING, _hover_largest)
        low, high = float(here["x"].min()), float(here["x"].max())
        # Space for the label beside the first mark.
        pad = 0.12 * (high - low) or 0.1 * high
        chart.axis(panel, "x", range=[low - pad, high + pad])
        chart.log(panel, "y", [*here["tokens_per_s_low"], *here["tokens_per_s_high"]])
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    rate = page.amount("throughput", row, "tokens_per_s", "new tokens/s")
    peak = f"peak memory: {row.peak_bytes / frames.GIB:.3g} GiB ({row.source})"
    return [f"batch size {row.batch_size}", rate, peak]


def _hover_largest(row: Any) -> list[str]:
    return [frames.with_steps(row.series, row.steps), *_hover(row), f"the largest batch that fits: {row.budget}"]
