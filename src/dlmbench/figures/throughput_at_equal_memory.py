"""Throughput against peak memory, batch by batch: what each model makes of the same memory.

At equal batch size the model that needs less memory is sold short: it could take more sequences at once. Here both are
given one budget, and each the largest batch that fits into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dlmbench.analysis.study import CellSummary, Study
from dlmbench.charts import page, style
from dlmbench.charts.points import Point, each, rows_of, shapes, short, table, why_missing
from dlmbench.types import Run

NAME = "throughput_at_equal_memory"
_MOST_NUMBERS = 12  # lines of a shape that a caption names
GIB = 1 << 30
MIB = 1 << 20
DEVICE = "all of the device's memory: larger batches ran out of it"
TRIED = "the largest peak that both models were measured up to"


@dataclass(frozen=True, kw_only=True)
class EqualMemoryPoint(Point):
    """kind: curve or baseline, and oom for a batch that did not fit.

    budget_bytes: what both models are given at this prompt and length; budget says why that much. is_largest: the
    largest batch known to fit into it, all larger ones that were tried being known not to.
    """

    model: str = ""
    steps: float | None = None
    peak_bytes: float | None = None
    source: str = ""
    tokens_per_s: float | None = None
    tokens_per_s_low: float | None = None
    tokens_per_s_high: float | None = None
    budget_bytes: float | None = None
    budget: str = ""
    is_largest: bool | None = None


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every cell with throughput and peak memory, those out of memory, and the largest batch within the budget."""
    cells = [("baseline", b) for b in study.baselines] + [("curve", p) for c in study.curves for p in c.points]
    cells += [("curve", o) for o in study.others]
    rows = [row for kind, summary in cells if (row := _point(kind, study, summary)) is not None]
    if not any(r.kind != "oom" for r in rows):
        return table(EqualMemoryPoint, [], "no cell has both its throughput and its peak memory")
    device = float(run.environment.memory_bytes) if run.environment else None
    marked: list[EqualMemoryPoint] = []
    for shape in dict.fromkeys((r.prompt_tokens, r.new_tokens) for r in rows):
        marked += _with_budget([r for r in rows if (r.prompt_tokens, r.new_tokens) == shape], device)
    return table(EqualMemoryPoint, marked, "")


def _point(kind: str, study: Study, summary: CellSummary) -> EqualMemoryPoint | None:
    cell, rate = summary.cell, summary.throughput
    failed = summary.status == "oom"
    if not failed and (rate is None or summary.memory is None):
        return None
    return EqualMemoryPoint(
        kind="oom" if failed else kind,
        series=study.label(cell),
        batch_size=cell.batch_size,
        prompt_tokens=cell.prompt_tokens,
        new_tokens=cell.new_tokens,
        weights=cell.model.weights,
        note=summary.reason,
        model=cell.model.key,
        steps=cell.steps,
        # The peak at which an allocation failed is not the memory that the cell needs.
        peak_bytes=summary.memory.bytes if summary.memory and not failed else None,
        source=summary.memory.source if summary.memory and not failed else "",
        tokens_per_s=rate.median if rate and not failed else None,
        tokens_per_s_low=rate.low if rate and not failed else None,
        tokens_per_s_high=rate.high if rate and not failed else None,
    )


def _with_budget(rows: Sequence[EqualMemoryPoint], device_bytes: float | None) -> list[EqualMemoryPoint]:
    """The rows of one shape with the budget that all models share, and the largest batch of each line in it."""
    tops = []
    for model in dict.fromkeys(r.model for r in rows):
        own = [r for r in rows if r.model == model]
        # A model that ran out of memory has shown all it can use; one that did not might have used more.
        if not any(r.kind == "oom" for r in own):
            tops.append(max(r.peak_bytes or 0.0 for r in own))
    known = [r.peak_bytes for r in rows if r.peak_bytes is not None]
    if len({r.model for r in rows}) < 2 or not known:
        return list(rows)
    limit = min(tops) if tops else (device_bytes or max(known))
    why = TRIED if tops else DEVICE
    marked = []
    for line in _lines(rows):
        best = _largest(line, limit, sorted({r.batch_size or 0 for r in rows if r.model == line[0].model}))
        marked += [
            replace(r, budget_bytes=limit, budget=why, is_largest=r.kind != "oom" and r.batch_size == best)
            for r in line
        ]
    return marked


