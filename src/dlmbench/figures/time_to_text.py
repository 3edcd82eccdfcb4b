"""Time to first text and to full text, the baseline beside diffusion: who waits how long, and for what.

An autoregressive reader sees the first token at once and reads along; a diffusion reader sees nothing until the first
block is final, and with a single block that is the whole text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dlmbench.analysis.study import CellSummary, Study
from dlmbench.charts import page, style
from dlmbench.charts.points import Point, each, ends, rows_of, shapes, short, table, why_missing
from dlmbench.types import Run

NAME = "time_to_text"
MOST_ROWS = 14


@dataclass(frozen=True, kw_only=True)
class TextPoint(Point):
    """kind: baseline, curve or other. first_text_s: to the first token (baseline) or first final block (diffusion).

    first_text_tokens: how much text that is. inter_token_s: of the baseline only, from then on.
    """

    steps: float | None = None
    first_text_s: float | None = None
    first_text_tokens: int | None = None
    inter_token_s: float | None = None
    latency_s: float | None = None
    latency_low_s: float | None = None
    latency_high_s: float | None = None
    repetitions: int | None = None


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every cell with both times."""
    cells = [("baseline", b) for b in study.baselines] + [("curve", p) for c in study.curves for p in c.points]
    cells += [("other", o) for o in study.others]
    rows = [row for kind, summary in cells if (row := _point(kind, study, summary)) is not None]
    return table(TextPoint, rows, "no cell was timed" if any(s.latency for s in study.cells) else "no cell was traced")


def _point(kind: str, study: Study, summary: CellSummary) -> TextPoint | None:
    cell, latency = summary.cell, summary.latency
    if latency is None or summary.first_text_s is None:
        return None
    block = cell.knob("block_length")
    tokens = 1 if kind == "baseline" else min(block, cell.new_tokens) if isinstance(block, int) else cell.new_tokens
    # With one block they are the same moment, and many timed generations know it better than one traced.
    at_once = kind != "baseline" and tokens == cell.new_tokens
    return TextPoint(
        kind=kind,
        series=study.label(cell),
        batch_size=cell.batch_size,
        prompt_tokens=cell.prompt_tokens,
        new_tokens=cell.new_tokens,
        weights=cell.model.weights,
        steps=cell.steps,
        note="one block: the first text is the full text" if at_once else "",
        first_text_s=latency.median if at_once else summary.first_text_s,
        first_text_tokens=tokens,
        inter_token_s=summary.inter_token_s,
        latency_s=latency.median,
        latency_low_s=latency.low,
        latency_high_s=latency.high,
        repetitions=latency.n,
    )


def caption(frame: pd.DataFrame) -> str:
    """What the picture shows, how much text the first text is, and that the picture leaves some out."""
    if why := why_missing(frame):
        return f"Not measured: {why}."
    less = " Drawn: the smallest and the largest of many; all are in the table." * (len(_for_paper(frame)) < len(frame))
    return page_caption(frame) + less


def page_caption(frame: pd.DataFrame) -> str:
    """The same for the page, which leaves nothing out."""
    if why := why_missing(frame):
        return f"Not measured: {why}."
    blocks = sorted({int(n) for n in frame[frame["kind"] != "baseline"]["first_text_tokens"]})
    size = f" ({' or '.join(map(str, blocks))} tokens at once)" if blocks else ""
    return (
        "Time to the first text that stands (open) and to the full text (filled, median with its 95% interval). First "
        f"text is the first token of the autoregressive baseline, and the first final block of diffusion{size}; where "
        "that block is the whole text the two are one. It is from one traced generation, hence without an interval."
    )


def _settings(frame: pd.DataFrame) -> list[tuple[str, str, float | None]]:
    """(kind, series, steps) of each row of a panel: baselines on top, then by series and steps."""
    keys = frame[["kind", "series", "steps"]].drop_duplicates()
    order = {k: i for i, k in enumerate(("baseline", "curve", "other"))}
    series = list(dict.fromkeys(frame["series"]))
    rows = [(str(k), str(s), None if pd.isna(n) else float(n)) for k, s, n in keys.itertuples(index=False, name=None)]
    return sorted(rows, key=lambda r: (order[r[0]], series.index(r[1]), r[2] or 0))


def _label(kind: str, series: str, steps: float | None, several: bool) -> str:
    if kind == "baseline":
        return series
    name = short(series) if several else series.partition(", ")[0]
    return f"{name}, K={steps:.0f}" if steps is not None else name


def _placed(here: pd.DataFrame, batches: list[int], several: bool) -> tuple[pd.DataFrame, list[str]]:
    """The rows of one panel with their height `at`, batches beside one another, and the name of each setting."""
    settings = _settings(here)
    row_of = {(k, s, n): y for y, (k, s, n) in enumerate(settings)}
    keys = zip(here["kind"], here["series"], here["steps"], here["batch_size"], strict=True)
    at = [
        row_of[k, s, None if pd.isna(n) else float(n)]
        + (batches.index(b) - (len(batches) - 1) / 2) * 0.72 / len(batches)
        for k, s, n, b in keys
    ]
    return here.assign(at=at), [_label(*s, several) for s in settings]


