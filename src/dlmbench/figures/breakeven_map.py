"""Which model wins where: break-even k* over batch size and length, and S_parity, the steps needed for equal quality.

Below k* diffusion is faster, above it the baseline: where S_parity is below k*, diffusion wins at equal quality. k* is
measured where the curve crosses the baseline, and predicted for the run's device elsewhere; the prediction uses the
device's data sheet and the models' shapes, not the measurements of this run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.break_even import whole_steps
from dlmbench.analysis.published import PublishedCurve, published_answers, published_of
from dlmbench.analysis.results import Study
from dlmbench.analysis.stats import group_by
from dlmbench.charts import frames, style
from dlmbench.models.loading import architectures
from dlmbench.roofline.break_even import break_even_surface
from dlmbench.roofline.hardware import of_device
from dlmbench.types import Run

ORDER = 40
# kind: measured, extrapolated (measured, but outside the step counts timed), predicted (without interval), or S_parity
# with the step counts between which it may lie: parity (at the leading margin, with the verdict as its note) or
# published (by the scores of others, whose sources are in `source`).
COLUMNS = (*frames.interval_columns("steps"), "device", "source")
_NOTHING = "no break-even is known: it needs a baseline and two step counts, or a known device"
# A line ends here where not even one step breaks even, also where the model predicts less than none.
_LOWEST = 0.5
# These batch sizes are predicted beside the run's own.
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


def points(run: Run, study: Study) -> pd.DataFrame:
    """The measured break-even and S_parity of every curve, and the break-evens predicted for the run's device."""
    measured = [
        frames.curve_row(curve, "extrapolated" if line.is_extrapolated else "measured")
        | frames.break_even_columns(line)
        | {"weights": curve.weights}
        for curve in study.curves
        if (line := curve.break_even) is not None and line.steps is not None and line.steps > 0
    ]
    rows = [*measured, *_predicted(run, study), *_parities(study), *_published(run, study)]
    rows = rows if any(row.get("steps") for row in rows) else []
    return frames.table(COLUMNS, [{"device": "", "source": "", **row} for row in rows], _NOTHING)


def _parities(study: Study) -> Iterator[frames.Row]:
    for curve, verdict in zip(study.curves, study.verdicts, strict=True):
        if verdict.parity is not None:
            steps, low, high = verdict.parity_steps, verdict.low_steps, verdict.high_steps
            columns = frames.with_interval("steps", steps, *((low, high) if steps else (None, None)))
            note = f"{verdict.outcome}: {verdict.reason}"
            yield frames.curve_row(curve, "parity", weights=curve.weights, note=note) | columns


def _published(run: Run, study: Study) -> Iterator[frames.Row]:
    for answer in published_answers(published_of(run), study):
        if answer.curve and answer.measured:
            row = published_row(answer.curve)
            yield row | frames.curve_row(answer.measured, "published", weights=answer.measured.weights)


def published_row(curve: PublishedCurve) -> frames.Row:
    """S_parity of a published curve with the step counts between which it may lie; no steps where it has none."""
    first, base, parity = curve.points[0], curve.baseline, curve.parity
    ends = (parity.low_steps, parity.steps) if parity.steps else (None, None)
    return {
        **frames.with_interval("steps", parity.steps, *ends),
        "note": f"{first.task}, {first.variant}, against {base.value:g}: {parity.outcome}",
        "source": first.source if first.source == base.source else f"{first.source}; {base.source}",
    }


def _predicted(run: Run, study: Study) -> Iterator[frames.Row]:
    device = of_device(run.environment.device) if run.environment else None
    if device is None or not study.curves or not study.baselines:
        return
    own = {c.batch_size for c in study.curves}
    batches = sorted(own | {b for b in _BATCHES if min(own) <= b})
    known, _ = architectures(dict.fromkeys(s.cell.model for s in study.cells))
    for curve, *_ in group_by(study.curves, lambda c: (c.label, c.lengths)).values():
        baseline, target = (curve.baseline or study.baselines[0]).cell, curve.points[0].cell
        if baseline.model.key not in known or target.model.key not in known:
            continue
        models = [(cell, known[cell.model.key]) for cell in (baseline, target)]
        for p in break_even_surface(models[0], models[1], device, [(*curve.lengths, b) for b in batches]):
            columns = {"batch_size": p.batch_size, "steps": p.steps, "device": device.name}
            yield frames.curve_row(curve, "predicted", weights=curve.weights) | columns


def caption(
    frame: pd.DataFrame, efficiencies: str = "its default efficiencies, fitted to runs on H200s (docs/roofline.md)"
) -> str:
    """What is shown, what the prediction is based on, and the measured values."""
    texts = [
        "Break-even k* against batch size: with fewer diffusion steps diffusion is faster, with more the "
        "autoregressive baseline."
    ]
    if devices := [d for d in frame["device"].unique() if d]:
        texts.append(f"Lines: predicted for the {devices[0]} by the corrected roofline with {efficiencies}.")
    if (frame["steps"] < 1).any():
        texts.append("Below 1, not even one step breaks even.")
    kinds = {
        "measured": "Filled marks: measured, with 95% intervals.",
        "extrapolated": "Open marks: extrapolated beyond the step counts timed.",
        "parity": "Rings: S_parity at the leading margin, where it was reached; below k*, both hold.",
    }
    texts += [text for kind, text in kinds.items() if (frame["kind"] == kind).any()]
    if sources := list(frames.rows(frame, kind="published").dropna(subset=["steps"])["source"].unique()):
        at = "Level bars: S_parity by published scores, with the step counts at which it may lie"
        texts.append(f"{at} ({'; '.join(sources)}).")
    return " ".join(texts)


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each pair of lengths: lines are predicted, marks measured."""
    # Lines end where not even one step breaks even.
    known = frame.dropna(subset=["steps"])
    known = known[(known["kind"] != "predicted") | (known["steps"] >= 1)]
    columns = frames.interval_columns("steps")
    whole = known.assign(**{c: known[c].map(whole_steps, na_action="ignore") for c in columns})
    shown, tips = style.with_tooltip(whole, "kind", "note", break_even=("steps", "steps"))
    shown = style.by_shape(shown.assign(**{c: known[c].clip(lower=_LOWEST) for c in columns}))
    x = style.log2_axis("batch_size", "batch size", list(shown["batch_size"]))
    y = style.axis("steps", "break-even steps k*", shown, also=[1.0])
    predicted, measured, parity = (style.where(kind) for kind in ("predicted", "measured", "parity"))
    bars = style.where("published").mark_point(shape="stroke", style="open", opacity=1, strokeWidth=2)
    # One legend: of the lines where there are some, whose colours the marks have.
    symbol = "stroke" if (shown["kind"] == "predicted").any() else "circle"
    marks = style.Marks(x, y, style.series_looks(shown, symbol), tips)
    layers = [
        style.once().mark_rule(color=style.HALF).encode(y=alt.datum(1)),
        marks.line(predicted),
        marks.intervals(style.where("measured", "parity", "published")),
        bars.encode(x=x, y=y, color=marks.looks.color, tooltip=tips),
        marks.points(measured),
        marks.points(style.where("extrapolated"), filled=False, style="open"),
        marks.rings(parity).encode(color=marks.looks.color),
    ]
    return style.panels(layers, shown)
