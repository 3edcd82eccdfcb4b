"""Who wins where: break-even k* over batch size and length, and S_parity, the steps needed for equal quality.

Below k* diffusion is faster, above it the baseline: where S_parity is below k*, diffusion wins at equal quality. k* is
measured where the curve crosses the baseline, and predicted for the run's device elsewhere; the prediction uses the
device's data sheet and the models' shapes, not the measurements of this run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dlmbench.analysis.study import Curve, Study
from dlmbench.analysis.winners import winner_of
from dlmbench.charts import frames, page, style
from dlmbench.models.loading import architecture_of
from dlmbench.roofline.break_even import break_even_surface
from dlmbench.roofline.hardware import of_device
from dlmbench.types import Architecture, Cell, Run

ORDER = 40
_X, _Y = "batch_size", "steps"
_X_TITLE, _Y_TITLE = "batch size", "break-even steps k*"
_NOTHING = "no break-even is known: it needs a baseline and two step counts, or a known device"
# A line ends here where not even one step breaks even, also where the model predicts less than none.
_LOWEST = 0.5
_MOST_NUMBERS = 6  # in a caption
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


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """A panel for each of the sampler's settings; colour is the pair of lengths."""
    frame = frame.dropna(subset=["steps"])
    if frame.empty:
        style.not_measured(figure, _NOTHING)
        return
    series, titles = frames.names(frame), list(frames.by_shape(frame))
    grey: dict[str, Any] = {"color": "grey", "linestyle": "none"}
    marks: dict[str, tuple[str, dict[str, Any]]] = {
        "measured": ("mark: measured", {"marker": "o"}),
        "extrapolated": ("extrapolated", {"marker": "o", "markerfacecolor": "white"}),
        "parity": ("S_parity", {"marker": "D", "markerfacecolor": "white"}),
    }
    for axes, name in zip(style.panels(figure, series, 3.0), series, strict=True):
        for i, here in enumerate(frames.by_shape(frames.rows(frame, series=name), frame).values()):
            hue = style.colour(i)
            line = frames.rows(here, kind="predicted").sort_values(_X)
            axes.plot(line[_X], line[_Y].clip(lower=_LOWEST), color=hue, linestyle=style.LINES[i % 4])
            for kind, (_, look) in marks.items():
                # The pairs of lengths differ in the marker of k* too.
                shape = "D" if kind == "parity" else style.marker(i)
                mark = {"markerfacecolor": hue, "color": hue, "linestyle": "none"} | look | {"marker": shape}
                style.with_intervals(axes, frames.rows(here, kind=kind), _X, _Y, **mark)
        style.log2_axis(axes, list(frame[_X]))
        style.log_axis(axes, [*frame["steps"].clip(lower=1.0), *frame["steps_high"].dropna()])
        if axes.get_yscale() == "log":
            axes.set_ylim(bottom=1.4 * _LOWEST)
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.set(xlabel=_X_TITLE, ylabel=_Y_TITLE)
    handles = [style.key(title, **style.look(i) | {"markerfacecolor": None}) for i, title in enumerate(titles)]
    if len(frames.rows(frame, kind="predicted")):
        handles.append(style.key("line: predicted", color="grey", linewidth=1.4))
    handles += [style.key(label, **grey | look) for kind, (label, look) in marks.items() if kind in set(frame["kind"])]
    handles.append(style.key("one step: below it none wins", color="grey", linewidth=0.8))
    style.legend_below(figure, handles, columns=3)


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    frame = frame.dropna(subset=["steps"])
    if frame.empty:
        return page.not_measured(_NOTHING)
    series, drawn = frames.names(frame), frame.assign(steps=frame["steps"].clip(lower=_LOWEST))
    chart = page.Chart(series, _X_TITLE, _Y_TITLE)
    kinds = (
        ("predicted", "predicted k*", "circle", "lines"),
        ("measured", "measured k*", "circle", "markers"),
        ("extrapolated", "extrapolated k*", "circle-open", "markers"),
        ("parity", "S_parity", "diamond-open", "markers"),
    )
    for panel, name in enumerate(series):
        for i, (title, here) in enumerate(frames.by_shape(frames.rows(drawn, series=name), frame).items()):
            for kind, label, symbol, mode in kinds:
                own, look = frames.rows(here.sort_values(_X), kind=kind), {"colour": page.colour(i), "symbol": symbol}
                chart.line(panel, own, _X, _Y, f"{label}, {title}", look, _hover, mode=mode)
        chart.log2(panel, "x", list(frame[_X]))
        chart.log(panel, "y", list(drawn["steps"]))
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    steps = page.amount("steps", row, "steps", "")
    return [f"batch size {row.batch_size}", steps, *([row.note] if row.note else [])]
