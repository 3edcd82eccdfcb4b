"""Measured latency over the roofline's floor, by what limits the floor: the memory's bandwidth or the arithmetic.

A ratio of 1 is the best that the device's data sheet allows. A ratio below 1 means that something was measured wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.study import Study
from dlmbench.charts import frames, style
from dlmbench.models.loading import architectures
from dlmbench.roofline.corrected import MeasuredCell, bounds_of
from dlmbench.roofline.hardware import Hardware, of_device
from dlmbench.types import Architecture, Run

_X_TITLE = "arithmetic intensity [FLOP/byte]"
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


def chart(frame: pd.DataFrame) -> Any:
    """One panel over all shapes."""
    title = f"how many times the {_device(frame)}'s floor each cell takes (lower is better)"
    shown = style.named(frame).assign(panel=title, regime=frame["regime"].map(REGIMES))
    shown = style.with_tooltip(
        shown, measured_over_floor=("ratio", ""), latency=("latency_s", "s"), floor=("floor_s", "s")
    )
    tips, looks = style.tooltip(shown, "prompt_tokens", "new_tokens", "regime"), style.series_looks(shown)
    ridges = sorted({float(r) for r in frame["ridge_flop_per_byte"]})
    x = style.axis("intensity_flop_per_byte", _X_TITLE, [*frame["intensity_flop_per_byte"], *ridges, ridges[0] / 10])
    y = style.axis("ratio", "measured latency / floor", [*frame["ratio_low"], *frame["ratio_high"], 1.0])
    points = alt.Chart().mark_point(filled=True, opacity=0.9)
    layers = [
        style.once().mark_rule(color=style.ALARM, strokeWidth=1.5).encode(y=alt.datum(1.0)),
        style.intervals(alt.Chart(), x, y, "ratio", looks.color),
        points.encode(x=x, y=y, color=looks.color, shape=looks.shape, tooltip=tips),
    ]
    # The ridge differs between precisions; with several, a line could not say which side a point is on.
    if len(ridges) == 1:
        ridge: Any = style.once().encode(x=alt.datum(ridges[0]))
        layers.append(ridge.mark_rule(strokeDash=style.DASHED, color=style.MUTED))
        for label, side in (("memory-bound", "right"), ("compute-bound", "left")):
            text = ridge.mark_text(align=side, dx=-4 if side == "right" else 4, text=label, color=style.MUTED)
            layers.append(text.encode(y=alt.datum(0.85)))
    return style.panels(layers, shown)
