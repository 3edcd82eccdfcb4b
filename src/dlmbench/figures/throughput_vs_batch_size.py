"""Throughput against batch size, a line for each step count, with the baseline's.

Shows how each model scales: an autoregressive step is bound by memory bandwidth, so a larger batch costs it little; a
diffusion step keeps the device busy with a single text.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dlmbench.analysis.study import Study
from dlmbench.charts import frames, page, style
from dlmbench.charts.throughput import (
    OWN_STEPS,
    X_TITLE,
    Y_TITLE,
    hover,
    panels,
    throughput_caption,
    throughput_points,
)
from dlmbench.types import Run

ORDER = 60
_X, _Y = "batch_size", "tokens_per_s"


def points(run: Run, study: Study) -> pd.DataFrame:
    """Median new tokens per second of every timed cell."""
    return throughput_points(study)


def caption(frame: pd.DataFrame) -> str:
    """What is shown."""
    return throughput_caption("a line for each step count K")


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """A panel for each (sampler's settings, prompt, new tokens); colour and marker are K, the baseline is dashed."""
    steps, groups = frames.step_counts(frame), panels(frame)
    hues = style.ordered_colours(len(steps))
    looks: list[dict[str, Any]] = [style.look(i, hue) | {"linestyle": "-"} for i, hue in enumerate(hues)]
    baseline = style.baseline_look(7)
    for axes, here in zip(style.panels(figure, groups), groups.values(), strict=True):
        curves = frames.rows(here, kind="curve")
        for k, look in zip(steps, looks, strict=True):
            style.with_intervals(axes, frames.rows(curves, steps=k), _X, _Y, **look)
        style.with_intervals(axes, curves[curves["steps"].isna()], _X, _Y, **style.look(0))
        for name in frames.names(here, kind="baseline"):
            style.with_intervals(axes, frames.rows(here, kind="baseline", series=name), _X, _Y, **baseline)
        style.log2_axis(axes, list(here["batch_size"]))
        style.log_axis(axes, [*frame["tokens_per_s"], *frame["tokens_per_s_high"]])
        axes.set(xlabel=X_TITLE, ylabel=Y_TITLE)
    handles = [style.key(f"K = {k:.0f}", **look) for k, look in zip(steps, looks, strict=True)]
    handles += style.baseline_keys(frame, **baseline)
    if frames.rows(frame, kind="curve")["steps"].isna().any():
        handles.append(style.key(OWN_STEPS, **style.look(0)))
    style.legend_below(figure, handles)


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    steps, groups = frames.step_counts(frame), panels(frame)
    hues = page.ordered_colours(len(steps))
    chart = page.Chart(groups, X_TITLE, Y_TITLE)
    for panel, here in enumerate(groups.values()):
        curves = frames.rows(here, kind="curve")
        for i, (k, hue) in enumerate(zip(steps, hues, strict=True)):
            look = page.look(i, hue) | {"dash": "solid"}
            chart.line(panel, frames.rows(curves, steps=k), _X, _Y, f"K = {k:.0f}", look, hover)
        chart.line(panel, curves[curves["steps"].isna()], _X, _Y, OWN_STEPS, page.look(0), hover)
        for name in frames.names(here, kind="baseline"):
            own = frames.rows(here, kind="baseline", series=name)
            chart.line(panel, own, _X, _Y, f"{name} (autoregressive)", page.baseline_look(), hover)
        chart.log2(panel, "x", list(here["batch_size"]))
        chart.log(panel, "y", list(frame["tokens_per_s"]))
    return chart.figure(frame)
