"""Measured latency over the roofline's floor, by what limits the floor: the memory's bandwidth or the arithmetic.

A ratio of 1 is the best that the device's data sheet allows. A ratio below 1 means that something was measured wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dlmbench.analysis.study import Study
from dlmbench.charts import frames, page, style
from dlmbench.models.loading import architectures
from dlmbench.roofline.corrected import MeasuredCell, bounds_of
from dlmbench.roofline.hardware import Hardware, of_device
from dlmbench.types import Architecture, Run

_X, _Y = "intensity_flop_per_byte", "ratio"
_X_TITLE = "arithmetic intensity of the compulsory work [FLOP/byte]"
_Y_TITLE = "measured latency / floor"
REGIMES = {"memory": "limited by memory bandwidth", "compute": "limited by arithmetic"}


@dataclass(frozen=True, kw_only=True)
class RooflinePoint(frames.Point):
    """kind: curve, baseline or other. regime: what limits the floor (memory or compute).

    intensity: compulsory FLOPs over compulsory bytes; at `ridge` both take equally long. ratio: measured latency over
    floor. mfu, mbu: the shares of the data sheet's FLOP/s and bandwidth that the compulsory work used.
    """

    steps: float | None = None
    regime: str = ""
    intensity_flop_per_byte: float | None = None
    ridge_flop_per_byte: float | None = None
    latency_s: float | None = None
    floor_s: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    mfu: float | None = None
    mbu: float | None = None


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every timed cell beside its floor on the device that the run names."""
    recorded = run.environment.device if run.environment else ""
    device = of_device(recorded)
    known, unknown = architectures(dict.fromkeys(s.cell.model for s in study.cells))
    if device is None:
        why = f"no hardware row for '{recorded}', so its floor is not known" if recorded else "no device is recorded"
    elif unknown:
        why = "; ".join(f"{model}: {reason}" for model, reason in unknown.items())
    else:
        why = "no cell was timed"
    return frames.table(RooflinePoint, list(_rows(run, study, known, device)) if device else [], why)


def _rows(run: Run, study: Study, known: dict[str, Architecture], device: Hardware) -> Iterator[RooflinePoint]:
    forwards = {r.cell.id: [s.forwards for s in r.timed] for r in run.results}
    for kind, summary in frames.cells_by_kind(study):
        cell, latency = summary.cell, summary.latency
        if latency is None or cell.model.key not in known:
            continue
        taken = float(median(forwards[cell.id]))
        bounds = bounds_of(MeasuredCell(cell, known[cell.model.key], device, latency.median, taken))
        if bounds is None:
            continue
        flops, bandwidth = device.matrix_flops(cell.precision), device.bandwidth
        yield RooflinePoint.of(
            cell,
            kind,
            study.label(cell),
            note=device.name,
            steps=cell.steps,
            regime="compute" if bounds.mfu > bounds.mbu else "memory",
            intensity_flop_per_byte=bounds.mfu * flops / (bounds.mbu * bandwidth),
            ridge_flop_per_byte=flops / bandwidth,
            latency_s=latency.median,
            floor_s=bounds.floor_s,
            ratio=bounds.floor_ratio,
            ratio_low=latency.low / bounds.floor_s,
            ratio_high=latency.high / bounds.floor_s,
            mfu=bounds.mfu,
            mbu=bounds.mbu,
        )


def caption(frame: pd.DataFrame) -> str:
    """What is shown, and the median of each series in each regime."""
    lines = []
    for regime, label in REGIMES.items():
        ratios = frames.rows(frame, regime=regime).groupby("series", sort=False)["ratio"]
        medians = [f"{series} {own.median():.2g} (n = {len(own)})" for series, own in ratios]
        lines += [f"{label}: {', '.join(medians)}"] if medians else []
    return (
        f"Measured latency over the floor of the {_device(frame)}'s data sheet (the larger of compulsory FLOPs over "
        "peak rate and compulsory bytes over bandwidth), against arithmetic intensity; medians with 95% intervals. A "
        "ratio of 1 is the best that the device allows. Median ratio over n cells where the floor is "
        f"{'; '.join(lines)}."
    )


def _device(frame: pd.DataFrame) -> str:
    return str(frame["note"].iloc[0])


def _title(frame: pd.DataFrame) -> str:
    return f"how many times the {_device(frame)}'s floor each cell takes (lower is better)"


