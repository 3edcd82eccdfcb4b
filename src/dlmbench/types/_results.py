"""Quality, findings, and a run folder read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dlmbench.types._measurements import CellResult, Environment
from dlmbench.types._study import Cell, LeftOut


@dataclass(frozen=True)
class TextScore:
    """A metric's value of one text as total / weight, so that aggregates can be resampled.

    The aggregate over texts is sum(total) / sum(weight): nats over tokens, violations over slots, and so on.
    stderr: Monte Carlo error of `total`, where it is an estimate. size_bytes, words: of the scored text, for nats in
    other units. judge: the model that scored. remark: what a reader must know of this one text.
    """

    cell_id: str
    metric: str
    prompt_index: int
    total: float
    weight: float
    stderr: float | None = None
    size_bytes: int | None = None
    words: int | None = None
    judge: str | None = None
    remark: str = ""


@dataclass(frozen=True)
class Unscored:
    """A text that a metric could not score, and why; prompt_index None stands for all texts of the cell."""

    cell_id: str
    metric: str
    prompt_index: int | None
    reason: str
    judge: str | None = None


@dataclass(frozen=True)
class WholeScore:
    """The value of a metric that only exists over all texts of a cell, `n` of them."""

    cell_id: str
    metric: str
    value: float
    n: int
    judge: str | None = None
    remark: str = ""


TextResult = TextScore | Unscored | WholeScore


@dataclass(frozen=True)
class Reading:
    """The same score in another unit, with the ends of its interval."""

    unit: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class MissingText:
    """One text that is not in an aggregate, and why."""

    prompt_index: int
    reason: str


@dataclass(frozen=True)
class Score:
    """A metric aggregated over the texts of a cell, with the interval of a bootstrap over prompts.

    n texts were scored; those that were not are named, with the reason. monte_carlo_stderr: the part of the
    uncertainty that more draws would remove. self_judged: the judge is itself a model of the run.
    """

    cell_id: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    stderr: float | None
    n: int
    unit: str
    higher_is_better: bool
    judge: str | None = None
    note: str = ""
    monte_carlo_stderr: float | None = None
    in_other_units: tuple[Reading, ...] = ()
    not_scored: tuple[MissingText, ...] = ()
    self_judged: bool = False


@dataclass(frozen=True)
class Finding:
    """Something a reader of the results should know, with advice."""

    code: str
    severity: Literal["info", "warning", "error"]
    cell_id: str | None
    message: str
    hint: str


@dataclass(frozen=True)
class Run:
    """Everything a run folder says, read back from its files alone."""

    folder: str
    name: str
    environment: Environment | None
    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...]
    results: tuple[CellResult, ...]
    text_scores: tuple[TextScore, ...] = ()
    scores: tuple[Score, ...] = ()
    unscored: tuple[Unscored, ...] = ()
