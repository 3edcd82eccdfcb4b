"""Latency against diffusion steps, the baseline's latency as a band, break-even where they meet.

The first half of the question: up to how many steps is diffusion faster at all?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dlmbench.analysis.study import Study
from dlmbench.charts import page, style
from dlmbench.charts.points import Point, each, rows_of, shapes, short, table, why_missing
from dlmbench.types import Run

NAME = "latency_vs_steps"


@dataclass(frozen=True, kw_only=True)
class LatencyPoint(Point):
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
        where = (curve.batch_size, curve.prompt_tokens, curve.new_tokens)
        for p in curve.points:
            if p.latency:
                rows.append(
                    LatencyPoint(
                        kind="curve",
                        series=curve.label,
                        batch_size=where[0],
                        prompt_tokens=where[1],
                        new_tokens=where[2],
                        weights=p.cell.model.weights,
                        steps=p.cell.steps,
                        latency_s=p.latency.median,
                        latency_low_s=p.latency.low,
                        latency_high_s=p.latency.high,
                        repetitions=p.latency.n,
                    )
                )
        line, base = curve.break_even, curve.baseline
        if line and line.steps is not None and not line.is_extrapolated and base and base.latency:
            rows.append(
                LatencyPoint(
                    kind="break_even",
                    series=curve.label,
                    batch_size=where[0],
                    prompt_tokens=where[1],
                    new_tokens=where[2],
                    steps=line.steps,
                    steps_low=line.low,
                    steps_high=line.high,
                    latency_s=base.latency.median,
                    note=f"largest distance of a median from the line: {line.largest_residual:.1%}",
                )
            )
    if rows:
        for base in study.baselines:
            if base.latency:
                rows.append(
                    LatencyPoint(
                        kind="baseline",
                        series=study.label(base.cell),
                        batch_size=base.cell.batch_size,
                        prompt_tokens=base.cell.prompt_tokens,
                        new_tokens=base.cell.new_tokens,
                        weights=base.cell.model.weights,
                        latency_s=base.latency.median,
                        latency_low_s=base.latency.low,
                        latency_high_s=base.latency.high,
                        repetitions=base.latency.n,
                    )
                )
    return table(LatencyPoint, rows, "no diffusion cell with a step count was timed")


def caption(frame: pd.DataFrame) -> str:
    """What is shown, and the break-evens in numbers."""
    if why := why_missing(frame):
        return f"Not measured: {why}."
    text = (
        "Latency of a whole generation against diffusion steps: medians with 95% intervals of the median. "
        "Dashed bands: the autoregressive baseline at the same batch size."
    )
    marks = [
        f"{short(r.series)}, B={int(r.batch_size)}, P={int(r.prompt_tokens)}, G={int(r.new_tokens)}: {r.steps:.1f} "
        + (f"({r.steps_low:.1f} to {r.steps_high:.1f})" if pd.notna(r.steps_low) else "(no interval)")
        for r in each(frame, kind="break_even")
    ]
    return text + (f" Break-even steps (95% interval), marked X: {'; '.join(marks)}." if marks else "")


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """One panel for each (prompt, new tokens); colour is batch size, marker and line style the sampler's settings."""
    if why := why_missing(frame):
        return style.not_measured(figure, why)
    curves = rows_of(frame, kind="curve")
    series = list(dict.fromkeys(curves["series"]))
    batches = sorted(curves["batch_size"].unique())
    by_batch = len(batches) > 1
    for axes, (prompt, new) in zip(style.panels(figure, len(shapes(curves)), 3.1), shapes(curves), strict=True):
        here = rows_of(frame, prompt_tokens=prompt, new_tokens=new)
        for i, name in enumerate(series):
            for j, batch in enumerate(batches):
                own = rows_of(here, kind="curve", series=name, batch_size=batch).sort_values("steps")
                if len(own):
                    hue = style.colour(j if by_batch else i)
                    style.with_intervals(axes, own, "steps", "latency_s", **style.look(i, hue))
        for r in each(here, kind="baseline"):
            if r.batch_size in batches:
                hue = style.colour(batches.index(r.batch_size)) if by_batch else style.BASELINE_COLOUR
                style.band(axes, r.latency_s, r.latency_low_s, r.latency_high_s, color=hue, linestyle="--")
        for r in each(here, kind="break_even"):
            axes.plot(r.steps, r.latency_s, zorder=5, **style.CROSS)
            if len(series) == 1:
                at = (r.steps, r.latency_s)
                axes.annotate(f"k* = {r.steps:.1f}", at, (7, -11), textcoords="offset points", fontsize=7.5)
        style.log2_axis(axes, list(curves["steps"]))
        style.log_axis(axes, [*here["latency_s"].dropna(), *here["latency_high_s"].dropna()])
        axes.set(title=f"{prompt} prompt + {new} new tokens", xlabel="diffusion steps K", ylabel="latency [s]")
    handles = [style.key(f"batch {b}", color=style.colour(j)) for j, b in enumerate(batches) if by_batch]
    for i, name in enumerate(series):
        handles.append(style.key(name, **style.look(i, "grey" if by_batch else None)))
    for name in dict.fromkeys(rows_of(frame, kind="baseline")["series"]):
        hue = "grey" if by_batch else style.BASELINE_COLOUR
        handles.append(style.key(f"{name} (autoregressive)", color=hue, linestyle="--"))
    if len(rows_of(frame, kind="break_even")):
        handles.append(style.key("break-even k*", **style.CROSS))
    style.legend_below(figure, handles)
    style.stamp(figure, frame)
    return None


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    if why := why_missing(frame):
        return page.not_measured(why)
    curves = rows_of(frame, kind="curve")
    series = list(dict.fromkeys(curves["series"]))
    batches = sorted(curves["batch_size"].unique())
    by_batch = len(batches) > 1
    span = (float(curves["steps"].min()), float(curves["steps"].max()))
    chart = page.Chart([page.shape_title(*s) for s in shapes(curves)], "diffusion steps K", "latency [s]")
    for panel, (prompt, new) in enumerate(shapes(curves)):
        here = rows_of(frame, prompt_tokens=prompt, new_tokens=new)
        for i, name in enumerate(series):
            for j, batch in enumerate(batches):
                own = rows_of(here, kind="curve", series=name, batch_size=batch).sort_values("steps")
                hue = page.colour(j) if by_batch else None
                if len(own):
                    shown = f"{name}, batch {batch}" if by_batch else name
                    chart.line(panel, own, "steps", "latency_s", shown, page.look(i, hue), _hover)
        for r in each(here, kind="baseline"):
            if r.batch_size in batches:
                hue = page.colour(batches.index(r.batch_size)) if by_batch else page.INK
                shown = f"{r.series} (autoregressive)" + (f", batch {r.batch_size}" if by_batch else "")
                chart.band(panel, span, r.latency_s, r.latency_low_s, r.latency_high_s, shown, hue, _hover(r))
        marks = rows_of(here, kind="break_even")
        words = [
            f"{r.series}, batch {r.batch_size}\n{page.amount('k*', r.steps, r.steps_low, r.steps_high, 'steps')}"
            for r in each(marks)
        ]
        chart.cross(panel, list(marks["steps"]), list(marks["latency_s"]), "break-even k*", words)
        chart.log2(panel, "x", list(curves["steps"]))
        chart.log(panel, "y", [*here["latency_s"].dropna()])
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    steps = [] if pd.isna(row.steps) else [f"K = {row.steps:.0f}"]
    latency = page.amount("latency", row.latency_s, row.latency_low_s, row.latency_high_s, "s")
    return [*steps, f"batch size {row.batch_size}", latency, f"{row.repetitions:.0f} timed repetitions"]
