"""Measured latency over the roofline's floor, by what limits the floor: the memory's bandwidth or the arithmetic.

A ratio of 1 is the best that the device's data sheet allows. A ratio below 1 means that something was measured wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.results import Study
from dlmbench.charts import frames, style
from dlmbench.models.loading import architectures
from dlmbench.roofline.corrected import MeasuredCell, bounds_of
from dlmbench.roofline.hardware import Hardware, of_device
from dlmbench.types import Architecture, Run

# regime: what limits the floor (memory or compute). intensity: compulsory FLOPs over compulsory bytes; at `ridge` both
# take equally long. ratio: measured latency over floor. mfu, mbu: the shares of the data sheet's FLOP/s and bandwidth
# that the compulsory work used.
COLUMNS = (
    *("steps", "regime", "intensity_flop_per_byte", "ridge_flop_per_byte", "latency_s", "floor_s"),
    *frames.interval_columns("ratio"),
    *("mfu", "mbu"),
)
REGIMES = {"memory": "memory-bound", "compute": "compute-bound"}


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every timed cell beside its floor on the device that the run names. kind: curve, baseline or other."""
    recorded = run.environment.device if run.environment else ""
    device = of_device(recorded)
    known, unknown = architectures(dict.fromkeys(s.cell.model for s in study.cells))
    if device is None:
        why = f"no hardware row for '{recorded}', so its floor is not known" if recorded else "no device is recorded"
    elif unknown:
        why = "; ".join(f"{model}: {reason}" for model, reason in unknown.items())
    else:
        why = "no timed cell has a sampler that plans its forwards, so no floor is known"
    rows = list(_rows(run, study, known, device)) if device else []
    return frames.table(COLUMNS, rows, frames.why_untimed(study, why))


def _rows(run: Run, study: Study, known: dict[str, Architecture], device: Hardware) -> Iterator[frames.Row]:
    forwards = {r.cell.id: [s.forwards for s in r.timed] for r in run.results}
    for row, summary in frames.cells(study):
        cell, latency = summary.cell, summary.latency
        if latency is None or cell.model.key not in known:
            continue
        taken = float(median(forwards[cell.id]))
        bounds = bounds_of(MeasuredCell(cell, known[cell.model.key], device, latency.median, taken))
        if bounds is None:
            continue
        floor_s, flops, bandwidth = bounds.floor_s, device.matrix_flops(cell.precision), device.bandwidth
        yield row | {
            "note": device.name,
            "regime": "compute" if bounds.mfu > bounds.mbu else "memory",
            "intensity_flop_per_byte": bounds.mfu * flops / (bounds.mbu * bandwidth),
            "ridge_flop_per_byte": flops / bandwidth,
            "floor_s": floor_s,
            **frames.with_interval("ratio", bounds.floor_ratio, latency.low / floor_s, latency.high / floor_s),
            "mfu": bounds.mfu,
            "mbu": bounds.mbu,
        }


def caption(frame: pd.DataFrame) -> str:
    """What is shown, and the median of each series in each regime."""
    lines = []
    for regime, label in REGIMES.items():
        ratios = frames.rows(frame, regime=regime).groupby("series", sort=False)["ratio"]
        medians = [f"{series} {own.median():.2g} (n = {len(own)})" for series, own in ratios]
        lines += [f"{label}: {', '.join(medians)}"] if medians else []
    return (
        f"Measured latency over the floor of the {frame['note'].iloc[0]}'s data sheet (the larger of compulsory FLOPs "
        "over peak rate and compulsory bytes over bandwidth), against arithmetic intensity; medians with 95% "
        "intervals. A ratio of 1 is the best that the device allows. Median ratio over n cells where the floor is "
        f"{'; '.join(lines)}."
    )


def chart(frame: pd.DataFrame) -> Any:
    """One panel over all shapes."""
    title = f"how many times the {frame['note'].iloc[0]}'s floor each cell takes (lower is better)"
    shown = style.named(frame).assign(panel=title, regime=frame["regime"].map(REGIMES))
    amounts = {"measured_over_floor": ("ratio", ""), "latency": ("latency_s", "s"), "floor": ("floor_s", "s")}
    shown, tips = style.with_tooltip(shown, "prompt_tokens", "new_tokens", "regime", **amounts)
    ridges = sorted(frame["ridge_flop_per_byte"].astype(float).unique())
    also = [*ridges, ridges[0] / 10]
    x = style.axis("intensity_flop_per_byte", "arithmetic intensity [FLOP/byte]", shown, alt.X, also=also)
    y = style.axis("ratio", "measured latency / floor", shown, also=[1.0])
    marks = style.Marks(x, y, style.series_looks(shown), tips)
    layers = [
        style.once().mark_rule(color=style.ALARM, strokeWidth=1.5).encode(y=alt.datum(1.0)),
        marks.intervals(alt.Chart()),
        marks.points(alt.Chart(), opacity=0.9),
    ]
    # The ridge differs between precisions; with several, a line could not say which side a point is on.
    if len(ridges) == 1:
        ridge: Any = style.once().encode(x=alt.datum(ridges[0]))
        layers.append(ridge.mark_rule(strokeDash=style.DASHED, color=style.MUTED))
        for label, side, dx in (("memory-bound", "right", -4), ("compute-bound", "left", 4)):
            text = ridge.mark_text(align=side, dx=dx, dy=-6, text=label, color=style.MUTED)
            layers.append(text.encode(y=alt.datum(1.0)))
    return style.panels(layers, shown)
