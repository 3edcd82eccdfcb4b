"""Measured latency over the roofline's floor, by what limits the floor: the memory's bandwidth or the arithmetic.

A ratio of 1 is all that the device's data sheet allows; what lies above it is left to be gained. Below 1 something was
measured wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dlmbench.analysis.study import Study
from dlmbench.charts import page
from dlmbench.charts import style as _style
from dlmbench.charts.points import Point, each, rows_of, table, why_missing
from dlmbench.models.loading import architectures
from dlmbench.roofline.corrected import MeasuredCell, bounds_of
from dlmbench.roofline.hardware import Hardware, of_device
from dlmbench.types import Architecture, Run

NAME = "measured_vs_roofline"
_X = "arithmetic intensity of the compulsory work [FLOP/byte]"
REGIMES = {"memory": "limited by memory bandwidth", "compute": "limited by arithmetic"}


@dataclass(frozen=True, kw_only=True)
class RooflinePoint(Point):
    """kind: curve, baseline or other. regime: what the floor is made of (memory or compute).

    intensity: compulsory work over compulsory traffic; at `ridge` the device is busy with both. ratio: measured over
    floor. mfu, mbu: shares of the data sheet's arithmetic and bandwidth that compulsory work made use of.
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
    return table(RooflinePoint, list(_rows(run, study, known, device)) if device else [], why)


def _rows(run: Run, study: Study, known: dict[str, Architecture], device: Hardware) -> Iterator[RooflinePoint]:
    forwards = {r.cell.id: [s.forwards for s in r.timed] for r in run.results}
    kinds = [("baseline", s) for s in study.baselines]
    kinds += [("curve", s) for c in study.curves for s in c.points] + [("other", s) for s in study.others]
    for kind, summary in kinds:
        cell, latency = summary.cell, summary.latency
        if latency is None or cell.model.key not in known:
            continue
        taken = float(median(forwards[cell.id]))
        held = bounds_of(MeasuredCell(cell, known[cell.model.key], device, latency.median, taken))
        if held is None:
            continue
        flops, bandwidth = device.matrix_flops(cell.precision), device.bandwidth
        yield RooflinePoint(
            kind=kind,
            series=study.label(cell),
            batch_size=cell.batch_size,
            prompt_tokens=cell.prompt_tokens,
            new_tokens=cell.new_tokens,
            weights=cell.model.weights,
            note=device.name,
            steps=cell.steps,
            regime="compute" if held.mfu > held.mbu else "memory",
            intensity_flop_per_byte=held.mfu * flops / (held.mbu * bandwidth),
            ridge_flop_per_byte=flops / bandwidth,
            latency_s=latency.median,
            floor_s=held.floor_s,
            ratio=held.floor_ratio,
            ratio_low=latency.low / held.floor_s,
            ratio_high=latency.high / held.floor_s,
            mfu=held.mfu,
            mbu=held.mbu,
        )


def _medians(frame: pd.DataFrame) -> list[tuple[str, str, float, int]]:
    """(regime, series, median ratio, cells) of each series in each regime."""
    groups = frame.groupby(["regime", "series"], sort=False)["ratio"]
    return [(str(r), str(s), float(g.median()), len(g)) for (r, s), g in groups]


def caption(frame: pd.DataFrame) -> str:
    """What is shown, and the median of each series in each regime."""
    if why := why_missing(frame):
        return f"Not measured: {why}."
    device = str(frame["note"].iloc[0])
    lines = [
        f"{words}: " + ", ".join(f"{s} {value:.2g} (n = {n})" for r, s, value, n in _medians(frame) if r == regime)
        for regime, words in REGIMES.items()
        if (frame["regime"] == regime).any()
    ]
    return (
        f"Measured latency over the floor of the {device}'s data sheet (the larger of compulsory FLOPs over peak rate "
        "and compulsory bytes over bandwidth), against arithmetic intensity; medians with 95% intervals. A ratio of 1 "
        f"is all that the device allows. Median ratio over n cells where the floor is {'; '.join(lines)}."
    )


