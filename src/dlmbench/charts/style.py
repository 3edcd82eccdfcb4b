"""What every chart looks like, and the marks and axes that charts share.

A chart is a Vega-Lite specification made with Altair. Its rows have a column `panel`; `panels` puts each panel's rows
into axes of its own, so that print shows some of them and the page all. Colours are those of the light theme; the page
replaces each by its dark counterpart (`DARK`). Series colours are Okabe and Ito's, which colour-blind readers can tell
apart; shapes and dashes repeat what colour says, so that grey prints work too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.break_even import whole_steps
from dlmbench.charts.frames import LENGTHS, diffusion, interval_columns, length_texts, names, with_panels

INK, PAPER, GRID, MUTED, ALARM, HALF = "#222222", "#ffffff", "#dddddd", "#6b6b6b", "#b00020", "#888888"
# Okabe & Ito, "Color Universal Design" (2008), without the yellow that vanishes on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
STAR = "M0,-1L.28,-.31L1,-.31L.43,.14L.62,.85L0,.42L-.62,.85L-.43,.14L-1,-.31L-.28,-.31Z"
DASHES = ([1, 0], [5, 2], [1.5, 1.5], [5, 2, 1.5, 2])
DASHED, DOTTED = [4, 3], [1.5, 1.5]
# Viridis without its palest end, for ordered and continuous quantities.
RAMP = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39")
DARK: Mapping[str, str] = {
    INK: "#eceff1",
    PAPER: "#15191e",
    GRID: "#333a42",
    MUTED: "#a8b0b8",
    ALARM: "#ff8a80",
    HALF: "#8d959c",
    **dict(zip(COLOURS, ("#4da3e0", "#ff8a3d", "#2fc79a", "#e39bc4", "#ffc04d", "#9ad4f7"), strict=True)),
    **dict(zip(RAMP, ("#7e6bc4", "#6f8fd6", "#4fa6c9", "#3bbcb0", "#52d18d", "#9fe05a", "#fde725"), strict=True)),
}
# A column of a two-column paper, in points; the text in it, and the mean width of a bold letter.
WIDTH_PT, FONT_PT, LETTER_PT = 3.4 * 72, 7.0, 3.9
RANDOM_WEIGHTS = "random weights: times and memory are real, quality is not"
OWN_STEPS = "own"  # on an axis of step counts: samplers that choose their own number of steps
_MOST_TICKS = 6


# ---------------------------------------------------------------- texts and data


def number(value: float) -> str:
    """Four significant digits, or whole numbers from 1000 on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def amount(row: Any, column: str, unit: str = "") -> str:
    """`0.154 s (95% interval 0.152 to 0.156)`: a row's value in `column`, with its interval where known."""
    value, low, high = (getattr(row, name, math.nan) for name in interval_columns(column))
    if _unknown(value):
        return "not known"
    interval = "" if _unknown(low) or _unknown(high) else f" (95% interval {number(low)} to {number(high)})"
    return f"{number(value)} {unit}".rstrip() + interval


def with_tooltip(frame: pd.DataFrame, *columns: str, **amounts: tuple[str, str]) -> tuple[pd.DataFrame, list[Any]]:
    """The frame with a text for each name with its (column, unit), and the tooltip of its marks; see `tooltip`."""
    texts = {
        f"tooltip_{name}": [amount(row, column, unit) for row in frame.itertuples()]
        for name, (column, unit) in amounts.items()
    }
    if "steps" in frame:
        texts["tooltip_K"] = ["–" if _unknown(k) else str(whole_steps(k)) for k in frame["steps"]]
    frame = frame.assign(**texts)
    return frame, tooltip(frame, *columns)


def tooltip(frame: pd.DataFrame, *columns: str) -> list[Any]:
    """The tooltip of a mark: series, K and batch size, the texts of `with_tooltip`, and further `columns`."""
    known = [c for c in ("series", "tooltip_K", "batch_size") if c in frame and not frame[c].isna().all()]
    known += [c for c in frame.columns if c.startswith("tooltip_") and c != "tooltip_K"]
    return [alt.Tooltip(f"{c}:N", title=c.removeprefix("tooltip_").replace("_", " ")) for c in (*known, *columns)]


def _unknown(value: Any) -> bool:
    return value is None or not math.isfinite(value)


def _plain(value: Any) -> Any:
    """A value as plain JSON has it: six significant digits, None where nothing is known."""
    if isinstance(value, str | bool):
        return value
    if value is None or pd.isna(value):
        return None
    return int(value) if float(value).is_integer() else float(f"{value:.6g}")


# ---------------------------------------------------------------- looks of series


