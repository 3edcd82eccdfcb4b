"""The points that both throughput figures show: new tokens per second against batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from dlmbench.analysis.study import Study
from dlmbench.charts import frames, style

OWN = "steps chosen by the sampler"


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


def line_names(frame: pd.DataFrame) -> list[str]:
    """What has one line: a baseline, a step count, or samplers that choose their own number of steps."""
    names = zip(frame["kind"], frame["series"], frame["steps"], strict=True)
    return [s if kind == "baseline" else OWN if pd.isna(k) else f"K = {k:.0f}" for kind, s, k in names]


def line_looks(frame: pd.DataFrame) -> style.Looks:
    """Looks of the lines of a frame with the column `line`: baselines in ink, step counts from dark to light."""
    baselines = frames.names(frame, kind="baseline")
    steps = frames.step_counts(frames.diffusion(frame))
    own = [OWN] if OWN in set(frame["line"]) else []
    hues = [*style.ordered_colours(len(steps)), *(style.COLOURS[0] for _ in own)]
    return style.Looks("line", [*baselines, *(f"K = {k:.0f}" for k in steps), *own], len(baselines), hues)


def shown(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Any], style.Looks]:
    """What is drawn in a panel for each series and shape, its tooltip and looks; baselines are in all of a shape.

    The baseline has a panel of its own only where there is nothing else.
    """
    frame = style.named(frame)
    curves = frames.diffusion(frame)
    keys = (curves if len(curves) else frame)[["series", "prompt_tokens", "new_tokens"]].drop_duplicates()
    panels = []
    for series, prompt, new in keys.itertuples(index=False, name=None):
        here = frames.rows(frame, prompt_tokens=prompt, new_tokens=new)
        own = here[(here["kind"] == "baseline") | (here["series"] == series)]
        name = f"{frames.short(series)}, " if curves["series"].nunique() > 1 else ""
        panels.append(own.assign(panel=f"{name}{frames.shape_title(prompt, new)}"))
    drawn = pd.concat(panels)
    drawn = drawn.assign(line=line_names(drawn))
    drawn = style.with_tooltip(drawn, throughput=("tokens_per_s", "new tokens/s"))
    return drawn, style.tooltip(drawn, "repetitions"), line_looks(drawn)


def y_axis(frame: pd.DataFrame) -> Any:
    """The axis of throughput."""
    values = [*frame["tokens_per_s"], *frame["tokens_per_s_high"]]
    return style.axis("tokens_per_s", "throughput [new tokens/s]", values)
