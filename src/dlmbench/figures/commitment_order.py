"""Order of commitment: at which forward each position of one text became final.

The picture people reach for first: left to right, all at once, or ends before middles. One prompt of a traced
generation for each cell; what is shown is an example, not a statistic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from dlmbench.analysis.study import Study
from dlmbench.figures import _style
from dlmbench.figures._points import Point, each, rows_of, table, why_missing
from dlmbench.types import Run

NAME = "commitment_order"
MOST_PANELS = 6


@dataclass(frozen=True, kw_only=True)
class CommitPoint(Point):
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
        for position, (forward, confidence) in enumerate(zip(order.committed_at, order.confidence, strict=True)):
            rows.append(
                CommitPoint(
                    kind="commit",
                    series=study.label(cell),
                    batch_size=cell.batch_size,
                    prompt_tokens=cell.prompt_tokens,
                    new_tokens=cell.new_tokens,
                    weights=cell.model.weights,
                    steps=cell.steps,
                    position=position,
                    forward=forward,
                    forwards=order.forwards,
                    confidence=confidence,
                )
            )
    return table(CommitPoint, rows, "no diffusion cell was traced")


def caption(frame: pd.DataFrame) -> str:
    """What is shown."""
    if why := why_missing(frame):
        return f"Not measured: {why}."
    return (
        "The forward at which each position of one generated text became final, coloured by the probability of its "
        "token then. One prompt a panel: an example, not an average."
    )


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """One panel for each setting and step count; the settings with fewest and most steps where there are too many."""
    if why := why_missing(frame):
        return _style.not_measured(figure, why)
    keys = ["series", "steps", "prompt_tokens", "new_tokens"]
    shown = [dict(zip(keys, k, strict=True)) for k in frame[keys].drop_duplicates().itertuples(index=False, name=None)]
    if len(shown) > MOST_PANELS:
        shown = [shown[round(i)] for i in np.linspace(0, len(shown) - 1, MOST_PANELS)]
    scale = Normalize(0.0, 1.0)
    axes_list = _style.panels(figure, len(shown), 2.3)
    for axes, key in zip(axes_list, shown, strict=True):
        steps = key.pop("steps")
        own = rows_of(frame, **key)
        own = own[own["steps"].isna()] if pd.isna(steps) else own[own["steps"] == steps]
        cells = np.full((int(own["forwards"].max()), int(own["position"].max()) + 1), np.nan)
        for r in each(own):
            cells[int(r.forward) - 1, int(r.position)] = r.confidence
        axes.imshow(
            cells,
            aspect="auto",
            origin="upper",
            interpolation="nearest",
            cmap="viridis",
            norm=scale,
            extent=(-0.5, cells.shape[1] - 0.5, cells.shape[0] + 0.5, 0.5),
        )
        axes.grid(visible=False)
        name = key["series"] if pd.isna(steps) else f"{key['series']}, K={int(steps)}"
        axes.set(title=_style.wrapped(name), xlabel="position in the new text", ylabel="forward")
    bar = figure.colorbar(ScalarMappable(scale, "viridis"), ax=axes_list, shrink=0.7, pad=0.02)
    bar.set_label("probability when committed")
    _style.stamp(figure, frame)
    return None
