"""Quality against latency: the diffusion curve over K, the baseline as a point, the front marked.

Quality is the difference from the baseline on the same prompts, paired, so that how hard a prompt is cancels. Up and to
the left is better: a point with another one above it and to its left is worse in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.parity import common_prompts, difference
from dlmbench.analysis.quality import MetricInfo, scores_by_text
from dlmbench.analysis.results import MetricParity, Study
from dlmbench.analysis.stats import Interval, on_front
from dlmbench.charts import frames, style
from dlmbench.types import Run

ORDER = 10
# kind: curve, baseline, or other (a sampler that chooses its own number of steps). gain: quality minus the baseline's,
# in its unit, oriented (higher is better). margin: how far below it still counts as equally good. is_on_front: among
# all points of the same batch size, prompt and new tokens.
COLUMNS = (
    *("metric", "unit", "steps"),
    *frames.interval_columns("latency_s"),
    *frames.interval_columns("gain"),
    *("margin", "is_on_front"),
)


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every timed cell of a batch size and lengths with a curve that was compared by the leading metric."""
    rows = list(_rows(run, study))
    if all(row["kind"] == "baseline" for row in rows):
        why = frames.why_unscored(study, "no diffusion cell has a latency and a quality compared with a baseline's")
        return frames.table(COLUMNS, [], why)
    frame = frames.table(COLUMNS, rows, "")
    groups = [own for _, own in frame.groupby(["batch_size", *frames.LENGTHS], sort=False)]
    fronts = [on_front(own["latency_s"].to_numpy(float), own["gain"].to_numpy(float)) for own in groups]
    return pd.concat(own.assign(is_on_front=front) for own, front in zip(groups, fronts, strict=True))


def _rows(run: Run, study: Study) -> Iterator[frames.Row]:
    timed = {s.cell.id: row for row, s in frames.cells(study) if s.latency is not None}
    baselines: dict[str, frames.Row] = {}
    # The quality baseline of the first curve of each batch size and lengths, and its parity.
    leading: dict[tuple[int, int, int], tuple[str, MetricParity]] = {}
    for curve in study.curves:
        shown, base = curve.headline(), curve.quality_baseline
        if shown is None or base is None:
            continue
        leading.setdefault((curve.batch_size, *curve.lengths), (base.cell.quality_key, shown))
        gaps = {p.steps: p.gap for p in shown.parity.points}
        for point in curve.timed:
            if point.cell.steps in gaps:
                yield timed[point.cell.id] | _gain(shown, gaps[point.cell.steps])
        if curve.baseline and curve.baseline.latency:
            row = timed[curve.baseline.cell.id]
            baselines[curve.baseline.cell.id] = row | _gain(shown, Interval(0.0, math.nan, math.nan))
    texts = scores_by_text(run) if study.others else {}
    for other in study.others:
        cell = other.cell
        base_key, shown = leading.get((cell.batch_size, cell.prompt_tokens, cell.new_tokens), ("", None))
        if other.latency is None or shown is None or (cell.quality_key, shown.metric.name) not in texts:
            continue
        pair = [texts[key, shown.metric.name] for key in (cell.quality_key, base_key)]
        if prompts := common_prompts(pair):
            gap, _ = difference(pair[0].only(prompts), pair[1].only(prompts))
            better = shown.metric.higher_is_better
            yield timed[cell.id] | _gain(shown, gap if better else Interval(-gap.value, -gap.high, -gap.low))
    yield from baselines.values()


def _gain(shown: MetricParity, gap: Interval) -> frames.Row:
    metric = {"metric": shown.metric.name, "unit": shown.metric.unit, "margin": shown.parity.margin}
    return metric | frames.interval_row("gain", gap)


def caption(frame: pd.DataFrame) -> str:
    """What is shown, and which direction is better."""
    return (
        f"Quality against latency, with 95% intervals of both. Quality is the gain over the baseline in {_name(frame)} "
        "on the same prompts (paired; higher is better). Lines: diffusion, with the fewest and the most steps K at one "
        "of them. Stars: the autoregressive baseline; dotted: how far below it still counts as equally good. Rings: "
        "the Pareto front, points that no other point of the same batch size and lengths beats in both."
    )


def _name(frame: pd.DataFrame) -> str:
    return MetricInfo(str(frame["metric"].iloc[0]), str(frame["unit"].iloc[0]), True).display_name


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each pair of lengths and batch size that has a curve, or for each where there is none."""
    unit, keys = str(frame["unit"].iloc[0]), ["series", *frames.LENGTHS, "batch_size"]
    points = (frame["kind"] == "curve").groupby([frame[key] for key in keys]).transform("sum")
    has_curve = style.any_of_shape(frame, points > 1)
    shown = style.by_shape_and_batch(frame[has_curve] if has_curve.any() else frame)
    shown = shown.assign(below=-shown["margin"])
    shown, tips = style.with_tooltip(shown, gain=("gain", unit), latency=("latency_s", "s"))
    x = style.axis("latency_s", "latency [s]", shown, alt.X)
    y = style.axis("gain", "", shown, zero=False)
    y["axis"]["title"] = [f"{_name(frame)}:", f"gain [{unit}]"]
    marks, others = style.Marks(x, y, style.series_looks(shown), tips), style.where("baseline", "other")
    # K is readable on one curve only: the longest.
    lengths = frames.rows(shown, kind="curve")["series"].value_counts()
    first = style.where("curve").transform_filter(alt.datum.series == (lengths.idxmax() if len(lengths) else ""))
    margin = style.where("baseline").mark_rule(strokeDash=style.DOTTED, color=style.MUTED)
    layers = [
        margin.encode(y=style.of(y, "below")),
        *marks.ends(first, "steps", "K"),
        marks.rings(style.where(also="datum.is_on_front")),
        marks.intervals(alt.Chart(), across=True),
        *marks.curves(style.where("curve"), order="steps:Q"),
        marks.intervals(others),
        marks.points(others),
    ]
    return style.panels(layers, shown)
