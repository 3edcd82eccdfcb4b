"""The cost model against the hardware of others: published speeds, predicted without fitting anything to them.

A row of docs/study/published_speeds.csv is one published time or rate whose device, lengths and steps are known. It is
predicted by the hf engine's default efficiencies, which come from H200s, at the data sheet of the row's device.
`benchmarks/study.py` writes the figure, its points and its caption.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from dlmbench.analysis.published import FIRST_HAND
from dlmbench.analysis.stats import group_by
from dlmbench.charts import figure, frames, style
from dlmbench.roofline import corrected, models_8b
from dlmbench.roofline.hardware import find
from dlmbench.types import from_mapping

STUDY = Path(__file__).parents[1] / "docs/study"
SPEEDS, FIGURE = STUDY / "published_speeds.csv", STUDY / "predicted_vs_published"
OUTLIER = 1.25  # times too fast or too slow
COLUMNS = ("model", "task", "hardware", "steps", "cache", "measured", "predicted", "source", "provenance", "remark")


@dataclass(frozen=True)
class PublishedSpeed:
    """One published speed: of a whole generation in `seconds`, or `tokens_per_s`.

    hardware: a name of our data sheets; an A100 80GB whose form no source states is taken for the SXM's.
    prompt_tokens: the task's mean by LLaDA's authors (arXiv:2502.09992, appendix B.7), with about as many shots.
    steps: None for decoding. counted: which tokens the rate is of, "all" that are generated, those of the "answer", or
    "unknown". remark: why it differs from the prediction, where that is known.
    """

    model: str
    variant: str
    task: str
    hardware: str
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    block_length: int | None
    steps: int | None
    cache: str | None
    seconds: float | None
    tokens_per_s: float | None
    counted: str
    source: str
    provenance: str
    remark: str | None

    @property
    def decides(self) -> bool:
        """Whether the row counts in the error: read at first hand, and of all tokens generated."""
        return self.counted == "all" and self.provenance in FIRST_HAND

    @property
    def measured(self) -> float:
        """New tokens a second."""
        tokens_per_s = self.batch_size * self.new_tokens / self.seconds if self.seconds else self.tokens_per_s
        assert tokens_per_s is not None
        return tokens_per_s

    @property
    def predicted(self) -> float:
        """New tokens a second by the cost model."""
        architecture = models_8b.LLADA_8B if self.steps else models_8b.LLAMA_8B
        knobs = {"steps": self.steps, "block_length": self.block_length, "cache": self.cache} if self.steps else {}
        shape = self.batch_size, self.prompt_tokens, self.new_tokens
        cell = models_8b.cell(architecture, "hf", shape, **knobs)
        seconds = corrected.predict(cell, architecture, find(self.hardware)).latency_s
        assert seconds is not None
        return self.batch_size * self.new_tokens / seconds

    @property
    def error(self) -> float:
        """How far the prediction is off, as a share of what was measured."""
        return abs(self.predicted / self.measured - 1)

    @property
    def is_outlier(self) -> bool:
        """Whether the prediction is OUTLIER times too fast or too slow."""
        return not 1 / OUTLIER <= self.predicted / self.measured <= OUTLIER

    @property
    def paper(self) -> str:
        """The source without what was read in it."""
        return self.source.partition(",")[0]


def read() -> list[PublishedSpeed]:
    """The rows of SPEEDS; an empty field is unknown."""
    with SPEEDS.open(newline="", encoding="utf-8") as file:
        return [from_mapping(PublishedSpeed, {k: v or None for k, v in row.items()}) for row in csv.DictReader(file)]


def points(rows: list[PublishedSpeed]) -> pd.DataFrame:
    """The table of the figure. kind: decides, or hollow."""
    data = [
        {
            "kind": "decides" if row.decides else "hollow",
            "series": f"{row.hardware}, {row.paper}",
            **{name: getattr(row, name) for name in ("batch_size", "prompt_tokens", "new_tokens", *COLUMNS)},
            "predicted": round(row.predicted, 3),
            "measured": round(row.measured, 3),
        }
        for row in rows
    ]
    return frames.table(COLUMNS, data, "")


def caption(rows: list[PublishedSpeed]) -> str:
    """What is shown, the median error, and every outlier with its reason."""
    deciding = [r for r in rows if r.decides]
    papers = ", ".join(dict.fromkeys(r.paper for r in deciding))
    settings = {(r.task, r.hardware, r.prompt_tokens, r.new_tokens, r.steps, r.cache) for r in deciding}
    lines = [
        f"![published and predicted speeds]({FIGURE.name}.png)",
        "",
        f"New tokens a second as published and as predicted, without any fit to them ([points]({FIGURE.name}.csv), "
        f"[rows and sources]({SPEEDS.name})). Filled: all tokens generated, read at first hand: median error "
        f"{median(r.error for r in deciding):.0%} of {len(deciding)} in {len(settings)} settings from {papers}. "
        "Hollow: which tokens count is not said, or only those of the answer, or read at second hand; of "
        f"all {len(rows)}, {median(r.error for r in rows):.0%}. "
        f"Beyond {OUTLIER} times:",
        "",
    ]
    outliers = [r for r in rows if r.is_outlier]
    for (paper, remark), own in group_by(outliers, lambda r: (r.paper, r.remark)).items():
        ratios = sorted(r.predicted / r.measured for r in own)
        span = f"{ratios[0]:.2g}" if len(own) == 1 else f"{ratios[0]:.2g} to {ratios[-1]:.2g}"
        lines.append(f"- {paper} ({len(own)}), predicted over published {span}: {remark or 'unexplained'}.")
    return "\n".join(lines)


def chart(frame: pd.DataFrame) -> Any:
    """One panel: on the diagonal the prediction is right."""
    x = style.axis("measured", "published [new tokens/s]", frame, alt.X, also=list(frame["predicted"]))
    y = style.axis("predicted", "predicted [new tokens/s]", frame, also=list(frame["measured"]))
    low, high = x["scale"]["domain"]
    shown, tips = style.with_tooltip(frame.assign(panel="predicted without fitting"), "model", "task", "remark")
    marks = style.Marks(x, y, style.series_looks(shown), tips)
    ends = {"x": alt.datum(low), "y": alt.datum(low), "x2": alt.datum(high), "y2": alt.datum(high)}
    diagonal = style.once().mark_rule(color=style.HALF).encode(**ends)
    filled, hollow = style.where("decides"), style.where("hollow")
    return style.panels([diagonal, marks.points(hollow, filled=False), marks.points(filled)], shown)


def write() -> str:
    """Write the figure and its points; what a page says about them."""
    rows = read()
    write_figure(FIGURE, chart, points(rows))
    return caption(rows)


def write_figure(path: Path, chart: Any, frame: pd.DataFrame) -> None:
    """Write a figure and its points, as those of a run are."""
    spec = figure.specification(SimpleNamespace(chart=chart), frame)
    path.with_suffix(".csv").write_text(figure.csv_of(frame), encoding="utf-8")
    path.with_suffix(".png").write_bytes(vl_convert.svg_to_png(figure.svg(spec), scale=1, ppi=figure.DPI))
