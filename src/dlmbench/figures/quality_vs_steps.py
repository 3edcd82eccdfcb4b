"""Quality against diffusion steps, a panel for each metric, the baseline as a band, S_parity marked.

The second half of the question: from how many steps on does diffusion write as well as the baseline?
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlmbench.analysis.parity import Parity
from dlmbench.analysis.quality import MetricInfo, Quality
from dlmbench.analysis.study import Study
from dlmbench.charts import page, style
from dlmbench.charts.points import Point, each, rows_of, shapes, short, table, why_missing
from dlmbench.types import Run

NAME = "quality_vs_steps"
_OUTCOMES = {"not_reached": "not reached", "undecided": "undecided"}


@dataclass(frozen=True, kw_only=True)
class QualityPoint(Point):
    """kind: curve, baseline, truth (the true text's own score) or parity.

    A parity row has steps and value only where S_parity at margin 0 is reached; steps_low and steps_high are the step
    counts between which it lies with 95% confidence, empty where that end lies beyond the largest K measured, and
    share_reached the share of resamples in which parity was found at all.
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
    seen: set[tuple[str, int, int]] = set()
    truth: dict[tuple[int, int, str], Quality] = {}
    for curve in study.curves:
        key = (curve.label, curve.prompt_tokens, curve.new_tokens)
        if key in seen:
            continue
        seen.add(key)
        cells = [("curve", curve.label, p) for p in curve.points]
        base = curve.quality_baseline
        if base and not any(
            r.kind == "baseline" and (r.prompt_tokens, r.new_tokens, r.series) == (*key[1:], study.label(base.cell))
            for r in rows
        ):
            cells.append(("baseline", study.label(base.cell), base))
        for kind, series, cell in cells:
            for q in cell.quality:
                if q.metric.truth_of is not None:
                    truth.setdefault((*key[1:], q.metric.truth_of), q)
                    continue
                rows.append(
                    QualityPoint(
                        kind=kind,
                        series=series,
                        metric=q.metric.name,
                        unit=q.metric.unit,
                        higher_is_better=q.metric.higher_is_better,
                        steps=cell.cell.steps,
                        value=q.value,
                        value_low=q.low,
                        value_high=q.high,
                        texts=q.n,
                        prompt_tokens=key[1],
                        new_tokens=key[2],
                    )
                )
        for metric in study.metrics:
            if shown := curve.parity(metric.name):
                steps = shown.parity.steps
                at = next((p.value for p in shown.parity.points if p.steps == steps), None)
                rows.append(
                    QualityPoint(
                        kind="parity",
                        series=curve.label,
                        prompt_tokens=key[1],
                        new_tokens=key[2],
                        metric=metric.name,
                        unit=metric.unit,
                        higher_is_better=metric.higher_is_better,
                        steps=steps,
                        steps_low=shown.parity.low_steps if steps else None,
                        steps_high=shown.parity.high_steps if steps else None,
                        share_reached=_share_reached(shown.parity),
                        value=at,
                        note=_note(shown.parity),
                    )
                )
    for (prompt, new, metric_name), q in truth.items():
        rows.append(
            QualityPoint(
                kind="truth",
                series="true text",
                prompt_tokens=prompt,
                new_tokens=new,
                metric=metric_name,
                unit=q.metric.unit,
                higher_is_better=False,
                value=q.value,
                value_low=q.low,
                value_high=q.high,
                texts=q.n,
            )
        )
    curves = [r for r in rows if r.kind == "curve"]
    random = any(c.weights == "random" for c in study.curves)
    return table(QualityPoint, rows if curves else [], _why(study, random))


def _share_reached(parity: Parity) -> float | None:
    """Of the resamples, those in which parity lies at one of the step counts measured; None for a single text."""
    known = [p.share for p in parity.points if p.share is not None]
    return sum(known) if known else None


def _note(parity: Parity) -> str:
    """S_parity with its interval, or why there is none, in a few words."""
    if parity.steps is None:
        share = _share_reached(parity)
        found = f" (found in {share:.0%} of resamples)" if share else ""
        return _OUTCOMES[parity.outcome] + (found if parity.outcome == "undecided" else "")
    fewer = " or fewer" if parity.outcome == "reached_at_smallest" else ""
    beyond = f"beyond {parity.points[-1].steps}"
    return f"K = {parity.steps}{fewer} ({parity.low_steps or beyond} to {parity.high_steps or beyond})"


def _why(study: Study, random: bool) -> str:
    if random:
        return "the weights are random, so quality means nothing"
    return "no diffusion cell with a step count" if not study.curves else "no metric has been scored"


def caption(frame: pd.DataFrame) -> str:
    """What is shown, and S_parity in words."""
    if why := why_missing(frame):
        return f"Not measured: {why}."
    text = (
        "Quality against diffusion steps, with 95% intervals of a bootstrap over prompts (unpaired; parity is tested "
        "prompt by prompt, which is sharper; the bar through its ring is the interval of S_parity itself, over "
        "resamples of the prompts). Bands: the autoregressive baseline. The likelihood is the sampler's, with "
        "positions chosen by the model and tokens drawn at temperature 1."
    )
    if single := list(dict.fromkeys(frame["metric"][frame["texts"] == 1])):
        text += f" A single text was scored by {', '.join(single)}: there is no interval."
    marks = [
        f"{r.metric} ({short(r.series)}, P={int(r.prompt_tokens)}, G={int(r.new_tokens)}): {r.note}"
        for r in each(frame, kind="parity")
    ]
    return text + (f" S_parity at margin 0: {'; '.join(marks)}." if marks else "")


def _verdict(verdicts: Sequence[tuple[str, str]]) -> str:
    """S_parity of each line in the panel; said once where all agree."""
    if not verdicts:
        return ""
    notes = list(dict.fromkeys(note for note, _ in verdicts))
    if len(notes) == 1:
        return "$S_{parity}$: " + notes[0]
    each_note = (f"{note} ({', '.join(w for n, w in verdicts if n == note)})" for note in notes)
    # The markup of the subscript is not printed, so the first line may be longer by it.
    lines = textwrap.wrap("; ".join(each_note), 36)
    if len(lines) > 3:
        # Too many for a title: how many of the lines end how; each by name stands in the caption.
        ends = [_ending(note) for note, _ in verdicts]
        lines = textwrap.wrap("; ".join(f"{ends.count(e)} {e}" for e in dict.fromkeys(ends)), 40)
    return "$S_{parity}$: " + "\n".join(lines)


def _ending(note: str) -> str:
    return next((words for words in _OUTCOMES.values() if note.startswith(words)), "reached")


def _interval(axes: Axes, r: Any, largest: float) -> None:
    """The interval of S_parity beside its ring; an arrow where its end lies beyond the largest step count."""
    low, high = (largest if pd.isna(end) else float(end) for end in (r.steps_low, r.steps_high))
    axes.hlines(r.value, low, high, color="black", linewidth=1.1, zorder=4)
    axes.plot([low, high], [r.value] * 2, linestyle="none", marker="|", color="black", markersize=6, zorder=4)
    if pd.isna(r.steps_high):
        axes.annotate(
            "",
            (1.0, r.value),
            (high, r.value),
            xycoords=axes.get_yaxis_transform(),
            textcoords="data",
            arrowprops={"arrowstyle": "->", "color": "black", "linewidth": 1.1},
        )


def _lines(curves: pd.DataFrame) -> list[tuple[str, int, int]]:
    """The (series, prompt tokens, new tokens) that there are, shape by shape."""
    own = curves[["series", "prompt_tokens", "new_tokens"]].drop_duplicates()
    found = [(str(r.series), int(r.prompt_tokens), int(r.new_tokens)) for r in each(own)]
    return [line for shape in shapes(curves) for line in found if line[1:] == shape]


def _first(lines: list[tuple[str, int, int]], row: Any) -> int:
    """Which line is the first of a row's lengths: a baseline has its colour."""
    return next((i for i, line in enumerate(lines) if line[1:] == (row.prompt_tokens, row.new_tokens)), 0)


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Panels in the order of the metrics; colour, marker and line style are the sampler's settings and lengths."""
    if why := why_missing(frame):
        return style.not_measured(figure, why)
    curves = rows_of(frame, kind="curve")
    lines = _lines(curves)
    several = len(shapes(curves)) > 1
    metrics = list(dict.fromkeys(curves["metric"]))
    for axes, name in zip(style.panels(figure, len(metrics), 2.4), metrics, strict=True):
        here = rows_of(frame, metric=name)
        verdicts = []
        for i, (series, prompt, new) in enumerate(lines):
            own = rows_of(here, series=series, prompt_tokens=prompt, new_tokens=new)
            curve = rows_of(own, kind="curve").sort_values("steps")
            if len(curve):
                style.with_intervals(axes, curve, "steps", "value", **style.look(i))
            for r in each(own, kind="parity"):
                which = short(series) if len(lines) > len(shapes(curves)) else ""
                which += f" {prompt}+{new}" if several else ""
                # How often resamples found it stands in the caption.
                verdicts.append((str(r.note).partition(" (found")[0], which.strip()))
                if pd.notna(r.steps):
                    axes.plot(r.steps, r.value, zorder=5, **style.RING)
                    _interval(axes, r, float(curve["steps"].max()))
        for r in each(here, kind="baseline"):
            hue = style.colour(_first(lines, r)) if several else style.BASELINE_COLOUR
            style.band(axes, r.value, r.value_low, r.value_high, color=hue, linestyle="--")
        for r in each(here, kind="truth"):
            axes.axhline(r.value, color="#B00020", linestyle=":", linewidth=1.2)
        first = here.iloc[0]
        info = MetricInfo(name, str(first["unit"]), bool(first["higher_is_better"]))
        style.log2_axis(axes, list(curves["steps"]))
        verdict = _verdict(verdicts)
        direction = "higher is better" if info.higher_is_better else "lower is better"
        axes.set_title(f"{info.display_name}, {direction}\n{verdict}".strip())
        axes.set(xlabel="diffusion steps K", ylabel=info.unit)
    handles = []
    for i, (series, prompt, new) in enumerate(lines):
        handles.append(style.key(f"{series}, {prompt}+{new}" if several else series, **style.look(i)))
    for name in dict.fromkeys(rows_of(frame, kind="baseline")["series"]):
        hue = "grey" if several else style.BASELINE_COLOUR
        handles.append(style.key(f"{name} (autoregressive)", color=hue, linestyle="--"))
    if len(rows_of(frame, kind="truth")):
        handles.append(style.key("true text", color="#B00020", linestyle=":"))
    if rows_of(frame, kind="parity")["steps"].notna().any():
        handles.append(style.key("$S_{parity}$ at margin 0", **style.RING))
    style.legend_below(figure, handles, columns=3)
    style.stamp(figure, frame)
    return None


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page; S_parity stands in the hover texts of its rings, and in the caption."""
    if why := why_missing(frame):
        return page.not_measured(why)
    curves = rows_of(frame, kind="curve")
    lines = _lines(curves)
    several = len(shapes(curves)) > 1
    names = list(dict.fromkeys(curves["metric"]))
    first = [rows_of(frame, metric=n).iloc[0] for n in names]
    infos = [MetricInfo(n, str(r["unit"]), bool(r["higher_is_better"])) for n, r in zip(names, first, strict=True)]
    titles = [f"{m.display_name}, {'higher' if m.higher_is_better else 'lower'} is better" for m in infos]
    span = (float(curves["steps"].min()), float(curves["steps"].max()))
    chart = page.Chart(titles, "diffusion steps K", [m.unit for m in infos], panel_px=230)
    for panel, info in enumerate(infos):
        here = rows_of(frame, metric=info.name)
        marks = rows_of(here, kind="parity")
        for i, (series, prompt, new) in enumerate(lines):
            own = rows_of(here, kind="curve", series=series, prompt_tokens=prompt, new_tokens=new)
            if len(own):
                shown = f"{series}, {prompt}+{new}" if several else series
                chart.line(panel, own.sort_values("steps"), "steps", "value", shown, page.look(i), _hover)
        for r in each(here, kind="baseline"):
            hue = page.colour(_first(lines, r)) if several else page.INK
            shown = f"{r.series} (autoregressive)" + (f", {r.prompt_tokens}+{r.new_tokens}" if several else "")
            chart.band(panel, span, r.value, r.value_low, r.value_high, shown, hue, _hover(r))
        for r in each(here, kind="truth"):
            chart.band(panel, span, r.value, None, None, "true text", page.ALARM, _hover(r), dash="dot")
        reached = marks[marks["steps"].notna()]
        words = [f"S_parity at margin 0: {r.note}\n{r.series}, {r.prompt_tokens}+{r.new_tokens}" for r in each(reached)]
        for r in each(reached):
            own = rows_of(here, kind="curve", series=r.series, prompt_tokens=r.prompt_tokens, new_tokens=r.new_tokens)
            last = float(own["steps"].max())
            ends = [last if pd.isna(end) else float(end) for end in (r.steps_low, r.steps_high)]
            bar: dict[str, Any] = {"type": "scatter", "mode": "lines", "x": ends, "y": [r.value] * 2}
            bar |= {"hoverinfo": "skip", "line": {"color": page.INK, "width": 1.5}}
            chart.add(panel, bar, key="S_parity at margin 0")
        chart.ring(panel, list(reached["steps"]), list(reached["value"]), "S_parity at margin 0", words)
        chart.log2(panel, "x", list(curves["steps"]))
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    steps = [] if pd.isna(row.steps) else [f"K = {row.steps:.0f}"]
    where = page.shape_title(row.prompt_tokens, row.new_tokens)
    return [
        *steps,
        where,
        page.amount(row.metric, row.value, row.value_low, row.value_high, row.unit),
        _texts(row.texts),
    ]


def _texts(n: float) -> str:
    return "number of texts not known" if pd.isna(n) else f"{n:.0f} text{'' if n == 1 else 's'}"
