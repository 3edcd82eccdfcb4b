"""Quality against latency: the diffusion curve over K, the baseline as a point, the front marked.

Up and to the left is better: a point with another one above it and to its left is worse in both.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.quality import MetricInfo, Quality
from dlmbench.analysis.stats import on_front
from dlmbench.analysis.study import Study
from dlmbench.charts import frames, style
from dlmbench.types import Run

ORDER = 10
# kind: curve, baseline, or other (a sampler that chooses its own number of steps). quality is oriented (higher is
# better): a metric of which less is better is negated, and its unit says so (`log-likelihood, nats/token` of a negative
# log-likelihood). is_on_front: among all points of the same batch size, prompt and new tokens.
COLUMNS = (
    *("metric", "unit", "steps"),
    *frames.interval_columns("latency_s"),
    *frames.interval_columns("quality"),
    "is_on_front",
)


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every cell with a latency and a score: the likelihood where it was scored, else the first metric that was."""
    timed = [(row, s) for row, s in frames.cells(study) if s.latency is not None]
    timed.sort(key=lambda cell: cell[0]["kind"] != "curve")
    for metric in study.metrics:
        scored = [(row, quality) for row, s in timed if (quality := s.quality_in(metric.name)) is not None]
        if any(row["kind"] != "baseline" for row, _ in scored):
            frame = frames.table(COLUMNS, [row | _oriented(metric, quality) for row, quality in scored], "")
            groups = [own for _, own in frame.groupby(["batch_size", *frames.LENGTHS], sort=False)]
            fronts = [on_front(own["latency_s"].to_numpy(float), own["quality"].to_numpy(float)) for own in groups]
            return pd.concat(own.assign(is_on_front=front) for own, front in zip(groups, fronts, strict=True))
    why = frames.why_unscored(study, "no diffusion cell has latency and quality")
    return frames.table(COLUMNS, [], why)


def _oriented(metric: MetricInfo, quality: Quality) -> frames.Row:
    low, high, unit = quality.low, quality.high, metric.unit
    if not metric.higher_is_better:
        low, high = (None if end is None else -end for end in (high, low))
        unit = f"{_negated(metric)}, {unit}"
    return {"metric": metric.name, "unit": unit, **frames.with_interval("quality", quality.oriented, low, high)}


def _negated(metric: MetricInfo) -> str:
    """The name of a metric times -1: a log-likelihood for a negative log-likelihood."""
    name = metric.display_name
    return name.removeprefix("negative ") if name.startswith("negative ") else f"minus {name}"


def _quality(frame: pd.DataFrame) -> tuple[str, str]:
    """What is drawn, and its unit: a metric, or a negated one, whose unit begins with its name."""
    metric = MetricInfo(str(frame["metric"].iloc[0]), str(frame["unit"].iloc[0]), True)
    negated = _negated(metric)
    _, is_negated, unit = metric.unit.rpartition(f"{negated}, ")
    return (negated if is_negated else metric.display_name), unit


def caption(frame: pd.DataFrame) -> str:
    """What is shown, and which direction is better."""
    return (
        f"Quality ({_quality(frame)[0]}, higher is better) against latency (further left is better), with 95% "
        "intervals of both. Lines: diffusion, labelled with its step count K. Stars: the autoregressive baseline. "
        "Rings: the Pareto front, points that no other point of the same batch size and lengths beats in both."
    )


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each pair of lengths and batch size."""
    shown, (metric, unit) = style.by_shape_and_batch(frame), _quality(frame)
    shown, tips = style.with_tooltip(shown, quality=("quality", unit), latency=("latency_s", "s"))
    ends = [*shown["latency_s"], *shown["latency_low_s"], *shown["latency_high_s"]]
    x = style.axis("latency_s", "latency [s]", ends, alt.X)
    y = style.axis("quality", f"{metric} [{unit}]", list(shown["quality"]), zero=False)
    marks, others = style.Marks(x, y, style.series_looks(shown), tips), style.where("baseline", "other")
    # K is readable on one curve only.
    first = style.where("curve").transform_filter(alt.datum.series == (frames.names(shown, kind="curve") or [""])[0])
    label = first.mark_text(align="right", baseline="bottom", dx=-3, dy=-2).transform_calculate(k="'K=' + datum.steps")
    layers = [
        marks.rings(style.where(also="datum.is_on_front")),
        marks.intervals(alt.Chart(), across=True),
        *marks.curves(style.where("curve"), order="steps:Q"),
        marks.intervals(others),
        marks.points(others),
        label.encode(x=x, y=y, text="k:N", color=marks.looks.color),
    ]
    return style.panels(layers, shown)
