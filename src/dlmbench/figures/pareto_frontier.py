"""Quality against latency: the diffusion curve over K, the baseline as a point, the front marked.

Up and to the left is better: what lies below and to the right of another point has nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlmbench.analysis.pareto import on_front
from dlmbench.analysis.quality import MetricInfo
from dlmbench.analysis.study import CellSummary, Study
from dlmbench.charts import page
from dlmbench.charts import style as _style
from dlmbench.charts.points import Point, each, ends, rows_of, shapes, table, why_missing
from dlmbench.types import Run

NAME = "pareto_frontier"


@dataclass(frozen=True, kw_only=True)
class ParetoPoint(Point):
    """kind: curve, baseline, or other (a sampler that chooses its own number of steps).

    quality is oriented (higher is better): a metric of which less is better is negated.

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
    """Every cell with a latency and the leading metric: the likelihood where it was scored, else the first one."""
    for metric in study.metrics:
        cells = [("curve", c.label, p) for c in study.curves for p in c.points]
        cells += [("baseline", study.label(b.cell), b) for b in study.baselines]
        cells += [("other", study.label(o.cell), o) for o in study.others]
        rows = [r for kind, series, cell in cells if (r := _point(kind, series, cell, metric)) is not None]
        if any(r.kind != "baseline" for r in rows):
            return table(ParetoPoint, _with_front(rows), "")
    random = any(c.weights == "random" for c in study.curves)
    why = "the weights are random, so quality means nothing" if random else "no diffusion cell has latency and quality"
    return table(ParetoPoint, [], why)


def _point(kind: str, series: str, summary: CellSummary, metric: MetricInfo) -> ParetoPoint | None:
    latency, quality, cell = summary.latency, summary.quality_in(metric.name), summary.cell
    if latency is None or quality is None:
        return None
    ends = (quality.low, quality.high) if metric.higher_is_better else (_minus(quality.high), _minus(quality.low))
    return ParetoPoint(
        kind=kind,
        series=series,
        batch_size=cell.batch_size,
        prompt_tokens=cell.prompt_tokens,
        new_tokens=cell.new_tokens,
        weights=cell.model.weights,
        metric=metric.name,
        unit=metric.unit if metric.higher_is_better else f"-{metric.unit}",
        steps=cell.steps,
        latency_s=latency.median,
        latency_low_s=latency.low,
        latency_high_s=latency.high,
        quality=quality.oriented,
        quality_low=ends[0],
        quality_high=ends[1],
    )


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _with_front(rows: Sequence[ParetoPoint]) -> list[ParetoPoint]:
    marked: list[ParetoPoint] = []
    keys = dict.fromkeys((r.batch_size, r.prompt_tokens, r.new_tokens) for r in rows)
    for key in keys:
        group = [r for r in rows if (r.batch_size, r.prompt_tokens, r.new_tokens) == key]
        latency, quality = (np.array([getattr(r, n) for r in group], dtype=float) for n in ("latency_s", "quality"))
        front = on_front(latency, quality)
        marked += [replace(r, is_on_front=bool(f)) for r, f in zip(group, front, strict=True)]
    return marked


def _words(frame: pd.DataFrame) -> str:
    """The metric as it is drawn: one that was negated loses its minus in the name."""
    unit = str(frame["unit"].iloc[0])
    words = MetricInfo(str(frame["metric"].iloc[0]), unit, True).display_name
    return words.removeprefix("negative ") if words.startswith("negative ") or not unit.startswith("-") else f"-{words}"


def _crosses(axes: Axes, rows: pd.DataFrame, **style: Any) -> None:
    """Points joined in order, with bars of both intervals."""
    bars = {}
    for name, y in (("xerr", "latency_s"), ("yerr", "quality")):
        low, high = (rows[_style.interval_column(y, end)].fillna(rows[y]) for end in ("low", "high"))
        bars[name] = np.clip(np.stack([rows[y] - low, high - rows[y]]).astype(float), 0, None)
    axes.errorbar(rows["latency_s"], rows["quality"], **bars, capsize=2, elinewidth=0.9, **style)


def caption(frame: pd.DataFrame) -> str:
    """What the picture shows, which batch sizes it leaves out, and which way is better."""
    if why := why_missing(frame):
        return f"Not measured: {why}."
    diffusion = frame[frame["kind"] != "baseline"]
    batches = sorted(int(b) for b in diffusion["batch_size"].unique())
    drawn = (
        f" Drawn: the smallest and largest of batch sizes {', '.join(map(str, batches))}." if len(batches) > 2 else ""
    )
    return page_caption(frame) + drawn


