"""Quality against diffusion steps, a panel for each metric, the baseline as a band, S_parity marked.

The second half of the question: how many steps does diffusion need to write as well as the baseline?
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
from dlmbench.analysis.study import Curve, Study
from dlmbench.charts import frames, page, style
from dlmbench.types import Run

ORDER = 30
_X, _Y, _X_TITLE = "steps", "value", "diffusion steps K"
_PARITY = "S_parity at margin 0"
_OUTCOMES = {"not_reached": "not reached", "undecided": "undecided"}


@dataclass(frozen=True, kw_only=True)
class QualityPoint(frames.Point):
    """kind: curve, baseline, truth (the true text's own score) or parity.

    A parity row has steps and value only where S_parity at margin 0 is reached. steps_low and steps_high are its 95%
    interval, empty where that end is beyond the largest K measured; share_reached is the share of resamples in which
    parity was found.
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
                if of := q.metric.truth_of:
                    metric = MetricInfo(of, q.metric.unit, higher_is_better=False)
                    truths.setdefault((of, *shape), _point(curve, "truth", "true text", metric, q))
                else:
                    rows.append(_point(curve, kind, series, q.metric, q, steps=cell.cell.steps))
        seen |= {(kind, series, *shape) for kind, series, _ in cells}
        for metric in study.metrics:
            if found := curve.parity(metric.name):
                rows.append(_point(curve, "parity", curve.label, metric, None, **_parity_columns(found.parity)))
    if not any(r.kind == "curve" for r in rows):
        return frames.table(QualityPoint, [], _why(study))
    return frames.table(QualityPoint, [*rows, *truths.values()], "")


def _point(
    curve: Curve, kind: str, series: str, metric: MetricInfo, quality: Quality | None, **columns: Any
) -> QualityPoint:
    """A point at the lengths of `curve`."""
    known: dict[str, Any] = {"metric": metric.name, "unit": metric.unit, "higher_is_better": metric.higher_is_better}
    known |= {"prompt_tokens": curve.prompt_tokens, "new_tokens": curve.new_tokens}
    if quality is not None:
        known |= {"value": quality.value, "value_low": quality.low, "value_high": quality.high, "texts": quality.n}
    return QualityPoint(kind=kind, series=series, **known | columns)


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
    """S_parity with its interval, or why there is none, in short."""
    if parity.steps is None:
        share = _share_reached(parity)
        found = f" (found in {share:.0%} of resamples)" if share else ""
        return _OUTCOMES[parity.outcome] + (found if parity.outcome == "undecided" else "")
    fewer = " or fewer" if parity.outcome == "reached_at_smallest" else ""
    beyond = f"beyond {parity.points[-1].steps}"
    return f"K = {parity.steps}{fewer} ({parity.low_steps or beyond} to {parity.high_steps or beyond})"


def _why(study: Study) -> str:
    if any(c.weights == "random" for c in study.curves):
        return "the weights are random, so quality means nothing"
    return "no metric has been scored" if study.curves else "no diffusion cell with a step count"


def caption(frame: pd.DataFrame) -> str:
    """What is shown, and S_parity in numbers."""
    text = (
        "Quality against diffusion steps, with 95% intervals from a bootstrap over prompts. These are unpaired; parity "
        "is tested prompt by prompt, which is more sensitive. The bar through a ring is the interval of S_parity, over "
        "resamples of the prompts. Bands: the autoregressive baseline. The likelihood is the sampler's, with positions "
        "chosen by the model and tokens drawn at temperature 1."
    )
    if single := list(dict.fromkeys(frame["metric"][frame["texts"] == 1])):
        text += f" A single text was scored by {', '.join(single)}: there is no interval."
    marks = [
        f"{r.metric} ({frames.short(r.series)}, P={int(r.prompt_tokens)}, G={int(r.new_tokens)}): {r.note}"
        for r in frames.each(frame, kind="parity")
    ]
    return text + (f" {_PARITY}: {'; '.join(marks)}." if marks else "")


def _parity_title(notes: Sequence[tuple[str, str]]) -> str:
    """S_parity from (note, line) of each line in the panel; written once where all agree."""
    if not notes:
        return ""
    distinct = list(dict.fromkeys(note for note, _ in notes))
    if len(distinct) == 1:
        return f"$S_{{parity}}$: {distinct[0]}"
    by_note = (f"{note} ({', '.join(line for n, line in notes if n == note)})" for note in distinct)
    # The markup of the subscript is not printed, so the first line may be longer by it.
    lines = textwrap.wrap("; ".join(by_note), 36)
    if len(lines) > 3:
        # Too many for a title: how many lines end how. The caption has each by name.
        outcomes = [next((o for o in _OUTCOMES.values() if note.startswith(o)), "reached") for note, _ in notes]
        counts = (f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes))
        lines = textwrap.wrap("; ".join(counts), 40)
    return "$S_{parity}$: " + "\n".join(lines)