def _lines(rows: Iterable[EqualMemoryPoint]) -> list[list[EqualMemoryPoint]]:
    lines: dict[tuple[str, float | None], list[EqualMemoryPoint]] = {}
    for r in rows:
        lines.setdefault((r.series, r.steps), []).append(r)
    return list(lines.values())


def _largest(line: Sequence[EqualMemoryPoint], limit: float, tried: Sequence[int]) -> int | None:
    """The largest batch of a line within `limit`; None where one that was tried of the model is not known of it."""
    by_batch = {r.batch_size: r for r in line}
    for batch in reversed(tried):
        row = by_batch.get(batch)
        if row is None:
            return None
        if row.peak_bytes is not None and row.peak_bytes <= limit:
            return batch
    return None


def _unit(frame: pd.DataFrame) -> tuple[int, str]:
    return (GIB, "GiB") if frame["peak_bytes"].max() >= 2 * GIB else (MIB, "MiB")


def _name(series: str, steps: float | None) -> str:
    return series if steps is None or pd.isna(steps) else f"{series}, K={steps:.0f}"


def caption(frame: pd.DataFrame) -> str:
    """What is shown, and at each shape what fits into the same memory."""
    if why := why_missing(frame):
        return f"Not measured: {why}."
    sources = " and ".join(s for s in dict.fromkeys(frame["source"]) if s)
    size, unit = _unit(frame)
    text = (
        f"Throughput against peak memory of one generation ({sources}, weights included), a line through the batch "
        "sizes (numbers) of each step count; medians with 95% intervals. Rings: the largest batch that fits into the "
        "same memory (vertical line); no ring where a larger batch was not measured."
    )
    for prompt, new in shapes(frame):
        here = rows_of(frame, prompt_tokens=prompt, new_tokens=new)
        best = rows_of(here, is_largest=True)
        if not len(best):
            continue
        budget = f"{float(best['budget_bytes'].iloc[0]) / size:.1f} {unit} ({best['budget'].iloc[0]})"
        if len(best) > _MOST_NUMBERS:
            text += (
                f" P={prompt}, G={new}, {budget}: {len(best)} lines, whose numbers are in the table beside the figure."
            )
            continue
        each_one = (
            f"{_name(r.series, r.steps)} B={r.batch_size:.0f} {r.tokens_per_s:.0f} tokens/s" for r in each(best)
        )
        text += f" P={prompt}, G={new}, {budget}: {', '.join(each_one)}."
    return text


def _line(axes: Axes, own: pd.DataFrame, size: int, **look: Any) -> None:
    own = own.sort_values("batch_size").assign(x=own["peak_bytes"] / size)
    style.with_intervals(axes, own, "x", "tokens_per_s", **look)
    for r in each(own, is_largest=True):
        axes.plot(r.x, r.tokens_per_s, zorder=5, **style.RING)


