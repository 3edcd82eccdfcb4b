"""Latency against diffusion steps, the baseline's latency as a band, break-even where they meet.

The first half of the main question: up to how many steps is diffusion faster?
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from dlmbench.analysis.study import Study
from dlmbench.charts import frames, style
from dlmbench.types import Run

ORDER = 20
# kind: curve, baseline, or break_even, whose steps have an interval instead of its latency.
COLUMNS = (*frames.interval_columns("steps"), *frames.interval_columns("latency_s"), "repetitions")


def points(run: Run, study: Study) -> pd.DataFrame:
    """Median latency of every cell on a curve, of each baseline, and the break-evens inside the range measured."""
    timed = {summary.cell.id: row for row, summary in frames.cells(study) if summary.latency}
    rows: list[frames.Row] = []
    for curve in study.curves:
        rows += [timed[p.cell.id] for p in curve.timed]
        line, base = curve.break_even, curve.baseline
        if line and line.steps is not None and not line.is_extrapolated and base and base.latency:
            columns = frames.break_even_columns(line)
            rows.append(frames.curve_row(curve, "break_even", **columns, latency_s=base.latency.median))
    if rows:
        rows += [timed[b.cell.id] for b in study.baselines if b.latency]
    return frames.table(COLUMNS, rows, "no diffusion cell with a step count was timed")


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
    curves = frames.rows(frame, kind="curve")
    shown = frame[(frame["kind"] == "curve") | frame["batch_size"].isin(curves["batch_size"])]
    shown = style.by_shape_and_batch(shown)
    shown, tips = style.with_tooltip(shown, latency=("latency_s", "s"))
    x = style.log2_axis("steps", "diffusion steps K", list(curves["steps"]))
    ends = [*shown["latency_s"], *shown["latency_low_s"], *shown["latency_high_s"]]
    y = style.axis("latency_s", "latency [s]", ends)
    marks, met = style.Marks(x, y, style.series_looks(shown), tips), style.where("break_even")
    cross = met.mark_point(shape="cross", angle=45, filled=True, color=style.INK, opacity=1, size=60)
    layers = [
        *marks.bands(style.where("baseline")),
        *marks.curves(style.where("curve")),
        cross.encode(x=x, y=y, tooltip=tips),
    ]
    return style.panels(layers, shown)