def _ends(row: Any, curve: pd.DataFrame) -> tuple[float, float]:
    """The interval of S_parity; an end beyond the largest step count of its curve is drawn there."""
    largest = float(curve["steps"].max())
    low, high = (largest if pd.isna(end) else float(end) for end in (row.steps_low, row.steps_high))
    return low, high


def _draw_interval(axes: Axes, r: Any, low: float, high: float) -> None:
    """The interval of S_parity beside its ring; an arrow where its end is beyond the largest step count."""
    look: dict[str, Any] = {"color": "black", "zorder": 4}
    axes.hlines(r.value, low, high, linewidth=1.1, **look)
    axes.plot([low, high], [r.value] * 2, linestyle="none", marker="|", markersize=6, **look)
    if pd.isna(r.steps_high):
        arrow = {"arrowstyle": "->", "color": "black", "linewidth": 1.1}
        place: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "data"}
        axes.annotate("", (1.0, r.value), (high, r.value), arrowprops=arrow, **place)


class QualityLines:
    """What has a line in every panel: the (series, prompt, new tokens) of the curves, ordered by lengths."""

    def __init__(self, frame: pd.DataFrame) -> None:
        curves = frames.rows(frame, kind="curve")
        self.shapes = frames.shapes(curves)
        found = curves[["series", "prompt_tokens", "new_tokens"]].drop_duplicates().itertuples(index=False, name=None)
        self.keys = sorted(found, key=lambda key: self.shapes.index(key[1:]))
        self.has_shapes = len(self.shapes) > 1
        self.steps = frames.step_counts(curves)
        names = dict.fromkeys(curves["metric"])
        first = {name: frames.rows(frame, metric=name).iloc[0] for name in names}
        self.metrics = [MetricInfo(n, str(r["unit"]), bool(r["higher_is_better"])) for n, r in first.items()]

    def rows(self, frame: pd.DataFrame, key: tuple[str, int, int]) -> pd.DataFrame:
        """The rows of one line."""
        return frames.rows(frame, series=key[0], prompt_tokens=key[1], new_tokens=key[2])

    def with_shape(self, series: str, prompt: int, new: int) -> str:
        """The name of a line: its lengths too where there are several."""
        return f"{series}, {prompt}+{new}" if self.has_shapes else series

    def first(self, row: Any) -> int:
        """Which line is the first of the row's lengths: a baseline has its colour."""
        return next((i for i, key in enumerate(self.keys) if key[1:] == (row.prompt_tokens, row.new_tokens)), 0)

    def short(self, series: str, prompt: int, new: int) -> str:
        """What tells a line from the others, for a title."""
        name = frames.short(series) if len(self.keys) > len(self.shapes) else ""
        return f"{name} {prompt}+{new}".strip() if self.has_shapes else name


