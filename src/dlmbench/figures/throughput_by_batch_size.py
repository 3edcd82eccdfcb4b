"""Throughput side by side at each batch size: the baseline's bar, then one for each step count.

The same points as in the lines, for reading off who is ahead at a given batch size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dlmbench.analysis.study import Study
from dlmbench.charts import page, style
from dlmbench.charts.points import each, rows_of, why_missing
from dlmbench.charts.throughput import (
    hover,
    panel_keys,
    panel_titles,
    step_counts,
    throughput_caption,
    throughput_points,
)
from dlmbench.types import Run

NAME = "throughput_by_batch_size"


def points(run: Run, study: Study) -> pd.DataFrame:
    """Median new tokens per second of every timed cell."""
    return throughput_points(study)


def caption(frame: pd.DataFrame) -> str:
    """What is shown."""
    return throughput_caption(frame, "side by side")


def _hatch(kind: str) -> dict[str, Any]:
    return {"hatch": "///", "edgecolor": "white"} if kind == "baseline" else {}


def _bar(here: pd.DataFrame, bar: tuple[str, str, float | None, Any], series: str) -> pd.DataFrame:
    """The rows of one bar over the batch sizes of a panel."""
    kind, name, steps, _ = bar
    own = rows_of(here, kind=kind, series=name if kind == "baseline" else series)
    return own[own["steps"].isna()] if steps is None else rows_of(own, steps=steps)


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """One panel for each (sampler's settings, prompt, new tokens); groups of bars at each batch size."""
    if why := why_missing(frame):
        return style.not_measured(figure, why)
    bars: list[tuple[str, str, float | None, Any]] = [
        ("baseline", name, None, style.BASELINE_COLOUR)
        for name in dict.fromkeys(rows_of(frame, kind="baseline")["series"])
    ]
    steps = step_counts(frame)
    hues = style.ordered_colours(len(steps))
    bars += [("curve", f"K = {k:.0f}", k, hue) for k, hue in zip(steps, hues, strict=True)]
    if rows_of(frame, kind="curve")["steps"].isna().any():
        bars.append(("curve", "steps chosen by the sampler", None, style.colour(0)))
    panels = panel_keys(frame)
    for axes, (series, prompt, new) in zip(style.panels(figure, len(panels)), panels, strict=True):
        here = rows_of(frame, prompt_tokens=prompt, new_tokens=new)
        batches = [int(b) for b in sorted(here["batch_size"].unique())]
        # Bars stand side by side without holes: each batch size has room for its own bars only.
        owned = [(bar, r) for bar in bars for r in each(_bar(here, bar, series))]
        at_batch = {b: [r for _, r in owned if r.batch_size == b] for b in batches}
        width = 0.84 / max(len(rows) for rows in at_batch.values())
        for (kind, _, _, hue), r in owned:
            beside = at_batch[int(r.batch_size)]
            x = batches.index(int(r.batch_size)) + (beside.index(r) - (len(beside) - 1) / 2) * width
            value = r.tokens_per_s
            error = np.clip([[value - r.tokens_per_s_low], [r.tokens_per_s_high - value]], 0, None)
            axes.bar(x, value, width * 0.94, color=hue, **_hatch(kind))
            axes.errorbar(x, value, error, color="#B00020", capsize=1.5, elinewidth=0.8, capthick=0.8)
        axes.set_xticks(range(len(batches)), [str(b) for b in batches])
        axes.grid(visible=False, axis="x")
        # Bars are read from zero; only where that would hide the small ones does a logarithm serve better.
        if frame["tokens_per_s"].max() > 30 * frame["tokens_per_s"].min():
            style.log_axis(axes, list(frame["tokens_per_s"]))
        axes.set(xlabel="batch size", ylabel="throughput [new tokens/s]")
        axes.set_title(style.wrapped(f"{series}\n{prompt} prompt + {new} new tokens"))
    handles = []
    for kind, name, _, hue in bars:
        label = f"{name} (autoregressive)" if kind == "baseline" else name
        handles.append(Patch(facecolor=hue, label=label, **_hatch(kind)))
    style.legend_below(figure, handles)
    style.stamp(figure, frame)
    return None


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    if why := why_missing(frame):
        return page.not_measured(why)
    batches = [str(int(b)) for b in sorted(frame["batch_size"].unique())]
    steps = step_counts(frame)
    hues = page.ordered_colours(len(steps))
    chart = page.Chart(panel_titles(frame), "batch size", "throughput [new tokens/s]")
    for panel, (series, prompt, new) in enumerate(panel_keys(frame)):
        here = rows_of(frame, prompt_tokens=prompt, new_tokens=new)
        for _, own in rows_of(here, kind="baseline").groupby("series", sort=False):
            x = [str(int(b)) for b in own["batch_size"]]
            name = own["series"].iloc[0]
            chart.bars(panel, own, x, "tokens_per_s", f"{name} (autoregressive)", page.INK, hover, hatched=True)
        curves = rows_of(here, kind="curve", series=series)
        for k, hue in zip(steps, hues, strict=True):
            own = rows_of(curves, steps=k)
            if len(own):
                x = [str(int(b)) for b in own["batch_size"]]
                chart.bars(panel, own, x, "tokens_per_s", f"K = {k:.0f}", hue, hover)
        free = curves[curves["steps"].isna()]
        if len(free):
            x = [str(int(b)) for b in free["batch_size"]]
            chart.bars(panel, free, x, "tokens_per_s", "steps chosen by the sampler", page.colour(0), hover)
        chart.axis(panel, "x", type="category", categoryorder="array", categoryarray=batches)
        if frame["tokens_per_s"].max() > 30 * frame["tokens_per_s"].min():
            chart.log(panel, "y", list(frame["tokens_per_s"]))
    return chart.figure(frame)
