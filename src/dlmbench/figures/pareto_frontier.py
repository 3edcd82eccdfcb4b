"""Quality against latency: the diffusion curve over K, the baseline as a point, the front marked.

Up and to the left is better: a point with another one above it and to its left is worse in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dlmbench.analysis.pareto import on_front
from dlmbench.analysis.quality import MetricInfo
from dlmbench.analysis.study import CellSummary, Study
from dlmbench.charts import frames, page, style
from dlmbench.types import Run

ORDER = 10
_X, _Y = "latency_s", "quality"
_X_TITLE = "latency [s], lower is better"


@dataclass(frozen=True, kw_only=True)
class ParetoPoint(frames.Point):
    """kind: curve, baseline, or other (a sampler that chooses its own number of steps).

    quality is oriented (higher is better): a metric of which less is better is negated, and its unit says so
    (`log-likelihood, nats/token` of a negative log-likelihood).

    is_on_front: among all points of the same batch size, prompt and new tokens.
    """

    metric: str = ""
    unit: str = ""
    steps: float | None = None
    latency_s: float | None = None
    latency_low_s: float | None = None
    latency_high_s: float | None = None
    quality: float | None = None
    quality_low: float | None = None
    quality_high: float | None = None
    is_on_front: bool | None = None


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every cell with a latency and a score: the likelihood where it was scored, else the first metric that was."""
    cells = sorted(frames.cells_by_kind(study), key=lambda c: c[0] != "curve")
    for metric in study.metrics:
        rows = [r for kind, cell in cells if (r := _point(kind, study.label(cell.cell), cell, metric)) is not None]
        if any(r.kind != "baseline" for r in rows):
            return frames.table(ParetoPoint, _with_front(rows), "")
    random = any(c.weights == "random" for c in study.curves)
    why = "the weights are random, so quality means nothing" if random else "no diffusion cell has latency and quality"
    return frames.table(ParetoPoint, [], why)


def _point(kind: str, series: str, summary: CellSummary, metric: MetricInfo) -> ParetoPoint | None:
    latency, quality = summary.latency, summary.quality_in(metric.name)
    if latency is None or quality is None:
        return None
    low, high = quality.low, quality.high
    if not metric.higher_is_better:
        low, high = (None if end is None else -end for end in (high, low))
    return ParetoPoint.of(
        summary.cell,
        kind,
        series,
        metric=metric.name,
        unit=metric.unit if metric.higher_is_better else f"{_negated(metric)}, {metric.unit}",
        steps=summary.cell.steps,
        quality=quality.oriented,
        quality_low=low,
        quality_high=high,
        **frames.median_columns("latency_s", latency),
    )


def _negated(metric: MetricInfo) -> str:
    """The name of a metric times -1: a log-likelihood for a negative log-likelihood."""
    name = metric.display_name
    return name.removeprefix("negative ") if name.startswith("negative ") else f"minus {name}"


def _quality(frame: pd.DataFrame) -> tuple[str, str]:
    """What is drawn, and its unit: a metric, or a negated one, whose unit begins with its name."""
    unit = str(frame["unit"].iloc[0])
    metric = MetricInfo(str(frame["metric"].iloc[0]), unit, True)
    negated = _negated(metric)
    if unit.startswith(f"{negated}, "):
        return negated, unit.removeprefix(f"{negated}, ")
    return metric.display_name, unit


def _with_front(rows: Sequence[ParetoPoint]) -> list[ParetoPoint]:
    marked: list[ParetoPoint] = []
    keys = dict.fromkeys((r.batch_size, r.prompt_tokens, r.new_tokens) for r in rows)
    for key in keys:
        group = [r for r in rows if (r.batch_size, r.prompt_tokens, r.new_tokens) == key]
        latency, quality = (np.array([getattr(r, n) for r in group], dtype=float) for n in ("latency_s", "quality"))
        front = on_front(latency, quality)
        marked += [replace(r, is_on_front=bool(f)) for r, f in zip(group, front, strict=True)]
    return marked


def caption(frame: pd.DataFrame) -> str:
    """What the picture shows, which batch sizes it leaves out, and which direction is better."""
    batches = frames.batch_sizes(frames.diffusion(frame))
    if len(batches) <= 2:
        return page_caption(frame)
    return f"{page_caption(frame)} Drawn: the smallest and largest of batch sizes {', '.join(map(str, batches))}."


