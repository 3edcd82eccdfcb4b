"""Order of commitment: at which forward each position of one text became final.

Shows whether a text was written left to right, all at once, or from its ends to its middle. One prompt of a traced
generation for each cell: an example, not a statistic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.study import Study
from dlmbench.charts import frames, style
from dlmbench.types import Run


@dataclass(frozen=True, kw_only=True)
class CommitPoint(frames.Point):
    """One position of one text: the forward that made it final, and the confidence it had."""

    steps: int | None = None
    position: int | None = None
    forward: int | None = None
    forwards: int | None = None
    confidence: float | None = None


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every position of the traced text of each diffusion cell, of the smallest batch of each setting."""
    rows: list[CommitPoint] = []
    seen: set[str] = set()
    for result in sorted(run.results, key=lambda r: r.cell.batch_size):
        cell, order = result.cell, result.order
        if order is None or cell.quality_key in seen:
            continue
        seen.add(cell.quality_key)
        rows += [
            CommitPoint.of(
                cell,
                "commit",
                study.label(cell),
                steps=cell.steps,
                position=position,
                forward=forward,
                forwards=order.forwards,
                confidence=confidence,
            )
            for position, (forward, confidence) in enumerate(zip(order.committed_at, order.confidence, strict=True))
        ]
    return frames.table(CommitPoint, rows, "no diffusion cell was traced")


def caption(frame: pd.DataFrame) -> str:
    """What is shown."""
    return (
        "The forward at which each position of one generated text became final, coloured by the probability of its "
        "token at that forward. One prompt per panel: an example, not an average."
    )


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each setting and step count: a map of positions (across) and forwards (down)."""
    has_shapes = len(frames.shapes(frame)) > 1
    titles = [
        frames.with_steps(k.series, k.steps)
        + (f", {frames.shape_title(k.prompt_tokens, k.new_tokens)}" if has_shapes else "")
        for k in frames.each(frame)
    ]
    shown = frame.assign(panel=titles, left=frame["position"] - 0.5, right=frame["position"] + 0.5)
    shown = shown.assign(above=shown["forward"] - 0.5, below=shown["forward"] + 0.5)
    shown = style.with_tooltip(shown, probability_when_committed=("confidence", ""))
    tips = style.tooltip(shown, "position", "forward", "forwards")
    x: Any = alt.X("left:Q", title="position in the new text", scale=alt.Scale(nice=False))
    y: Any = alt.Y("above:Q", title="forward", scale=alt.Scale(reverse=True, zero=False, nice=False))
    y.axis, x.axis = alt.Axis(tickMinStep=1, format="d", tickCount=5), alt.Axis(format="d", tickCount=4)
    legend = alt.Legend(title="probability when committed")
    color: Any = alt.Color("confidence:Q", scale=alt.Scale(domain=[0, 1], range=list(style.RAMP)), legend=legend)
    layer = alt.Chart().mark_rect().encode(x=x, x2="right", y=y, y2="below", color=color, tooltip=tips)
    return style.panels([layer], shown, x="independent", y="independent")
