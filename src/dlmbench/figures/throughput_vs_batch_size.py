"""Throughput against batch size, a line for each step count, with the baseline's.

Shows how each model scales: an autoregressive step is bound by memory bandwidth, so a larger batch costs it little; a
diffusion step keeps the device busy with a single text.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dlmbench.analysis.study import Study
from dlmbench.charts import frames, page, style, throughput
from dlmbench.types import Run

ORDER = 60


def points(run: Run, study: Study) -> pd.DataFrame:
    """Median new tokens per second of every timed cell."""
    return throughput.points(study)


def caption(frame: pd.DataFrame) -> str:
    """What is shown."""
    return throughput.caption("a line for each step count K")


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """A panel for each (sampler's settings, prompt, new tokens); colour and marker are K, the baseline is dashed."""
    steps, groups = frames.step_counts(frame), throughput.panels(frame)
    colours = (steps, style.ordered_colours(len(steps)), style.BASELINE_COLOUR, style.colour(0))
    for axes, here in zip(style.panels(figure, groups), groups.values(), strict=True):
        for line in throughput.lines(here, *colours):
            style.with_intervals(axes, line.rows, throughput.X, throughput.Y, **_look(line))
        style.log2_axis(axes, list(here[throughput.X]))
        style.log_axis(axes, [*frame[throughput.Y], *frame["tokens_per_s_high"]])
        axes.set(xlabel=throughput.X_TITLE, ylabel=throughput.Y_TITLE)
    style.legend_below(figure, [style.key(line.label, **_look(line)) for line in throughput.lines(frame, *colours)])


def _look(line: throughput.ThroughputLine) -> dict[str, Any]:
    return style.baseline_look(7) if line.is_baseline else style.look(line.index, line.colour) | {"linestyle": "-"}


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    steps, groups = frames.step_counts(frame), throughput.panels(frame)
    colours = (steps, page.ordered_colours(len(steps)), page.INK, page.colour(0))
    chart = page.Chart(groups, throughput.X_TITLE, throughput.Y_TITLE)
    for panel, here in enumerate(groups.values()):
        for line in throughput.lines(here, *colours):
            look = page.baseline_look() if line.is_baseline else page.look(line.index, line.colour) | {"dash": "solid"}
            chart.line(panel, line.rows, throughput.X, throughput.Y, line.label, look, throughput.hover)
        chart.log2(panel, "x", list(here[throughput.X]))
        chart.log(panel, "y", list(frame[throughput.Y]))
    return chart.figure(frame)
