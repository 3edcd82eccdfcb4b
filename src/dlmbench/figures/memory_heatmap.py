"""Peak memory over sequence length and batch size, a map for each model, with cells that ran out of memory marked.

The largest over all step counts and settings of a model at that shape: what must fit into the device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from dlmbench.analysis.study import Study
from dlmbench.charts import frames, page, style
from dlmbench.types import Run

_X_TITLE, _Y_TITLE = "batch size", "sequence length [tokens]"
_OOM: dict[str, Any] = {"facecolor": "white", "edgecolor": style.ALARM, "hatch": "////"}


@dataclass(frozen=True, kw_only=True)
class MemoryPoint(frames.Point):
    """kind: ok, oom (no setting fitted), or some_oom (the peak is of the others). series is the model."""

    sequence_tokens: int | None = None
    peak_bytes: float | None = None
    source: str = ""


def points(run: Run, study: Study) -> pd.DataFrame:
    """The largest peak of each (model, sequence length, batch size), and where memory ran out."""
    groups: dict[tuple[str, int, int], list[MemoryPoint]] = {}
    for summary in study.cells:
        cell, is_oom = summary.cell, summary.status == "oom"
        if summary.memory is None and not is_oom:
            continue
        point = MemoryPoint.of(
            cell,
            "oom" if is_oom else "ok",
            cell.model.key,
            sequence_tokens=cell.sequence_length,
            # The peak that an allocation failed at is not the memory that the cell needs.
            peak_bytes=summary.memory.bytes if summary.memory and not is_oom else None,
            source=summary.memory.source if summary.memory else "",
            note=summary.reason,
        )
        groups.setdefault((point.series, cell.sequence_length, cell.batch_size), []).append(point)
    rows = [_largest(group) for group in groups.values()]
    return frames.table(MemoryPoint, rows, "no memory pass was run")


def _largest(group: list[MemoryPoint]) -> MemoryPoint:
    top = max(group, key=lambda p: p.peak_bytes or 0)
    failures = [p for p in group if p.kind == "oom"]
    if top.peak_bytes is None or not failures:
        return top
    return replace(top, kind="some_oom", note=failures[0].note)


def caption(frame: pd.DataFrame) -> str:
    """What is shown, which memory it is, and how the picture marks cells that ran out of it."""
    return _caption(frame, "Hatched")


def page_caption(frame: pd.DataFrame) -> str:
    """The same for the page, which marks those cells by a cross."""
    return _caption(frame, "Crossed")


def _caption(frame: pd.DataFrame, marked: str) -> str:
    sources = " and ".join(s for s in dict.fromkeys(frame["source"]) if s) or "none measured"
    oom = f" {marked}: out of memory." if frame["peak_bytes"].isna().any() else ""
    return (
        f"Peak memory of one generation ({sources}, weights included) by sequence length (prompt and new tokens) and "
        f"batch size: the largest over all step counts and settings of a model.{oom}"
    )


class MemoryGrid:
    """The axes of the maps and their colour scale, and a row of the frame, or None, for each place."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.models, self.batches = frames.names(frame), frames.batch_sizes(frame)
        self.lengths = sorted(int(n) for n in frame["sequence_tokens"].unique())
        peaks = frame["peak_bytes"].dropna()
        self.bytes_per_unit, self.unit = frames.memory_unit(peaks.max())
        self.is_known, self.limits = bool(len(peaks)), (0.0, 1.0)
        if self.is_known:
            low, high = float(peaks.min()) / self.bytes_per_unit, float(peaks.max()) / self.bytes_per_unit
            # Weights are in every cell: the scale starts at the smallest peak, so that colour shows what grows.
            self.limits = (low if high > 1.02 * low else 0.0), high
        self._rows = {(r.series, int(r.sequence_tokens), int(r.batch_size)): r for r in frames.each(frame)}

    def row(self, model: str, length: int, batch: int) -> Any:
        """The row of a place, None where nothing was measured."""
        return self._rows.get((model, length, batch))

    def amount(self, peak_bytes: float) -> str:
        """A peak in the unit of the grid."""
        return f"{peak_bytes / self.bytes_per_unit:.{1 if self.unit == 'GiB' else 0}f}"


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """A panel for each model, in one colour scale."""
    grid = MemoryGrid(frame)
    batches, lengths = grid.batches, grid.lengths
    scale, colours = Normalize(*grid.limits), colormaps["cividis"]
    panels = style.panels(figure, grid.models, max(1.9, 0.32 * len(lengths) + 1.1))
    centred: dict[str, Any] = {"ha": "center", "va": "center"}
    for axes, model in zip(panels, grid.models, strict=True):
        for (y, length), (x, batch) in product(enumerate(lengths), enumerate(batches)):
            r = grid.row(model, length, batch)
            if r is None:
                axes.text(x, y, "–", color="#777777", **centred)
            elif pd.isna(r.peak_bytes):
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, linewidth=0, **_OOM))
                box = {"facecolor": "white", "edgecolor": "none", "pad": 2.5}
                axes.text(x, y, "OOM", fontsize=7.5, fontweight="bold", color=style.ALARM, bbox=box, **centred)
            else:
                share = float(scale(r.peak_bytes / grid.bytes_per_unit))
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colours(share), edgecolor="white"))
                label = grid.amount(r.peak_bytes) + ("*" if r.kind == "some_oom" else "")
                ink, size = ("black" if share > 0.55 else "white"), (7 if len(batches) < 7 else 6)
                axes.text(x, y, label, fontsize=size, color=ink, **centred)
        axes.set_xlim(-0.5, len(batches) - 0.5)
        axes.set_ylim(-0.5, len(lengths) - 0.5)
        axes.set_xticks(range(len(batches)), [str(b) for b in batches])
        axes.set_yticks(range(len(lengths)), [str(n) for n in lengths])
        axes.grid(visible=False)
        axes.set(xlabel=_X_TITLE, ylabel=_Y_TITLE)
    if grid.is_known:
        figure.colorbar(ScalarMappable(scale, colours), ax=panels, label=f"peak [{grid.unit}]", shrink=0.9)
    source = next((s for s in frame["source"] if s), "peak memory")
    white: dict[str, Any] = {"facecolor": "white", "edgecolor": "white"}
    handles = [Patch(label=f"{source}, in {grid.unit}", **white)]
    if frame["peak_bytes"].isna().any():
        handles.append(Patch(label="out of memory", **_OOM))
    if (frame["kind"] == "some_oom").any():
        handles.append(Patch(label="* some settings: out of memory", **white))
    if len(frame) < len(grid.models) * len(lengths) * len(batches):
        handles.append(Patch(label="– not measured", **white))
    style.legend_below(figure, handles)


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page: the text in a cell says what its colour shows, or why it has none."""
    grid = MemoryGrid(frame)
    x, y = [str(b) for b in grid.batches], [str(n) for n in grid.lengths]
    chart = page.Chart(grid.models, _X_TITLE, _Y_TITLE, panel_px=max(170, 36 * len(y) + 60))
    for panel, model in enumerate(grid.models):
        rows = [[grid.row(model, n, b) for b in grid.batches] for n in grid.lengths]
        chart.heat(
            panel,
            x,
            y,
            [[_peak(r, grid.bytes_per_unit) for r in row] for row in rows],
            labels=[[_label(r, grid) for r in row] for row in rows],
            hover=[[_hover(model, n, b, grid.row(model, n, b)) for b in grid.batches] for n in grid.lengths],
            unit=f"peak [{grid.unit}]",
            limits=grid.limits,
        )
        out = frame[frame["peak_bytes"].isna() & (frame["series"] == model)]
        if len(out):
            crosses: dict[str, Any] = {
                "x": [str(int(b)) for b in out["batch_size"]],
                "y": [str(int(n)) for n in out["sequence_tokens"]],
            }
            crosses |= {
                "type": "scatter",
                "mode": "markers",
                "marker": {"symbol": "x", "size": 13, "color": page.ALARM},
            }
            chart.add(panel, crosses | {"hoverinfo": "skip"}, "out of memory")
        chart.axis(panel, "x", type="category", showgrid=False)
        chart.axis(panel, "y", type="category", showgrid=False)
    return chart.figure(frame)


def _peak(row: Any, unit: int) -> float | None:
    return None if row is None or pd.isna(row.peak_bytes) else row.peak_bytes / unit


def _label(row: Any, grid: MemoryGrid) -> str:
    if row is None or pd.isna(row.peak_bytes):
        return "–" if row is None else ""
    return grid.amount(row.peak_bytes) + (" (some OOM)" if row.kind == "some_oom" else "")


def _hover(model: str, length: int, batch: int, row: Any) -> list[str]:
    place = [model, f"sequence length {length} tokens", f"batch size {batch}"]
    if row is None:
        return [*place, "not measured"]
    if pd.isna(row.peak_bytes):
        return [*place, "out of memory", row.note]
    failures = ["some settings ran out of memory", row.note] if row.kind == "some_oom" else []
    return [*place, f"peak: {row.peak_bytes / frames.GIB:.3g} GiB ({row.source})", *failures]