class Looks:
    """Colour, shape and dash for each name in the column `by`, the same in every mark of a chart.

    Baselines are drawn in ink, as stars, dashed; `others`, each with its place in an order, in the colours `hues`. The
    legend shows colour and shape (those of `symbol` where marks have none), or colour and dash for the symbol "stroke".
    """

    def __init__(
        self,
        by: str,
        baselines: Sequence[str],
        others: Mapping[str, int],
        hues: Sequence[str],
        symbol: str = "circle",
    ) -> None:
        self.domain = [*baselines, *others]
        colours, shapes, dashes = (
            [*(own for _ in baselines), *(values[place % len(values)] for place in others.values())]
            for own, values in ((INK, hues), (STAR, SHAPES), (DASHED, DASHES))
        )

        def channel(kind: Any, values: list[Any], in_legend: bool = True) -> Any:
            if in_legend:
                scale = alt.Scale(domain=self.domain, range=values)
                return kind(f"{by}:N", scale=scale, sort=None, legend=legend(self.domain, symbolType=symbol))
            if len(values) == 1:
                return alt.value(values[0])
            # A domain in another order keeps a channel out of the legend of the others; of one name there is no other.
            scale = alt.Scale(domain=self.domain[::-1], range=values[::-1])
            return kind(f"{by}:N", scale=scale, sort=None, legend=None)

        self.color: Any = channel(alt.Color, colours)
        self.shape: Any = channel(alt.Shape, shapes, symbol != "stroke")
        self.dash: Any = channel(alt.StrokeDash, dashes, symbol == "stroke")


