"""Energy per useful token against diffusion steps, the baseline's as a dashed line with its interval.

What a text costs in joules. Latency does not show it: a busy device draws more power than an idle one.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import pandas as pd

from dlmbench.analysis.stats import summarise
from dlmbench.analysis.study import CellSummary, Study
from dlmbench.charts import frames, style
from dlmbench.types import CellResult, Run

_TOKENS = {
    "useful": "useful token (up to and including the first end-of-text token)",
    "new": "new token (where the end-of-text token has no meaning)",
}


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
    elif result.energy and per_batch > 0:
        energy = {"j_per_token": fmean(window.generation_j for window in result.energy) / per_batch}
        repetitions = sum(window.repetitions for window in result.energy)
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
        net = "Dashes without a line: net of idle power."
    return (
        f"Energy of the device per {per_token}: medians of the timed repetitions with 95% intervals; no interval where "
        "one generation is too short for a reading and several in a row were measured instead. "
        f"Dashed: the autoregressive baseline at the same batch size. {net}"
    )


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each pair of lengths and batch size."""
    shown = style.by_shape_and_batch(style.named(frame))
    shown = style.with_tooltip(
        shown, energy=("j_per_token", "J/token"), net_of_idle_power=("net_j_per_token", "J/token")
    )
    shown, x = style.steps_axis(shown)
    tips, looks = style.tooltip(shown, "repetitions", "source"), style.series_looks(shown)
    kinds = " or ".join(sorted(set(frame["tokens"]), reverse=True))
    values = [v for c in ("j_per_token", "j_per_token_high", "net_j_per_token") for v in frame[c]]
    y = style.axis("j_per_token", f"energy [J/{kinds} token]", values)
    diffusion = style.where("curve", "other")
    net = diffusion.transform_filter("isValid(datum.net_j_per_token)").mark_point(shape="stroke", opacity=1)
    net_y = style.of(y, "net_j_per_token")
    layers = [
        *style.bands(style.where("baseline"), y, "j_per_token", looks, tips),
        *style.curves(diffusion, x, y, "j_per_token", looks, tips),
        net.encode(x=x, y=net_y, color=looks.color, tooltip=tips),
    ]
    return style.panels(layers, shown)
