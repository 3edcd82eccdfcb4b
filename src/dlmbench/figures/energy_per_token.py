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
from dlmbench.charts import page, style
from dlmbench.charts.points import Point, each, rows_of, shapes, table, why_missing
from dlmbench.types import CellResult, Run

NAME = "energy_per_token"
_X = "diffusion steps K"
_NET: dict[str, Any] = {"marker": "_", "markersize": 7}


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


def _placed(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[float], list[str]]:
    """Diffusion's rows, ticks and their names: a sampler that chooses its steps stands right of all step counts."""
    own = frame[frame["kind"] != "baseline"]
    ticks = sorted(float(k) for k in own["steps"].dropna().unique())
    names = [f"{k:g}" for k in ticks]
    if own["steps"].isna().any():
        ticks = [*ticks, 2 * max(ticks, default=1.0)]
        names.append("own")
    place = own["steps"].astype(float).fillna(ticks[-1] if ticks else 1.0)
    numbers = {c: own[c].astype(float) for c in ("j_per_token", "j_per_token_low", "j_per_token_high")}
    return own.assign(place=place, **numbers).sort_values("place"), ticks or [1.0], names or [""]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """One panel for each (prompt, new tokens); colour is batch size, marker and line style the sampler's settings."""
    if why := why_missing(frame):
        return style.not_measured(figure, why)
    series, batches = list(dict.fromkeys(frame[frame["kind"] != "baseline"]["series"])), _batches(frame)
    for axes, (prompt, new) in zip(style.panels(figure, len(shapes(frame)), 2.8), shapes(frame), strict=True):
        here = rows_of(frame, prompt_tokens=prompt, new_tokens=new)
        curves, ticks, names = _placed(here)
        for j, batch in enumerate(batches):
            hue = style.colour(j)
            for r in each(here, kind="baseline", batch_size=batch):
                style.band(axes, r.j_per_token, r.j_per_token_low, r.j_per_token_high, color=hue, linestyle="--")
            for i, name in enumerate(series):
                own = rows_of(curves, series=name, batch_size=batch)
                if len(own):
                    style.with_intervals(axes, own, "place", "j_per_token", **style.look(i, hue))
                    axes.plot(own["place"], own["net_j_per_token"], linestyle="none", color=hue, **_NET)
        style.log2_axis(axes, ticks)
        axes.set_xticks(ticks, names)
        columns = ("j_per_token", "j_per_token_high", "net_j_per_token")
        style.log_axis(axes, [v for c in columns for v in here[c].dropna()])
        axes.set(title=page.shape_title(prompt, new), xlabel=_X, ylabel=f"energy [J/{_tokens(here)} token]")
    handles = [style.key(f"batch {b}", color=style.colour(j)) for j, b in enumerate(batches)]
    handles += [style.key(name, **style.look(i, "grey")) for i, name in enumerate(series)]
    dashed: dict[str, Any] = {"color": "grey", "linestyle": "--"}
    for name in dict.fromkeys(rows_of(frame, kind="baseline")["series"]):
        handles.append(style.key(f"{name} (autoregressive)", **dashed))
    if frame[frame["kind"] != "baseline"]["net_j_per_token"].notna().any():
        handles.append(style.key("net of idle power", color="grey", linestyle="none", **_NET))
    style.legend_below(figure, handles, columns=3)
    style.stamp(figure, frame)
    return None


def _batches(frame: pd.DataFrame) -> list[int]:
    return sorted(int(b) for b in frame["batch_size"].unique())


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page; net energy stands in the hover texts."""
    if why := why_missing(frame):
        return page.not_measured(why)
    series, batches = list(dict.fromkeys(frame[frame["kind"] != "baseline"]["series"])), _batches(frame)
    titles = [page.shape_title(*s) for s in shapes(frame)]
    chart = page.Chart(titles, _X, f"energy [J/{_tokens(frame)} token]")
    for panel, (prompt, new) in enumerate(shapes(frame)):
        here = rows_of(frame, prompt_tokens=prompt, new_tokens=new)
        curves, ticks, names = _placed(here)
        for j, batch in enumerate(batches):
            hue = page.colour(j)
            for r in each(here, kind="baseline", batch_size=batch):
                shown = f"{r.series} (autoregressive), batch {batch}"
                span, ends = (ticks[0], ticks[-1]), (r.j_per_token_low, r.j_per_token_high)
                chart.band(panel, span, r.j_per_token, *ends, shown, hue, _hover(r))
            for i, name in enumerate(series):
                own = rows_of(curves, series=name, batch_size=batch)
                if len(own):
                    shown = f"{name}, batch {batch}"
                    chart.line(panel, own, "place", "j_per_token", shown, page.look(i, hue), _hover)
        chart.axis(panel, "x", type="log", tickvals=ticks, ticktext=names)
        chart.log(panel, "y", [*here["j_per_token"].dropna()])
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    steps = [] if pd.isna(row.steps) else [f"K = {row.steps:.0f}"]
    ends = (row.j_per_token_low, row.j_per_token_high)
    gross = page.amount("energy", row.j_per_token, *ends, f"J/{row.tokens} token")
    net = [] if pd.isna(row.net_j_per_token) else [f"net of idle power: {page.number(row.net_j_per_token)} J"]
    return [*steps, f"batch size {row.batch_size}", gross, *net, f"{row.repetitions:.0f} readings: {row.source}"]
