"""Energy per useful token against diffusion steps, the baseline's as a band.

What a text costs in joules: the bill that latency does not show, for a busy device and a waiting one differ in power.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dlmbench.analysis.stats import summarise
from dlmbench.analysis.study import CellSummary, Study
from dlmbench.figures import _style
from dlmbench.figures._points import Point, each, rows_of, shapes, table, why_missing
from dlmbench.types import CellResult, Run

NAME = "energy_per_token"


@dataclass(frozen=True, kw_only=True)
class EnergyPoint(Point):
    """kind: curve, baseline or other. Gross: all that the device took; net: without what it takes when idle.

    tokens: useful (up to and with the first end of text) or new (where an end of text says nothing). source: timed
    repetitions, whose median has an interval, or repeated pass (the mean of generations in a row, for short ones).
    """

    steps: float | None = None
    tokens: str = ""
    source: str = ""
    j_per_token: float | None = None
    j_per_token_low: float | None = None
    j_per_token_high: float | None = None
    net_j_per_token: float | None = None
    idle_power_w: float | None = None
    repetitions: int | None = None


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every cell whose energy was counted."""
    results = {r.cell.id: r for r in run.results}
    cells = [("baseline", b) for b in study.baselines] + [("curve", p) for c in study.curves for p in c.points]
    cells += [("other", o) for o in study.others]
    rows = [
        row
        for kind, summary in cells
        if summary.latency is not None
        and (row := _point(kind, study.label(summary.cell), summary, results[summary.cell.id])) is not None
    ]
    device = run.environment.device if run.environment else "the device"
    return table(EnergyPoint, rows, f"{device} has no energy counter that could be read")


def _point(kind: str, series: str, summary: CellSummary, result: CellResult) -> EnergyPoint | None:
    cell, timed = summary.cell, result.timed
    useful = [s.useful_tokens for s in timed if s.useful_tokens]
    per_batch = float(median(useful or [s.new_tokens for s in timed]))
    counted = [s.energy_j / (s.useful_tokens or s.new_tokens) for s in timed if s.energy_j and s.new_tokens]
    if counted:
        read = summarise(counted)
        gross, low, high, n = read.median, read.low, read.high, read.n
    elif result.energy is not None and per_batch > 0:
        gross, low, high, n = result.energy.energy_j / per_batch, None, None, result.energy.repetitions
    else:
        return None
    idle = result.memory.idle_power_w if result.memory else None
    assert summary.latency is not None
    return EnergyPoint(
        kind=kind,
        series=series,
        batch_size=cell.batch_size,
        prompt_tokens=cell.prompt_tokens,
        new_tokens=cell.new_tokens,
        weights=cell.model.weights,
        steps=cell.steps,
        tokens="useful" if useful else "new",
        source="timed repetitions" if counted else "repeated pass",
        j_per_token=gross,
        j_per_token_low=low,
        j_per_token_high=high,
        net_j_per_token=None if idle is None else gross - idle * summary.latency.median / per_batch,
        idle_power_w=idle,
        repetitions=n,
    )


def _tokens(frame: pd.DataFrame) -> str:
    return " or ".join(sorted(set(frame["tokens"]), reverse=True))


def caption(frame: pd.DataFrame) -> str:
    """What is shown, which tokens count, and what idle power does to it."""
    if why := why_missing(frame):
        return f"Not measured: {why}."
    which = (
        "useful tokens (up to and with the first end of text)"
        if (frame["tokens"] == "useful").all()
        else "new tokens, for an end of text says nothing here"
        if (frame["tokens"] == "new").all()
        else "useful tokens (up to and with the first end of text), new ones where an end of text says nothing"
    )
    net = (
        "Small marks: net of idle power."
        if frame["net_j_per_token"].notna().any()
        else "Gross: idle power was not measured, so it is not taken off."
    )
    return (
        f"Energy of the device for each of the {which}: medians of the timed repetitions with 95% intervals; without "
        "an interval where generations are too short for one reading and several in a row were read instead. "
        f"Dashed: the autoregressive baseline at the same batch size. {net}"
    )


def _bars(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.astype(dict.fromkeys(("j_per_token", "j_per_token_low", "j_per_token_high"), float))


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """One panel for each (prompt, new tokens); colour is batch size, marker and line style the sampler's settings."""
    if why := why_missing(frame):
        return _style.not_measured(figure, why)
    curves = frame[(frame["kind"] != "baseline") & frame["steps"].notna()]
    series, batches = list(dict.fromkeys(curves["series"])), sorted(frame["batch_size"].unique())
    free = frame[(frame["kind"] != "baseline") & frame["steps"].isna()]
    others = list(dict.fromkeys(free["series"]))
    ticks = sorted(curves["steps"].unique()) or [1.0]
    for axes, (prompt, new) in zip(_style.panels(figure, len(shapes(frame)), 2.8), shapes(frame), strict=True):
        here = rows_of(frame, prompt_tokens=prompt, new_tokens=new)
        for j, batch in enumerate(batches):
            hue, at_batch = _style.colour(j), rows_of(here, batch_size=batch)
            for r in each(at_batch, kind="baseline"):
                _style.band(axes, r.j_per_token, r.j_per_token_low, r.j_per_token_high, color=hue, linestyle="--")
            for i, name in enumerate([*series, *others]):
                own = _bars(at_batch[(at_batch["series"] == name) & (at_batch["kind"] != "baseline")])
                if not len(own):
                    continue
                # A sampler that chooses its steps has no place on the axis: it stands right of all step counts.
                own = own.assign(steps=own["steps"].fillna(2 * max(ticks))).sort_values("steps")
                _style.with_intervals(axes, own, "steps", "j_per_token", **_style.look(i, hue))
                axes.plot(own["steps"], own["net_j_per_token"], linestyle="none", color=hue, marker="_", markersize=7)
        _style.log2_axis(axes, [*ticks, *([2 * max(ticks)] if others else [])])
        if others:
            axes.set_xticks([*ticks, 2 * max(ticks)], [*(f"{k:g}" for k in ticks), "own"])
        _style.log_axis(axes, [*here["j_per_token"].dropna(), *here["net_j_per_token"].dropna()])
        axes.set(title=f"{prompt} prompt + {new} new tokens", xlabel="diffusion steps K")
        axes.set_ylabel(f"energy [J/{_tokens(here)} token]")
    handles = [_style.key(f"batch {b}", color=_style.colour(j)) for j, b in enumerate(batches)]
    for i, name in enumerate([*series, *others]):
        handles.append(_style.key(name, **_style.look(i, "grey")))
    dashed: dict[str, Any] = {"color": "grey", "linestyle": "--"}
    for name in dict.fromkeys(rows_of(frame, kind="baseline")["series"]):
        handles.append(_style.key(f"{name} (autoregressive)", **dashed))
    if frame["net_j_per_token"].notna().any():
        handles.append(_style.key("net of idle power", color="grey", linestyle="none", marker="_", markersize=7))
    _style.legend_below(figure, handles)
    _style.stamp(figure, frame)
    return None