def page_caption(frame: pd.DataFrame) -> str:
    """The same for the page, which draws every batch size."""
    if why := why_missing(frame):
        return f"Not measured: {why}."
    return (
        f"Quality ({_words(frame)}, higher is better) against latency (further left is better), with 95% "
        "intervals of both. Lines: diffusion, labelled with its step count K. Stars: the autoregressive baseline. "
        "Rings: the Pareto front, points that no other of the same batch size and lengths beats in both."
    )


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """One panel for each (prompt, new tokens) and batch size, of many the ends; looks are the sampler's settings."""
    if why := why_missing(frame):
        return _style.not_measured(figure, why)
    series = list(dict.fromkeys(rows_of(frame, kind="curve")["series"]))
    others = list(dict.fromkeys(rows_of(frame, kind="other")["series"]))
    apart = len(series) + len(others)
    looks = {s: _style.look(i) | ({"linestyle": "none"} if s in others else {}) for i, s in enumerate(series + others)}
    star: dict[str, Any] = {"color": _style.BASELINE_COLOUR, "marker": "*", "markersize": 11, "linestyle": "none"}
    diffusion = frame[frame["kind"] != "baseline"]
    panels = [
        (*shape, batch)
        for shape in shapes(diffusion)
        for batch in ends(rows_of(diffusion, prompt_tokens=shape[0], new_tokens=shape[1])["batch_size"])
    ]
    name, unit = _words(frame), str(frame["unit"].iloc[0]).lstrip("-")
    for axes, (prompt, new, batch) in zip(_style.panels(figure, len(panels), 2.9), panels, strict=True):
        here = rows_of(frame, prompt_tokens=prompt, new_tokens=new, batch_size=batch)
        for r in each(here, is_on_front=True):
            axes.plot(r.latency_s, r.quality, zorder=1, **_style.RING)
        for s, look in looks.items():
            own = rows_of(here[here["kind"] != "baseline"], series=s).sort_values("steps")
            if len(own):
                _crosses(axes, own, **look)
            # K is written where it can be read: on the first two curves, and on opposite sides of them.
            for r in each(own.dropna(subset="steps") if s in series[:2] else own.iloc[:0]):
                offset, side = ((-6, 4), "right") if s == series[0] else ((6, -9), "left")
                text: dict[str, Any] = {"textcoords": "offset points", "ha": side, "color": look["color"]}
                at = (r.latency_s, r.quality)
                axes.annotate(f"K={r.steps:.0f}", at, offset, fontsize=6.5, path_effects=_style.halo(), **text)
        own = rows_of(here, kind="baseline")
        if len(own):
            _crosses(axes, own, **star)
        _style.log_axis(axes, [*here["latency_s"], *here["latency_high_s"].dropna()], "x")
        axes.margins(0.12)
        axes.set(title=f"{page.shape_title(prompt, new)}, batch {batch}", xlabel="latency [s], lower is better")
        axes.set_ylabel(f"{name} [{unit}],\nhigher is better")
    handles = [_style.key(s, **look) for s, look in looks.items()]
    for s in dict.fromkeys(rows_of(frame, kind="baseline")["series"]):
        handles.append(_style.key(f"{s} (autoregressive)", **star))
    handles.append(_style.key("Pareto front", **_style.RING))
    _style.legend_below(figure, handles, columns=3 if apart > 2 else 4)
    _style.stamp(figure, frame)
    return None


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    if why := why_missing(frame):
        return page.not_measured(why)
    curves = rows_of(frame, kind="curve")
    series = list(dict.fromkeys(curves["series"]))
    panels = shapes(frame[frame["kind"] != "baseline"])
    batches = sorted(frame["batch_size"].unique())
    by_batch = len(batches) > 1
    others = list(dict.fromkeys(rows_of(frame, kind="other")["series"]))
    quality = f"{_words(frame)} [{str(frame['unit'].iloc[0]).lstrip('-')}], higher is better"
    titles = [page.shape_title(*s) for s in panels]
    chart = page.Chart(titles, "latency [s], lower is better", quality, panel_px=340)
    for panel, (prompt, new) in enumerate(panels):
        here = rows_of(frame, prompt_tokens=prompt, new_tokens=new)
        for j, batch in enumerate(batches):
            hue = page.colour(j) if by_batch else None
            at = f", batch {batch}" if by_batch else ""
            for i, name in enumerate(series):
                own = rows_of(here, kind="curve", series=name, batch_size=batch).sort_values("steps")
                if len(own):
                    # Quality does not depend on the batch, so K is written on one line only.
                    labels = [f"K={k:.0f}" for k in own["steps"]] if (i, batch) == (0, batches[0]) else []
                    style = page.look(i, hue)
                    chart.line(panel, own, "latency_s", "quality", name + at, style, _hover, labels=labels, x_bars=True)
            for i, name in enumerate(others):
                own = rows_of(here, kind="other", series=name, batch_size=batch)
                style = page.look(len(series) + i, hue)
                if len(own):
                    chart.line(
                        panel, own, "latency_s", "quality", name + at, style, _hover, mode="markers", x_bars=True
                    )
            for _, own in rows_of(here, kind="baseline", batch_size=batch).groupby("series", sort=False):
                shown, style = (
                    f"{own['series'].iloc[0]} (autoregressive){at}",
                    page.baseline_look(hue or page.INK) | {"size": 14},
                )
                chart.line(panel, own, "latency_s", "quality", shown, style, _hover, mode="markers", x_bars=True)
        front = rows_of(here, is_on_front=True)
        words = ["\n".join([r.series, *_hover(r)]) for r in each(front)]
        chart.ring(panel, list(front["latency_s"]), list(front["quality"]), "Pareto front", words)
        chart.log(panel, "x", list(here["latency_s"]))
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    steps = [] if pd.isna(row.steps) else [f"K = {row.steps:.0f}"]
    latency = page.amount("latency", row.latency_s, row.latency_low_s, row.latency_high_s, "s")
    quality = page.amount(row.metric, row.quality, row.quality_low, row.quality_high, row.unit.lstrip("-"))
    return [*steps, f"batch size {row.batch_size}", latency, f"{quality}, higher is better"]
