"""What the throughput figures share: points of new tokens per second against batch size, and the looks of lines."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dlmbench.analysis.study import Study
from dlmbench.charts import frames, style
from dlmbench.types import Run

OWN = "steps chosen by the sampler"
COLUMNS = ("steps", *frames.interval_columns("tokens_per_s"), "repetitions")


def points(run: Run, study: Study) -> pd.DataFrame:
    """Median throughput of every timed cell. kind: curve (one for each step count) or baseline."""
    timed = [as_line(row) for row, summary in frames.cells(study) if summary.throughput is not None]
    return frames.table(COLUMNS, timed, frames.why_untimed(study))


def as_line(row: frames.Row) -> frames.Row:
    """The row of a line: samplers that choose their number of steps have one too, a curve without a step count."""
    return row | {"kind": "baseline" if row["kind"] == "baseline" else "curve"}


def caption(shown_as: str, frame: pd.DataFrame) -> str:
    """What is shown, and in which form."""
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
    lines = list(frames.diffusion(frame).sort_values("steps")["line"].unique())  # without a step count last
    hues = [*style.ordered_colours(len(lines) - (OWN in lines)), style.COLOURS[0]]
    return style.Looks("line", frames.names(frame, kind="baseline"), lines, hues)


def by_series(frame: pd.DataFrame, x: Any) -> tuple[pd.DataFrame, style.Marks]:
    """What is drawn in a panel for each series and shape, and its marks on the axis `x`; each has the baselines.

    The baseline has a panel of its own only where there is nothing else.
    """
    frame = style.named(frame).assign(panel=frames.shape_titles(frame))
    curves = frames.diffusion(frame)
    shown = []
    for series, shape in (curves if len(curves) else frame)[["series", "panel"]].drop_duplicates().to_numpy():
        here = frames.rows(frame, panel=shape)
        name = f"{frames.short(series)}, " if curves["series"].nunique() > 1 else ""
        shown.append(here[(here["kind"] == "baseline") | (here["series"] == series)].assign(panel=name + shape))
    drawn = pd.concat(shown)
    drawn = drawn.assign(line=line_names(drawn))
    drawn, tips = style.with_tooltip(drawn, "repetitions", throughput=("tokens_per_s", "new tokens/s"))
    y = style.axis("tokens_per_s", "throughput [new tokens/s]", [*frame["tokens_per_s"], *frame["tokens_per_s_high"]])
    return drawn, style.Marks(x, y, line_looks(drawn), tips)
