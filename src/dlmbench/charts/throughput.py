"""The points that both throughput figures show: new tokens per second against batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dlmbench.analysis.study import Study
from dlmbench.charts import frames, page

X, Y = "batch_size", "tokens_per_s"
X_TITLE, Y_TITLE = "batch size", "throughput [new tokens/s]"


@dataclass(frozen=True, kw_only=True)
class ThroughputPoint(frames.Point):
    """kind: curve (one for each step count) or baseline."""

    steps: float | None = None
    tokens_per_s: float | None = None
    tokens_per_s_low: float | None = None
    tokens_per_s_high: float | None = None
    repetitions: int | None = None


def points(study: Study) -> pd.DataFrame:
    """Median throughput of every timed cell, with the interval of the median."""
    rows = [
        ThroughputPoint.of(
            summary.cell,
            "baseline" if kind == "baseline" else "curve",
            study.label(summary.cell),
            steps=summary.cell.steps,
            repetitions=summary.throughput.n,
            **frames.median_columns("tokens_per_s", summary.throughput),
        )
        for kind, summary in frames.cells_by_kind(study)
        if summary.throughput is not None
    ]
    return frames.table(ThroughputPoint, rows, "no cell was timed")


def caption(shown_as: str) -> str:
    """What is shown."""
    return (
        f"Throughput against batch size, {shown_as}: new tokens of the whole batch divided by its latency (prompts "
        "do not count), medians with 95% intervals of the median. Batch sizes that failed are left out."
    )


@dataclass(frozen=True)
class ThroughputLine:
    """What has one line, or one bar at each batch size. index: of its step count, 0 for the others."""

    label: str
    rows: pd.DataFrame
    colour: Any
    index: int = 0
    is_baseline: bool = False


def lines(
    frame: pd.DataFrame, steps: Sequence[float], hues: Sequence[Any], black: str, own: str
) -> list[ThroughputLine]:
    """The baselines (in black), the step counts (in their hues), and samplers that choose their own number of steps."""
    baselines, curves = frames.rows(frame, kind="baseline"), frames.rows(frame, kind="curve")
    found = [
        ThroughputLine(f"{series} (autoregressive)", frames.rows(baselines, series=series), black, is_baseline=True)
        for series in frames.names(baselines)
    ]
    for i, (k, hue) in enumerate(zip(steps, hues, strict=True)):
        found.append(ThroughputLine(f"K = {k:.0f}", frames.rows(curves, steps=k), hue, i))
    found.append(ThroughputLine("steps chosen by the sampler", curves[curves["steps"].isna()], own))
    return [line for line in found if len(line.rows)]


def panels(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Title and rows of a panel for each series and shape: its own rows and those of the baselines.

    The baseline has a panel of its own only where there is nothing else.
    """
    curves = frames.rows(frame, kind="curve")
    keys = (curves if len(curves) else frame)[["series", "prompt_tokens", "new_tokens"]].drop_duplicates()
    found = {}
    for series, prompt, new in keys.itertuples(index=False, name=None):
        here = frames.rows(frame, prompt_tokens=prompt, new_tokens=new)
        own = here[(here["kind"] == "baseline") | (here["series"] == series)]
        found[f"{series}\n{frames.shape_title(prompt, new)}"] = own
    return found


def hover(row: Any) -> list[str]:
    """The hover text of a point, under its name."""
    rate = page.amount("throughput", row, "tokens_per_s", "new tokens/s")
    return [row.series, *page.settings(row), rate, f"{row.repetitions:.0f} timed repetitions"]
