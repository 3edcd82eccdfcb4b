"""Peak memory over sequence length and batch size, a map for each model, with cells that ran out of memory marked.

The largest over all step counts and settings of a model at that shape: what must fit into the device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.study import Study
from dlmbench.charts import frames, style
from dlmbench.types import Run


@dataclass(frozen=True, kw_only=True)
class MemoryPoint(frames.Point):
    """kind: ok, oom (no setting fitted), or some_oom (the peak is of the others). series is the model."""

    sequence_tokens: int | None = None
    peak_bytes: float | None = None
    source: str = ""


def points(run: Run, study: Study) -> pd.DataFrame:
    """The largest peak of each (model, sequence length, batch size), and where memory ran out."""
    groups: dict[tuple[str, int, int], list[MemoryPoint]] = {}
    for summary in study.cells:
        cell, is_oom = summary.cell, summary.status == "oom"
        if summary.memory is None and not is_oom:
            continue
        point = MemoryPoint.of(
            cell,
            "oom" if is_oom else "ok",
            cell.model.key,
            sequence_tokens=cell.sequence_length,
            # The peak that an allocation failed at is not the memory that the cell needs.
            peak_bytes=summary.memory.bytes if summary.memory and not is_oom else None,
            source=summary.memory.source if summary.memory else "",
            note=summary.reason,
        )
        groups.setdefault((point.series, cell.sequence_length, cell.batch_size), []).append(point)
    rows = [_largest(group) for group in groups.values()]
    return frames.table(MemoryPoint, rows, "no memory pass was run")


def _largest(group: list[MemoryPoint]) -> MemoryPoint:
    top = max(group, key=lambda p: p.peak_bytes or 0)
    failures = [p for p in group if p.kind == "oom"]
    if top.peak_bytes is None or not failures:
        return top
    return replace(top, kind="some_oom", note=failures[0].note)


def caption(frame: pd.DataFrame) -> str:
    """What is shown, which memory it is, and where memory ran out."""
    sources = " and ".join(s for s in dict.fromkeys(frame["source"]) if s) or "none measured"
    oom = " OOM: out of memory." if frame["peak_bytes"].isna().any() else ""
    places = frame["series"].nunique() * frame["sequence_tokens"].nunique() * frame["batch_size"].nunique()
    blank = " Blank: not measured." if len(frame) < places else ""
    some = " A star: some settings ran out of memory." if (frame["kind"] == "some_oom").any() else ""
    return (
        f"Peak memory of one generation ({sources}, weights included) by sequence length (prompt and new tokens) and "
        f"batch size: the largest over all step counts and settings of a model.{oom}{some}{blank}"
    )


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each model, in one colour scale; the text in a place says what its colour shows."""
    size, unit = frames.memory_unit(frame["peak_bytes"].max())
    peak = frame["peak_bytes"].astype(float) / size
    texts = [
        "OOM" if pd.isna(p) else f"{p:.{1 if unit == 'GiB' else 0}f}" + ("*" if kind == "some_oom" else "")
        for p, kind in zip(peak, frame["kind"], strict=True)
    ]
    low, high = peak.min(), peak.max()
    # Weights are in every cell: the scale starts at the smallest peak, so that colour shows what grows.
    low = low if high > 1.02 * low else 0.0
    shown = frame.assign(panel=frame["series"], peak=peak, text=texts, is_light=peak > (low + high) / 2)
    shown = style.with_tooltip(shown, peak_memory=("peak", unit))
    tips = style.tooltip(shown, "sequence_tokens", "source", "note")
    x: Any = alt.X("batch_size:O", title="batch size", axis=alt.Axis(labelAngle=0))
    y: Any = alt.Y("sequence_tokens:O", title="sequence length [tokens]", sort="descending")
    ramp = alt.Scale(domain=[low, high] if len(peak.dropna()) else [0, 1], range=list(style.RAMP))
    color: Any = alt.Color("peak:Q", scale=ramp, legend=alt.Legend(title=f"peak [{unit}]"))
    out = alt.Chart().transform_filter("!isValid(datum.peak)")
    text = alt.Chart().transform_filter("isValid(datum.peak)").mark_text().encode(x=x, y=y, text="text:N")
    layers = [
        alt.Chart().transform_filter("isValid(datum.peak)").mark_rect().encode(x=x, y=y, color=color, tooltip=tips),
        out.mark_rect(filled=False, stroke=style.ALARM).encode(x=x, y=y, tooltip=tips),
        out.mark_text(color=style.ALARM, fontWeight="bold").encode(x=x, y=y, text="text:N"),
        text.transform_filter("datum.is_light").encode(color=alt.value("black")),
        text.transform_filter("!datum.is_light").encode(color=alt.value("white")),
    ]
    return style.panels(layers, shown)
