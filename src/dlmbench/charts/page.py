"""The look of the figures on the page, which plotly draws: panels, lines with intervals, hover texts, themes.

A figure is written once, in the light palette below; the page swaps each colour of it for its dark counterpart
(`DARK`), so light and dark cannot drift apart. Names are escaped where they enter a figure, because plotly reads a
little HTML and names may come from a user's file. Figures are plain dicts until the end, where plotly is imported.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from dlmbench.charts.frames import each, error_bars, interval_column
from dlmbench.charts.style import COLOURS

if TYPE_CHECKING:
    from plotly import graph_objects

    Figure: TypeAlias = graph_objects.Figure

INK, PAPER, GRID, MUTED, ALARM, HALF = "#222222", "#ffffff", "#dddddd", "#6b6b6b", "#b00020", "#888888"
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
DASHES = ("solid", "dash", "dot", "dashdot")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
# With more panels than this, or more marks in all, the page shows one panel at a time and a menu to choose it.
MOST_PANELS = 8
MOST_MARKS = 1500
RANDOM_WEIGHTS = "random weights: times and memory are real, quality is not"
# Marks drawn over a line: a ring and a cross.
RING = {"symbol": "circle-open", "size": 15, "color": INK, "line": {"color": INK, "width": 1.5}}
CROSS = {"symbol": "x", "size": 10, "color": PAPER, "line": {"color": INK, "width": 1.8}}
_STEPS = 33
_RAMP = tuple(to_hex(colormaps["viridis"](x)) for x in np.linspace(0.02, 0.78, _STEPS))
_DARK_RAMP = tuple(to_hex(colormaps["viridis"](x)) for x in np.linspace(0.3, 0.98, _STEPS))
_DARK_SERIES = ("#4da3e0", "#ff8a3d", "#2fc79a", "#e39bc4", "#ffc04d", "#9ad4f7")
# Light colour -> dark colour, for every colour a figure may use.
DARK: Mapping[str, str] = {
    INK: "#eceff1",
    PAPER: "#15191e",
    GRID: "#333a42",
    MUTED: "#a8b0b8",
    ALARM: "#ff8a80",
    HALF: "#8d959c",
    **{light.lower(): dark for light, dark in zip(COLOURS, _DARK_SERIES, strict=True)},
    **dict(zip(_RAMP, _DARK_RAMP, strict=True)),
}
Look = dict[str, Any]
Span = tuple[float, float]
Hover = Callable[[Any], Sequence[str]]


# ---------------------------------------------------------------- texts


def text(value: object) -> str:
    """Plain text for plotly: escaped, with line breaks kept."""
    return html.escape(str(value), quote=False).replace("\n", "<br>")


def number(value: float) -> str:
    """Four significant digits, or whole numbers from 1000 on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def amount(label: str, row: Any, column: str, unit: str) -> str:
    """`latency: 0.154 s (95% interval 0.152 to 0.156)`: a row's value in `column`, with its interval where known."""
    value = getattr(row, column)
    if _unknown(value):
        return f"{label}: not known"
    low, high = (getattr(row, interval_column(column, end), math.nan) for end in ("low", "high"))
    interval = "" if _unknown(low) or _unknown(high) else f" (95% interval {number(low)} to {number(high)})"
    return f"{label}: {number(value)} {unit}".rstrip() + interval


def settings(row: Any) -> list[str]:
    """A row's step count, where it has one, and its batch size, for a hover text."""
    steps = [] if _unknown(row.steps) else [f"K = {row.steps:.0f}"]
    return [*steps, f"batch size {row.batch_size}"]


def _unknown(value: Any) -> bool:
    return value is None or not math.isfinite(value)


def _hover(name: str, lines: Iterable[Sequence[str]]) -> dict[str, Any]:
    head = [f"<b>{text(name)}</b>"] if name else []
    return {"hoverinfo": "text", "hovertext": ["<br>".join([*head, *map(text, own)]) for own in lines]}


# ---------------------------------------------------------------- looks


