"""Order of commitment: at which forward each position of one text became final.

Shows whether a text was written left to right, all at once, or from its ends to its middle. One prompt of a traced
generation for each cell: an example, not a statistic.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.results import Study
from dlmbench.charts import frames, style
from dlmbench.types import CommitOrder, Run

# A row is one position of one text: the forward that made it final, and the confidence it had.
COLUMNS = ("steps", "position", "forward", "forwards", "confidence")


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every position of the traced text of each diffusion cell, of the smallest batch of each setting."""
    cells = {summary.cell.id: row for row, summary in frames.cells(study)}
    traced: dict[str, tuple[frames.Row, CommitOrder]] = {}
    for result in sorted(run.results, key=lambda r: r.cell.batch_size):
        if result.order is not None and result.cell.model.weights != "random":
            row = cells[result.cell.id] | {"kind": "commit", "forwards": result.order.forwards}
            traced.setdefault(result.cell.quality_key, (row, result.order))
    rows = [
        row | {"position": position, "forward": forward, "confidence": confidence}
        for row, order in traced.values()
        for position, (forward, confidence) in enumerate(zip(order.committed_at, order.confidence, strict=True))
    ]
    return frames.table(COLUMNS, rows, frames.why_unscored(study, "no diffusion cell was traced"))


def caption(frame: pd.DataFrame) -> str:
    """What is shown."""
    return (
        "The forward at which each position of one generated text became final, coloured by the probability of its "
        "token at that forward. One prompt per panel: an example, not an average."
    )


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each setting and step count: a map of positions (across) and forwards (down)."""
    steps = frame["steps"].map("K={:.0f}".format, na_action="ignore").fillna("")
    shown = frames.with_panels(frame, *frames.series_texts(frame), steps, *frames.length_texts(frame)).assign(
        left=frame["position"] - 0.5,
        right=frame["position"] + 0.5,
        above=frame["forward"] - 0.5,
        below=frame["forward"] + 0.5,
    )
    probability = ("confidence", "")
    shown, tips = style.with_tooltip(shown, "position", "forward", "forwards", probability_when_committed=probability)
    x: Any = alt.X("left:Q", title="position in the new text", scale=alt.Scale(nice=False))
    y: Any = alt.Y("above:Q", title="forward", scale=alt.Scale(reverse=True, zero=False, nice=False))
    y.axis, x.axis = alt.Axis(tickMinStep=1, format="d", tickCount=5), alt.Axis(tickMinStep=1, format="d", tickCount=4)
    legend = alt.Legend(title="probability when committed")
    color: Any = alt.Color("confidence:Q", scale=alt.Scale(domain=[0, 1], range=list(style.RAMP)), legend=legend)
    layer = alt.Chart().mark_rect().encode(x=x, x2="right", y=y, y2="below", color=color, tooltip=tips)
    return style.panels([layer], shown, x="independent", y="independent")
