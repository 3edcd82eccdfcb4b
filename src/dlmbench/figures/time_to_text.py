"""Time to first text and to full text, the baseline next to diffusion.

The reader of an autoregressive model sees the first token at once and reads along; the reader of a diffusion model sees
nothing until the first block is final, and with a single block that is the whole text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from dlmbench.analysis.study import CellSummary, Study
from dlmbench.charts import frames, style
from dlmbench.types import Run


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
    """What is shown, and how long the first text is."""
    blocks = sorted({int(n) for n in frames.diffusion(frame)["first_text_tokens"]})
    size = f" ({' or '.join(map(str, blocks))} tokens at once)" if blocks else ""
    return (
        "Time to the first text (open marks) and to the full text (filled marks, medians with 95% intervals), joined "
        "by a line; level lines: the autoregressive baseline's, dotted for its first text. The first text is the first "
        f"token of the autoregressive baseline, or the first final block of diffusion{size}; where that block is the "
        "whole text, both are the same. The first text is timed in one traced generation and has no interval."
    )


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each pair of lengths and batch size."""
    shown = style.by_shape_and_batch(style.named(frame))
    shown = style.with_tooltip(
        shown, first_text=("first_text_s", "s"), full_text=("latency_s", "s"), between_tokens=("inter_token_s", "s")
    )
    shown, x = style.steps_axis(shown)
    tips, looks = style.tooltip(shown, "first_text_tokens"), style.series_looks(shown)
    values = [*frame["first_text_s"], *frame["latency_low_s"], *frame["latency_high_s"]]
    y = style.axis("latency_s", "time since the request [s]", values)
    first_y = style.of(y, "first_text_s")
    baseline, diffusion = style.where("baseline"), style.where("curve", "other")
    first = baseline.mark_rule(strokeDash=style.DOTTED, strokeWidth=1.5)
    waiting = diffusion.mark_rule(opacity=0.6).encode(x=x, y=first_y, y2="latency_s", color=looks.color)
    opened = diffusion.mark_point(filled=False, style="open", opacity=1)
    layers = [
        *style.bands(baseline, y, "latency_s", looks, tips),
        first.encode(y=first_y, color=looks.color, tooltip=tips),
        waiting,
        opened.encode(x=x, y=first_y, color=looks.color, shape=looks.shape, tooltip=tips),
        *style.curves(diffusion, x, y, "latency_s", looks, tips)[1:],
    ]
    return style.panels(layers, shown)
