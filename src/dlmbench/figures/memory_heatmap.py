"""Peak memory over sequence length and batch size, a map for each model, cells that ran out of memory marked.

The largest of all step counts and settings of a model at that shape: what must fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from dlmbench.analysis.study import Study
from dlmbench.charts import page, style
from dlmbench.charts.points import Point, each, rows_of, table, why_missing
from dlmbench.types import Run

NAME = "memory_heatmap"
GIB = 1 << 30
MIB = 1 << 20
_OOM: dict[str, Any] = {"facecolor": "white", "edgecolor": "#B00020", "hatch": "////"}


@dataclass(frozen=True, kw_only=True)
class MemoryPoint(Point):
    """kind: ok, oom (no setting fitted), or some_oom (the peak is of those that did). series is the model."""

    sequence_tokens: int | None = None
    peak_bytes: float | None = None
    source: str = ""


def points(run: Run, study: Study) -> pd.DataFrame:
    """The largest peak of each (model, sequence length, batch size), and where memory ran out."""
    groups: dict[tuple[str, int, int], list[MemoryPoint]] = {}
    for summary in study.cells:
        cell = summary.cell
        if summary.memory is None and summary.status != "oom":
            continue
        point = MemoryPoint(
            kind="oom" if summary.status == "oom" else "ok",
            series=cell.model.key,
            batch_size=cell.batch_size,
            prompt_tokens=cell.prompt_tokens,
            new_tokens=cell.new_tokens,
            weights=cell.model.weights,
            sequence_tokens=cell.sequence_length,
            # The peak that an allocation failed at is not the memory that the cell needs.
            peak_bytes=summary.memory.bytes if summary.memory and summary.status != "oom" else None,
            source=summary.memory.source if summary.memory else "",
            note=summary.reason,
        )
        groups.setdefault((point.series, cell.sequence_length, cell.batch_size), []).append(point)
    rows = [_largest(group) for group in groups.values()]
    return table(MemoryPoint, rows, "no memory pass was run")


def _largest(group: list[MemoryPoint]) -> MemoryPoint:
    known = [p for p in group if p.peak_bytes is not None]
    if not known:
        return group[0]
    top = max(known, key=lambda p: p.peak_bytes or 0)
    failures = [p for p in group if p.kind == "oom"]
    if not failures:
        return top
    return MemoryPoint(**{**top.__dict__, "kind": "some_oom", "note": failures[0].note})


def caption(frame: pd.DataFrame) -> str:
    """What is shown, which memory it is, and how the picture marks cells that ran out of it."""
    return _caption(frame, "Hatched")


def page_caption(frame: pd.DataFrame) -> str:
    """The same for the page, which marks those cells by a cross."""
    return _caption(frame, "Crossed")


def _caption(frame: pd.DataFrame, marked: str) -> str:
    if why := why_missing(frame):
        return f"Not measured: {why}."
    sources = " and ".join(s for s in dict.fromkeys(frame["source"]) if s) or "none measured"
    oom = f" {marked}: out of memory." if frame["peak_bytes"].isna().any() else ""
    return (
        f"Peak memory of one generation ({sources}, weights included) by sequence length (prompt and new tokens) and "
        f"batch size: the largest over all step counts and settings of a model.{oom}"
    )


def _limits(known: pd.Series[Any], unit: int) -> tuple[float, float]:
    """Ends of the colour scale. Weights are in every cell: from their size on, colour shows what grows."""
    if not len(known):
        return 0.0, 1.0
    low, top = float(known.min()) / unit, float(known.max()) / unit
    return (low if top > 1.02 * low else 0.0), top


def _amount(peak_bytes: float, unit: int) -> str:
    return f"{peak_bytes / unit:.1f}" if unit == GIB else f"{peak_bytes / unit:.0f}"


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """A panel for each model, in one colour scale."""
    if why := why_missing(frame):
        return style.not_measured(figure, why)
    models = list(dict.fromkeys(frame["series"]))
    lengths = [int(n) for n in sorted(frame["sequence_tokens"].unique())]
    batches = [int(b) for b in sorted(frame["batch_size"].unique())]
    known = frame["peak_bytes"].dropna()
    unit, name = (GIB, "GiB") if len(known) and known.max() >= 2 * GIB else (MIB, "MiB")
    scale, colours = Normalize(*_limits(known, unit)), colormaps["cividis"]
    axes_of = style.panels(figure, len(models), max(1.9, 0.32 * len(lengths) + 1.1))
    for axes, model in zip(axes_of, models, strict=True):
        own = rows_of(frame, series=model)
        seen = set()
        for r in each(own):
            x, y = batches.index(int(r.batch_size)), lengths.index(int(r.sequence_tokens))
            seen.add((x, y))
            corner = (x - 0.5, y - 0.5)
            if pd.isna(r.peak_bytes):
                axes.add_patch(Rectangle(corner, 1, 1, linewidth=0, **_OOM))
                box = {"facecolor": "white", "edgecolor": "none", "pad": 2.5}
                axes.text(
                    x, y, "OOM", ha="center", va="center", fontsize=7.5, fontweight="bold", color="#B00020", bbox=box
                )
                continue
            share = float(scale(r.peak_bytes / unit))
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colours(share), edgecolor="white"))
            text = _amount(r.peak_bytes, unit) + ("*" if r.kind == "some_oom" else "")
            ink = "black" if share > 0.55 else "white"
            axes.text(x, y, text, ha="center", va="center", fontsize=7 if len(batches) < 7 else 6, color=ink)
        for x, y in np.ndindex(len(batches), len(lengths)):
            if (x, y) not in seen:
                axes.text(x, y, "–", ha="center", va="center", color="#777777")
        axes.set_xlim(-0.5, len(batches) - 0.5)
        axes.set_ylim(-0.5, len(lengths) - 0.5)
        axes.set_xticks(range(len(batches)), [str(b) for b in batches])
        axes.set_yticks(range(len(lengths)), [str(n) for n in lengths])
        axes.grid(visible=False)
        axes.set(title=model, xlabel="batch size", ylabel="sequence length [tokens]")
    source = next((s for s in frame["source"] if s), "peak memory")
    if len(known):
        figure.colorbar(ScalarMappable(scale, colours), ax=axes_of, label=f"peak [{name}]", shrink=0.9)
    handles = [Patch(facecolor="white", edgecolor="white", label=f"{source}, in {name}")]
    if frame["peak_bytes"].isna().any():
        handles.append(Patch(label="out of memory", **_OOM))
    if (frame["kind"] == "some_oom").any():
        handles.append(Patch(facecolor="white", edgecolor="white", label="* some settings: out of memory"))
    if len(frame) < len(models) * len(lengths) * len(batches):
        handles.append(Patch(facecolor="white", edgecolor="white", label="– not measured"))
    style.legend_below(figure, handles)
    style.stamp(figure, frame)
    return None


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page: the words in a cell say what its colour shows, or why it has none."""
    if why := why_missing(frame):
        return page.not_measured(why)
    models = list(dict.fromkeys(frame["series"]))
    lengths = [int(n) for n in sorted(frame["sequence_tokens"].unique())]
    batches = [int(b) for b in sorted(frame["batch_size"].unique())]
    known = frame["peak_bytes"].dropna()
    unit, name = (GIB, "GiB") if len(known) and known.max() >= 2 * GIB else (MIB, "MiB")
    height = max(170, 36 * len(lengths) + 60)
    chart = page.Chart(models, "batch size", "sequence length [tokens]", panel_px=height)
    for panel, model in enumerate(models):
        at = {(int(r.sequence_tokens), int(r.batch_size)): r for r in each(rows_of(frame, series=model))}
        cells = [[at.get((n, b)) for b in batches] for n in lengths]
        chart.heat(
            panel,
            [str(b) for b in batches],
            [str(n) for n in lengths],
            [[None if r is None or pd.isna(r.peak_bytes) else r.peak_bytes / unit for r in row] for row in cells],
            [[_hover(model, n, b, at.get((n, b))) for b in batches] for n in lengths],
            unit=f"peak [{name}]",
            limits=_limits(known, unit),
            words=[[_words(r, unit) for r in row] for row in cells],
        )
        out = [(str(b), str(n)) for (n, b), r in at.items() if pd.isna(r.peak_bytes)]
        if out:
            marker = {"symbol": "x", "size": 13, "color": page.ALARM}
            crosses = {"type": "scatter", "mode": "markers", "marker": marker, "hoverinfo": "skip"}
            chart.add(panel, crosses | {"x": [b for b, _ in out], "y": [n for _, n in out]}, "out of memory")
        chart.axis(panel, "x", type="category", showgrid=False)
        chart.axis(panel, "y", type="category", showgrid=False)
    return chart.figure(frame)


def _words(row: Any, unit: int) -> str:
    if row is None:
        return "–"
    if pd.isna(row.peak_bytes):
        return ""
    return _amount(row.peak_bytes, unit) + (" (some OOM)" if row.kind == "some_oom" else "")


def _hover(model: str, length: int, batch: int, row: Any) -> list[str]:
    where = [model, f"sequence length {length} tokens", f"batch size {batch}"]
    if row is None:
        return [*where, "not measured"]
    if pd.isna(row.peak_bytes):
        return [*where, "out of memory", row.note]
    failures = ["some settings ran out of memory", row.note] if row.kind == "some_oom" else []
    return [*where, f"peak: {row.peak_bytes / GIB:.3g} GiB ({row.source})", *failures]
