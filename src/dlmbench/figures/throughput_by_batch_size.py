"""Throughput side by side at each batch size: the baseline's bar, then one for each step count.

The same points as in the lines, for reading off who is ahead at a given batch size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

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

ORDER = 50
_Y = "tokens_per_s"


def points(run: Run, study: Study) -> pd.DataFrame:
    """Median new tokens per second of every timed cell."""
    return throughput_points(study)


def caption(frame: pd.DataFrame) -> str:
    """What is shown."""
    return throughput_caption("side by side")


@dataclass(frozen=True)
class Bar:
    """What has one bar at each batch size."""

    label: str
    rows: pd.DataFrame
    colour: Any
    is_baseline: bool = False


def _bars(frame: pd.DataFrame, black: str, by_steps: Mapping[float, Any], own_steps: str) -> list[Bar]:
    """The bars at a batch size from left to right: the baselines, the step counts, samplers that choose their own."""
    baselines, curves = frames.rows(frame, kind="baseline"), frames.rows(frame, kind="curve")
    bars = [
        *(
            Bar(f"{s} (autoregressive)", frames.rows(baselines, series=s), black, is_baseline=True)
            for s in frames.names(baselines)
        ),
        *(Bar(f"K = {k:.0f}", frames.rows(curves, steps=k), colour) for k, colour in by_steps.items()),
        Bar(OWN_STEPS, curves[curves["steps"].isna()], own_steps),
    ]
    return [bar for bar in bars if len(bar.rows)]


def _needs_log(frame: pd.DataFrame) -> bool:
    """Bars are read from zero; only where that would hide the small ones does a logarithm serve better."""
    return bool(frame["tokens_per_s"].max() > 30 * frame["tokens_per_s"].min())


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """A panel for each (sampler's settings, prompt, new tokens); groups of bars at each batch size."""
    steps, groups = frames.step_counts(frame), panels(frame)
    by_steps = dict(zip(steps, style.ordered_colours(len(steps)), strict=True))
    colours = (style.BASELINE_COLOUR, by_steps, style.colour(0))
    hatched: dict[str, Any] = {"hatch": "///", "edgecolor": "white"}
    for axes, here in zip(style.panels(figure, groups), groups.values(), strict=True):
        batches, bars = frames.batch_sizes(here), _bars(here, *colours)
        # The bars of a batch size stand side by side, without holes for what was not measured there.
        beside = {b: [bar.label for bar in bars if b in set(bar.rows["batch_size"])] for b in batches}
        width = 0.84 / max(map(len, beside.values()))
        for bar in bars:
            rows = bar.rows
            x = [
                batches.index(b) + (beside[b].index(bar.label) - (len(beside[b]) - 1) / 2) * width
                for b in rows["batch_size"]
            ]
            axes.bar(x, rows[_Y], width * 0.94, color=bar.colour, **hatched if bar.is_baseline else {})
            ends: dict[str, Any] = {"color": style.ALARM, "capsize": 1.5, "elinewidth": 0.8, "capthick": 0.8}
            axes.errorbar(x, rows[_Y], frames.error_bars(rows, _Y), linestyle="none", **ends)
        axes.set_xticks(range(len(batches)), [str(b) for b in batches])
        axes.grid(visible=False, axis="x")
        if _needs_log(frame):
            style.log_axis(axes, list(frame[_Y]))
        axes.set(xlabel=X_TITLE, ylabel=Y_TITLE)
    legend = [
        Patch(facecolor=bar.colour, label=bar.label, **hatched if bar.is_baseline else {})
        for bar in _bars(frame, *colours)
    ]
    style.legend_below(figure, legend)


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    steps, groups = frames.step_counts(frame), panels(frame)
    by_steps = dict(zip(steps, page.ordered_colours(len(steps)), strict=True))
    chart = page.Chart(groups, X_TITLE, Y_TITLE)
    batches = [str(b) for b in frames.batch_sizes(frame)]
    for panel, here in enumerate(groups.values()):
        for bar in _bars(here, page.INK, by_steps, page.colour(0)):
            chart.bars(panel, bar.rows, _Y, bar.label, bar.colour, hover, is_hatched=bar.is_baseline)
        chart.axis(panel, "x", type="category", categoryorder="array", categoryarray=batches)
        if _needs_log(frame):
            chart.log(panel, "y", list(frame[_Y]))
    return chart.figure(frame)