def _regimes(axes: Axes, ridge: float) -> None:
    """The ridge, the side on which the arithmetic limits, and the name of each side."""
    axes.axvline(ridge, color="#666666", linewidth=1, linestyle=(0, (4, 2)))
    left, right = axes.get_xlim()
    axes.axvspan(ridge, right, color="#000000", alpha=0.05, linewidth=0)
    axes.set_xlim(left, right)
    for words, side in (("memory-bound ", "right"), (" compute-bound", "left")):
        place: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "ha": side, "va": "top"}
        axes.annotate(words, (ridge, 0.985), fontsize=7.5, **place)


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """One panel over all shapes; colour is batch size, the marker the series."""
    if why := why_missing(frame):
        return _style.not_measured(figure, why)
    (axes,) = _style.panels(figure, 1, 3.6)
    batches = sorted(frame["batch_size"].unique())
    names = list(dict.fromkeys(rows_of(frame, kind="baseline")["series"]))
    others = [s for s in dict.fromkeys(frame["series"]) if s not in names]
    looks: dict[str, dict[str, Any]] = {s: {"marker": "*", "markersize": 10} for s in names}
    looks |= {s: {"marker": _style.MARKERS[i % len(_style.MARKERS)], "markersize": 5.5} for i, s in enumerate(others)}
    for r in each(frame):
        hue = _style.colour(batches.index(r.batch_size))
        bars = np.clip([[r.ratio - r.ratio_low], [r.ratio_high - r.ratio]], 0, None)
        style = looks[r.series] | {"color": hue, "markeredgecolor": "white", "markeredgewidth": 0.5}
        axes.errorbar(r.intensity_flop_per_byte, r.ratio, bars, linestyle="none", capsize=2, elinewidth=0.9, **style)
    ridges = sorted({float(r) for r in frame["ridge_flop_per_byte"]})
    axes.set_xscale("log")
    spread = [*frame["intensity_flop_per_byte"], *ridges]
    axes.set_xlim(min(spread) / 1.6, max(spread) * 1.6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    _style.log_axis(axes, [*frame["ratio_low"], *frame["ratio_high"], 1.0])
    axes.margins(y=0.14)
    axes.axhline(1.0, color="#B00020", linewidth=1.2)
    # The ridge lies elsewhere for each precision; with several, a line could not say which side a point is on.
    if len(ridges) == 1:
        _regimes(axes, ridges[0])
    device = str(frame["note"].iloc[0])
    axes.set(xlabel=_X, ylabel="measured latency / floor")
    axes.set_title(f"how many times the {device}'s floor each cell takes (lower is better)")
    handles = [_style.key(f"batch {b}", color=_style.colour(i), linewidth=4) for i, b in enumerate(batches)]
    for s, look in looks.items():
        label = f"{s} (autoregressive)" if s in names else s
        handles.append(_style.key(label, color="grey", linestyle="none", **look))
    handles.append(_style.key("floor", color="#B00020"))
    _style.legend_below(figure, handles, columns=3)
    _style.stamp(figure, frame)
    return None


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    if why := why_missing(frame):
        return page.not_measured(why)
    batches = sorted(int(b) for b in frame["batch_size"].unique())
    series = list(dict.fromkeys(frame[frame["kind"] != "baseline"]["series"]))
    title = f"how many times the {frame['note'].iloc[0]}'s floor each cell takes (lower is better)"
    chart = page.Chart([title], _X, "measured latency / floor", panel_px=360)
    for _, own in frame.groupby(["kind", "series", "batch_size"], sort=False):
        kind, name, batch = (own[c].iloc[0] for c in ("kind", "series", "batch_size"))
        hue = page.colour(batches.index(int(batch)))
        look = page.baseline_look(hue) if kind == "baseline" else page.look(series.index(name), hue)
        shown = f"{name} (autoregressive)" if kind == "baseline" else name
        x = "intensity_flop_per_byte"
        chart.line(0, own, x, "ratio", f"{shown}, batch {batch}", look, _hover, mode="markers")
    ridges = sorted({float(r) for r in frame["ridge_flop_per_byte"]})
    spread = [*frame["intensity_flop_per_byte"], *ridges]
    span = (float(min(spread)) / 1.6, float(max(spread)) * 1.6)
    chart.band(0, span, 1.0, None, None, "floor", page.ALARM, ["no cell can be below"], dash="solid")
    heights = [1.0, float(frame["ratio_high"].max())]
    for ridge in ridges:
        words = f"memory-bound left of {page.number(ridge)} FLOP/byte, compute-bound right of it"
        line: dict[str, Any] = {"type": "scatter", "mode": "lines", "x": [ridge] * 2, "y": heights}
        line |= {"hoverinfo": "text", "hovertext": page.text(words)}
        line |= {"line": {"color": page.MUTED, "dash": "dash", "width": 1.5}}
        chart.add(0, line, "ridge: memory-bound to the left, compute-bound to the right")
    chart.axis(0, "x", type="log", dtick=1, tickformat=",~r", exponentformat="none")
    chart.log(0, "y", [*frame["ratio_low"], *frame["ratio_high"], 1.0])
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    steps = [] if pd.isna(row.steps) else [f"K = {row.steps:.0f}"]
    times = f"{page.number(row.latency_s)} s measured, floor {page.number(row.floor_s)} s"
    shares = f"{row.mfu:.0%} of the arithmetic, {row.mbu:.0%} of the bandwidth"
    where = [page.shape_title(row.prompt_tokens, row.new_tokens), f"batch size {row.batch_size}"]
    ratio = page.amount("measured / floor", row.ratio, row.ratio_low, row.ratio_high, "")
    return [*steps, *where, ratio, times, f"floor {REGIMES[row.regime]}", shares]
