"""The points that both throughput figures show: new tokens per second against batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from dlmbench.analysis.study import CellSummary, Study
from dlmbench.charts import page
from dlmbench.charts.points import Point, table, why_missing


@dataclass(frozen=True, kw_only=True)
class ThroughputPoint(Point):
    """kind: curve (one for each step count) or baseline."""

    steps: float | None = None
    tokens_per_s: float | None = None
    tokens_per_s_low: float | None = None
    tokens_per_s_high: float | None = None
    repetitions: int | None = None


def throughput_points(study: Study) -> pd.DataFrame:
    """Median throughput of every timed cell, with the interval of the median."""
    cells = [("baseline", study.label(b.cell), b) for b in study.baselines]
    cells += [("curve", c.label, p) for c in study.curves for p in c.points]
    cells += [("curve", study.label(o.cell), o) for o in study.others]
    rows = [_point(kind, series, summary) for kind, series, summary in cells if summary.throughput is not None]
    return table(ThroughputPoint, rows, "no cell was timed")


def _point(kind: str, series: str, summary: CellSummary) -> ThroughputPoint:
    assert summary.throughput is not None
    return ThroughputPoint(
        kind=kind,
        series=series,
        batch_size=summary.cell.batch_size,
        prompt_tokens=summary.cell.prompt_tokens,
        new_tokens=summary.cell.new_tokens,
        weights=summary.cell.model.weights,
        steps=summary.cell.steps,
        tokens_per_s=summary.throughput.median,
        tokens_per_s_low=summary.throughput.low,
        tokens_per_s_high=summary.throughput.high,
        repetitions=summary.throughput.n,
    )


def throughput_caption(frame: pd.DataFrame, shown_as: str) -> str:
    """What is shown."""
    if why := why_missing(frame):
        return f"Not measured: {why}."
    return (
        f"Throughput against batch size, {shown_as}: new tokens of the whole batch divided by its latency (prompts "
        "do not count), medians with 95% intervals of the median. Batch sizes that failed are left out."
    )


def step_counts(frame: pd.DataFrame) -> list[float]:
    """The step counts in the frame, ascending."""
    return sorted(float(k) for k in frame["steps"].dropna().unique())


def panel_keys(frame: pd.DataFrame) -> list[tuple[str, int, int]]:
    """(series, prompt, new tokens) of each panel; the baseline has its own only where there is nothing else."""
    curves = frame[frame["kind"] == "curve"]
    chosen = curves if len(curves) else frame
    keys = chosen[["series", "prompt_tokens", "new_tokens"]].drop_duplicates()
    return [(str(s), int(p), int(g)) for s, p, g in keys.itertuples(index=False, name=None)]


def panel_titles(frame: pd.DataFrame) -> list[str]:
    """A title for each of `panel_keys`."""
    return [f"{series}\n{page.shape_title(prompt, new)}" for series, prompt, new in panel_keys(frame)]


def hover(row: Any) -> list[str]:
    """What hovering over a point says under its name."""
    steps = [] if pd.isna(row.steps) else [f"K = {row.steps:.0f}"]
    rate = page.amount("throughput", row.tokens_per_s, row.tokens_per_s_low, row.tokens_per_s_high, "new tokens/s")
    return [row.series, *steps, f"batch size {row.batch_size}", rate, f"{row.repetitions:.0f} timed repetitions"]
