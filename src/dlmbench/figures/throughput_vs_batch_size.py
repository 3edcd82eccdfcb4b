"""Throughput against batch size, a line for each step count, with the baseline's.

Shows how each model scales: an autoregressive step is bound by memory and gains from company, a diffusion step is
already busy with one text.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dlmbench.analysis.study import Study
from dlmbench.charts import page, style
from dlmbench.charts.points import rows_of, why_missing
from dlmbench.charts.throughput import (
    hover,
    panel_keys,
    panel_titles,
    step_counts,
    throughput_caption,
    throughput_points,
)
from dlmbench.types import Run

NAME = "throughput_vs_batch_size"


def points(run: Run, study: Study) -> pd.DataFrame:
    """Median new tokens per second of every timed cell."""
    return throughput_points(study)


def caption(frame: pd.DataFrame) -> str:
    """What is shown."""
    return throughput_caption(frame, "a line for each step count K")


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """One panel for each (sampler's settings, prompt, new tokens); colour and marker are K, the baseline is dashed."""
    if why := why_missing(frame):
        return style.not_measured(figure, why)
    steps = step_counts(frame)
    hues = style.ordered_colours(len(steps))
    looks: list[dict[str, Any]] = [style.look(i, hue) | {"linestyle": "-"} for i, hue in enumerate(hues)]
    baseline = {"color": style.BASELINE_COLOUR, "linestyle": "--", "marker": "*", "markersize": 7}
    panels = panel_keys(frame)
    for axes, (series, prompt, new) in zip(style.panels(figure, len(panels)), panels, strict=True):
        here = rows_of(frame, prompt_tokens=prompt, new_tokens=new)
        curves = rows_of(here, kind="curve", series=series)
        for k, look in zip(steps, looks, strict=True):
            own = rows_of(curves, steps=k).sort_values("batch_size")
            if len(own):
                style.with_intervals(axes, own, "batch_size", "tokens_per_s", **look)
        free = curves[curves["steps"].isna()].sort_values("batch_size")
        if len(free):
            style.with_intervals(axes, free, "batch_size", "tokens_per_s", **style.look(0))
        for _, own in rows_of(here, kind="baseline").groupby("series", sort=False):
            style.with_intervals(axes, own.sort_values("batch_size"), "batch_size", "tokens_per_s", **baseline)
        style.log2_axis(axes, list(here["batch_size"]))
        style.log_axis(axes, [*frame["tokens_per_s"], *frame["tokens_per_s_high"]])
        axes.set(xlabel="batch size", ylabel="throughput [new tokens/s]")
        axes.set_title(style.wrapped(f"{series}\n{prompt} prompt + {new} new tokens"))
    handles = [style.key(f"K = {k:.0f}", **look) for k, look in zip(steps, looks, strict=True)]
    for name in dict.fromkeys(rows_of(frame, kind="baseline")["series"]):
        handles.append(style.key(f"{name} (autoregressive)", **baseline))
    if (rows_of(frame, kind="curve")["steps"].isna()).any():
        handles.append(style.key("steps chosen by the sampler", **style.look(0)))
    style.legend_below(figure, handles)
    style.stamp(figure, frame)
    return None


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    if why := why_missing(frame):
        return page.not_measured(why)
    steps = step_counts(frame)
    hues = page.ordered_colours(len(steps))
    panels = panel_keys(frame)
    chart = page.Chart(panel_titles(frame), "batch size", "throughput [new tokens/s]")
    for panel, (series, prompt, new) in enumerate(panels):
        here = rows_of(frame, prompt_tokens=prompt, new_tokens=new)
        curves = rows_of(here, kind="curve", series=series)
        for i, (k, hue) in enumerate(zip(steps, hues, strict=True)):
            own = rows_of(curves, steps=k).sort_values("batch_size")
            if len(own):
                look = page.look(i, hue) | {"dash": "solid"}
                chart.line(panel, own, "batch_size", "tokens_per_s", f"K = {k:.0f}", look, hover)
        free = curves[curves["steps"].isna()].sort_values("batch_size")
        if len(free):
            name = "steps chosen by the sampler"
            chart.line(panel, free, "batch_size", "tokens_per_s", name, page.look(0), hover)
        for _, own in rows_of(here, kind="baseline").groupby("series", sort=False):
            shown = f"{own['series'].iloc[0]} (autoregressive)"
            ordered = own.sort_values("batch_size")
            chart.line(panel, ordered, "batch_size", "tokens_per_s", shown, page.baseline_look(), hover)
        chart.log2(panel, "x", list(here["batch_size"]))
        chart.log(panel, "y", list(frame["tokens_per_s"]))
    return chart.figure(frame)