def _batches(axes: Axes, own: pd.DataFrame, size: int, above: bool) -> None:
    for r in each(own):
        at, shift = (r.peak_bytes / size, r.tokens_per_s), (0, 7 if above else -12)
        text: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "path_effects": style.halo()}
        axes.annotate(f"B={r.batch_size:.0f}", at, shift, fontsize=6.5, **text)


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """One panel for each (prompt, new tokens); colour is K, marker and line style the sampler's settings."""
    if why := why_missing(frame):
        return style.not_measured(figure, why)
    size, unit = _unit(frame)
    measured = frame[frame["kind"] != "oom"]
    curves = rows_of(measured, kind="curve")
    series = list(dict.fromkeys(curves["series"]))
    steps = _steps(curves)
    hues = dict(zip(steps, style.ordered_colours(len(steps)), strict=True))
    star: dict[str, Any] = {"color": style.BASELINE_COLOUR, "linestyle": "--", "marker": "*", "markersize": 8}
    panels = shapes(measured)
    for axes, (prompt, new) in zip(style.panels(figure, len(panels), 2.9), panels, strict=True):
        here = rows_of(measured, prompt_tokens=prompt, new_tokens=new)
        budget = here["budget_bytes"].dropna()
        if len(budget):
            axes.axvline(float(budget.iloc[0]) / size, color="#666666", linewidth=1, linestyle=(0, (4, 2)))
        for _, own in rows_of(here, kind="baseline").groupby("series", sort=False):
            _line(axes, own, size, **star)
            _batches(axes, own, size, above=True)
        for i, name in enumerate(series):
            own = rows_of(here, kind="curve", series=name)
            for k, rows in own.groupby(own["steps"].fillna(0.0)):
                _line(axes, rows, size, **style.look(i, hues.get(float(k), style.colour(i))))
        for _, own in rows_of(here, kind="curve").groupby(["series", "steps"], sort=False, dropna=False):
            _batches(axes, own, size, above=True)
            break  # batch sizes are written on one line of diffusion: they are the same on the others
        style.log_axis(axes, [*here["tokens_per_s_low"], *here["tokens_per_s_high"]])
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.margins(x=0.12, y=0.16)
        axes.set(title=f"{prompt} prompt + {new} new tokens", xlabel=f"peak memory [{unit}]")
        axes.set_ylabel("throughput [new tokens/s]")
    handles = [style.key(f"K = {k:.0f}", color=hue, linewidth=4) for k, hue in hues.items()]
    handles += [style.key(s if len(series) == 1 else short(s), **style.look(i, "grey")) for i, s in enumerate(series)]
    for name in dict.fromkeys(rows_of(measured, kind="baseline")["series"]):
        handles.append(style.key(f"{name} (autoregressive)", **star))
    if frame["budget_bytes"].notna().any():
        handles.append(style.key("equal memory", color="#666666", linestyle=(0, (4, 2)), linewidth=1))
        handles.append(style.key("largest batch that fits", **style.RING))
    style.legend_below(figure, handles)
    style.stamp(figure, frame)
    return None


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page."""
    if why := why_missing(frame):
        return page.not_measured(why)
    size, unit = _unit(frame)
    measured = frame[frame["kind"] != "oom"]
    measured = measured.assign(x=measured["peak_bytes"].astype(float) / size).sort_values("batch_size")
    curves = rows_of(measured, kind="curve")
    series, steps = list(dict.fromkeys(rows_of(frame, kind="curve")["series"])), _steps(curves)
    hues = dict(zip(steps, page.ordered_colours(len(steps)), strict=True))
    panels = shapes(measured)
    titles = [page.shape_title(*p) for p in panels]
    chart = page.Chart(titles, f"peak memory [{unit}]", "throughput [new tokens/s]", panel_px=300)
    for panel, (prompt, new) in enumerate(panels):
        here = rows_of(measured, prompt_tokens=prompt, new_tokens=new)
        for name, own in rows_of(here, kind="baseline").groupby("series", sort=False):
            labels, shown = [f"B={b:.0f}" for b in own["batch_size"]], f"{name} (autoregressive)"
            chart.line(panel, own, "x", "tokens_per_s", shown, page.baseline_look(), _hover, labels=labels)
        for i, name in enumerate(series):
            for _, own in rows_of(here, kind="curve", series=name).groupby("steps", dropna=False):
                k = float(own["steps"].iloc[0])
                look = page.look(i, hues.get(k, page.colour(i)))
                chart.line(panel, own, "x", "tokens_per_s", _name(name, k), look, _hover)
        best = rows_of(here, is_largest=True)
        words = [
            "\n".join([_name(r.series, r.steps), *_hover(r), "the largest batch that fits: " + r.budget])
            for r in each(best)
        ]
        if len(best):
            budget = float(best["budget_bytes"].iloc[0]) / size
            ends = [float(here["tokens_per_s_low"].min()), float(here["tokens_per_s_high"].max())]
            line: dict[str, Any] = {"type": "scatter", "mode": "lines", "x": [budget] * 2, "y": ends}
            said = f"equal memory: {page.number(budget)} {unit}, {best['budget'].iloc[0]}"
            line |= {"hoverinfo": "text", "hovertext": page.text(said)}
            line |= {"line": {"color": page.MUTED, "dash": "dash", "width": 1.5}}
            chart.add(panel, line, "equal memory")
        chart.ring(panel, list(best["x"]), list(best["tokens_per_s"]), "largest batch that fits", words)
        low, high = float(here["x"].min()), float(here["x"].max())
        # Room for the words beside the first mark.
        pad = 0.12 * (high - low) or 0.1 * high
        chart.axis(panel, "x", range=[low - pad, high + pad])
        chart.log(panel, "y", [*here["tokens_per_s_low"], *here["tokens_per_s_high"]])
    return chart.figure(frame)


def _steps(curves: pd.DataFrame) -> list[float]:
    return sorted(float(k) for k in curves["steps"].dropna().unique())


def _hover(row: Any) -> list[str]:
    rate = page.amount("throughput", row.tokens_per_s, row.tokens_per_s_low, row.tokens_per_s_high, "new tokens/s")
    peak = f"peak memory: {row.peak_bytes / GIB:.3g} GiB ({row.source})"
    return [f"batch size {row.batch_size}", rate, peak]
