"""Time to first text and to full text, the baseline next to diffusion.

The reader of an autoregressive model sees the first token at once and reads along; the reader of a diffusion model sees
nothing until the first block is final, and with a single block that is the whole text.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from dlmbench.analysis.results import Study
from dlmbench.charts import frames, style
from dlmbench.types import Run

# first_text_s: to the first token (baseline) or first final block (diffusion), a text of first_text_tokens.
# inter_token_s: between tokens from then on, of the baseline only.
COLUMNS = (
    *("steps", "first_text_s", "first_text_tokens", "inter_token_s"),
    *frames.interval_columns("latency_s"),
    "repetitions",
)


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every cell with both times. kind: baseline, curve or other."""
    rows = [
        row
        | {
            "first_text_s": summary.first_text_s,
            "first_text_tokens": summary.block_length or 1,
            "inter_token_s": summary.inter_token_s,
        }
        for row, summary in frames.cells(study)
        if summary.latency is not None and summary.first_text_s is not None
    ]
    return frames.table(COLUMNS, rows, frames.why_untimed(study, "no cell was traced"))


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the smallest batch and, of its lengths, those with most new tokens, then the longest prompt."""
    for column, extreme in (("batch_size", "min"), ("new_tokens", "max"), ("prompt_tokens", "max")):
        among = frames.diffusion(frame) if len(frames.diffusion(frame)) else frame
        frame = frame[frame[column] == among[column].agg(extreme)]
    return frame


def caption(frame: pd.DataFrame) -> str:
    """What is shown, and how long the first text is."""
    frame = _shown(frame)
    blocks = sorted({int(n) for n in frames.diffusion(frame)["first_text_tokens"]})
    size = f" ({' or '.join(map(str, blocks))} tokens at once)" if blocks else ""
    return (
        "Time to the first text (open marks) and to the full text (filled marks, medians with 95% intervals), joined "
        "by a line; level lines: the autoregressive baseline's, dotted for its first text. The first text is the first "
        f"token of the autoregressive baseline, or the first final block of diffusion{size}; where that block is the "
        "whole text, both are the same. Any other first text is timed in one generation and has no interval. Shown at "
        f"batch size {frame['batch_size'].iloc[0]}; the table has the other workloads."
    )


def chart(frame: pd.DataFrame) -> Any:
    """One panel: the workload that waits longest by itself."""
    frame = _shown(frame)
    shown, x = style.steps_axis(style.by_shape(frame))
    seconds = {"first_text": "first_text_s", "full_text": "latency_s", "between_tokens": "inter_token_s"}
    shown, tips = style.with_tooltip(shown, "first_text_tokens", **{n: (c, "s") for n, c in seconds.items()})
    y = style.axis("latency_s", "time since the request [s]", shown, also=list(shown["first_text_s"]))
    marks, first_y = style.Marks(x, y, style.series_looks(shown), tips), style.of(y, "first_text_s")
    baseline, diffusion, color = style.where("baseline"), style.where("curve", "other"), marks.looks.color
    first = baseline.mark_rule(strokeDash=style.DOTTED, strokeWidth=1.5)
    waiting = diffusion.mark_rule(opacity=0.6)
    layers = [
        *marks.bands(baseline),
        first.encode(y=first_y, color=color, tooltip=tips),
        waiting.encode(x=x, y=first_y, y2="latency_s", color=color),
        marks.points(diffusion, filled=False, style="open").encode(y=first_y),
        marks.intervals(diffusion),
        marks.points(diffusion),
    ]
    return style.panels(layers, shown)
