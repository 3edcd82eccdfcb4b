"""One look for the figures on the page: panels, lines with intervals, hover texts, and colours that follow the theme.

A figure is written once, in the light palette below; the page swaps each colour of it for its dark counterpart
(`DARK`), so light and dark cannot drift apart. Text is plain here: every name is escaped where it enters a figure,
because plotly reads a little HTML and names may come from a user's file. Figures are plain dicts until the end, where
plotly is imported.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from dlmbench.charts.style import COLOURS, interval_column

if TYPE_CHECKING:
    from plotly import graph_objects

    Figure: TypeAlias = graph_objects.Figure

INK, PAPER, GRID, MUTED, ALARM, HALF = "#222222", "#ffffff", "#dddddd", "#6b6b6b", "#b00020", "#888888"
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
DASHES = ("solid", "dash", "dot", "dashdot")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
# More panels than this are not looked at side by side: the page then shows one, with a choice of which.
MOST_PANELS = 8
# Nor is a drawing of more marks than this quick to open.
MOST_MARKS = 1500
RANDOM_WEIGHTS = "random weights: times and memory are real, quality is not"
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


# ---------------------------------------------------------------- words


def text(words: object) -> str:
    """Plain words for plotly: escaped, with line breaks kept."""
    return html.escape(str(words), quote=False).replace("\n", "<br>")


def number(value: float) -> str:
    """Four figures, as few characters as show them."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def amount(name: str, value: float | None, low: float | None, high: float | None, unit: str) -> str:
    """`latency: 0.154 s (95% interval 0.152 to 0.156)`; the interval where it is known."""
    if _unknown(value):
        return f"{name}: not known"
    assert value is not None
    written = f"{name}: {number(value)} {unit}".rstrip()
    if _unknown(low) or _unknown(high):
        return written
    assert low is not None
    assert high is not None
    return f"{written} (95% interval {number(low)} to {number(high)})"