def colour(index: int) -> str:
    """The colour of the index-th series."""
    return COLOURS[index % len(COLOURS)].lower()


def look(index: int, hue: str | None = None) -> Look:
    """Colour (or `hue`), marker and dash of the index-th series; every other marker is hollow."""
    symbol = SYMBOLS[index % len(SYMBOLS)] + ("-open" if index % 2 else "")
    return {"colour": hue or colour(index), "symbol": symbol, "dash": DASHES[index % len(DASHES)]}


def baseline_look(hue: str = INK) -> Look:
    """The autoregressive baseline: a star, dashed."""
    return {"colour": hue, "symbol": "star", "dash": "dash", "size": 11}


def ordered_colours(n: int) -> list[str]:
    """n colours for an ordered quantity, as K."""
    return [_RAMP[round(i)] for i in np.linspace(0, _STEPS - 1, n)]


# ---------------------------------------------------------------- a figure under construction


class Chart:
    """Panels, one for each title, with traces in them. An axis title holds for all panels, or is a list of one each."""

    def __init__(
        self,
        titles: Iterable[str],
        x_title: str | Sequence[str],
        y_title: str | Sequence[str],
        *,
        columns: int = 2,
        panel_px: int = 270,
    ) -> None:
        self.titles = tuple(titles)
        n = len(self.titles)
        self._columns, self._panel_px = min(columns, n), panel_px
        # Each trace with its panel.
        self._traces: list[tuple[int, dict[str, Any]]] = []
        each = [[title] * n if isinstance(title, str) else title for title in (x_title, y_title)]
        self._axes = [
            {which: {"title": {"text": text(title)}} for which, title in zip("xy", pair, strict=True)}
            for pair in zip(*each, strict=True)
        ]

    def add(self, panel: int, trace: Mapping[str, Any], name: str = "", key: str | None = None) -> None:
        """Any plotly trace, as a dict, in a panel; `name` in the legend once for each `key` (default: the name)."""
        group = name if key is None else key
        self._traces.append((panel, {**trace, "name": text(name), "legendgroup": group}))

    def line(
        self,
        panel: int,
        rows: pd.DataFrame,
        x: str,
        y: str,
        name: str,
        style: Look,
        hover: Hover,
        *,
        order: str | None = None,
        mode: str = "lines+markers",
        label: str = "",
        x_bars: bool = False,
        key: str | None = None,
    ) -> None:
        """A line or marks through (x, y), with the intervals of y, and of x where `x_bars`.

        order: the column that a line follows (default: x). hover: the lines of a row's hover text, under the name.
        label: a format of text beside each mark, as `B={batch_size}`.
        """
        if rows.empty:
            return
        if "lines" in mode:
            rows = rows.sort_values(order or x)
        hue = style["colour"]
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": mode + ("+text" if label else ""),
            "x": _numbers(rows[x]),
            "y": _numbers(rows[y]),
            "error_y": _error_bars(rows, y, hue),
            "line": {"color": hue, "dash": style.get("dash", "solid"), "width": 2},
            "marker": {
                "color": hue,
                "symbol": style.get("symbol", "circle"),
                "size": style.get("size", 7),
                # An open symbol is its outline.
                "line": {"color": hue, "width": 1.5},
            },
            **_hover(name, map(hover, each(rows))),
        }
        if x_bars:
            trace["error_x"] = _error_bars(rows, x, hue)
        if label:
            trace["text"] = [text(label.format(**r._asdict())) for r in each(rows)]
            trace |= {"textposition": "top left", "textfont": {"size": 11, "color": hue}}
        self.add(panel, trace, name, key)

    def marks(self, panel: int, rows: pd.DataFrame, x: str, y: str, name: str, marker: Look, hover: Hover) -> None:
        """RING or CROSS (`marker`) over the points (x, y)."""
        if rows.empty:
            return
        trace = {"type": "scatter", "mode": "markers", "x": [*rows[x]], "y": [*rows[y]], "marker": marker}
        self.add(panel, trace | _hover(name, map(hover, each(rows))), name)

    def stroke(
        self, panel: int, x: Sequence[float | None], y: Sequence[float | None], hue: str, key: str, **trace: Any
    ) -> None:
        """A plain line through points (None interrupts it), shown and hidden with the legend's `key`."""
        line = {"color": hue, "width": 1.5}
        drawn = {"type": "scatter", "mode": "lines", "x": [*x], "y": [*y], "line": line, "hoverinfo": "skip"}
        self.add(panel, drawn | trace, key=key)

    def limit(self, panel: int, x: float, ends: Span, name: str, hover: str) -> None:
        """A vertical dashed line at x, from the lower to the upper of the `ends` of y."""
        line = {"color": MUTED, "dash": "dash", "width": 1.5}
        trace = {"type": "scatter", "mode": "lines", "x": [x] * 2, "y": [*ends], "line": line}
        self.add(panel, trace | {"hoverinfo": "text", "hovertext": text(hover)}, name)

    def band(self, panel: int, span: Span, row: Any, y: str, name: str, hue: str, hover: Sequence[str]) -> None:
        """A dashed horizontal line at the row's `y` over the `span` of x, with its interval as a band."""
        low, high = (getattr(row, interval_column(y, end)) for end in ("low", "high"))
        if not _unknown(low) and not _unknown(high):
            left, right = span
            area: dict[str, Any] = {"x": [left, right, right, left], "y": [low, low, high, high], "fillcolor": hue}
            area |= {"fill": "toself", "opacity": 0.2, "hoverinfo": "skip"}
            self.add(panel, area | {"type": "scatter", "mode": "lines", "line": {"width": 0}}, key=name)
        self.level(panel, span, getattr(row, y), name, hue, hover, "dash")

    def level(self, panel: int, span: Span, value: float, name: str, hue: str, hover: Sequence[str], dash: str) -> None:
        """A horizontal line at `value` over the `span` of x."""
        # Several points, so that hovering finds the line along its whole length.
        spaced = np.geomspace if span[0] > 0 else np.linspace
        x = [float(v) for v in spaced(*span, 9)]
        line = {"color": hue, "dash": dash, "width": 2}
        trace = {"type": "scatter", "mode": "lines", "x": x, "y": [value] * len(x), "line": line}
        self.add(panel, trace | _hover(name, [hover] * len(x)), name)

    def bars(
        self, panel: int, rows: pd.DataFrame, y: str, name: str, hue: str, hover: Hover, *, is_hatched: bool = False
    ) -> None:
        """Bars over the batch sizes, with the intervals of y."""
        if rows.empty:
            return
        hatch = {"shape": "/", "fgcolor": PAPER, "size": 5, "solidity": 0.25, "fillmode": "overlay"}
        trace = {
            "type": "bar",
            "x": [str(int(b)) for b in rows["batch_size"]],
            "y": _numbers(rows[y]),
            "error_y": _error_bars(rows, y, ALARM),
            "marker": {"color": hue, "pattern": hatch if is_hatched else {}},
        }
        self.add(panel, trace | _hover(name, map(hover, each(rows))), name)

    def heat(
        self,
        panel: int,
        x: Sequence[str],
        y: Sequence[str],
        z: Sequence[Sequence[float | None]],
        *,
        labels: Sequence[Sequence[str]],
        hover: Sequence[Sequence[Sequence[str]]],
        unit: str,
        limits: Span,
    ) -> None:
        """A map of z over x (across) and y (its rows), in one colour scale for all panels; `labels` go in the cells."""
        trace = {
            "type": "heatmap",
            "x": [*x],
            "y": [*y],
            "z": [list(row) for row in z],
            "xgap": 1,
            "ygap": 1,
            "zmin": limits[0],
            "zmax": limits[1],
            "colorscale": "Cividis",
            "colorbar": {"title": {"text": text(unit), "side": "right"}, "thickness": 12, "outlinewidth": 0},
            "text": [[text(label) for label in row] for row in labels],
            "texttemplate": "%{text}",
            "hoverongaps": True,
            "hoverinfo": "text",
            "hovertext": [_hover("", row)["hovertext"] for row in hover],
        }
        self.add(panel, trace)

    def axis(self, panel: int, which: str, **settings: Any) -> None:
        """Plotly's settings of a panel's x or y axis."""
        self._axes[panel][which] |= settings

    def log2(self, panel: int, which: str, values: Sequence[float]) -> None:
        """A logarithmic axis with a plain tick at each of `values`, thinned where there are many."""
        ticks = sorted({float(v) for v in values if math.isfinite(v) and v > 0})
        ticks = ticks[:: -(-len(ticks) // 9)] if ticks else []
        self.axis(panel, which, type="log", tickvals=ticks, ticktext=[f"{v:g}" for v in ticks])

    def log(self, panel: int, which: str, values: Sequence[float]) -> None:
        """A logarithmic axis where `values` span more than a factor of 8, else a linear one from 0."""
        known = [float(v) for v in values if math.isfinite(v) and v > 0]
        if not known:
            return
        if max(known) / min(known) <= 8:
            self.axis(panel, which, rangemode="tozero", tickformat=",~r")
            return
        few = {"dtick": "D2"} if max(known) / min(known) <= 100 else {"dtick": 1}
        self.axis(panel, which, type="log", tickformat=",~r", exponentformat="none", **few)

    def figure(self, frame: pd.DataFrame) -> Figure:
        """The plotly figure, marked where weights are random."""
        from plotly.graph_objects import Figure

        marks = sum(max(len(trace.get("x") or ()), 1) for _, trace in self._traces)
        n = len(self.titles)
        if n > MOST_PANELS or (n > 1 and marks > MOST_MARKS):
            data, layout = self._one_at_a_time(frame)
        else:
            data, layout = self._side_by_side(frame)
        return Figure({"data": data, "layout": layout})

    def _side_by_side(self, frame: pd.DataFrame) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Every panel with axes of its own, and one legend for all."""
        seen: set[str] = set()
        data = []
        for panel, trace in self._traces:
            group, suffix = trace["legendgroup"], str(panel + 1) if panel else ""
            shown = {"showlegend": bool(trace["name"]) and group not in seen}
            if trace["type"] == "heatmap":
                shown = {"showscale": panel == 0}
            if trace["name"]:
                seen.add(group)
            data.append({**trace, **shown, "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"})
        width = 90 if self._columns == 1 else 44
        titles = [[w for line in t.splitlines() for w in textwrap.wrap(line, width)] for t in self.titles]
        title_px = 16 * max(map(len, titles)) + 8
        layout = self._layout(frame, len(self.titles), self._columns, self._panel_px, title_px, len(seen))
        for i, lines in enumerate(titles):
            suffix = str(i + 1) if i else ""
            layout |= {f"{which}axis{suffix}": self._axes[i][which] for which in "xy"}
            place = {"xref": f"x{suffix} domain", "yref": f"y{suffix} domain", "x": 0, "y": 1}
            place |= {"xanchor": "left", "yanchor": "bottom", "align": "left", "showarrow": False, "yshift": 4}
            font = {"size": 12.5, "color": INK}
            layout["annotations"].append({**place, "text": text("\n".join(lines)), "font": font})
        return data, layout

    def _one_at_a_time(self, frame: pd.DataFrame) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """All panels in one place, the first of them shown; `meta.views` has the traces and axes of each."""
        views: list[dict[str, Any]] = [{"label": title, "traces": [], "axes": {}} for title in self.titles]
        seen: set[tuple[int, str]] = set()
        data = []
        for i, (panel, trace) in enumerate(self._traces):
            key = (panel, trace["legendgroup"])
            data.append({**trace, "showlegend": bool(trace["name"]) and key not in seen, "visible": panel == 0})
            if trace["name"]:
                seen.add(key)
            views[panel]["traces"].append(i)
        for view, axes in zip(views, self._axes, strict=True):
            view["axes"] = {f"{which}axis": axes[which] for which in "xy"}
        most = max(sum(p == panel for p, _ in seen) for panel in range(len(views)))
        layout = self._layout(frame, 1, 1, 380, 8, most) | views[0]["axes"]
        layout["meta"]["views"] = views
        return data, layout

    def _layout(
        self, frame: pd.DataFrame, panels: int, columns: int, panel_px: int, title_px: int, keys: int
    ) -> dict[str, Any]:
        """The layout apart from the traces; with `meta` the page arranges the panels on a narrow screen."""
        mark_px = 26 if "weights" in frame and (frame["weights"] == "random").any() else 0
        rows, gap_px = -(-panels // columns), 62 + title_px
        meta = {"panels": panels, "columns": columns, "panel_px": panel_px, "gap_px": gap_px, "keys": keys}
        meta |= {"top_px": mark_px + title_px, "bottom_px": 56 + min(22 * -(-keys // 2), 180)}
        legend = {"orientation": "h", "maxheight": 180}
        grid = {"rows": rows, "columns": columns, "pattern": "independent", "xgap": 0.17}
        layout: dict[str, Any] = {
            "height": rows * panel_px + (rows - 1) * gap_px + meta["top_px"] + meta["bottom_px"],
            "margin": {"l": 66, "r": 16, "t": meta["top_px"], "b": 56},
            "legend": legend | {"yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
            "grid": grid | {"ygap": gap_px / (panel_px + gap_px)},
            "hovermode": "closest",
            "barmode": "group",
            "template": template(),
            "annotations": [],
            "meta": meta,
        }
        if mark_px:
            title = {"text": f"<b>{RANDOM_WEIGHTS}</b>", "font": {"size": 12.5, "color": ALARM}}
            layout["title"] = title | {"x": 0, "xref": "paper", "y": 1, "yanchor": "top", "pad": {"t": 4}}
        return layout


def template() -> dict[str, Any]:
    """What all figures share, in the light palette."""
    axis = {"gridcolor": GRID, "linecolor": HALF, "tickcolor": HALF, "showline": True, "zeroline": False}
    axis |= {"ticks": "outside", "ticklen": 4, "title": {"standoff": 8}, "automargin": True}
    layout = {"font": {"family": FONT, "size": 12, "color": INK}, "paper_bgcolor": PAPER, "plot_bgcolor": PAPER}
    layout |= {"xaxis": axis, "yaxis": axis, "colorway": [colour(i) for i in range(len(COLOURS))]}
    hover = {"bgcolor": PAPER, "bordercolor": HALF, "align": "left"}
    layout["hoverlabel"] = hover | {"font": {"family": FONT, "color": INK}}
    layout["legend"] = {"font": {"size": 12, "color": INK}, "bgcolor": PAPER}
    return {"layout": layout}


def not_measured(why: str) -> Figure:
    """A figure that says what is missing."""
    from plotly.graph_objects import Figure

    place = {"xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "showarrow": False}
    note = place | {"text": "<br>".join(textwrap.wrap(text(f"not measured: {why}"), 70)), "font": {"size": 14}}
    bare = {"xaxis": {"visible": False}, "yaxis": {"visible": False}, "height": 160, "template": template()}
    return Figure({"data": [], "layout": bare | {"annotations": [note], "meta": {"panels": 0}}})


def _numbers(column: pd.Series[Any]) -> list[float | None]:
    """Six significant digits, None where there is no number: plain JSON."""
    return [None if _unknown(v) else float(f"{v:.6g}") for v in column.astype(float)]


def _error_bars(rows: pd.DataFrame, name: str, hue: str) -> dict[str, Any]:
    bars = error_bars(rows, name)
    if bars is None or all(rows[interval_column(name, end)].isna().all() for end in ("low", "high")):
        return {"visible": False}
    look = {"type": "data", "symmetric": False, "thickness": 1.2, "width": 3, "color": hue}
    return look | {"arrayminus": _numbers(bars[0]), "array": _numbers(bars[1])}
