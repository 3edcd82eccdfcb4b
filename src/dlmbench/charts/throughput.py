"""New tokens per second against batch size, as two figures: both models side by side at a K, and how each scales."""

from __future__ import annotations

from collections import Counter
from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.results import Study
from dlmbench.charts import frames, style
from dlmbench.types import Run

OWN = "steps chosen by the sampler"
# compared_steps: the K at which bars are side by side at these lengths.
COLUMNS = ("steps", *frames.interval_columns("tokens_per_s"), "repetitions", "compared_steps")


def points(run: Run, study: Study) -> pd.DataFrame:
    """Median throughput of every timed cell. kind: curve (one for each step count) or baseline."""
    timed = [as_line(row) for row, summary in frames.cells(study) if summary.throughput is not None]
    steps = {lengths: _compared(study, lengths) for lengths in {c.lengths for c in study.curves}}
    rows = [r | {"compared_steps": steps.get((r["prompt_tokens"], r["new_tokens"]))} for r in timed]
    return frames.table(COLUMNS, rows, frames.why_untimed(study))


def _compared(study: Study, lengths: tuple[int, int]) -> int | None:
    """The largest S_parity at these lengths or, where none is known, the K timed in most cells."""
    parities = [v.parity_steps for v in study.verdicts if (v.prompt_tokens, v.new_tokens) == lengths and v.parity_steps]
    timed = Counter(p.cell.steps or 0 for c in study.curves if c.lengths == lengths for p in c.timed)
    return max(parities, default=max(timed, key=lambda k: (timed[k], k), default=None))


def as_line(row: frames.Row) -> frames.Row:
    """The row of a line: samplers that choose their number of steps have one too, a curve without a step count."""
    return row | {"kind": "baseline" if row["kind"] == "baseline" else "curve"}


def caption(shown_as: str, frame: pd.DataFrame) -> str:
    """What is shown, and in which form."""
    return (
        f"Throughput against batch size, {shown_as}: new tokens of the whole batch divided by its latency (prompts "
        "do not count), medians with 95% intervals of the median. Batch sizes that failed are left out."
    )


def line_names(frame: pd.DataFrame) -> list[str]:
    """What has one line: a baseline, a step count, or samplers that choose their own number of steps."""
    names = zip(frame["kind"], frame["series"], frame["steps"], strict=True)
    return [s if kind == "baseline" else OWN if pd.isna(k) else f"K = {k:.0f}" for kind, s, k in names]


def line_looks(frame: pd.DataFrame) -> style.Looks:
    """Looks of the lines of a frame with the column `line`: baselines in ink, step counts from dark to light."""
    lines = list(frames.diffusion(frame).sort_values("steps")["line"].unique())  # without a step count last
    n = len(lines) - (OWN in lines)
    hues = [style.RAMP[round(i * (len(style.RAMP) - 1) / max(n - 1, 1))] for i in range(n)]
    places = {name: place for place, name in enumerate(lines)}
    return style.Looks("line", frames.names(frame, kind="baseline"), places, [*hues, style.COLOURS[0]])


def _y(frame: pd.DataFrame) -> Any:
    return style.axis("tokens_per_s", "throughput [new tokens/s]", frame)


def side_by_side(frame: pd.DataFrame) -> Any:
    """A panel for each pair of lengths: bars from zero, or dots on a logarithmic axis."""
    is_compared = (frame["kind"] == "baseline") | frame["steps"].isna() | (frame["steps"] == frame["compared_steps"])
    # Lengths at which only the baseline was timed compare nothing, unless nothing else was timed.
    has_diffusion = frame["compared_steps"].notna()
    shown = frame[is_compared & (has_diffusion if has_diffusion.any() else True)]
    shown = style.by_shape(shown, compared_steps="K={:.0f}")
    shown, tips = style.with_tooltip(shown, "repetitions", throughput=("tokens_per_s", "new tokens/s"))
    x: Any = alt.X("batch_size:O", title="batch size", axis=alt.Axis(labelAngle=0, grid=True, tickBand="extent"))
    y = _y(shown)
    is_log = y["scale"]["type"] == "log"
    marks = style.Marks(x, y, style.series_looks(shown, "circle" if is_log else "square"), tips)
    bars = alt.Chart().mark_bar().encode(x=x, y=marks.y, color=marks.looks.color, tooltip=marks.tips)
    values = marks.points(alt.Chart()) if is_log else bars
    ends = marks.intervals(alt.Chart())
    ends = ends if is_log else ends.encode(color=alt.value(style.HALF))
    beside = alt.XOffset("series:N", sort=marks.looks.domain)
    return style.panels([layer.encode(xOffset=beside) for layer in (values, ends)], shown)


def scaling(frame: pd.DataFrame) -> Any:
    """A panel for each (sampler's settings, prompt, new tokens), with the baselines; colour and shape are K.

    The baseline has a panel of its own only where there is nothing else.
    """
    named = style.named(frame)
    of_panels = frames.diffusion(named) if (named["kind"] != "baseline").any() else named
    shown = []
    for _, own in of_panels.groupby(["series", *frames.LENGTHS], sort=False):
        baselines = frames.rows(named, kind="baseline", **own[frames.LENGTHS].iloc[0])
        # The baseline first, so that its stars hide no other point.
        shown.append(pd.concat([baselines, frames.diffusion(own)]).assign(setting=own["series"].iloc[0]))
    drawn = pd.concat(shown, ignore_index=True)
    settings = frames.series_texts(drawn.assign(series=drawn["setting"]))
    drawn = frames.with_panels(drawn.assign(line=line_names(drawn)), *settings, *frames.length_texts(drawn))
    drawn, tips = style.with_tooltip(drawn, "repetitions", throughput=("tokens_per_s", "new tokens/s"))
    x = style.log2_axis("batch_size", "batch size", list(frame["batch_size"]))
    marks = style.Marks(x, _y(frame), line_looks(drawn), tips)
    return style.panels(marks.curves(alt.Chart()), drawn)
