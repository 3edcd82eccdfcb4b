"""Latency against diffusion steps, the baseline's latency as a band, break-even where they meet.

The first half of the question: up to how many steps is diffusion faster at all?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dlmbench.analysis.study import Study
from dlmbench.charts import frames, page, style
from dlmbench.types import Run

ORDER = 20
_X, _Y = "steps", "latency_s"
_X_TITLE, _Y_TITLE = "diffusion steps K", "latency [s]"


@dataclass(frozen=True, kw_only=True)
class LatencyPoint(frames.Point):
    """kind: curve, baseline, or break_even, whose steps have an interval instead of its latency."""

    steps: float | None = None
    steps_low: float | None = None
    steps_high: float | None = None
    latency_s: float | None = None
    latency_low_s: float | None = None
    latency_high_s: float | None = None
    repetitions: int | None = None


def points(run: Run, study: Study) -> pd.DataFrame:
    """Median latency of every cell on a curve, of each baseline, and the break-evens inside the range measured."""
    rows: list[LatencyPoint] = []
    for curve in study.curves:
        for p in curve.points:
            if p.latency:
                latency = frames.median_columns("latency_s", p.latency)
                own = {"steps": p.cell.steps, "repetitions": p.latency.n}
                rows.append(LatencyPoint.of(p.cell, "curve", curve.label, **own, **latency))
        line, base = curve.break_even, curve.baseline
        if line and line.steps is not None and not line.is_extrapolated and base and base.latency:
            rows.append(
                LatencyPoint(
                    kind="break_even",
                    series=curve.label,
                    batch_size=curve.batch_size,
                    prompt_tokens=curve.prompt_tokens,
                    new_tokens=curve.new_tokens,
                    steps=line.steps,
                    steps_low=line.low,
                    steps_high=line.high,
                    latency_s=base.latency.median,
                    note=f"largest distance of a median from the line: {line.largest_residual:.1%}",
                )
            )
    for base in study.baselines if rows else ():
        if base.latency:
            latency = frames.median_columns("latency_s", base.latency)
            label = study.label(base.cell)
            rows.append(LatencyPoint.of(base.cell, "baseline", label, repetitions=base.latency.n, **latency))
    return frames.table(LatencyPoint, rows, "no diffusion cell with a step count was timed")


def caption(frame: pd.DataFrame) -> str:
    """What is shown, and the break-evens in numbers."""
    text = (
        "Latency of a whole generation against diffusion steps: medians with 95% intervals of the median. "
        "Dashed bands: the autoregressive baseline at the same batch size."
    )
    marks = [
        f"{frames.where(r)}: {r.steps:.1f} "
        + (f"({r.steps_low:.1f} to {r.steps_high:.1f})" if pd.notna(r.steps_low) else "(no interval)")
        for r in frames.each(frame, kind="break_even")
    ]
    return text + (f" Break-even steps (95% interval), marked X: {'; '.join(marks)}." if marks else "")


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """A panel for each (prompt, new tokens); colour is batch size, marker and line style the sampler's settings."""
    curves = frames.rows(frame, kind="curve")
    series, batches, groups = frames.names(curves), frames.batch_sizes(curves), frames.by_shape(frame, curves)
    by_batch = len(batches) > 1
    for axes, here in zip(style.panels(figure, groups, 3.1), groups.values(), strict=True):
        for i, name in enumerate(series):
            for j, batch in enumerate(batches):
                own = frames.rows(here, kind="curve", series=name, batch_size=batch)
                style.with_intervals(axes, own, _X, _Y, **style.look(i, style.colour(j if by_batch else i)))
        for r in frames.each(here, kind="baseline"):
            if r.batch_size in batches:
                hue = style.colour(batches.index(r.batch_size)) if by_batch else style.BASELINE_COLOUR
                style.band(axes, r, _Y, color=hue, linestyle="--")
        for r in frames.each(here, kind="break_even"):
            axes.plot(r.steps, r.latency_s, zorder=5, **style.CROSS)
            if len(series) == 1:
                at = (r.steps, r.latency_s)
                axes.annotate(f"k* = {r.steps:.1f}", at, (7, -11), textcoords="offset points", fontsize=7.5)
        style.log2_axis(axes, list(curves["steps"]))
        style.log_axis(axes, [*here["latency_s"].dropna(), *here["latency_high_s"].dropna()])
        axes.set(xlabel=_X_TITLE, ylabel=_Y_TITLE)
    handles = [style.key(f"batch {b}", color=style.colour(j)) for j, b in enumerate(batches) if by_batch]
    handles += style.series_keys(series, "grey" if by_batch else None)
    handles += style.baseline_keys(frame, color="grey" if by_batch else style.BASELINE_COLOUR, linestyle="--")
    if len(frames.rows(frame, kind="break_even")):
        handles.append(style.key("break-even k*", **style.CROSS))
    style.legend_below(figure, handles)


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    curves = frames.rows(frame, kind="curve")
    series, batches, groups = frames.names(curves), frames.batch_sizes(curves), frames.by_shape(frame, curves)
    by_batch = len(batches) > 1
    span = (float(curves["steps"].min()), float(curves["steps"].max()))
    chart = page.Chart(groups, _X_TITLE, _Y_TITLE)
    for panel, here in enumerate(groups.values()):
        for i, name in enumerate(series):
            for j, batch in enumerate(batches):
                own = frames.rows(here, kind="curve", series=name, batch_size=batch)
                shown, hue = (f"{name}, batch {batch}", page.colour(j)) if by_batch else (name, None)
                chart.line(panel, own, _X, _Y, shown, page.look(i, hue), _hover)
        for r in frames.each(here, kind="baseline"):
            if r.batch_size in batches:
                hue = page.colour(batches.index(r.batch_size)) if by_batch else page.INK
                shown = f"{r.series} (autoregressive)" + (f", batch {r.batch_size}" if by_batch else "")
                chart.band(panel, span, r, _Y, shown, hue, _hover(r))
        chart.marks(panel, frames.rows(here, kind="break_even"), _X, _Y, "break-even k*", page.CROSS, _hover_break_even)
        chart.log2(panel, "x", list(curves["steps"]))
        chart.log(panel, "y", [*here["latency_s"].dropna()])
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    return [
        *page.settings(row),
        page.amount("latency", row, "latency_s", "s"),
        f"{row.repetitions:.0f} timed repetitions",
    ]


def _hover_break_even(row: Any) -> list[str]:
    return [f"{row.series}, batch {row.batch_size}", page.amount("k*", row, "steps", "steps")]
