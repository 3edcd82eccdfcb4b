"""Latency against diffusion steps with the fitted line, the baseline's latency as a band, break-even where they meet.

The first half of the main question: up to how many steps is diffusion faster?
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from dlmbench.analysis.results import Study
from dlmbench.charts import frames, style
from dlmbench.types import Run

ORDER = 20
# kind: curve, baseline, break_even (its steps have an interval, not its latency), or fit: latency = intercept_s +
# slope_s * steps, between the step counts steps_low and steps_high.
COLUMNS = (
    *frames.interval_columns("steps"),
    *frames.interval_columns("latency_s"),
    *("repetitions", "intercept_s", "slope_s"),
)
_PLACES = 24  # of a line that is straight, but not on logarithmic axes


def points(run: Run, study: Study) -> pd.DataFrame:
    """Median latency of every cell on a curve, of each baseline, the fitted lines, and the break-evens on them."""
    timed = {summary.cell.id: row for row, summary in frames.cells(study) if summary.latency}
    rows: list[frames.Row] = []
    for curve in study.curves:
        rows += [timed[p.cell.id] for p in curve.timed]
        line, base = curve.break_even, curve.baseline
        if line:
            steps = [p.cell.steps or 0 for p in curve.timed]
            between = {"steps_low": min(steps), "steps_high": max(steps)}
            columns = {"intercept_s": line.intercept_s, "slope_s": line.slope_s, "weights": curve.weights, **between}
            rows.append(frames.curve_row(curve, "fit", **frames.break_even_columns(line) | columns | {"steps": None}))
        if line and line.steps is not None and not line.is_extrapolated and base and base.latency:
            columns = frames.break_even_columns(line)
            rows.append(frames.curve_row(curve, "break_even", **columns, latency_s=base.latency.median))
    if rows:
        rows += [timed[b.cell.id] for b in study.baselines if b.latency]
    return frames.table(COLUMNS, rows, "no diffusion cell with a step count was timed")


def caption(frame: pd.DataFrame) -> str:
    """What is shown."""
    crosses = " Crosses: break-even." if (frame["kind"] == "break_even").any() else ""
    return (
        "Latency of a whole generation against diffusion steps: medians with 95% intervals of the median, and the line "
        "fitted through them by least squares. Dashed lines with bands: the autoregressive baseline at the same batch "
        f"size.{crosses}"
    )


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each pair of lengths and batch size."""
    curves = frames.rows(frame, kind="curve")
    shown = frame[(frame["kind"] == "curve") | frame["batch_size"].isin(curves["batch_size"])]
    shown = _with_lines(style.by_shape_and_batch(shown))
    shown, tips = style.with_tooltip(shown, latency=("latency_s", "s"))
    x = style.log2_axis("steps", "diffusion steps K", list(curves["steps"]))
    y = style.axis("latency_s", "latency [s]", shown)
    marks, met = style.Marks(x, y, style.series_looks(shown), tips), style.where("break_even")
    cross = met.mark_point(shape="cross", angle=45, style="open", color=style.INK, opacity=1)
    line, points = marks.line(style.where("fit")), style.where("curve")
    layers = [
        *marks.bands(style.where("baseline")),
        line,
        marks.intervals(points),
        marks.points(points),
        cross.encode(x=x, y=y, tooltip=tips),
    ]
    return style.panels(layers, shown)


def _with_lines(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with each fitted line as rows along it, where it is above zero."""
    is_fit = frame["kind"] == "fit"
    low, high = (frame.loc[is_fit, c].to_numpy(float) for c in ("steps_low", "steps_high"))
    drawn = frame.loc[frame.index.repeat(np.where(is_fit, _PLACES, 1))].reset_index(drop=True)
    drawn.loc[drawn["kind"] == "fit", "steps"] = np.geomspace(low, high, _PLACES, axis=1).ravel()
    fitted = drawn["intercept_s"] + drawn["slope_s"] * drawn["steps"]
    drawn["latency_s"] = drawn["latency_s"].where(drawn["kind"] != "fit", fitted)
    return drawn[drawn["latency_s"] > 0]