def _title(metric: MetricInfo) -> str:
    return f"{metric.display_name}, {'higher' if metric.higher_is_better else 'lower'} is better"


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Panels in the order of the metrics; colour, marker and line style are the sampler's settings and lengths."""
    lines = QualityLines(frame)
    panels = style.panels(figure, [m.name for m in lines.metrics], 2.4)
    for axes, metric in zip(panels, lines.metrics, strict=True):
        here = frames.rows(frame, metric=metric.name)
        notes = []
        for i, key in enumerate(lines.keys):
            own = lines.rows(here, key)
            curve = frames.rows(own, kind="curve")
            style.with_intervals(axes, curve, _X, _Y, **style.look(i))
            for r in frames.each(own, kind="parity"):
                # The share of resamples is in the caption.
                notes.append((str(r.note).partition(" (found")[0], lines.short(*key)))
                if pd.notna(r.steps):
                    axes.plot(r.steps, r.value, zorder=5, **style.RING)
                    _draw_interval(axes, r, *_ends(r, curve))
        for r in frames.each(here, kind="baseline"):
            hue = style.colour(lines.first(r)) if lines.has_shapes else style.BASELINE_COLOUR
            style.band(axes, r, _Y, color=hue, linestyle="--")
        for r in frames.each(here, kind="truth"):
            axes.axhline(r.value, color=style.ALARM, linestyle=":", linewidth=1.2)
        style.log2_axis(axes, lines.steps)
        axes.set_title(f"{_title(metric)}\n{_parity_title(notes)}".strip())
        axes.set(xlabel=_X_TITLE, ylabel=metric.unit)
    handles = style.series_keys([lines.with_shape(*key) for key in lines.keys])
    handles += style.baseline_keys(frame, color="grey" if lines.has_shapes else style.BASELINE_COLOUR, linestyle="--")
    if len(frames.rows(frame, kind="truth")):
        handles.append(style.key("true text", color=style.ALARM, linestyle=":"))
    if frames.rows(frame, kind="parity")["steps"].notna().any():
        handles.append(style.key("$S_{parity}$ at margin 0", **style.RING))
    style.legend_below(figure, handles, columns=3)


def interactive(frame: pd.DataFrame) -> page.Figure:
    """The same for the page; S_parity is in the hover texts of its rings, and in the caption."""
    lines = QualityLines(frame)
    span = (lines.steps[0], lines.steps[-1])
    chart = page.Chart(map(_title, lines.metrics), _X_TITLE, [m.unit for m in lines.metrics], panel_px=230)
    for panel, metric in enumerate(lines.metrics):
        here = frames.rows(frame, metric=metric.name)
        curves = frames.rows(here, kind="curve")
        for i, key in enumerate(lines.keys):
            chart.line(panel, lines.rows(curves, key), _X, _Y, lines.with_shape(*key), page.look(i), _hover)
        for r in frames.each(here, kind="baseline"):
            hue = page.colour(lines.first(r)) if lines.has_shapes else page.INK
            shown = lines.with_shape(f"{r.series} (autoregressive)", r.prompt_tokens, r.new_tokens)
            chart.band(panel, span, r, _Y, shown, hue, _hover(r))
        for r in frames.each(here, kind="truth"):
            chart.level(panel, span, r.value, "true text", page.ALARM, _hover(r), dash="dot")
        reached = frames.rows(here, kind="parity").dropna(subset=["steps"])
        for r in frames.each(reached):
            curve = lines.rows(curves, (r.series, r.prompt_tokens, r.new_tokens))
            chart.stroke(panel, _ends(r, curve), [r.value] * 2, page.INK, _PARITY)
        chart.marks(panel, reached, _X, _Y, _PARITY, page.RING, _hover_parity)
        chart.log2(panel, "x", lines.steps)
    return chart.figure(frame)


def _hover(row: Any) -> list[str]:
    shape = frames.shape_title(row.prompt_tokens, row.new_tokens)
    steps = [] if pd.isna(row.steps) else [f"K = {row.steps:.0f}"]
    texts = "number of texts not known" if pd.isna(row.texts) else f"{row.texts:.0f} text{'s' * (row.texts != 1)}"
    return [*steps, shape, page.amount(row.metric, row, "value", row.unit), texts]


def _hover_parity(row: Any) -> list[str]:
    return [f"{_PARITY}: {row.note}", f"{row.series}, {row.prompt_tokens}+{row.new_tokens}"]