def _unknown(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def shape_title(prompt_tokens: float, new_tokens: float) -> str:
    """The title of a panel for one pair of lengths."""
    return f"{int(prompt_tokens)} prompt + {int(new_tokens)} new tokens"


# ---------------------------------------------------------------- looks


def colour(index: int) -> str:
    """The colour of the index-th series."""
    return COLOURS[index % len(COLOURS)].lower()


def look(index: int, hue: str | None = None) -> Look:
    """Colour (or `hue`), marker and dash of the index-th series; every other marker is hollow."""
    symbol = SYMBOLS[index % len(SYMBOLS)] + ("-open" if index % 2 else "")
    return {"colour": hue or colour(index), "symbol": symbol, "dash": DASHES[index % len(DASHES)]}


def baseline_look(hue: str = INK) -> Look:
    """The autoregressive model: a star, dashed."""
    return {"colour": hue, "symbol": "star", "dash": "dash", "size": 11}


def ordered_colours(n: int) -> list[str]:
    """n colours for an ordered quantity, as K."""
    return [_RAMP[round(i)] for i in np.linspace(0, _STEPS - 1, n)]


# ---------------------------------------------------------------- a figure under construction


class Chart:
    """Panels with traces in them. x_title and y_title hold for all panels, or are given one each."""

    def __init__(
        self,
        titles: Sequence[str],
        x_title: str | Sequence[str],
        y_title: str | Sequence[str],
        *,
        columns: int = 2,
        panel_px: int = 270,
    ) -> None:
        n = len(titles)
        self.titles = tuple(titles)
        self._columns, self._panel_px = min(columns, n), panel_px
        # Each trace with its panel.
        self._traces: list[tuple[int, dict[str, Any]]] = []
        self._axes = [
            {"x": {"title": {"text": text(x)}}, "y": {"title": {"text": text(y)}}}
            for x, y in zip(_each(x_title, n), _each(y_title, n), strict=True)
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
        hover: Callable[[Any], Sequence[str]],
        *,
        mode: str = "lines+markers",
        labels: Sequence[str] = (),
        x_bars: bool = False,
        key: str | None = None,
    ) -> None:
        """A line or marks through (x, y), with bars from the low to the high columns of y (and of x), where known.

        hover: the lines of a row's hover text under its name. labels: words beside the marks.
        """
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": mode + ("+text" if labels else ""),
            "x": _numbers(rows[x]),
            "y": _numbers(rows[y]),
            "error_y": _bars(rows, y, style["colour"]),
            "line": {"color": style["colour"], "dash": style.get("dash", "solid"), "width": 2},
            "marker": {
                "color": style["colour"],
                "symbol": style.get("symbol", "circle"),
                "size": style.get("size", 7),
                # An open symbol is its outline.
                "line": {"color": style["colour"], "width": 1.5},
            },
            **_hover(name, [hover(r) for r in rows.itertuples(index=False)]),
        }
        if x_bars:
            trace["error_x"] = _bars(rows, x, style["colour"])
        if labels:
            font = {"size": 11, "color": style["colour"]}
            trace |= {"text": [text(w) for w in labels], "textposition": "top left", "textfont": font}
        self.add(panel, trace, name, key)

    def ring(self, panel: int, x: Sequence[float], y: Sequence[float], name: str, words: Sequence[str]) -> None:
        """Rings around points, as for a front; `words` is what hovering over each says."""
        marker = {"symbol": "circle-open", "size": 15, "color": INK, "line": {"color": INK, "width": 1.5}}
        self._marks(panel, x, y, name, words, marker)

    def cross(self, panel: int, x: Sequence[float], y: Sequence[float], name: str, words: Sequence[str]) -> None:
        """Crosses, as where two lines meet."""
        marker = {"symbol": "x", "size": 10, "color": PAPER, "line": {"color": INK, "width": 1.8}}
        self._marks(panel, x, y, name, words, marker)

    def _marks(
        self, panel: int, x: Sequence[float], y: Sequence[float], name: str, words: Sequence[str], marker: Look
    ) -> None:
        if len(x):
            hover = _hover(name, [w.splitlines() for w in words])
            self.add(
                panel, {"type": "scatter", "mode": "markers", "x": [*x], "y": [*y], "marker": marker, **hover}, name
            )

    def band(
        self,
        panel: int,
        span: tuple[float, float],
        value: float,
        low: float | None,
        high: float | None,
        name: str,
        hue: str,
        hover: Sequence[str],
        dash: str = "dash",
    ) -> None:
        """A horizontal line over `span` of x, with its interval as a band: a value that x does not change."""
        left, right = span
        if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
            area: dict[str, Any] = {
                "x": [left, right, right, left],
                "y": [low, low, high, high],
                "fill": "toself",
                "fillcolor": hue,
            }
            area |= {"type": "scatter", "mode": "lines", "line": {"width": 0}, "opacity": 0.2, "hoverinfo": "skip"}
            self.add(panel, area, key=name)
        # Several points, so that hovering finds the line along its whole length.
        at = [float(v) for v in (np.geomspace(left, right, 9) if left > 0 else np.linspace(left, right, 9))]
        line = {"color": hue, "dash": dash, "width": 2}
        words = _hover(name, [hover] * len(at))
        self.add(
            panel, {"type": "scatter", "mode": "lines", "x": at, "y": [value] * len(at), "line": line, **words}, name
        )

    def bars(
        self,
        panel: int,
        rows: pd.DataFrame,
        x: Sequence[str],
        y: str,
        name: str,
        hue: str,
        hover: Callable[[Any], Sequence[str]],
        *,
        hatched: bool = False,
    ) -> None:
        """Bars over the categories `x`, with the intervals of y."""
        pattern = (
            {"shape": "/", "fgcolor": PAPER, "size": 5, "solidity": 0.25, "fillmode": "overlay"} if hatched else {}
        )
        self.add(
            panel,
            {
                "type": "bar",
                "x": [text(v) for v in x],
                "y": _numbers(rows[y]),
                "error_y": _bars(rows, y, ALARM),
                "marker": {"color": hue, "pattern": pattern},
                **_hover(name, [hover(r) for r in rows.itertuples(index=False)]),
            },
            name,
        )

    def heat(
        self,
        panel: int,
        x: Sequence[Any],
        y: Sequence[Any],
        z: Sequence[Sequence[float | None]],
        hover: Sequence[Sequence[Sequence[str]]],
        *,
        unit: str,
        limits: tuple[float, float],
        map_name: str = "Cividis",
        words: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """A map of z over x (across) and y (its rows), in one colour scale for all panels; `words` go in the cells."""
        trace: dict[str, Any] = {
            "type": "heatmap",
            "x": [*x],
            "y": [*y],
            "z": [list(r) for r in z],
            "xgap": 1,
            "ygap": 1,
        }
        trace |= {
            "zmin": limits[0],
            "zmax": limits[1],
            "colorscale": map_name,
            "hoverongaps": True,
            "hoverinfo": "text",
        }
        trace["hovertext"] = [["<br>".join(map(text, lines)) for lines in row] for row in hover]
        trace["colorbar"] = {"title": {"text": text(unit), "side": "right"}, "thickness": 12, "outlinewidth": 0}
        if words is not None:
            trace |= {"text": [[text(w) for w in row] for row in words], "texttemplate": "%{text}"}
        self.add(panel, trace)

    def axis(self, panel: int, which: str, **settings: Any) -> None:
        """Settings of a panel's axis, in plotly's words, beside its title."""
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

    def figure(self, frame: pd.DataFrame, **layout: Any) -> Figure:
        """The plotly figure, stamped where weights are random; `layout` wins over what is set here."""
        from plotly.graph_objects import Figure

        marks = sum(max(len(trace.get("x") or ()), 1) for _, trace in self._traces)
        n = len(self.titles)
        if n > MOST_PANELS or (n > 1 and marks > MOST_MARKS):
            data, arranged = self._one_at_a_time(frame)
        else:
            data, arranged = self._side_by_side(frame)
        return Figure({"data": data, "layout": arranged | layout})

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
        title_px = 16 * max(len(w) for w in titles) + 8
        layout = self._layout(frame, len(self.titles), self._columns, self._panel_px, title_px, len(seen))
        for i, words in enumerate(titles):
            suffix = str(i + 1) if i else ""
            layout |= {f"{which}axis{suffix}": self._axes[i][which] for which in "xy"}
            place = {"xref": f"x{suffix} domain", "yref": f"y{suffix} domain", "x": 0, "y": 1}
            place |= {"xanchor": "left", "yanchor": "bottom", "align": "left", "showarrow": False, "yshift": 4}
            font = {"size": 12.5, "color": INK}
            layout["annotations"].append({**place, "text": text("\n".join(words)), "font": font})
        return data, layout

    def _one_at_a_time(self, frame: pd.DataFrame) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """All panels on the same place; `meta.views` says which traces and axes each has, the first is shown."""
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
        """What does not depend on the traces; `meta` is what the page needs to lay panels out on a narrow screen."""
        stamp_px = 26 if "weights" in frame and (frame["weights"] == "random").any() else 0
        rows, gap_px = -(-panels // columns), 62 + title_px
        meta = {"panels": panels, "columns": columns, "panel_px": panel_px, "gap_px": gap_px, "keys": keys}
        meta |= {"top_px": stamp_px + title_px, "bottom_px": 56 + min(22 * -(-keys // 2), 180)}
        grid = {"rows": rows, "columns": columns, "pattern": "independent", "xgap": 0.17}
        layout: dict[str, Any] = {
            "height": rows * panel_px + (rows - 1) * gap_px + meta["top_px"] + meta["bottom_px"],
            "margin": {"l": 66, "r": 16, "t": meta["top_px"], "b": 56},
            "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "xanchor": "left"}
            | {"maxheight": 180},
            "grid": grid | {"ygap": gap_px / (panel_px + gap_px)},
            "hovermode": "closest",
            "barmode": "group",
            "template": template(),
            "annotations": [],
            "meta": meta,
        }
        if stamp_px:
            title = {"text": f"<b>{RANDOM_WEIGHTS}</b>", "font": {"size": 12.5, "color": ALARM}}
            layout["title"] = title | {"x": 0, "xref": "paper", "y": 1, "yanchor": "top", "pad": {"t": 4}}
        return layout


def template() -> dict[str, Any]:
    """What all figures share, in the light palette."""
    axis = {"gridcolor": GRID, "linecolor": HALF, "tickcolor": HALF, "showline": True, "zeroline": False}
    axis |= {"ticks": "outside", "ticklen": 4, "title": {"standoff": 8}, "automargin": True}
    layout = {"font": {"family": FONT, "size": 12, "color": INK}, "paper_bgcolor": PAPER, "plot_bgcolor": PAPER}
    layout |= {"xaxis": axis, "yaxis": axis, "colorway": [colour(i) for i in range(len(COLOURS))]}
    layout["hoverlabel"] = {
        "bgcolor": PAPER,
        "bordercolor": HALF,
        "font": {"family": FONT, "color": INK},
        "align": "left",
    }
    layout["legend"] = {"font": {"size": 12, "color": INK}, "bgcolor": PAPER}
    return {"layout": layout}


def not_measured(why: str) -> Figure:
    """A figure that says what is missing."""
    from plotly.graph_objects import Figure

    words = "<br>".join(textwrap.wrap(text(f"not measured: {why}"), 70))
    note = {
        "text": words,
        "showarrow": False,
        "xref": "paper",
        "yref": "paper",
        "x": 0.5,
        "y": 0.5,
        "font": {"size": 14},
    }
    bare = {"xaxis": {"visible": False}, "yaxis": {"visible": False}, "height": 160, "template": template()}
    return Figure({"data": [], "layout": bare | {"annotations": [note], "meta": {"panels": 0}}})


# ---------------------------------------------------------------- inside


def _each(title: str | Sequence[str], n: int) -> Iterator[str]:
    yield from [title] * n if isinstance(title, str) else title


def _numbers(column: pd.Series[Any]) -> list[float | None]:
    """Floats that JSON can say, short enough to be read in a file."""
    return [None if _unknown(v) else float(f"{v:.6g}") for v in column.astype(float)]


def _bars(rows: pd.DataFrame, name: str, hue: str) -> dict[str, Any]:
    columns = [interval_column(name, end) for end in ("low", "high")]
    if any(c not in rows for c in columns) or rows[columns].isna().to_numpy().all():
        return {"visible": False}
    low, high = (rows[c].fillna(rows[name]).astype(float) for c in columns)
    value = rows[name].astype(float)
    return {
        "type": "data",
        "symmetric": False,
        "array": _numbers((high - value).clip(lower=0)),
        "arrayminus": _numbers((value - low).clip(lower=0)),
        "thickness": 1.2,
        "width": 3,
        "color": hue,
    }


def _hover(name: str, lines: Sequence[Sequence[str]]) -> dict[str, Any]:
    head = [f"<b>{text(name)}</b>"] if name else []
    return {"hoverinfo": "text", "hovertext": ["<br>".join([*head, *map(text, words)]) for words in lines]}
