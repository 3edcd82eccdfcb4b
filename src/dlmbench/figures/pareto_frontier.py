"""Quality against latency: the diffusion curve over K, the baseline as a point, the front marked.

Up and to the left is better: a point with another one above it and to its left is worse in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from dlmbench.analysis.quality import MetricInfo
from dlmbench.analysis.stats import on_front
from dlmbench.analysis.study import CellSummary, Study
from dlmbench.charts import frames, style
from dlmbench.types import Run

ORDER = 10


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
    """What is shown, and which direction is better."""
    return (
        f"Quality ({_quality(frame)[0]}, higher is better) against latency (further left is better), with 95% "
        "intervals of both. Lines: diffusion, labelled with its step count K. Stars: the autoregressive baseline. "
        "Rings: the Pareto front, points that no other point of the same batch size and lengths beats in both."
    )


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each pair of lengths and batch size."""
    shown = style.by_shape_and_batch(style.named(frame))
    metric, unit = _quality(frame)
    shown = style.with_tooltip(shown, quality=("quality", unit), latency=("latency_s", "s"))
    tips, looks = style.tooltip(shown), style.series_looks(shown)
    x = style.axis("latency_s", "latency [s]", [*shown["latency_s"], *shown["latency_high_s"]], alt.X)
    y = style.axis("quality", f"{metric} [{unit}]", list(shown["quality"]), zero=False)
    curve, points = style.where("curve"), alt.Chart()
    # K is readable on one curve only.
    first = curve.transform_filter(alt.datum.series == (frames.names(shown, kind="curve") or [""])[0])
    label = first.mark_text(align="right", baseline="bottom", dx=-3, dy=-2).transform_calculate(k="'K=' + datum.steps")
    layers = [
        style.ring(points.transform_filter("datum.is_on_front"), x, y),
        style.intervals(points, x, y, "latency_s", looks.color, across=True),
        *style.curves(curve, x, y, "quality", looks, tips, order="steps"),
        *style.curves(style.where("baseline", "other"), x, y, "quality", looks, tips)[1:],
        label.encode(x=x, y=y, text="k:N", color=looks.color),
    ]
    return style.panels(layers, shown)
