"""Throughput side by side at each batch size: the baseline's bar, then one for each step count.

The points of throughput_vs_batch_size as bars, to compare the models at one batch size.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dlmbench.analysis.study import Study
from dlmbench.charts import frames, page, style, throughput
from dlmbench.types import Run

ORDER = 50


def points(run: Run, study: Study) -> pd.DataFrame:
    """Median new tokens per second of every timed cell."""
    return throughput.points(study)


def caption(frame: pd.DataFrame) -> str:
    """What is shown."""
    return throughput.caption("side by side")


def _needs_log(frame: pd.DataFrame) -> bool:
    """Bars are read from zero; a logarithmic axis is used only where the small ones would be invisible."""
    return bool(frame["tokens_per_s"].max() > 30 * frame["tokens_per_s"].min())


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """A panel for each (sampler's settings, prompt, new tokens); groups of bars at each batch size."""
    steps, groups = frames.step_counts(frame), throughput.panels(frame)
    colours = (steps, style.ordered_colours(len(steps)), style.BASELINE_COLOUR, style.colour(0))
    hatched: dict[str, Any] = {"hatch": "///", "edgecolor": "white"}
    for axes, here in zip(style.panels(figure, groups), groups.values(), strict=True):
        batches, bars = frames.batch_sizes(here), throughput.lines(here, *colours)
        # The bars of a batch size are side by side, without gaps for what was not measured there.
        beside = {b: [bar.label for bar in bars if b in set(bar.rows["batch_size"])] for b in batches}
        width = 0.84 / max(map(len, beside.values()))
        for bar in bars:
            rows = bar.rows
            x = [
                batches.index(b) + (beside[b].index(bar.label) - (len(beside[b]) - 1) / 2) * width
                for b in rows["batch_size"]
            ]
            axes.bar(x, rows[throughput.Y], width * 0.94, color=bar.colour, **hatched if bar.is_baseline else {})
            ends: dict[str, Any] = {"color": style.ALARM, "capsize": 1.5, "elinewidth": 0.8, "capthick": 0.8}
            axes.errorbar(x, rows[throughput.Y], frames.error_bars(rows, throughput.Y), linestyle="none", **ends)
        axes.set_xticks(range(len(batches)), [str(b) for b in batches])
        axes.grid(visible=False, axis="x")
        if _needs_log(frame):
            style.log_axis(axes, list(frame[throughput.Y]))
        axes.set(xlabel=throughput.X_TITLE, ylabel=throughput.Y_TITLE)
    legend = [
        Patch(facecolor=bar.colour, label=bar.label, **hatched if bar.is_baseline else {})
        for bar in throughput.lines(frame, *colours)
    ]
    style.legend_below(figure, legend)


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    steps, groups = frames.step_counts(frame), throughput.panels(frame)
    colours = (steps, page.ordered_colours(len(steps)), page.INK, page.colour(0))
    chart = page.Chart(groups, throughput.X_TITLE, throughput.Y_TITLE)
    batches = [str(b) for b in frames.batch_sizes(frame)]
    for panel, here in enumerate(groups.values()):
        for bar in throughput.lines(here, *colours):
            chart.bars(
                panel, bar.rows, throughput.Y, bar.label, bar.colour, throughput.hover, is_hatched=bar.is_baseline
            )
        chart.axis(panel, "x", type="category", categoryorder="array", categoryarray=batches)
        if _needs_log(frame):
            chart.log(panel, "y", list(frame[throughput.Y]))
    return chart.figure(frame)
