"""One look for all figures: sizes, colours, markers, and the panel that says what was not measured.

Figures are drawn on `matplotlib.figure.Figure` with the Agg canvas and never through pyplot, so that nothing global
changes and no display is needed. Colours are Okabe and Ito's, which colour-blind readers can tell apart; markers and
line styles repeat what colour says.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

WIDTH_IN = 6.5
DPI = 300
# Okabe & Ito, "Color Universal Design" (2008), without the yellow that vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BASELINE_COLOUR = "#222222"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
# Widths in a legend, measured generously: the mark with its gaps, and a letter.
_HANDLE_IN, _LETTER_IN = 0.55, 0.058
# Marks laid over a curve: a ring, and a cross.
RING: Mapping[str, Any] = {
    "marker": "o",
    "linestyle": "none",
    "markerfacecolor": "none",
    "markeredgecolor": "black",
    "markersize": 9,
}
CROSS: Mapping[str, Any] = {
    "marker": "X",
    "linestyle": "none",
    "markerfacecolor": "white",
    "markeredgecolor": "black",
    "markersize": 7,
}
RC: Mapping[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "hatch.linewidth": 0.6,
    "savefig.dpi": DPI,
    # Text stays text in a PDF: sharp, searchable, and accepted by publishers.
    "pdf.fonttype": 42,
}


def new_figure() -> Figure:
    """An empty figure of the page's width; a figure sets its own height by `panels`."""
    figure = Figure(figsize=(WIDTH_IN, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(figure: Figure, n: int, height_in: float = 2.7, columns: int = 2) -> list[Axes]:
    """n axes in rows of at most `columns`, `height_in` each, with room for a legend below; n = 1 gets a wide one."""
    across = min(n, columns)
    down = -(-n // across)
    figure.set_size_inches(WIDTH_IN, height_in * down + 0.5)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for spare in grid[n:]:
        spare.remove()
    return list(grid[:n])


def colour(index: int) -> str:
    """The colour of the index-th series."""
    return COLOURS[index % len(COLOURS)]


def look(index: int, hue: Any = None) -> dict[str, Any]:
    """Colour (or `hue`), marker and line style of the index-th series."""
    return {
        "color": colour(index) if hue is None else hue,
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
        # Every other series is hollow, so that both are seen where two lie on top of each other.
        "markerfacecolor": "white" if index % 2 else None,
    }


def key(label: str, **style: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **style)


def ordered_colours(n: int) -> list[Any]:
    """n colours for an ordered quantity, from dark to light; equally bright steps, without the palest end."""
    return [colormaps["viridis"](x) for x in np.linspace(0.0, 0.85, n)]


def log2_axis(axes: Axes, values: Sequence[float], which: str = "x") -> None:
    """A base-2 axis with a plain tick at each of `values`, thinned where there are many."""
    ticks = sorted({float(v) for v in values if np.isfinite(v) and v > 0})
    getattr(axes, f"set_{which}scale")("log", base=2)
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 9)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def log_axis(axes: Axes, values: Sequence[float], which: str = "y") -> None:
    """A base-10 axis with plain numbers where `values` span more than a factor of 8, else a linear one from 0."""
    known = [float(v) for v in values if np.isfinite(v) and v > 0]
    if not known:
        return
    if max(known) / min(known) <= 8:
        getattr(axes, f"set_{which}lim")(0, 1.15 * max(known))
        return
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    # A factor below 100 shows few decades: ticks at 1, 2 and 5 keep at least three numbers on the axis.
    wide = max(known) / min(known) > 100
    axis.set_major_locator(LogLocator(base=10, subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1000 else f"{v:g}"))
    axis.set_minor_formatter(NullFormatter())


def with_intervals(axes: Axes, rows: pd.DataFrame, x: str, y: str, **style: Any) -> None:
    """A line through (x, y) with vertical bars from {y}'s low to its high column, where they are known."""
    low, high = (rows[interval_column(y, end)].fillna(rows[y]) for end in ("low", "high"))
    bars = np.clip(np.stack([rows[y] - low, high - rows[y]]).astype(float), 0, None)
    axes.errorbar(rows[x].astype(float), rows[y].astype(float), yerr=bars, capsize=2, elinewidth=0.9, **style)


def interval_column(name: str, end: str) -> str:
    """latency_s -> latency_low_s, tokens_per_s -> tokens_per_s_low."""
    is_seconds = name.endswith("_s") and not name.endswith("_per_s")
    return f"{name[:-2]}_{end}_s" if is_seconds else f"{name}_{end}"


def band(axes: Axes, value: float, low: float, high: float, **style: Any) -> None:
    """A horizontal line with its interval as a band."""
    axes.axhline(value, linewidth=1.2, **style)
    if np.isfinite(low) and np.isfinite(high):
        axes.axhspan(low, high, alpha=0.2, linewidth=0, color=style.get("color"))


def legend_below(figure: Figure, handles: Sequence[Any], columns: int = 4) -> None:
    """One legend for the whole figure, under the panels, in as many columns (at most `columns`) as the page holds."""
    widths = [_HANDLE_IN + _LETTER_IN * len(h.get_label()) for h in handles]

    def needed(n: int) -> float:
        # matplotlib fills the legend column by column, the first ones longer where they cannot be equal.
        short, longer = divmod(len(widths), n)
        sizes = [short + (i < longer) for i in range(n)]
        starts = [sum(sizes[:i]) for i in range(n)]
        return sum(max(widths[at : at + size]) for at, size in zip(starts, sizes, strict=True))

    across = next((n for n in range(min(len(handles), columns), 1, -1) if needed(n) <= WIDTH_IN), 1)
    figure.legend(handles=list(handles), loc="outside lower center", ncols=across)


def stamp(figure: Figure, frame: pd.DataFrame) -> None:
    """Say it on the figure itself where weights are random."""
    if (frame["weights"] == "random").any():
        text = "random weights: times and memory are real, quality is not"
        figure.suptitle(text, color="#B00020", fontsize=8.5, fontweight="bold")


def wrapped(title: str, width: int = 44) -> str:
    """A title whose lines fit over a panel of half the page."""
    return "\n".join(textwrap.fill(line, width) for line in title.splitlines())


def halo() -> list[Any]:
    """Path effects that keep small text readable over lines."""
    return [patheffects.withStroke(linewidth=2, foreground="white")]


def not_measured(figure: Figure, why: str) -> None:
    """A panel that says what is missing, in place of a figure."""
    figure.set_size_inches(WIDTH_IN, 1.8)
    axes = figure.subplots()
    axes.set_axis_off()
    text = textwrap.fill(f"not measured: {why}", 70)
    frame = {"boxstyle": "round,pad=0.8", "facecolor": "#f4f4f4", "edgecolor": "#999999"}
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, transform=axes.transAxes, bbox=frame)
