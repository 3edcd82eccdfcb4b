"""Memory above the weights over sequence length and batch size, a map for each setting, out of memory marked.

The largest over all step counts at that shape: what must fit into the device.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.results import Study
from dlmbench.analysis.stats import group_by
from dlmbench.charts import frames, style
from dlmbench.models.loading import architectures
from dlmbench.roofline.operators import ELEMENT_BYTES
from dlmbench.types import Run

# kind: ok, oom (no step count fitted), or some_oom (the peak is of the others).
# weight_bytes: None where the model's shape is not known here; then the whole peak is drawn.
COLUMNS = ("sequence_tokens", "peak_bytes", "weight_bytes", "source")


def points(run: Run, study: Study) -> pd.DataFrame:
    """The largest peak of each (series, sequence length, batch size), and where memory ran out."""
    known, _ = architectures(dict.fromkeys(s.cell.model for s in study.cells))
    cells = [
        row
        | frames.memory_columns(summary)
        | {
            "kind": "oom" if summary.status == "oom" else "ok",
            "sequence_tokens": cell.sequence_length,
            "weight_bytes": known[key].parameters * ELEMENT_BYTES[cell.precision] if key in known else None,
        }
        for row, summary in frames.cells(study)
        for cell, key in [(summary.cell, summary.cell.model.key)]
        if summary.memory is not None or summary.status == "oom"
    ]
    groups = group_by(cells, lambda row: (row["series"], row["sequence_tokens"], row["batch_size"]))
    return frames.table(COLUMNS, [_largest(group) for group in groups.values()], "no memory pass was run")


def _drawn(frame: pd.DataFrame) -> tuple[pd.Series[float], str]:
    """What is drawn in bytes, and its name: memory above the weights where those of all models are known."""
    above = frame["peak_bytes"].astype(float) - frame["weight_bytes"].astype(float)
    if frame["weight_bytes"].notna().all() and (above.dropna() >= 0).all():
        return above, "memory above the weights"
    return frame["peak_bytes"].astype(float), "peak memory"


def _largest(group: list[frames.Row]) -> frames.Row:
    top = max(group, key=lambda row: row["peak_bytes"] or 0)
    failure = next((row for row in group if row["kind"] == "oom"), None)
    if top["peak_bytes"] is None or failure is None:
        return top
    return top | {"kind": "some_oom", "note": failure["note"]}


def caption(frame: pd.DataFrame) -> str:
    """What is shown, which memory it is, and where memory ran out."""
    oom = " OOM: out of memory." if frame["peak_bytes"].isna().any() else ""
    places = frame["series"].nunique() * frame["sequence_tokens"].nunique() * frame["batch_size"].nunique()
    blank = " Blank: not measured." if len(frame) < places else ""
    some = " A star: some step counts ran out of memory." if (frame["kind"] == "some_oom").any() else ""
    return (
        f"{_drawn(frame)[1].capitalize()} of one generation ({frames.sources(frame) or 'none measured'}) by sequence "
        "length (prompt and new tokens) and batch size: the largest over all step counts."
        f"{oom}{some}{blank}"
    )


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each series, in one colour scale; the text in a place says what its colour shows."""
    drawn, name = _drawn(frame)
    size, unit = frames.memory_unit(drawn.max())
    peak = drawn / size
    texts = [
        "OOM" if pd.isna(p) else f"{p:.{1 if unit == 'GiB' else 0}f}" + ("*" if kind == "some_oom" else "")
        for p, kind in zip(peak, frame["kind"], strict=True)
    ]
    # From zero, so that a difference of a few percent is no change of colour.
    most = float(peak.fillna(0).max()) or 1.0
    shown = frames.with_panels(frame, *frames.series_texts(frame))
    shown = shown.assign(peak=peak, text=texts, is_light=peak > most / 2)
    shown, tips = style.with_tooltip(shown, "sequence_tokens", "source", "note", peak_memory=("peak", unit))
    x: Any = alt.X("batch_size:O", title="batch size", axis=alt.Axis(labelAngle=0))
    y: Any = alt.Y("sequence_tokens:O", title="sequence length [tokens]", sort="descending")
    ramp = alt.Scale(domain=[0, most], range=list(style.RAMP))
    color: Any = alt.Color("peak:Q", scale=ramp, legend=alt.Legend(title=f"{name} [{unit}]"))
    known, out = style.where(also="isValid(datum.peak)"), style.where(also="!isValid(datum.peak)")
    text = known.mark_text().encode(x=x, y=y, text="text:N")
    layers = [
        known.mark_rect().encode(x=x, y=y, color=color, tooltip=tips),
        out.mark_rect(filled=False, stroke=style.ALARM).encode(x=x, y=y, tooltip=tips),
        out.mark_text(color=style.ALARM, fontWeight="bold").encode(x=x, y=y, text="text:N"),
        text.transform_filter("datum.is_light").encode(color=alt.value("black")),
        text.transform_filter("!datum.is_light").encode(color=alt.value("white")),
    ]
    return style.panels(layers, shown)
