"""The look of the figures that matplotlib draws: sizes, colours, markers, axes, legends.

Figures are drawn on `matplotlib.figure.Figure` with the Agg canvas and never through pyplot, so that nothing global
changes and no display is needed. Colours are Okabe and Ito's, which colour-blind readers can tell apart; markers and
line styles repeat what colour says.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from dlmbench.charts.frames import error_bars, interval_column, names

WIDTH_IN = 6.5
DPI = 300
# Okabe & Ito, "Color Universal Design" (2008), without the yellow that vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BASELINE_COLOUR = "#222222"
ALARM = "#B00020"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
# Widths in a legend, measured generously: the mark with its gaps, and a letter.
_HANDLE_IN, _LETTER_IN = 0.55, 0.058
# Marks drawn over a curve: a ring and a cross. A vertical line at a limit.
_MARK: Mapping[str, Any] = {"linestyle": "none", "markeredgecolor": "black"}
RING: Mapping[str, Any] = {"marker": "o", "markerfacecolor": "none", "markersize": 9, **_MARK}
CROSS: Mapping[str, Any] = {"marker": "X", "markerfacecolor": "white", "markersize": 7, **_MARK}
LIMIT: Mapping[str, Any] = {"color": "#666666", "linewidth": 1, "linestyle": (0, (4, 2))}
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


# ---------------------------------------------------------------- the figure and its panels


def new_figure() -> Figure:
    """An empty figure of the page's width; `panels` sets its height."""
    figure = Figure(figsize=(WIDTH_IN, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(figure: Figure, titles: Collection[str], height_in: float = 2.7, columns: int = 2) -> list[Axes]:
    """One axes for each title, `height_in` high, in rows of at most `columns`; a single one is as wide as the page."""
    across = min(len(titles), columns)
    down = -(-len(titles) // across)
    figure.set_size_inches(WIDTH_IN, height_in * down + 0.5)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for spare in grid[len(titles) :]:
        spare.remove()
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title("\n".join(textwrap.fill(line, 44) for line in title.splitlines()))
    return list(grid[: len(titles)])


def not_measured(figure: Figure, why: str) -> None:
    """A panel that says what is missing, in place of a figure."""
    figure.set_size_inches(WIDTH_IN, 1.8)
    axes = figure.subplots()
    axes.set_axis_off()
    text = textwrap.fill(f"not measured: {why}", 70)
    frame = {"boxstyle": "round,pad=0.8", "facecolor": "#f4f4f4", "edgecolor": "#999999"}
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, transform=axes.transAxes, bbox=frame)


# ---------------------------------------------------------------- looks


def colour(index: int) -> str:
    """The colour of the index-th series."""
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """The marker of the index-th series."""
    return MARKERS[index % len(MARKERS)]


def look(index: int, hue: Any = None) -> dict[str, Any]:
    """Colour (or `hue`), marker and line style of the index-th series."""
    return {
        "color": colour(index) if hue is None else hue,
        "marker": marker(index),
        "linestyle": LINES[index % len(LINES)],
        # Every other series is hollow, so that both are seen where two lie on top of each other.
        "markerfacecolor": "white" if index % 2 else None,
    }


def baseline_look(size: float, linestyle: str = "--") -> dict[str, Any]:
    """The autoregressive baseline: a black star."""
    return {"color": BASELINE_COLOUR, "marker": "*", "markersize": size, "linestyle": linestyle}


def ordered_colours(n: int) -> list[Any]:
    """n colours for an ordered quantity, from dark to light; equally bright steps, without the palest end."""
    return [colormaps["viridis"](x) for x in np.linspace(0.0, 0.85, n)]


def halo() -> list[Any]:
    """Path effects that keep small text readable over lines."""
    return [patheffects.withStroke(linewidth=2, foreground="white")]


# ---------------------------------------------------------------- marks with intervals


def with_intervals(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, *, order: str | None = None, x_bars: bool = False, **style: Any
) -> None:
    """A line through (x, y) in ascending `order` (default: x), with the intervals of y, and of x where `x_bars`."""
    if rows.empty:
        return
    rows = rows.sort_values(order or x)
    x_error, y_error = error_bars(rows, x) if x_bars else None, error_bars(rows, y)
    axes.errorbar(rows[x].astype(float), rows[y].astype(float), y_error, x_error, capsize=2, elinewidth=0.9, **style)


def band(axes: Axes, row: Any, y: str, **style: Any) -> None:
    """A horizontal line at the row's `y`, with its interval as a band."""
    low, high = (getattr(row, interval_column(y, end)) for end in ("low", "high"))
    axes.axhline(getattr(row, y), linewidth=1.2, **style)
    if np.isfinite(low) and np.isfinite(high):
        axes.axhspan(low, high, alpha=0.2, linewidth=0, color=style.get("color"))


# ---------------------------------------------------------------- axes


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


# ---------------------------------------------------------------- the legend


def key(label: str, **style: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **style)


def series_keys(series: Sequence[str], hue: Any = None) -> list[Line2D]:
    """An entry for each series, in its colour or in `hue`."""
    return [key(name, **look(i, hue)) for i, name in enumerate(series)]


def baseline_keys(frame: pd.DataFrame, **style: Any) -> list[Line2D]:
    """An entry for each autoregressive baseline in the frame."""
    return [key(f"{name} (autoregressive)", **style) for name in names(frame, kind="baseline")]


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
