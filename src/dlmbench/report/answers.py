"""A question, and what a run answers to it: measured, measured in part, or not measured and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dlmbench.analysis.stats import Interval, ratio_interval
from dlmbench.analysis.study import CellSummary, Curve
from dlmbench.report.numbers import counted
from dlmbench.report.source import Source, setting
from dlmbench.types import Cell

State = Literal["measured", "in part", "not measured"]
Kind = Literal["hypothesis", "question", "claim"]
# Beyond so many settings a list is no longer read; the rest is counted and stands in the tables.
MOST = 8


@dataclass(frozen=True)
class Answer:
    """What one run says: sentences, and a list of settings with what each says."""

    text: str
    state: State = "measured"
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """One question of the study, as it was raised, and how a run is asked."""

    kind: Kind
    text: str
    ask: Callable[[Source], Answer]


def not_measured(why: str) -> Answer:
    """No answer, and why."""
    return Answer(f"Not measured: {why}.", "not measured")


def sentences(parts: Iterable[str]) -> str:
    """Sentences, each begun with a capital and closed with a full stop."""
    made = (p.strip().rstrip(".") for p in parts if p.strip())
    return " ".join(p[0].upper() + p[1:] + "." for p in made)


def some(parts: Sequence[str], noun: str = "setting") -> list[str]:
    """The first few, and how many more there are."""
    more = len(parts) - MOST
    if more <= 1:
        return list(parts)
    return [*parts[:MOST], f"{counted(more, f'more {noun}')} in the tables"]


def listing(lead: Sequence[str], items: Sequence[str], state: State = "measured", noun: str = "setting") -> Answer:
    """Sentences followed by a list."""
    return Answer(sentences(lead), state, tuple(some(items, noun)))


def where(cell: Cell | Curve, batch: bool = True) -> str:
    """The setting of a cell or curve in words."""
    size = f"B={cell.batch_size}, " if batch else ""
    return f"{size}P={cell.prompt_tokens}, G={cell.new_tokens}"


def timed(cells: Iterable[CellSummary]) -> list[CellSummary]:
    """Those with a latency."""
    return [c for c in cells if c.latency is not None]


def grouped(cells: Iterable[CellSummary], key: Callable[[Cell], object]) -> list[list[CellSummary]]:
    """Cells with an equal key together, in order of appearance."""
    groups: dict[object, list[CellSummary]] = {}
    for cell in cells:
        groups.setdefault(key(cell.cell), []).append(cell)
    return list(groups.values())


def rest(cell: Cell, *without: str) -> tuple[object, ...]:
    """Everything of a cell but the settings named."""
    names = (
        "engine",
        "sampler",
        "batch_size",
        "prompt_tokens",
        "new_tokens",
        "precision",
        "attention",
        "seed",
        "prompts",
    )
    fixed = tuple((n, getattr(cell, n)) for n in names if n not in without)
    # A knob that is off is as good as one that the sampler lacks.
    knobs = tuple((k, repr(v)) for k, v in cell.knobs if k not in without and v not in (None, False, 0, "none"))
    return (cell.model, fixed, knobs)


@dataclass(frozen=True)
class Contrast:
    """Two timed cells that differ in one setting only. ratio: latency with the first value over the second's."""

    first: CellSummary
    second: CellSummary
    values: tuple[Any, Any]
    ratio: Interval


def contrasts(source: Source, name: str, *dependent: str) -> Iterator[Contrast]:
    """Every timed pair that differs in `name` (and in knobs that come with it), against the first value of each group.

    dependent: settings that only exist for some values of `name`, and so differ with it.
    """
    for group in grouped(timed(source.study.cells), lambda c: rest(c, name, *dependent)):
        base = group[0]
        for other in group[1:]:
            values = setting(base.cell, name), setting(other.cell, name)
            if values[0] != values[1]:
                ours, theirs = (latencies(source, c) for c in (base, other))
                yield Contrast(base, other, values, ratio_interval(ours, theirs))


def latencies(source: Source, summary: CellSummary) -> list[float]:
    """The timed repetitions of a cell, in seconds."""
    return [s.latency_s for s in source.results[summary.cell.id].timed if s.latency_s > 0]


def verdict(ratio: Interval, faster: str, slower: str, neither: str) -> str:
    """Which of three words an interval around a ratio deserves."""
    if ratio.low > 1:
        return faster
    return slower if ratio.high < 1 else neither
