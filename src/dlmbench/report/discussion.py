"""Sections 6 and 7: every question that was raised with its answer, the limits of the study, and advice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dlmbench.analysis.quality import metric_for
from dlmbench.report.answer import break_even_text
from dlmbench.report.answers import Answer, Question, shortened
from dlmbench.report.performance_answers import LATENCY, MEMORY
from dlmbench.report.quality_answers import QUALITY, USAGE
from dlmbench.report.source import Source, is_published, name_of
from dlmbench.report.text import Markdown, bullets, listed, plain, table

# Title of the section and its questions, in the order of the document.
THEMES: tuple[tuple[str, Sequence[Question]], ...] = (
    ("The trade-off between quality and computation", QUALITY),
    ("Latency and throughput", LATENCY),
    ("Memory", MEMORY),
    ("What it means in practice", USAGE),
)


@dataclass(frozen=True)
class Asked:
    """A question with its number and the answer of each run."""

    number: int
    question: Question
    answers: tuple[tuple[Source, Answer], ...]

    @property
    def state(self) -> str:
        """The best state of any run's answer."""
        states = [a.state for _, a in self.answers]
        return next(s for s in ("measured", "in part", "not measured") if s in states)


def ask(sources: Sequence[Source]) -> dict[str, list[Asked]]:
    """Every question, answered for every run, by theme."""
    number = itertools.count(1)
    return {
        title: [Asked(next(number), q, tuple((s, q.ask(s)) for s in sources)) for q in questions]
        for title, questions in THEMES
    }


def index(themes: dict[str, list[Asked]]) -> Markdown:
    """The table of questions with the state of their answers."""
    rows = [(f"Q{a.number}", a.question.text, a.state) for group in themes.values() for a in group]
    return table(("", "hypothesis, claim or question", "state"), rows, 3)


def numbers(themes: dict[str, list[Asked]], state: str) -> str:
    """The numbers of the questions in one state."""
    return listed(f"Q{a.number}" for group in themes.values() for a in group if a.state == state)


def limits(source: Source) -> Iterator[str]:
    """What a reader must not conclude from this run."""
    others = [m.key for m in source.models if not is_published(m) or m.weights != "pretrained"]
    if others:
        yield (
            f"The models {listed(others)} are not the published 8B checkpoints with their trained weights: this "
            "run gives no evidence about their quality."
        )
    if source.random:
        yield "The weights are random: times, memory and energy are real, quality was not measured."
    env = source.run.environment
    yield f"One device: {env.device if env else 'not on record'}. Other hardware may rank the two models differently."
    if env is not None and env.cuda is None:
        yield "There was no GPU. Ratios of times on a CPU do not carry over to one."
    yield (
        f"One engine for both models ({listed(source.values('engine'))}): architectures are compared, not the best "
        "implementation of each."
    )
    if source.study.metrics and not source.random:
        n = sorted({q.n for s in source.study.cells for q in s.quality})
        names = listed(m.display_name for m in source.study.metrics)
        yield f"Quality rests on {listed(n)} texts a cell and on {names}."
        if metric_for("likelihood") in {m.name for m in source.study.metrics}:
            yield (
                "The sampler likelihood assumes that tokens are drawn at temperature 1; the times belong to the "
                f"temperature of the cells ({listed(map(plain, source.values('temperature')))})."
            )
    steps = source.values("steps")
    yield f"Step counts K {listed(steps)} only." if steps else "No step count was swept."
    short = [r for r in source.run.results if r.timed and len(r.timed) < 10]
    if short:
        yield f"{len(short)} cells have fewer than 10 timed repetitions."
    processes = [len({s.process_id for s in r.timed}) for r in source.run.results if r.timed]
    if processes and max(processes) == 1:
        yield "Each cell was timed in one process: the spread between processes is not in the intervals."


def recommendations(source: Source) -> Markdown:
    """Advice that follows from the numbers, and only from them."""
    items = [
        f"{name_of(curve)}: diffusion saves time below {break_even_text(curve)}"
        for curve in sorted(source.study.curves, key=lambda c: c.rank)
        if (line := curve.break_even) is not None and (line.steps or 0) >= 1
    ]
    advice = "Before choosing diffusion, measure its quality at those step counts: it was not measured here."
    if any(c.parities for c in source.study.curves):
        advice = "Choose the number of steps from the table of quality, then compare it with the break-even beside it."
    return bullets([*(f"{i}." for i in shortened(items)), advice])
