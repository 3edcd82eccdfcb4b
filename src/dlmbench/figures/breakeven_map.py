"""Who wins where: break-even k* over batch size and length, and over it the steps that quality asks for, S_parity.

Below k* diffusion is the faster one, above it the baseline: where S_parity lies below k*, diffusion wins at equal
quality. k* is measured where the run crosses it, and predicted for its device elsewhere; the prediction knows data
sheet and shapes, not this run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dlmbench.analysis.study import Curve, Study
from dlmbench.analysis.winners import who_wins
from dlmbench.charts import page
from dlmbench.charts import style as _style
from dlmbench.charts.points import Point, each, rows_of, shapes, short, table, why_missing
from dlmbench.models.loading import architecture_of
from dlmbench.roofline.break_even import break_even_surface
from dlmbench.roofline.hardware import of_device
from dlmbench.types import Architecture, Cell, Run

NAME = "breakeven_map"
_NOTHING = "no break-even is known: it needs a baseline and two step counts, or a known device"
_LOWEST = 0.5
_MOST_NUMBERS = 6  # in a caption
# Beyond the run's own, these batch sizes are predicted.
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class BreakEvenMark(Point):
    """kind: measured, extrapolated (measured, but outside the step counts timed), predicted (without interval), or
    parity: S_parity at margin 0 and the step counts between which it may lie, with the verdict as its note.
    """

    steps: float | None = None
    steps_low: float | None = None
    steps_high: float | None = None
    device: str = ""


def points(run: Run, study: Study) -> pd.DataFrame:
    """The measured break-evens of every curve, and the corrected model's on the run's device."""
    rows = [*_measured(study), *_predicted(run, study), *_parities(study)]
    return table(BreakEvenMark, rows, _NOTHING)


def _mark(curve: Curve, **fields: Any) -> BreakEvenMark:
    """A mark where `curve` stands."""
    where = {"batch_size": curve.batch_size, "prompt_tokens": curve.prompt_tokens, "new_tokens": curve.new_tokens}
    return BreakEvenMark(series=curve.label, weights=curve.weights, **(where | fields))


def _measured(study: Study) -> Iterator[BreakEvenMark]:
    for curve in study.curves:
        line = curve.break_even
        if line is not None and line.steps is not None and line.steps > 0:
            yield _mark(
                curve,
                kind="extrapolated" if line.is_extrapolated else "measured",
                steps=line.steps,
                steps_low=line.low,
                steps_high=line.high,
                note=f"largest distance of a median from the line: {line.largest_residual:.1%}",
            )


def _parities(study: Study) -> Iterator[BreakEvenMark]:
    for curve, won in zip(study.curves, who_wins(study), strict=True):
        if won.metric is not None:
            yield _mark(
                curve,
                kind="parity",
                steps=won.parity_steps,
                steps_low=won.parity_low if won.parity_steps else None,
                steps_high=won.parity_high if won.parity_steps else None,
                note=f"{won.verdict}: {won.reason}",
            )


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
            yield _mark(
                curve,
                kind="predicted",
                batch_size=p.batch_size,
                steps=p.steps,
                device=device.name,
            )


def _with_shape(cell: Cell) -> tuple[Cell, Architecture] | None:
    found = architecture_of(cell.model)
    return None if isinstance(found, str) else (cell, found)


def caption(frame: pd.DataFrame) -> str:
    """What is shown, on what the prediction rests, and the measured values in numbers."""
    if why := why_missing(frame):
        return f"Not measured: {why}."
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
        f"{short(r.series)}, B={int(r.batch_size)}, P={int(r.prompt_tokens)}, G={int(r.new_tokens)}: {r.steps:.3g}"
        + (f" ({r.steps_low:.3g} to {r.steps_high:.3g})" if pd.notna(r.steps_low) else "")
        + (", extrapolated" if r.kind == "extrapolated" else "")
        for r in each(measured)
    ]
    verdicts = [
        f"{short(r.series)}, B={int(r.batch_size)}, P={int(r.prompt_tokens)}, G={int(r.new_tokens)}: {r.note}"
        for r in each(frame, kind="parity")
    ]
    text += f"Measured (95% interval): {'; '.join(marks)}." if marks else "No break-even was measured."
    if not verdicts:
        return text
    text += " Diamonds: S_parity at margin 0, where it was reached; below k*, diffusion wins at equal quality."
    return text + (f" Verdicts: {'; '.join(verdicts)}." if len(verdicts) <= _MOST_NUMBERS else "")


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """A panel for each of the sampler's settings; colour is the length."""
    if why := why_missing(frame):
        return _style.not_measured(figure, why)
    frame = frame.dropna(subset=["steps"])
    if frame.empty:
        return _style.not_measured(figure, _NOTHING)
    series, lengths = list(dict.fromkeys(frame["series"])), shapes(frame)
    for axes, name in zip(_style.panels(figure, len(series), 3.0), series, strict=True):
        own = rows_of(frame, series=name)
        for i, (prompt, new) in enumerate(lengths):
            here = rows_of(own, prompt_tokens=prompt, new_tokens=new).sort_values("batch_size")
            line = rows_of(here, kind="predicted")
            # Where not even one step breaks even the line ends below 1, also where the model says less than none.
            axes.plot(
                line["batch_size"],
                line["steps"].clip(lower=_LOWEST),
                color=_style.colour(i),
                linestyle=_style.LINES[i % 4],
            )
            for kind, face in (("measured", _style.colour(i)), ("extrapolated", "white")):
                marks = rows_of(here, kind=kind)
                if len(marks):
                    look = {"color": _style.colour(i), "marker": _style.MARKERS[i % 7], "linestyle": "none"}
                    _style.with_intervals(axes, marks, "batch_size", "steps", markerfacecolor=face, **look)
            asked = rows_of(here, kind="parity").dropna(subset=["steps"])
            if len(asked):
                look = {"color": _style.colour(i), "marker": "D", "linestyle": "none", "markerfacecolor": "white"}
                _style.with_intervals(axes, asked, "batch_size", "steps", **look)
        _style.log2_axis(axes, list(frame["batch_size"]))
        _style.log_axis(axes, [*frame["steps"].dropna().clip(lower=1.0), *frame["steps_high"].dropna()])
        if axes.get_yscale() == "log":
            axes.set_ylim(bottom=1.4 * _LOWEST)
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.set(title=_style.wrapped(name), xlabel="batch size", ylabel="break-even steps k*")
    handles = []
    for i, (prompt, new) in enumerate(lengths):
        style = {"color": _style.colour(i), "marker": _style.MARKERS[i % 7], "linestyle": _style.LINES[i % 4]}
        handles.append(_style.key(f"{prompt} prompt + {new} new tokens", **style))
    if len(rows_of(frame, kind="predicted")):
        handles.append(_style.key("line: predicted", color="grey", linewidth=1.4))
    for kind, words, face in (("measured", "mark: measured", "grey"), ("extrapolated", "extrapolated", "white")):
        if len(rows_of(frame, kind=kind)):
            handles.append(_style.key(words, color="grey", marker="o", linestyle="none", markerfacecolor=face))
    if rows_of(frame, kind="parity")["steps"].notna().any():
        handles.append(_style.key("S_parity", color="grey", marker="D", linestyle="none", markerfacecolor="white"))
    handles.append(_style.key("one step: below it none wins", color="grey", linewidth=0.8))
    _style.legend_below(figure, handles, columns=3)
    _style.stamp(figure, frame)
    return None


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    if why := why_missing(frame):
        return page.not_measured(why)
    frame = frame.dropna(subset=["steps"])
    if frame.empty:
        return page.not_measured(_NOTHING)
    series, lengths = list(dict.fromkeys(frame["series"])), shapes(frame)
    chart = page.Chart(series, "batch size", "break-even steps k*")
    kinds = (
        ("predicted", "predicted k*", "circle", "lines"),
        ("measured", "measured k*", "circle", "markers"),
        ("extrapolated", "extrapolated k*", "circle-open", "markers"),
        ("parity", "S_parity", "diamond-open", "markers"),
    )
    for panel, name in enumerate(series):
        for i, (prompt, new) in enumerate(lengths):
            here = rows_of(frame, series=name, prompt_tokens=prompt, new_tokens=new).sort_values("batch_size")
            for kind, words, symbol, mode in kinds:
                own = rows_of(here, kind=kind).dropna(subset=["steps"])
                if len(own):
                    own = own.assign(steps=own["steps"].clip(lower=_LOWEST))
                    look: page.Look = {"colour": page.colour(i), "symbol": symbol}
                    shown = f"{words}, {page.shape_title(prompt, new)}"
                    chart.line(panel, own, "batch_size", "steps", shown, look, _hover, mode=mode)
        chart.log2(panel, "x", list(frame["batch_size"]))
        chart.log(panel, "y", [*frame["steps"].dropna().clip(lower=_LOWEST)])
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    steps = page.amount("steps", row.steps, row.steps_low, row.steps_high, "")
    return [f"batch size {row.batch_size}", steps, *([row.note] if row.note else [])]
