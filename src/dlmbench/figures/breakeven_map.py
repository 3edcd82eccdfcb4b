"""Which model wins where: break-even k* over batch size and length, and S_parity, the steps needed for equal quality.

Below k* diffusion is faster, above it the baseline: where S_parity is below k*, diffusion wins at equal quality. k* is
measured where the curve crosses the baseline, and predicted for the run's device elsewhere; the prediction uses the
device's data sheet and the models' shapes, not the measurements of this run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.study import Curve, Study
from dlmbench.analysis.winners import winner_of
from dlmbench.charts import frames, style
from dlmbench.models.loading import architecture_of
from dlmbench.roofline.break_even import break_even_surface
from dlmbench.roofline.hardware import of_device
from dlmbench.types import Architecture, Cell, Run

ORDER = 40
_NOTHING = "no break-even is known: it needs a baseline and two step counts, or a known device"
# A line ends here where not even one step breaks even, also where the model predicts less than none.
_LOWEST = 0.5
_MOST_NUMBERS = 6  # in a caption
MARKS = {"measured": "circle", "extrapolated": "square", "parity": "diamond"}
# These batch sizes are predicted beside the run's own.
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class BreakEvenMark(frames.Point):
    """kind: measured, extrapolated (measured, but outside the step counts timed), predicted (without interval), or
    parity: S_parity at margin 0 and the step counts between which it may lie, with the verdict as its note.
    """

    steps: float | None = None
    steps_low: float | None = None
    steps_high: float | None = None
    device: str = ""


def points(run: Run, study: Study) -> pd.DataFrame:
    """The measured break-even and S_parity of every curve, and the break-evens predicted for the run's device."""
    rows = [*_measured(study), *_predicted(run, study), *_parities(study)]
    return frames.table(BreakEvenMark, rows, _NOTHING)


def _point(curve: Curve, kind: str, steps: float | None, **columns: Any) -> BreakEvenMark:
    """A point of `curve`, at its batch size unless another is given."""
    shape = {"batch_size": curve.batch_size, "prompt_tokens": curve.prompt_tokens, "new_tokens": curve.new_tokens}
    return BreakEvenMark(kind=kind, series=curve.label, weights=curve.weights, steps=steps, **(shape | columns))


def _measured(study: Study) -> Iterator[BreakEvenMark]:
    for curve in study.curves:
        line = curve.break_even
        if line is not None and line.steps is not None and line.steps > 0:
            kind = "extrapolated" if line.is_extrapolated else "measured"
            note = f"largest distance of a median from the line: {line.largest_residual:.1%}"
            yield _point(curve, kind, line.steps, steps_low=line.low, steps_high=line.high, note=note)


def _parities(study: Study) -> Iterator[BreakEvenMark]:
    for curve in study.curves:
        won = winner_of(curve)
        if won.parity is not None:
            parity = won.parity.parity
            low, high = (parity.low_steps, parity.high_steps) if parity.steps else (None, None)
            note = f"{won.verdict}: {won.reason}"
            yield _point(curve, "parity", parity.steps, steps_low=low, steps_high=high, note=note)


def _predicted(run: Run, study: Study) -> Iterator[BreakEvenMark]:
    device = of_device(run.environment.device) if run.environment else None
    if device is None or not study.curves or not study.baselines:
        return
    own = {c.batch_size for c in study.curves}
    batches = sorted(own | {b for b in _BATCHES if min(own) <= b})
    seen: set[tuple[str, int, int]] = set()
    for curve in study.curves:
        shape = (curve.label, curve.prompt_tokens, curve.new_tokens)
        baseline = _with_shape((curve.baseline or study.baselines[0]).cell)
        target = _with_shape(curve.points[0].cell)
        if shape in seen or baseline is None or target is None:
            continue
        seen.add(shape)
        wanted = [(curve.prompt_tokens, curve.new_tokens, b) for b in batches]
        for p in break_even_surface(baseline, target, device, wanted):
            yield _point(curve, "predicted", p.steps, batch_size=p.batch_size, device=device.name)


def _with_shape(cell: Cell) -> tuple[Cell, Architecture] | None:
    found = architecture_of(cell.model)
    return None if isinstance(found, str) else (cell, found)


def caption(frame: pd.DataFrame) -> str:
    """What is shown, what the prediction is based on, and the measured values."""
    text = (
        "Break-even k*, the number of diffusion steps that takes as long as the autoregressive baseline, against batch "
        "size: below it diffusion is faster, above it the baseline. "
    )
    if devices := [d for d in dict.fromkeys(frame["device"]) if d]:
        text += (
            f"Lines: predicted for the {devices[0]} by the corrected roofline with its default efficiencies, "
            "which come from studies on H200s. "
        )
    measured = frame[frame["kind"].isin(["measured", "extrapolated"])]
    if len(measured) > _MOST_NUMBERS:
        return f"{text}{len(measured)} are measured: their numbers and intervals are in the table beside the figure."
    marks = [
        f"{frames.where(r)}: {r.steps:.3g}"
        + (f" ({r.steps_low:.3g} to {r.steps_high:.3g})" if pd.notna(r.steps_low) else "")
        + (", extrapolated" if r.kind == "extrapolated" else "")
        for r in frames.each(measured)
    ]
    text += f"Measured (95% interval): {'; '.join(marks)}." if marks else "No break-even was measured."
    verdicts = [f"{frames.where(r)}: {r.note}" for r in frames.each(frame, kind="parity")]
    if not verdicts:
        return text
    text += " Diamonds: S_parity at margin 0, where it was reached; below k*, diffusion wins at equal quality."
    return text + (f" Verdicts: {'; '.join(verdicts)}." if len(verdicts) <= _MOST_NUMBERS else "")


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each pair of lengths: lines are predicted, marks measured."""
    known = frame.dropna(subset=["steps"])
    if known.empty:
        return style.notice(f"not measured: {_NOTHING}")
    shown = known.assign(
        steps=known["steps"].clip(lower=_LOWEST), panel=[frames.shape_title(p, n) for p, n in _shapes(known)]
    ).sort_values(["prompt_tokens", "new_tokens"], kind="stable")
    shown = style.with_tooltip(shown, break_even=("steps", "steps"))
    tips, looks = style.tooltip(shown, "kind", "note"), style.series_looks(shown, has_lines_only=True)
    x = style.log2_axis("batch_size", "batch size", list(shown["batch_size"]))
    y = style.axis("steps", "break-even steps k*", [1.0, *shown["steps"], *shown["steps_high"]])
    measured = style.where(*MARKS)
    kinds = [kind for kind in MARKS if kind in set(shown["kind"])]
    shapes = alt.Scale(domain=kinds, range=[MARKS[kind] for kind in kinds])
    shape: Any = alt.Shape("kind:N", scale=shapes, sort=None, legend=alt.Legend(title=None))
    line = style.where("predicted").mark_line().encode(x=x, y=y, color=looks.color, strokeDash=looks.dash)
    one = style.once().mark_rule(color=style.HALF).encode(y=alt.datum(1))
    filled = style.where("measured").mark_point(filled=True, opacity=1)
    layers = [
        one,
        line,
        style.intervals(measured, x, y, "steps", looks.color),
        measured.mark_point(opacity=1).encode(x=x, y=y, color=looks.color, shape=shape, tooltip=tips),
        filled.encode(x=x, y=y, color=looks.color, shape=shape, tooltip=tips),
    ]
    return style.panels(layers, shown)


def _shapes(frame: pd.DataFrame) -> Iterator[tuple[int, int]]:
    yield from zip(frame["prompt_tokens"], frame["new_tokens"], strict=True)
