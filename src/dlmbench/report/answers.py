"""Questions of the study and what a run answers to them: measured, measured in part, or not measured and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from dlmbench.analysis.results import CellSummary, timed_of
from dlmbench.analysis.stats import Interval, ratio_interval
from dlmbench.analysis.study import repetitions_of
from dlmbench.report.numbers import counted
from dlmbench.report.source import Source, setting

State = Literal["measured", "in part", "not measured"]
Kind = Literal["hypothesis", "question", "claim"]
# Beyond so many settings a list is no longer read; the others are counted and are in the tables.
MOST = 8
_T = TypeVar("_T")


@dataclass(frozen=True)
class Answer:
    """The answer of one run: sentences, and a list of settings with the answer for each."""

    text: str
    state: State = "measured"
    items: tuple[str, ...] = ()


Ask = Callable[[Source], Answer]


@dataclass(frozen=True)
class Question:
    """One question of the study, as it was raised, and the function that answers it for a run."""

    kind: Kind
    text: str
    ask: Ask


def answers(theme: list[Question], kind: Kind) -> Callable[[Ask], Ask]:
    """Decorator: the function answers the next question of `theme`, which is the first paragraph of its docstring."""

    def register(ask: Ask) -> Ask:
        text, _, _ = (ask.__doc__ or "").partition("\n\n")
        theme.append(Question(kind, " ".join(text.split()), ask))
        return ask

    return register


def not_measured(why: str) -> Answer:
    """No answer, and why."""
    return Answer(f"Not measured: {why}.", "not measured")


def answer_of(
    *lead: str, items: Sequence[str] = (), state: State = "measured", noun: str = "setting", missing: str = ""
) -> Answer:
    """Sentences followed by a list. With `missing`, an empty list means: not measured, for that reason."""
    if missing and not items:
        return not_measured(missing)
    return Answer(sentences(lead), state, tuple(some(items, noun)))


def sentences(parts: Iterable[str]) -> str:
    """Sentences, each starting with a capital and ending with a full stop."""
    made = (p.strip().rstrip(".") for p in parts if p.strip())
    return " ".join(p[0].upper() + p[1:] + "." for p in made)


def some(parts: Sequence[str], noun: str = "setting") -> list[str]:
    """The first few, and how many more there are."""
    more = len(parts) - MOST
    if more <= 1:
        return list(parts)
    return [*parts[:MOST], f"{counted(more, f'more {noun}')} in the tables"]


def speed_word(
    ratio: Interval, words: tuple[str, str, str] = ("faster", "slower", "not shown to differ in speed")
) -> str:
    """The word for the interval of a ratio: above 1, below 1, or containing 1."""
    return words[0] if ratio.low > 1 else words[1] if ratio.high < 1 else words[2]


def grouped(things: Iterable[_T], key: Callable[[_T], object]) -> list[list[_T]]:
    """Things with an equal key together, in order of appearance."""
    groups: dict[object, list[_T]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return list(groups.values())


def equal_but(cells: Iterable[CellSummary], *names: str) -> list[list[CellSummary]]:
    """Cells that differ at most in the settings named, together."""
    compared = (
        *("engine", "sampler", "batch_size", "prompt_tokens", "new_tokens"),
        *("precision", "attention", "seed", "prompts"),
    )

    def key(summary: CellSummary) -> object:
        cell = summary.cell
        fixed = tuple((n, getattr(cell, n)) for n in compared if n not in names)
        # A knob that is off equals one that the sampler does not have.
        knobs = tuple((k, repr(v)) for k, v in cell.knobs if k not in names and v not in (None, False, 0, "none"))
        return (cell.model, fixed, knobs)

    return grouped(cells, key)


def by_length(cells: Iterable[CellSummary]) -> list[list[CellSummary]]:
    """Cells that differ only in prompt length, ascending, where there are two lengths or more."""
    groups = equal_but(cells, "prompt_tokens", "prompts")
    ordered = [sorted(g, key=lambda c: c.cell.sequence_length) for g in groups]
    return [g for g in ordered if g[0].cell.sequence_length < g[-1].cell.sequence_length]


@dataclass(frozen=True)
class Contrast:
    """Two timed cells that differ in one setting only. ratio: latency with the first value over the second's."""

    first: CellSummary
    second: CellSummary
    values: tuple[Any, Any]
    ratio: Interval


def contrasts(source: Source, name: str, *dependent: str) -> Iterator[Contrast]:
    """Every timed pair that differs in `name`, against the first value of each group.

    dependent: settings that only exist for some values of `name`, and so differ with it.
    """
    for base, *others in equal_but(timed_of(source.study.cells), name, *dependent):
        for other in others:
            values = setting(base.cell, name), setting(other.cell, name)
            if values[0] != values[1]:
                ours, theirs = (repetitions_of(source.results[c.cell.id]) for c in (base, other))
                if ours and theirs:
                    yield Contrast(base, other, values, ratio_interval(ours.latency_s, theirs.latency_s))