def _ridges_and_span(frame: pd.DataFrame) -> tuple[list[float], tuple[float, float]]:
    """The ridge of each precision, and the ends of the x axis."""
    ridges = sorted({float(r) for r in frame["ridge_flop_per_byte"]})
    spread = [*frame[_X], *ridges]
    return ridges, (float(min(spread)) / 1.6, float(max(spread)) * 1.6)


def _draw_ridge(axes: Axes, ridge: float) -> None:
    """The ridge, the side on which the arithmetic limits, and the name of each side."""
    axes.axvline(ridge, **style.LIMIT)
    left, right = axes.get_xlim()
    axes.axvspan(ridge, right, color="#000000", alpha=0.05, linewidth=0)
    axes.set_xlim(left, right)
    for label, side in (("memory-bound ", "right"), (" compute-bound", "left")):
        place: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "ha": side, "va": "top"}
        axes.annotate(label, (ridge, 0.985), fontsize=7.5, **place)


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """One panel over all shapes; colour is batch size, the marker the series."""
    (axes,) = style.panels(figure, [""], 3.6)
    batches, baselines = frames.batch_sizes(frame), frames.names(frame, kind="baseline")
    others = [s for s in frames.names(frame) if s not in baselines]
    looks: dict[str, dict[str, Any]] = {s: {"marker": "*", "markersize": 10} for s in baselines}
    looks |= {s: {"marker": style.marker(i), "markersize": 5.5} for i, s in enumerate(others)}
    white: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "white", "markeredgewidth": 0.5}
    for (series, batch), own in frames.groups(frame, "series", "batch_size"):
        hue = style.colour(batches.index(batch))
        style.with_intervals(axes, own, _X, _Y, color=hue, **looks[series], **white)
    ridges, span = _ridges_and_span(frame)
    axes.set_xscale("log")
    axes.set_xlim(*span)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    style.log_axis(axes, [*frame["ratio_low"], *frame["ratio_high"], 1.0])
    axes.margins(y=0.14)
    axes.axhline(1.0, color=style.ALARM, linewidth=1.2)
    # The ridge differs between precisions; with several, a line could not say which side a point is on.
    if len(ridges) == 1:
        _draw_ridge(axes, ridges[0])
    axes.set(xlabel=_X_TITLE, ylabel=_Y_TITLE)
    axes.set_title(_title(frame))
    handles = [style.key(f"batch {b}", color=style.colour(i), linewidth=4) for i, b in enumerate(batches)]
    for series, look in looks.items():
        label = f"{series} (autoregressive)" if series in baselines else series
        handles.append(style.key(label, color="grey", linestyle="none", **look))
    handles.append(style.key("floor", color=style.ALARM))
    style.legend_below(figure, handles, columns=3)


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    batches, series = frames.batch_sizes(frame), frames.names(frames.diffusion(frame))
    ridges, span = _ridges_and_span(frame)
    chart = page.Chart([_title(frame)], _X_TITLE, _Y_TITLE, panel_px=360)
    for (kind, name, batch), own in frames.groups(frame, "kind", "series", "batch_size"):
        hue = page.colour(batches.index(batch))
        is_baseline = kind == "baseline"
        look = page.baseline_look(hue) if is_baseline else page.look(series.index(name), hue)
        label = f"{name} (autoregressive)" if is_baseline else name
        chart.line(0, own, _X, _Y, f"{label}, batch {batch}", look, _hover, mode="markers")
    chart.level(0, span, 1.0, "floor", page.ALARM, ["no cell can be below it"], dash="solid")
    for ridge in ridges:
        hover = f"memory-bound left of {page.number(ridge)} FLOP/byte, compute-bound right of it"
        label = "ridge: memory-bound to the left, compute-bound to the right"
        chart.limit(0, ridge, (1.0, float(frame["ratio_high"].max())), label, hover)
    chart.axis(0, "x", type="log", dtick=1, tickformat=",~r", exponentformat="none")
    chart.log(0, "y", [*frame["ratio_low"], *frame["ratio_high"], 1.0])
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    return [
        *page.settings(row),
        frames.shape_title(row.prompt_tokens, row.new_tokens),
        page.amount("measured / floor", row, "ratio", ""),
        f"{page.number(row.latency_s)} s measured, floor {page.number(row.floor_s)} s",
        f"floor {REGIMES[row.regime]}",
        f"{row.mfu:.0%} of the arithmetic, {row.mbu:.0%} of the bandwidth",
    ]
