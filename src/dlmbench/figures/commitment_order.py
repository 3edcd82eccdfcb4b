"""Order of commitment: at which forward each position of one text became final.

The picture people reach for first: left to right, all at once, or ends before middles. One prompt of a traced
generation for each cell; what is shown is an example, not a statistic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from dlmbench.analysis.study import Study
from dlmbench.charts import page, style
from dlmbench.charts.points import Point, each, table, why_missing
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


def _panels(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Title and rows of each panel; evenly chosen ones where there are too many."""
    keys = ["series", "steps", "prompt_tokens", "new_tokens"]
    shown: list[tuple[str, pd.DataFrame]] = []
    for _, rows in frame.groupby(keys, sort=False, dropna=False):
        first = rows.iloc[0]
        shown.append((f"{first['series']}" + ("" if pd.isna(first["steps"]) else f", K={first['steps']:.0f}"), rows))
    if len(shown) > MOST_PANELS:
        shown = [shown[round(i)] for i in np.linspace(0, len(shown) - 1, MOST_PANELS)]
    return shown


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """One panel for each setting and step count; the settings with fewest and most steps where there are too many."""
    if why := why_missing(frame):
        return style.not_measured(figure, why)
    shown = _panels(frame)
    scale = Normalize(0.0, 1.0)
    axes_list = style.panels(figure, len(shown), 2.3)
    for axes, (name, own) in zip(axes_list, shown, strict=True):
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
        axes.set(title=style.wrapped(name), xlabel="position in the new text", ylabel="forward")
    bar = figure.colorbar(ScalarMappable(scale, "viridis"), ax=axes_list, shrink=0.7, pad=0.02)
    bar.set_label("probability when committed")
    style.stamp(figure, frame)
    return None


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    if why := why_missing(frame):
        return page.not_measured(why)
    shown = _panels(frame)
    chart = page.Chart([name for name, _ in shown], "position in the new text", "forward", panel_px=200)
    for panel, (_, own) in enumerate(shown):
        marker = {"symbol": "square", "size": 7, "color": [*own["confidence"]], "cmin": 0, "cmax": 1}
        marker |= {"colorscale": "Viridis", "showscale": panel == 0}
        marker["colorbar"] = {"title": {"text": "probability when committed", "side": "right"}, "thickness": 12}
        words = ["<br>".join(map(page.text, _hover(r))) for r in each(own)]
        trace = {"type": "scatter", "mode": "markers", "marker": marker, "hoverinfo": "text", "hovertext": words}
        chart.add(panel, trace | {"x": [*own["position"]], "y": [*own["forward"]]})
        chart.axis(panel, "y", autorange="reversed")
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    return [
        f"position {row.position} of the new text",
        f"final at forward {row.forward} of {row.forwards}",
        f"probability when committed: {row.confidence:.3g}",
    ]
