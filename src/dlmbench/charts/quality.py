"""Quality against diffusion steps, as two figures: the leading metric, and the others."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dlmbench.analysis.parity import Parity
from dlmbench.analysis.quality import MetricInfo, Quality, metric_for
from dlmbench.analysis.results import Curve, Study
from dlmbench.analysis.stats import group_by
from dlmbench.charts import frames, style
from dlmbench.types import Cell, Run

# kind: curve, baseline, truth (the true text's own score) or parity. A parity row has steps and value only where
# S_parity is reached at the metric's leading margin; steps_low is the smallest step count at which it may lie.
COLUMNS = (
    *("metric", "unit", "higher_is_better"),
    *frames.interval_columns("steps"),
    *frames.interval_columns("value"),
    "texts",
)


def points(is_leading: bool, run: Run, study: Study) -> pd.DataFrame:
    """The leading metric of every step count, or all others, once for each set of texts, with its baseline."""
    lead = min(study.metrics, key=lambda m: (not m.decides, m.rank), default=None)
    rows: list[frames.Row] = []
    baselines: set[str] = set()
    truths: dict[tuple[str, tuple[int, int]], frames.Row] = {}
    for curve, *_ in group_by(study.curves, lambda c: tuple(p.cell.quality_key for p in c.points)).values():
        scored = [("curve", _series(curve.label, p.cell), p) for p in curve.points]
        base = curve.quality_baseline
        if base and base.cell.quality_key not in baselines:
            baselines.add(base.cell.quality_key)
            scored.append(("baseline", _series(study.label(base.cell), base.cell), base))
        for kind, series, summary in scored:
            for q in summary.quality:
                if name := q.metric.truth_of:
                    metric = MetricInfo(name, q.metric.unit, higher_is_better=False)
                    truth = _row(curve, "truth", metric, series="true text", **_value(q))
                    truths.setdefault((name, curve.lengths), truth)
                else:
                    rows.append(_row(curve, kind, q.metric, series=series, steps=summary.cell.steps, **_value(q)))
        parities = [p for metric in study.metrics if (p := curve.parity(metric.name))]
        rows += [_row(curve, "parity", p.metric, **_parity_columns(p.parity)) for p in parities]
    rows = [r for r in (*rows, *truths.values()) if lead and (r["metric"] == lead.name) == is_leading]
    if any(row["kind"] == "curve" for row in rows):
        return frames.table(COLUMNS, rows, "")
    why = "no metric has been scored" if study.curves else "no diffusion cell with a step count"
    why = why if is_leading or not study.metrics else "no other metric has been scored"
    return frames.table(COLUMNS, [], frames.why_unscored(study, why))


def _series(label: str, cell: Cell) -> str:
    """The name of a line: with the batch size where texts depend on it."""
    return f"{label}, batch {cell.batch_size}" if cell.texts_depend_on_batch else label


def _row(curve: Curve, kind: str, metric: MetricInfo, **columns: Any) -> frames.Row:
    """A row about a metric at the lengths of `curve`, for all batch sizes."""
    shared = {"metric": metric.name, "unit": metric.unit, "higher_is_better": metric.higher_is_better}
    return frames.curve_row(curve, kind) | {"batch_size": None} | shared | columns


def _value(quality: Quality) -> frames.Row:
    return {**frames.with_interval("value", quality.value, quality.low, quality.high), "texts": quality.n}


def _parity_columns(parity: Parity) -> frames.Row:
    """S_parity as a note, and where it is reached its place with the interval."""
    note = {"note": f"as good from K: {parity.text(parity.points[-1].steps)}"}
    if parity.steps is None:
        return note
    value = next((p.value for p in parity.points if p.steps == parity.steps), None)
    return note | {"value": value} | frames.with_interval("steps", parity.steps, parity.low_steps, parity.steps)


def caption(frame: pd.DataFrame) -> str:
    """What is shown."""
    text = (
        "Quality against diffusion steps, with 95% intervals from a bootstrap over prompts. These are unpaired; parity "
        "is tested prompt by prompt, which is more sensitive. Rings: S_parity at the leading margin, with a bar to the "
        "smallest step count at which it may lie. Bands: the autoregressive baseline. Arrows: the better direction."
    )
    if (frame["metric"] == metric_for("likelihood")).any():
        text += " The likelihood is the sampler's, with tokens drawn at temperature 1."
    if single := list(frames.rows(frame, texts=1)["metric"].unique()):
        text += f" A single text was scored by {', '.join(single)}: there is no interval."
    return text


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each metric and pair of lengths, in the order of the metrics."""
    curve_steps = frames.rows(frame, kind="curve")["steps"]
    metrics = map(MetricInfo, frame["metric"], frame["unit"], frame["higher_is_better"])
    names = [f"{m.display_name} [{m.unit}] {'↑' if m.higher_is_better else '↓'}" for m in metrics]
    # A single metric is the title of the axis, several are those of panels.
    texts = [pd.Series(names, frame.index)] if len(set(names)) > 1 else []
    # An end of S_parity's interval beyond the largest step count is drawn there.
    is_parity = frame["kind"] == "parity"
    ends = {c: frame[c].where(frame[c].notna() | ~is_parity, curve_steps.max()) for c in ("steps_low", "steps_high")}
    shown = frames.with_panels(style.named(frame).assign(**ends), *texts, *frames.length_texts(frame))
    order = list(shown["metric"].unique())
    shown = shown.sort_values("metric", key=lambda names: names.map(order.index), kind="stable")
    shown, tips = style.with_tooltip(shown, "metric", "unit", "texts", value=("value", ""))
    x = style.log2_axis("steps", "diffusion steps K", list(curve_steps))
    y = style.axis("value", "", shown, zero=False)
    y["axis"]["title"] = "" if texts else names[0].replace(" [", "\n[").split("\n")
    marks = style.Marks(x, y, style.series_looks(shown[shown["kind"] != "truth"]), tips)
    reached = style.where("parity", also="isValid(datum.steps)")
    truth = style.where("truth").mark_rule(color=style.ALARM, strokeDash=style.DOTTED, strokeWidth=1.5)
    parity = reached.mark_rule(color=style.INK).encode(x=style.of(x, "steps_low"), x2="steps_high", y=y)
    layers = [
        *marks.bands(style.where("baseline")),
        truth.encode(y=y, tooltip=tips),
        *marks.curves(style.where("curve")),
        parity,
        marks.rings(reached, style.tooltip(shown, "note")),
    ]
    return style.panels(layers, shown, y="independent")
