"""Questions of the study and what a run answers to them: measured, measured in part, or not measured and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dlmbench.report.source import Source
from dlmbench.report.text import counted

State = Literal["measured", "in part", "not measured"]
Kind = Literal["hypothesis", "question", "claim"]
# Beyond so many settings a list is no longer read; the others are counted and are in the tables.
MOST = 8


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
    *lead: str, items: Iterable[str] = (), state: State = "measured", noun: str = "setting", missing: str = ""
) -> Answer:
    """Sentences followed by a list. With `missing`, an empty list means: not measured, for that reason."""
    listed = shortened(list(items), noun)
    if missing and not listed:
        return not_measured(missing)
    return Answer(sentences(lead), state, tuple(listed))


def sentences(parts: Iterable[str]) -> str:
    """Sentences, each starting with a capital and ending with a full stop."""
    cleaned = (p.strip().rstrip(".") for p in parts if p.strip())
    return " ".join(p[0].upper() + p[1:] + "." for p in cleaned)


def shortened(parts: Sequence[str], noun: str = "setting") -> list[str]:
    """The first few, and how many more there are."""
    more = len(parts) - MOST
    if more <= 1:
        return list(parts)
    return [*parts[:MOST], f"{counted(more, f'more {noun}')} in the tables"]
