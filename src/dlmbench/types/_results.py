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
    """

    cell_id: str
    metric: str
    prompt_index: int
    total: float
    weight: float


@dataclass(frozen=True)
class Score:
    """A metric aggregated over the texts of a cell, with the interval of a bootstrap over prompts."""

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
