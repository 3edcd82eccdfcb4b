"""Latency against diffusion steps, the baseline's latency as a band, break-even where they meet.

The first half of the main question: up to how many steps is diffusion faster?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from dlmbench.analysis.study import Study
from dlmbench.charts import frames, style
from dlmbench.types import Run

ORDER = 20


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
        "Dashed lines with bands: the autoregressive baseline at the same batch size."
    )
    marks = [
        f"{frames.where(r)}: {r.steps:.1f} "
        + (f"({r.steps_low:.1f} to {r.steps_high:.1f})" if pd.notna(r.steps_low) else "(no interval)")
        for r in frames.each(frame, kind="break_even")
    ]
    return text + (f" Break-even steps (95% interval), marked with a cross: {'; '.join(marks)}." if marks else "")


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each pair of lengths and batch size; break-even where the fitted line meets the baseline."""
    curves, is_curve = frames.rows(frame, kind="curve"), frame["kind"] == "curve"
    shown = frame[is_curve | frame["batch_size"].isin(curves["batch_size"])]
    shown = style.with_tooltip(style.by_shape_and_batch(style.named(shown)), latency=("latency_s", "s"))
    tips, looks = style.tooltip(shown), style.series_looks(shown)
    x = style.log2_axis("steps", "diffusion steps K", list(curves["steps"]))
    y = style.axis("latency_s", "latency [s]", [*shown["latency_s"], *shown["latency_high_s"]])
    met = style.where("break_even")
    cross = met.mark_point(shape="cross", angle=45, filled=True, color=style.INK, opacity=1, size=60)
    layers = [
        *style.bands(style.where("baseline"), y, "latency_s", looks, tips),
        *style.curves(style.where("curve"), x, y, "latency_s", looks, tips),
        cross.encode(x=x, y=y, tooltip=tips),
    ]
    return style.panels(layers, shown)
