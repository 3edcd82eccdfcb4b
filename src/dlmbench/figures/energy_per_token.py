"""Energy per useful token against diffusion steps, the baseline's as a band.

What a text costs in joules. Latency does not show it: a busy device draws more power than a waiting one.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dlmbench.analysis.stats import summarise
from dlmbench.analysis.study import CellSummary, Study
from dlmbench.charts import frames, page, style
from dlmbench.types import CellResult, Run

_X, _Y = "x", "j_per_token"
_X_TITLE = "diffusion steps K"
_TOKENS = {
    "useful": "useful token (up to and including the first end-of-text token)",
    "new": "new token (where the end-of-text token has no meaning)",
}
_NET: dict[str, Any] = {"marker": "_", "markersize": 7}


@dataclass(frozen=True, kw_only=True)
class EnergyPoint(frames.Point):
    """kind: curve, baseline or other. Gross: all that the device took; net: without what it takes when idle.

    tokens: useful (up to and including the first end of text) or new (where an end of text means nothing). source:
    timed repetitions, whose median has an interval, or repeated pass (the mean of generations in a row, for short
    ones).
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
    """Every cell whose energy was measured."""
    results = {r.cell.id: r for r in run.results}
    rows = [
        row
        for kind, summary in frames.cells_by_kind(study)
        if summary.latency is not None
        and (row := _point(kind, study.label(summary.cell), summary, results[summary.cell.id])) is not None
    ]
    device = run.environment.device if run.environment else "the device"
    return frames.table(EnergyPoint, rows, f"{device} has no energy counter that could be read")


def _point(kind: str, series: str, summary: CellSummary, result: CellResult) -> EnergyPoint | None:
    timed = result.timed
    useful = [s.useful_tokens for s in timed if s.useful_tokens]
    per_batch = float(median(useful or [s.new_tokens for s in timed]))
    readings = [s.energy_j / (s.useful_tokens or s.new_tokens) for s in timed if s.energy_j and s.new_tokens]
    energy: dict[str, float]
    if readings:
        read = summarise(readings)
        energy, repetitions = frames.median_columns("j_per_token", read), read.n
    elif result.energy is not None and per_batch > 0:
        energy, repetitions = {"j_per_token": result.energy.energy_j / per_batch}, result.energy.repetitions
    else:
        return None
    idle = result.memory.idle_power_w if result.memory else None
    assert summary.latency is not None
    return EnergyPoint.of(
        summary.cell,
        kind,
        series,
        steps=summary.cell.steps,
        tokens="useful" if useful else "new",
        source="timed repetitions" if readings else "repeated pass",
        net_j_per_token=None if idle is None else energy["j_per_token"] - idle * summary.latency.median / per_batch,
        idle_power_w=idle,
        repetitions=repetitions,
        **energy,
    )


def caption(frame: pd.DataFrame) -> str:
    """What is shown, which tokens count, and whether idle power is subtracted."""
    per_token = " or ".join(text for kind, text in _TOKENS.items() if kind in set(frame["tokens"]))
    net = "Gross: idle power was not measured, so it is not subtracted."
    if frame["net_j_per_token"].notna().any():
        net = "Small marks: net of idle power."
    return (
        f"Energy of the device per {per_token}: medians of the timed repetitions with 95% intervals; no interval where "
        "one generation is too short for a reading and several in a row were measured instead. "
        f"Dashed: the autoregressive baseline at the same batch size. {net}"
    )


def _y_title(frame: pd.DataFrame) -> str:
    return f"energy [J/{' or '.join(sorted(set(frame['tokens']), reverse=True))} token]"


def _curves(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[float], list[str]]:
    """Diffusion's rows with their place x, and the ticks of x: a sampler that chooses its steps is on the far right."""
    rows, ticks = frames.diffusion(frame), frames.step_counts(frames.diffusion(frame))
    labels = [f"{k:g}" for k in ticks]
    if rows["steps"].isna().any():
        ticks.append(2 * max(ticks, default=1.0))
        labels.append("own")
    return rows.assign(x=rows["steps"].astype(float).fillna(max(ticks, default=1.0))), ticks or [1.0], labels or [""]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """A panel for each (prompt, new tokens); colour is batch size, marker and line style the sampler's settings."""
    series, batches, groups = frames.names(frames.diffusion(frame)), frames.batch_sizes(frame), frames.by_shape(frame)
    for axes, here in zip(style.panels(figure, groups, 2.8), groups.values(), strict=True):
        curves, ticks, labels = _curves(here)
        for j, batch in enumerate(batches):
            hue = style.colour(j)
            for r in frames.each(here, kind="baseline", batch_size=batch):
                style.band(axes, r, _Y, color=hue, linestyle="--")
            for i, name in enumerate(series):
                own = frames.rows(curves, series=name, batch_size=batch)
                style.with_intervals(axes, own, _X, _Y, **style.look(i, hue))
                axes.plot(own["x"], own["net_j_per_token"], linestyle="none", color=hue, **_NET)
        style.log2_axis(axes, ticks)
        axes.set_xticks(ticks, labels)
        columns = ("j_per_token", "j_per_token_high", "net_j_per_token")
        style.log_axis(axes, [v for c in columns for v in here[c].dropna()])
        axes.set(xlabel=_X_TITLE, ylabel=_y_title(here))
    handles = [style.key(f"batch {b}", color=style.colour(j)) for j, b in enumerate(batches)]
    handles += style.series_keys(series, "grey")
    handles += style.baseline_keys(frame, color="grey", linestyle="--")
    if frames.diffusion(frame)["net_j_per_token"].notna().any():
        handles.append(style.key("net of idle power", color="grey", linestyle="none", **_NET))
    style.legend_below(figure, handles, columns=3)


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page; net energy is in the hover texts."""
    series, batches, groups = frames.names(frames.diffusion(frame)), frames.batch_sizes(frame), frames.by_shape(frame)
    chart = page.Chart(groups, _X_TITLE, _y_title(frame))
    for panel, here in enumerate(groups.values()):
        curves, ticks, labels = _curves(here)
        for j, batch in enumerate(batches):
            hue = page.colour(j)
            for r in frames.each(here, kind="baseline", batch_size=batch):
                shown = f"{r.series} (autoregressive), batch {batch}"
                chart.band(panel, (ticks[0], ticks[-1]), r, _Y, shown, hue, _hover(r))
            for i, name in enumerate(series):
                own = frames.rows(curves, series=name, batch_size=batch)
                chart.line(panel, own, _X, _Y, f"{name}, batch {batch}", page.look(i, hue), _hover)
        chart.axis(panel, "x", type="log", tickvals=ticks, ticktext=labels)
        chart.log(panel, "y", [*here["j_per_token"].dropna()])
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    energy = page.amount("energy", row, "j_per_token", f"J/{row.tokens} token")
    net = [] if pd.isna(row.net_j_per_token) else [f"net of idle power: {page.number(row.net_j_per_token)} J"]
    return [*page.settings(row), energy, *net, f"{row.repetitions:.0f} readings: {row.source}"]
