"""Order of commitment: at which forward each position of one text became final.

Shows whether a text was written left to right, all at once, or from its ends to its middle. One prompt of a traced
generation for each cell: an example, not a statistic.
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
from dlmbench.charts import frames, page, style
from dlmbench.types import Run

MOST_PANELS = 6
_X_TITLE, _Y_TITLE, _Z_TITLE = "position in the new text", "forward", "probability when committed"


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


def _panels(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Title and rows of each panel: a setting and step count, or evenly chosen ones where there are too many."""
    groups = frames.groups(frame, "series", "steps", "prompt_tokens", "new_tokens")
    found = [(frames.with_steps(key[0], key[1]), rows) for key, rows in groups]
    if len(found) > MOST_PANELS:
        found = [found[round(i)] for i in np.linspace(0, len(found) - 1, MOST_PANELS)]
    return found


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """A panel for each setting and step count: a map of positions (across) and forwards (down)."""
    groups = _panels(frame)
    scale = Normalize(0.0, 1.0)
    panels = style.panels(figure, [title for title, _ in groups], 2.3)
    for axes, (_, own) in zip(panels, groups, strict=True):
        forwards, positions = int(own["forwards"].max()), int(own["position"].max()) + 1
        cells = np.full((forwards, positions), np.nan)
        cells[own["forward"].astype(int) - 1, own["position"].astype(int)] = own["confidence"]
        extent = (-0.5, positions - 0.5, forwards + 0.5, 0.5)
        look: dict[str, Any] = {"interpolation": "nearest", "cmap": "viridis", "norm": scale}
        axes.imshow(cells, aspect="auto", origin="upper", extent=extent, **look)
        axes.grid(visible=False)
        axes.set(xlabel=_X_TITLE, ylabel=_Y_TITLE)
    figure.colorbar(ScalarMappable(scale, "viridis"), ax=panels, shrink=0.7, pad=0.02, label=_Z_TITLE)


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    groups = _panels(frame)
    chart = page.Chart([title for title, _ in groups], _X_TITLE, _Y_TITLE, panel_px=200)
    for panel, (_, own) in enumerate(groups):
        marker = {"symbol": "square", "size": 7, "color": [*own["confidence"]], "cmin": 0, "cmax": 1}
        marker |= {"colorscale": "Viridis", "showscale": panel == 0}
        marker["colorbar"] = {"title": {"text": _Z_TITLE, "side": "right"}, "thickness": 12}
        chart.marks(panel, own, "position", "forward", "", marker, _hover)
        chart.axis(panel, "y", autorange="reversed")
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    return [
        f"position {row.position} of the new text",
        f"final at forward {row.forward} of {row.forwards}",
        f"probability when committed: {row.confidence:.3g}",
    ]
