"""Time to first text and to full text, the baseline beside diffusion: who waits how long, and for what.

The reader of an autoregressive model sees the first token at once and reads along; the reader of a diffusion model sees
nothing until the first block is final, and with a single block that is the whole text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dlmbench.analysis.study import CellSummary, Study
from dlmbench.charts import frames, page, style
from dlmbench.types import Run

_X_TITLE = "time since the request [s]"
MOST_ROWS = 14
_KINDS = ("baseline", "curve", "other")  # from top to bottom


@dataclass(frozen=True, kw_only=True)
class TextPoint(frames.Point):
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
    rows = [row for kind, cell in frames.cells_by_kind(study) if (row := _point(kind, study, cell)) is not None]
    why = "no cell was timed" if any(s.latency for s in study.cells) else "no cell was traced"
    return frames.table(TextPoint, rows, why)


def _point(kind: str, study: Study, summary: CellSummary) -> TextPoint | None:
    cell, latency = summary.cell, summary.latency
    if latency is None or summary.first_text_s is None:
        return None
    block = cell.knob("block_length")
    tokens = 1 if kind == "baseline" else min(block, cell.new_tokens) if isinstance(block, int) else cell.new_tokens
    # With one block both are the same moment, and many timed generations measure it better than one traced.
    at_once = kind != "baseline" and tokens == cell.new_tokens
    return TextPoint.of(
        cell,
        kind,
        study.label(cell),
        steps=cell.steps,
        note="one block: the first text is the full text" if at_once else "",
        first_text_s=latency.median if at_once else summary.first_text_s,
        first_text_tokens=tokens,
        inter_token_s=summary.inter_token_s,
        repetitions=latency.n,
        **frames.median_columns("latency_s", latency),
    )


def caption(frame: pd.DataFrame) -> str:
    """What the picture shows, how long the first text is, and whether the picture leaves something out."""
    if len(_for_paper(frame)) == len(frame):
        return page_caption(frame)
    return f"{page_caption(frame)} Drawn: the smallest and the largest of many; all are in the table beside the figure."


def page_caption(frame: pd.DataFrame) -> str:
    """The same for the page, which leaves nothing out."""
    blocks = sorted({int(n) for n in frames.diffusion(frame)["first_text_tokens"]})
    size = f" ({' or '.join(map(str, blocks))} tokens at once)" if blocks else ""
    return (
        "Time to the first text (open marks) and to the full text (filled marks, medians with 95% intervals). The "
        f"first text is the first token of the autoregressive baseline, or the first final block of diffusion{size}; "
        "where that block is the whole text, both are the same. The first text is timed in one traced generation and "
        "has no interval."
    )


def _placed(rows: pd.DataFrame, batches: list[int], has_settings: bool) -> tuple[pd.DataFrame, list[str]]:
    """The rows of one panel with their height `at`, batches beside one another, and the names of the settings.

    A setting is a series with a step count (0: it chooses its own): baselines on top, then by series and steps.
    """
    series = frames.names(rows)
    keys = [
        (_KINDS.index(r.kind), series.index(r.series), 0 if pd.isna(r.steps) else r.steps) for r in frames.each(rows)
    ]
    settings = sorted(set(keys))
    shifts = [(batches.index(b) - (len(batches) - 1) / 2) * 0.72 / len(batches) for b in rows["batch_size"]]
    labels = []
    for kind, i, steps in settings:
        diffusion = frames.short(series[i]) if has_settings else series[i].partition(", ")[0]
        labels.append(frames.with_steps(diffusion if kind else series[i], steps or None))
    return rows.assign(at=[settings.index(key) + shift for key, shift in zip(keys, shifts, strict=True)]), labels


def _has_settings(frame: pd.DataFrame) -> bool:
    """Whether several settings of diffusion are compared."""
    return len(set(frames.diffusion(frame)["series"])) > 1


def _panels(frame: pd.DataFrame) -> tuple[dict[str, tuple[pd.DataFrame, list[str]]], int]:
    """Title, placed rows and names of the settings of each panel, and the most settings of a panel."""
    batches, has_settings = frames.batch_sizes(frame), _has_settings(frame)
    groups = {title: _placed(here, batches, has_settings) for title, here in frames.by_shape(frame).items()}
    return groups, max(len(labels) for _, labels in groups.values())


def _for_paper(frame: pd.DataFrame) -> pd.DataFrame:
    """The smallest and largest batch and, where rows are many, step count of each series; the page shows them all."""
    diffusion = frames.diffusion(frame)
    shown = frame[frame["batch_size"].isin(frames.ends((diffusion if len(diffusion) else frame)["batch_size"]))]
    if _panels(shown)[1] <= MOST_ROWS:
        return shown
    kept = {s: frames.ends(own["steps"].dropna()) for s, own in shown.groupby("series")}
    return shown[[pd.isna(k) or k in kept[s] for s, k in zip(shown["series"], shown["steps"], strict=True)]]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """A panel for each (prompt, new tokens), a row for each setting; colour is batch size."""
    frame = _for_paper(frame)
    batches, (groups, deepest) = frames.batch_sizes(frame), _panels(frame)
    height = 0.75 + deepest * max(0.2, 0.085 * len(batches) + 0.06)
    # The names of settings are long: they need the width of two panels.
    panels = style.panels(figure, groups, height, columns=1 if _has_settings(frame) else 2)
    looks: dict[int, dict[str, Any]] = {
        b: {"color": style.colour(i), "marker": style.marker(i), "linestyle": "none"} for i, b in enumerate(batches)
    }
    hollow: dict[str, Any] = {"markersize": 6.5, "markerfacecolor": "none"}
    for axes, (here, labels) in zip(panels, groups.values(), strict=True):
        for batch, look in looks.items():
            own = frames.rows(here, batch_size=batch)
            axes.hlines(
                own["at"], own["first_text_s"], own["latency_s"], color=look["color"], linewidth=1.1, alpha=0.55
            )
            style.with_intervals(axes, own, "latency_s", "at", x_bars=True, markersize=4, **look)
            axes.plot(own["first_text_s"], own["at"], **hollow, **look)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        style.log_axis(axes, [*here["first_text_s"], *here["latency_low_s"], *here["latency_high_s"]], "x")
        axes.set(xlabel=_X_TITLE)
    handles = [style.key(f"batch {batch}", **look) for batch, look in looks.items()]
    grey: dict[str, Any] = {"color": "grey", "marker": "o", "linestyle": "none"}
    handles += [style.key("first text", **hollow, **grey), style.key("full text", markersize=4, **grey)]
    style.legend_below(figure, handles, columns=8)


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    batches, (groups, deepest) = frames.batch_sizes(frame), _panels(frame)
    columns, height = (1 if _has_settings(frame) else 2), 60 + deepest * max(26, 12 * len(batches))
    chart = page.Chart(groups, _X_TITLE, "", columns=columns, panel_px=height)
    for panel, (here, labels) in enumerate(groups.values()):
        for i, batch in enumerate(batches):
            own, hue, key = frames.rows(here, batch_size=batch), page.colour(i), f"batch {batch}"
            if own.empty:
                continue
            symbol = page.SYMBOLS[i % len(page.SYMBOLS)]
            full = {"colour": hue, "symbol": symbol}
            first = {"colour": hue, "symbol": f"{symbol}-open", "size": 10}
            chart.line(panel, own, "latency_s", "at", key, full, _hover, mode="markers", x_bars=True)
            chart.line(panel, own, "first_text_s", "at", "", first, _hover, mode="markers", key=key)
            x = [v for r in frames.each(own) for v in (r.first_text_s, r.latency_s, None)]
            y = [v for r in frames.each(own) for v in (r.at, r.at, None)]
            chart.stroke(panel, x, y, hue, key, opacity=0.55)
        ticks = {"tickvals": list(range(len(labels))), "ticktext": [page.text(label) for label in labels]}
        chart.axis(panel, "y", range=[len(labels) - 0.4, -0.6], showgrid=False, **ticks)
        chart.log(panel, "x", [*here["first_text_s"], *here["latency_low_s"], *here["latency_high_s"]])
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    first = f"{page.amount('first text', row, 'first_text_s', 's')} ({row.first_text_tokens:.0f} tokens)"
    between = [] if pd.isna(row.inter_token_s) else [f"then {page.number(row.inter_token_s * 1e3)} ms a token"]
    return [row.series, *page.settings(row), first, *between, page.amount("full text", row, "latency_s", "s")]