def page_caption(frame: pd.DataFrame) -> str:
    """The same for the page, which draws every batch size."""
    return (
        f"Quality ({_quality(frame)[0]}, higher is better) against latency (further left is better), with 95% "
        "intervals of both. Lines: diffusion, labelled with its step count K. Stars: the autoregressive baseline. "
        "Rings: the Pareto front, points that no other point of the same batch size and lengths beats in both."
    )


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """A panel for each (prompt, new tokens) and batch size, the smallest and largest of many.

    Colour, marker and line style are the sampler's settings.
    """
    series, others = frames.names(frame, kind="curve"), frames.names(frame, kind="other")
    looks = {s: style.look(i) | ({"linestyle": "none"} if s in others else {}) for i, s in enumerate(series + others)}
    star = style.baseline_look(11, "none")
    groups = {
        f"{shape}, batch {batch}": frames.rows(here, batch_size=batch)
        for shape, here in frames.by_shape(frame, frames.diffusion(frame)).items()
        for batch in frames.ends(frames.diffusion(here)["batch_size"])
    }
    for axes, here in zip(style.panels(figure, groups, 2.9), groups.values(), strict=True):
        for r in frames.each(here, is_on_front=True):
            axes.plot(r.latency_s, r.quality, zorder=1, **style.RING)
        for s, look in looks.items():
            own = frames.rows(frames.diffusion(here), series=s)
            style.with_intervals(axes, own, _X, _Y, order="steps", x_bars=True, **look)
            # K is readable on two curves only: on the first one it is above the line, on the second below.
            for r in frames.each(own.dropna(subset="steps")) if s in series[:2] else ():
                offset, side = ((-6, 4), "right") if s == series[0] else ((6, -9), "left")
                text: dict[str, Any] = {"textcoords": "offset points", "ha": side, "color": look["color"]}
                at = (r.latency_s, r.quality)
                axes.annotate(f"K={r.steps:.0f}", at, offset, fontsize=6.5, path_effects=style.halo(), **text)
        style.with_intervals(axes, frames.rows(here, kind="baseline"), _X, _Y, x_bars=True, **star)
        style.log_axis(axes, [*here["latency_s"], *here["latency_high_s"].dropna()], "x")
        axes.margins(0.12)
        axes.set(xlabel=_X_TITLE, ylabel="{} [{}],\nhigher is better".format(*_quality(frame)))
    handles = [style.key(s, **look) for s, look in looks.items()]
    handles += style.baseline_keys(frame, **star)
    handles.append(style.key("Pareto front", **style.RING))
    style.legend_below(figure, handles, columns=3 if len(looks) > 2 else 4)


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page, with all batch sizes of a pair of lengths in one panel."""
    series, others = frames.names(frame, kind="curve"), frames.names(frame, kind="other")
    batches, groups = frames.batch_sizes(frame), frames.by_shape(frame, frames.diffusion(frame))
    y_title = "{} [{}], higher is better".format(*_quality(frame))
    chart = page.Chart(groups, _X_TITLE, y_title, panel_px=340)
    for panel, here in enumerate(groups.values()):
        for j, batch in enumerate(batches):
            own = frames.rows(here, batch_size=batch)
            hue, suffix = (page.colour(j), f", batch {batch}") if len(batches) > 1 else (None, "")
            for i, name in enumerate(series + others):
                # Quality does not depend on the batch, so K is written on one line only.
                label = "K={steps:.0f}" if (i, j) == (0, 0) and name in series else ""
                mode = "lines+markers" if name in series else "markers"
                look, rows = page.look(i, hue), frames.rows(frames.diffusion(own), series=name)
                options: dict[str, Any] = {"order": "steps", "mode": mode, "label": label, "x_bars": True}
                chart.line(panel, rows, _X, _Y, name + suffix, look, _hover, **options)
            for name in frames.names(own, kind="baseline"):
                rows = frames.rows(own, kind="baseline", series=name)
                look = page.baseline_look(hue or page.INK) | {"size": 14}
                shown = f"{name} (autoregressive){suffix}"
                chart.line(panel, rows, _X, _Y, shown, look, _hover, mode="markers", x_bars=True)
        front = frames.rows(here, is_on_front=True)
        chart.marks(panel, front, _X, _Y, "Pareto front", page.RING, lambda r: [r.series, *_hover(r)])
        chart.log(panel, "x", list(here["latency_s"]))
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    unit = row.unit.rpartition(", ")[2]
    quality = page.amount(row.metric, row, "quality", unit)
    return [*page.settings(row), page.amount("latency", row, "latency_s", "s"), f"{quality}, higher is better"]