def _layout(frame: pd.DataFrame) -> tuple[list[int], bool, int]:
    """The batch sizes, whether there are several settings of diffusion, and the most rows of a panel."""
    batches = sorted(int(b) for b in frame["batch_size"].unique())
    several = frame[frame["kind"] != "baseline"]["series"].nunique() > 1
    deepest = max(len(_settings(rows_of(frame, prompt_tokens=p, new_tokens=g))) for p, g in shapes(frame))
    return batches, several, deepest


def _for_paper(frame: pd.DataFrame) -> pd.DataFrame:
    """The smallest and largest batch and, where rows are many, step count of each series; the page shows them all."""
    diffusion = frame[frame["kind"] != "baseline"]
    shown = frame[frame["batch_size"].isin(ends((diffusion if len(diffusion) else frame)["batch_size"]))]
    if _layout(shown)[2] <= MOST_ROWS:
        return shown
    kept = {s: ends(own["steps"].dropna()) for s, own in shown.groupby("series")}
    return shown[[pd.isna(k) or k in kept[s] for s, k in zip(shown["series"], shown["steps"], strict=True)]]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """One panel for each (prompt, new tokens), a row for each setting; colour is batch size."""
    if why := why_missing(frame):
        return style.not_measured(figure, why)
    frame = _for_paper(frame)
    batches, several, deepest = _layout(frame)
    height = 0.75 + deepest * max(0.2, 0.085 * len(batches) + 0.06)
    # Long names of settings need the width of two panels.
    panels = style.panels(figure, len(shapes(frame)), height, columns=1 if several else 2)
    looks: list[dict[str, Any]] = [
        {"color": style.colour(i), "marker": style.MARKERS[i % len(style.MARKERS)]} for i in range(len(batches))
    ]
    for axes, (prompt, new) in zip(panels, shapes(frame), strict=True):
        here, names = _placed(rows_of(frame, prompt_tokens=prompt, new_tokens=new), batches, several)
        for r in each(here):
            look = looks[batches.index(r.batch_size)]
            axes.plot([r.first_text_s, r.latency_s], [r.at, r.at], color=look["color"], linewidth=1.1, alpha=0.55)
            bars = np.clip([[r.latency_s - r.latency_low_s], [r.latency_high_s - r.latency_s]], 0, None)
            axes.errorbar(r.latency_s, r.at, xerr=bars, capsize=2, elinewidth=0.9, markersize=4, **look)
            axes.plot(r.first_text_s, r.at, markersize=6.5, linestyle="none", markerfacecolor="none", **look)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        style.log_axis(axes, [*here["first_text_s"], *here["latency_low_s"], *here["latency_high_s"]], "x")
        axes.set(title=page.shape_title(prompt, new), xlabel="time since the request [s]")
    marks = [style.key(f"batch {b}", linestyle="none", **look) for b, look in zip(batches, looks, strict=True)]
    grey: dict[str, Any] = {"color": "grey", "marker": "o", "linestyle": "none"}
    marks.append(style.key("first text", markerfacecolor="none", markersize=6.5, **grey))
    marks.append(style.key("full text", markersize=4, **grey))
    style.legend_below(figure, marks, columns=8)
    style.stamp(figure, frame)
    return None


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    if why := why_missing(frame):
        return page.not_measured(why)
    batches, several, deepest = _layout(frame)
    titles = [page.shape_title(*s) for s in shapes(frame)]
    height = 60 + deepest * max(26, 12 * len(batches))
    chart = page.Chart(titles, "time since the request [s]", "", columns=1 if several else 2, panel_px=height)
    for panel, (prompt, new) in enumerate(shapes(frame)):
        here, names = _placed(rows_of(frame, prompt_tokens=prompt, new_tokens=new), batches, several)
        for i, batch in enumerate(batches):
            own, hue = rows_of(here, batch_size=batch), page.colour(i)
            if not len(own):
                continue
            symbol, key = page.SYMBOLS[i % len(page.SYMBOLS)], f"batch {batch}"
            full, first = (
                {"colour": hue, "symbol": symbol + end, "size": size} for end, size in (("", 7), ("-open", 10))
            )
            chart.line(panel, own, "latency_s", "at", key, full, _hover, mode="markers", x_bars=True)
            chart.line(panel, own, "first_text_s", "at", "", first, _hover, mode="markers", key=key)
            gaps: dict[str, list[float | None]] = {"x": [], "y": []}
            for r in each(own):
                gaps["x"] += [r.first_text_s, r.latency_s, None]
                gaps["y"] += [r.at, r.at, None]
            joined = {"type": "scatter", "mode": "lines", "line": {"color": hue, "width": 1.5}, "opacity": 0.55}
            chart.add(panel, joined | gaps | {"hoverinfo": "skip"}, key=key)
        ticks = {"tickvals": list(range(len(names))), "ticktext": [page.text(n) for n in names]}
        chart.axis(panel, "y", range=[len(names) - 0.4, -0.6], showgrid=False, **ticks)
        chart.log(panel, "x", [*here["first_text_s"], *here["latency_low_s"], *here["latency_high_s"]])
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    steps = [] if pd.isna(row.steps) else [f"K = {row.steps:.0f}"]
    first = f"{page.amount('first text', row.first_text_s, None, None, 's')} ({row.first_text_tokens:.0f} tokens)"
    between = [] if pd.isna(row.inter_token_s) else [f"then {page.number(row.inter_token_s * 1e3)} ms a token"]
    full = page.amount("full text", row.latency_s, row.latency_low_s, row.latency_high_s, "s")
    return [row.series, *steps, f"batch size {row.batch_size}", first, *between, full]