def legend(names: Sequence[str], **options: Any) -> Any:
    """A legend of `names` with as many columns as they leave space for in print; longer ones are cut."""
    across = int((WIDTH_PT - 45) // (3.4 * max(map(len, names), default=1) + 20))
    columns = min(max(across, 1), len(names)) or 1
    return alt.Legend(title=None, symbolOpacity=1, columns=columns, labelLimit=int(WIDTH_PT - 70), **options)


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the baselines' series marked as autoregressive."""
    is_baseline = frame["kind"] == "baseline"
    return frame.assign(series=frame["series"].where(~is_baseline, frame["series"] + " (autoregressive)"))


def series_looks(frame: pd.DataFrame, symbol: str = "circle") -> Looks:
    """The looks of all series of a `named` frame, baselines first; the same in every figure of a run."""
    shown = names(diffusion(frame))
    order = dict.fromkeys([*frame.attrs.get("series", ()), *shown])
    places = {series: place for place, series in enumerate(order) if series in shown}
    return Looks("series", names(frame, kind="baseline"), places, COLOURS, symbol)


def by_shape(frame: pd.DataFrame, **also: str) -> pd.DataFrame:
    """The frame in the order of its panels, one for each pair of lengths, with `named` series.

    also: further columns that panels differ by, each with the form of its value in a title.
    """
    ordered = named(frame).sort_values([*LENGTHS, "batch_size"], kind="stable")
    texts = (ordered[column].map(form.format, na_action="ignore").fillna("") for column, form in also.items())
    return with_panels(ordered, *length_texts(ordered), *texts)


def by_shape_and_batch(frame: pd.DataFrame) -> pd.DataFrame:
    """The same with a panel for each pair of lengths and batch size with diffusion in it."""
    has_diffusion = any_of_shape(frame, frame["kind"] != "baseline")
    return by_shape(frame[has_diffusion] if has_diffusion.any() else frame, batch_size="batch {:.0f}")


def any_of_shape(frame: pd.DataFrame, is_wanted: pd.Series[bool]) -> pd.Series[bool]:
    """For each row whether any row of its lengths and batch size is wanted."""
    return is_wanted.groupby([frame[c] for c in (*LENGTHS, "batch_size")]).transform("any")


# ---------------------------------------------------------------- axes


def log2_axis(field: str, title: str, values: Sequence[float]) -> Any:
    """A horizontal base-2 logarithmic axis with ticks at `values`, but for those that have no space for a number."""
    known = sorted({float(v) for v in values if not _unknown(v) and v > 0}, reverse=True)
    ticks: list[float] = []
    for value in known:
        if not ticks or math.log2(ticks[-1] / value) >= math.log2(known[0] / known[-1]) / _MOST_TICKS:
            ticks.append(value)
    axis = alt.Axis(values=ticks[::-1], format="~r", title=f"{title} (log scale)")
    # A single value needs space on both sides.
    domain = [known[-1] / 1.5, known[0] * 1.5] if known else alt.Undefined
    return alt.X(f"{field}:Q", axis=axis, scale=alt.Scale(type="log", base=2, domain=domain, nice=False))


def steps_axis(frame: pd.DataFrame) -> tuple[pd.DataFrame, Any]:
    """The frame with each row's place `x` among the step counts, and that axis.

    Rows without a step count are right of all others.
    """
    steps = frame["steps"].astype(float)
    own = 4 * steps.max() if steps.notna().any() else 4.0
    placed = frame.assign(x=steps.fillna(own))
    axis = log2_axis("x", "diffusion steps K", list(diffusion(placed)["x"]))
    if diffusion(placed)["steps"].isna().any():
        axis["axis"]["labelExpr"] = f"datum.value == {own} ? '{OWN_STEPS}' : datum.label"
    return placed, axis


def axis(
    field: str, title: str, frame: pd.DataFrame, channel: Any = alt.Y, *, also: Sequence[float] = (), zero: bool = True
) -> Any:
    """An axis of a column with its intervals, from zero or, where values span more than a factor of 8, logarithmic.

    A logarithmic axis is announced as such. also: what else is to be on it. zero: False for quantities that have no
    meaningful zero, as a log-likelihood.
    """
    columns = [c for c in interval_columns(field) if c in frame]
    known = [float(v) for v in (*frame[columns].to_numpy().ravel(), *also) if not _unknown(v)]
    if not zero or not known or min(known) <= 0 or max(known) / min(known) <= 8:
        scale = alt.Scale(zero=zero, nice=True)
        return channel(f"{field}:Q", axis=alt.Axis(title=title, format=",~r", tickCount=5), scale=scale)
    low, high = min(known) / 1.3, max(known) * 1.3
    # A factor below 1000 shows few decades: ticks at 1, 2 and 5 keep at least three numbers on the axis.
    digits = (1,) if high / low > 1000 else (1, 2, 5)
    ticks = [d * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for d in digits]
    ticks = [float(f"{t:.3g}") for t in ticks if low <= t <= high]
    # Upright titles are short of space.
    log_title = [title, "(log scale)"] if channel is alt.Y else f"{title} (log scale)"
    log = alt.Axis(title=log_title, values=ticks, format="~g" if low < 1e-4 else ",~r")
    return channel(f"{field}:Q", axis=log, scale=alt.Scale(type="log", domain=[low, high], nice=False))


# ---------------------------------------------------------------- marks


def where(*kinds: str, also: str = "true") -> Any:
    """The rows of these kinds (of all without any) for which the expression `also` holds, without a mark yet."""
    chosen = f"indexof({list(kinds)}, datum.kind) >= 0 && {also}" if kinds else also
    return alt.Chart() if chosen == "true" else alt.Chart().transform_filter(chosen)


def once() -> Any:
    """A single row for each panel, for marks that do not depend on rows."""
    return alt.Chart().transform_aggregate(n="count()", groupby=["panel"])


def of(channel: Any, field: str) -> Any:
    """The same axis for another field."""
    copied = channel.copy()
    copied.shorthand = f"{field}:Q"
    return copied


class Marks:
    """The marks of a chart on the axes `x` and `y`, in the looks of its series, with the tooltip `tips`.

    Every method takes the rows to draw, from `where`. Intervals are in the columns that belong to an axis's own.
    """

    def __init__(self, x: Any, y: Any, looks: Looks, tips: Sequence[Any]) -> None:
        self.x, self.y, self.looks, self.tips = x, y, looks, list(tips)

    def points(self, rows: Any, **options: Any) -> Any:
        """A point at (x, y); options: of the mark."""
        place = {"x": self.x, "y": self.y, "tooltip": self.tips}
        mark = rows.mark_point(**{"filled": True, "opacity": 1} | options)
        return mark.encode(color=self.looks.color, shape=self.looks.shape, **place)

    def intervals(self, rows: Any, *, across: bool = False) -> Any:
        """The 95% intervals of y, up and down at (x, y), or of x, across."""
        known, low, high = _interval(rows, self.x if across else self.y)
        ends = {"x": low, "x2": high, "y": self.y} if across else {"x": self.x, "y": low, "y2": high}
        return known.mark_rule().encode(color=self.looks.color, **ends)

    def line(self, rows: Any) -> Any:
        """A line through (x, y)."""
        return rows.mark_line().encode(x=self.x, y=self.y, color=self.looks.color, strokeDash=self.looks.dash)

    def curves(self, rows: Any, **encoding: Any) -> list[Any]:
        """Lines through (x, y) with intervals and points; encoding: further channels of the lines, as their order."""
        return [self.line(rows).encode(**encoding), self.intervals(rows), self.points(rows)]

    def bands(self, rows: Any) -> list[Any]:
        """Horizontal lines at y over the whole width, marked at their left end, and its intervals as bands."""
        known, low, high = _interval(rows, self.y)
        color, dash = self.looks.color, self.looks.dash
        band = known.mark_rect(opacity=0.2).encode(y=low, y2=high, color=color)
        line = rows.mark_rule(strokeWidth=1.5).encode(y=self.y, color=color, strokeDash=dash, tooltip=self.tips)
        return [band, line, self.points(rows).encode(x=alt.value(4))]

    def ends(self, rows: Any, field: str, letter: str) -> list[Any]:
        """The smallest and the largest `field` of each line, written beside it as `letter`=value.

        To be drawn before points, which it must not hide.
        """
        ends = {"first": f"min({field})", "last": f"max({field})"}
        known = rows.transform_joinaggregate(groupby=["panel", "series"], **ends)
        known = known.transform_calculate(label=f"'{letter}=' + datum.{field}")
        first = known.transform_filter(f"datum.{field} == datum.first")
        last = known.transform_filter(f"datum.{field} == datum.last && datum.first < datum.last")
        place = {"x": self.x, "y": self.y, "text": "label:N"}
        texts = []
        for end, style in ((first, {"baseline": "top", "dx": 4, "dy": 3}), (last, {"baseline": "middle", "dx": 6})):
            # Lines behind a text leave a gap around it.
            texts.append(end.mark_text(align="left", stroke=PAPER, strokeWidth=3, **style).encode(**place))
            texts.append(end.mark_text(align="left", **style).encode(color=self.looks.color, **place))
        return texts

    def rings(self, rows: Any, tips: Sequence[Any] = ()) -> Any:
        """Rings around (x, y); tips: a tooltip of their own."""
        ring = rows.mark_point(shape="circle", filled=False, style="ring", color=INK, opacity=1)
        return ring.encode(x=self.x, y=self.y, tooltip=list(tips) or self.tips)


def _interval(rows: Any, channel: Any) -> tuple[Any, Any, str]:
    """The rows that have the interval of an axis's column, the axis for its low end, and the column of its high end."""
    _, low, high = interval_columns(channel.shorthand.removesuffix(":Q"))
    return rows.transform_filter(f"isValid(datum.{low}) && isValid(datum.{high})"), of(channel, low), high


# ---------------------------------------------------------------- charts


def panels(layers: Sequence[Any], frame: pd.DataFrame, **independent: Any) -> dict[str, Any]:
    """The layers in a panel for each title in the column `panel`, in the order of the rows, as Vega-Lite.

    independent: scales that each panel has of its own, as y="independent".
    """
    facet = alt.Facet("panel:N", sort=list(frame["panel"].unique()), title=None)
    chart = alt.layer(*layers, data=alt.NamedData(name="points")).facet(facet, columns=2).resolve_scale(**independent)
    if frame["panel"].nunique() == 3:
        chart = chart.resolve_axis(x="independent")  # a shared axis would also be drawn where the fourth panel is not
    # Rows are added last: Altair copies whatever is in a chart many times.
    rows = [dict(zip(frame.columns, map(_plain, row), strict=True)) for row in frame.itertuples(index=False)]
    spec: dict[str, Any] = chart.to_dict(validate=False)
    return spec | {"datasets": {"points": rows}, "usermeta": {"same": frame.attrs.get("same", "")}}


def config(font_px: float, *, is_print: bool) -> dict[str, Any]:
    """The theme: text of `font_px` pixels, and marks in proportion."""
    thin, point = (0.8, 22) if is_print else (1.2, 55)
    text = {"labelFontSize": font_px, "titleFontSize": font_px, "labelColor": INK, "titleColor": INK}
    font = "Liberation Sans, Arial, DejaVu Sans, Noto Sans CJK SC, sans-serif"
    return {
        "background": PAPER,
        "aria": False,  # thousands of marks are no help to a screen reader: the page describes each chart as one image
        "font": font if is_print else "system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, sans-serif",
        "view": {"stroke": None},
        "axis": {**text, "titleFontWeight": "normal", "gridColor": GRID, "domainColor": HALF, "tickColor": HALF}
        | {"tickSize": 3, "gridWidth": 0.6, "labelOverlap": "greedy", "titlePadding": 4, "labelPadding": 2},
        "axisX": {"labelSeparation": 3, "labelFlush": False},
        "header": {**text, "labelFontWeight": "bold", "labelPadding": 4, "labelAnchor": "start", "labelAlign": "left"},
        "facet": {"spacing": 16 if is_print else 22},
        "legend": {**text, "orient": "bottom", "symbolSize": 2 * point, "labelLimit": 0, "titleFontWeight": "normal"}
        | {"offset": 8, "columnPadding": 8, "rowPadding": 2, "padding": 0, "gradientThickness": 8, "titleLimit": 0}
        | {"layout": {"bottom": {"direction": "vertical", "anchor": "start", "margin": 4}}},
        "title": {"fontSize": font_px, "color": ALARM, "anchor": "start", "offset": 6, "fontWeight": "bold"},
        "line": {"strokeWidth": 1.5 * thin},
        "rule": {"strokeWidth": thin, "color": INK},
        "point": {"size": point, "strokeWidth": thin},
        "style": {"ring": {"size": 3.5 * point}, "open": {"size": 2 * point}},
        "text": {"fontSize": font_px, "color": INK},
    }
