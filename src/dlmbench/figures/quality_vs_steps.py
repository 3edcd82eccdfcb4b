"""Quality against diffusion steps, a panel for each metric, the baseline as a band, S_parity marked.

How many steps does diffusion need to match the quality of the baseline (S_parity)?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from dlmbench.analysis.parity import Parity
from dlmbench.analysis.quality import MetricInfo, Quality, metric_for
from dlmbench.analysis.study import Curve, Study
from dlmbench.charts import frames, style
from dlmbench.types import Run

ORDER = 30
_PARITY = "S_parity at margin 0"
_OUTCOMES = {"not_reached": "not reached", "undecided": "undecided"}


@dataclass(frozen=True, kw_only=True)
class QualityPoint(frames.Point):
    """A point of the figure. kind: curve, baseline, truth (the true text's own score) or parity.

    A parity row has steps and value only where S_parity at margin 0 is reached. steps_low and steps_high are its 95%
    interval, empty where that end is beyond the largest K measured; share_reached is the share of resamples that
    reach parity.
    """

    metric: str = ""
    unit: str = ""
    higher_is_better: bool | None = None
    steps: float | None = None
    steps_low: float | None = None
    steps_high: float | None = None
    share_reached: float | None = None
    value: float | None = None
    value_low: float | None = None
    value_high: float | None = None
    texts: int | None = None


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every metric of every step count, once for each set of texts (batch size does not matter), with its baseline."""
    rows: list[QualityPoint] = []
    seen: set[tuple[str, str, int, int]] = set()
    truths: dict[tuple[str, int, int], QualityPoint] = {}
    for curve in study.curves:
        shape = (curve.prompt_tokens, curve.new_tokens)
        if ("curve", curve.label, *shape) in seen:
            continue
        cells = [("curve", curve.label, p) for p in curve.points]
        if base := curve.quality_baseline:
            cells.append(("baseline", study.label(base.cell), base))
        for kind, series, cell in cells:
            if kind == "baseline" and (kind, series, *shape) in seen:
                continue
            for q in cell.quality:
                if reference_for := q.metric.truth_of:
                    metric = MetricInfo(reference_for, q.metric.unit, higher_is_better=False)
                    truths.setdefault((reference_for, *shape), _point(curve, "truth", "true text", metric, q))
                else:
                    rows.append(_point(curve, kind, series, q.metric, q, steps=cell.cell.steps))
        seen |= {(kind, series, *shape) for kind, series, _ in cells}
        for metric in study.metrics:
            if parity := curve.parity(metric.name):
                rows.append(_point(curve, "parity", curve.label, metric, None, **_parity_columns(parity.parity)))
    if not any(r.kind == "curve" for r in rows):
        return frames.table(QualityPoint, [], _reason_if_empty(study))
    return frames.table(QualityPoint, [*rows, *truths.values()], "")


def _point(
    curve: Curve, kind: str, series: str, metric: MetricInfo, quality: Quality | None, **columns: Any
) -> QualityPoint:
    """A point at the lengths of `curve`."""
    shared: dict[str, Any] = {"metric": metric.name, "unit": metric.unit, "higher_is_better": metric.higher_is_better}
    shared |= {"prompt_tokens": curve.prompt_tokens, "new_tokens": curve.new_tokens}
    if quality is not None:
        shared |= {"value": quality.value, "value_low": quality.low, "value_high": quality.high, "texts": quality.n}
    return QualityPoint(kind=kind, series=series, **shared | columns)


def _parity_columns(parity: Parity) -> dict[str, Any]:
    columns = {"steps": parity.steps, "share_reached": _share_reached(parity), "note": _note(parity)}
    if parity.steps is None:
        return columns
    value = next((p.value for p in parity.points if p.steps == parity.steps), None)
    return columns | {"value": value, "steps_low": parity.low_steps, "steps_high": parity.high_steps}


def _share_reached(parity: Parity) -> float | None:
    """The share of resamples in which parity is at one of the measured step counts; None for a single text."""
    known = [p.share for p in parity.points if p.share is not None]
    return sum(known) if known else None


def _note(parity: Parity) -> str:
    """S_parity with its interval, or why there is none."""
    if parity.steps is None:
        share = _share_reached(parity)
        suffix = f" (found in {share:.0%} of resamples)" if share else ""
        return _OUTCOMES[parity.outcome] + (suffix if parity.outcome == "undecided" else "")
    fewer = " or fewer" if parity.outcome == "reached_at_smallest" else ""
    beyond = f"beyond {parity.points[-1].steps}"
    return f"K = {parity.steps}{fewer} ({parity.low_steps or beyond} to {parity.high_steps or beyond})"


def _reason_if_empty(study: Study) -> str:
    if any(c.weights == "random" for c in study.curves):
        return "the weights are random, so quality means nothing"
    return "no metric has been scored" if study.curves else "no diffusion cell with a step count"


def caption(frame: pd.DataFrame) -> str:
    """What is shown, and S_parity in numbers."""
    text = (
        "Quality against diffusion steps, with 95% intervals from a bootstrap over prompts. These are unpaired; parity "
        "is tested prompt by prompt, which is more sensitive. The horizontal bar through each ring is the 95% interval "
        "of S_parity, over resamples of the prompts. Bands: the autoregressive baseline."
    )
    if (frame["metric"] == metric_for("likelihood")).any():
        text += " The likelihood is the sampler's, with tokens drawn at temperature 1."
    if single := list(dict.fromkeys(frame["metric"][frame["texts"] == 1])):
        text += f" A single text was scored by {', '.join(single)}: there is no interval."
    marks = [
        f"{r.metric} ({frames.short(r.series)}, P={int(r.prompt_tokens)}, G={int(r.new_tokens)}): {r.note}"
        for r in frames.each(frame, kind="parity")
    ]
    return text + (f" {_PARITY}: {'; '.join(marks)}." if marks else "")


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each metric and pair of lengths, in the order of the metrics."""
    shown = style.named(frame)
    has_shapes = len(frames.shapes(shown)) > 1
    shown = shown.assign(panel=[_title(r, has_shapes) for r in frames.each(shown)])
    order = list(dict.fromkeys(shown["metric"]))
    shown = shown.sort_values("metric", key=lambda names: names.map(order.index), kind="stable")
    # An end of S_parity's interval beyond the largest step count is drawn there.
    largest = frames.rows(frame, kind="curve")["steps"].max()
    is_parity = shown["kind"] == "parity"
    ends = {c: shown[c].where(shown[c].notna() | ~is_parity, largest) for c in ("steps_low", "steps_high")}
    shown = style.with_tooltip(shown.assign(**ends), value=("value", ""))
    tips, looks = style.tooltip(shown, "metric", "unit", "texts"), style.series_looks(shown[shown["kind"] != "truth"])
    x = style.log2_axis("steps", "diffusion steps K", list(frames.rows(frame, kind="curve")["steps"]))
    y = style.axis("value", "", list(shown["value"]), zero=False)
    reached = style.where("parity", also="isValid(datum.steps)")
    truth = style.where("truth").mark_rule(color=style.ALARM, strokeDash=style.DOTTED, strokeWidth=1.5)
    parity = reached.mark_rule(color=style.INK).encode(x=style.of(x, "steps_low"), x2="steps_high", y=y)
    layers = [
        *style.bands(style.where("baseline"), y, "value", looks, tips),
        truth.encode(y=y, tooltip=tips),
        *style.curves(style.where("curve"), x, y, "value", looks, tips),
        parity,
        style.ring(reached, x, y, style.tooltip(shown, "note")),
    ]
    return style.panels(layers, shown, y="independent")


def _title(row: Any, has_shapes: bool) -> str:
    metric = MetricInfo(str(row.metric), str(row.unit), bool(row.higher_is_better))
    shape = f", {frames.shape_title(row.prompt_tokens, row.new_tokens)}" if has_shapes else ""
    return f"{metric.title}{shape}"
