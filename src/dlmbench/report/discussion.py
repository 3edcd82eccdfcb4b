"""Sections 6 and 7: every question that was raised with its answer, the limits of the study, and what follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dlmbench.analysis.quality import metric_for
from dlmbench.report import memory_questions, quality_questions, speed_questions, use_questions
from dlmbench.report.answers import Answer, Question
from dlmbench.report.markdown import Markdown, bullets, escape, table
from dlmbench.report.numbers import listed, plain
from dlmbench.report.results import crossing
from dlmbench.report.source import Source, is_published

# Title of the section, what it is about, and its questions.
THEMES: tuple[tuple[str, tuple[Question, ...]], ...] = (
    ("The trade-off between quality and computation", quality_questions.QUESTIONS),
    ("Latency and throughput", speed_questions.QUESTIONS),
    ("Memory", memory_questions.QUESTIONS),
    ("What it means in practice", use_questions.QUESTIONS),
)


@dataclass(frozen=True)
class Asked:
    """A question with its number and the answer of each run."""

    number: int
    question: Question
    answers: tuple[tuple[Source, Answer], ...]

    @property
    def state(self) -> str:
        """The best that any run has to say."""
        states = [a.state for _, a in self.answers]
        return next(s for s in ("measured", "in part", "not measured") if s in states)


def ask(sources: Sequence[Source]) -> dict[str, list[Asked]]:
    """Every question, put to every run, by theme."""
    number = 0
    themes: dict[str, list[Asked]] = {}
    for title, questions in THEMES:
        for question in questions:
            number += 1
            answers = tuple((s, question.ask(s)) for s in sources)
            themes.setdefault(title, []).append(Asked(number, question, answers))
    return themes


def shown(asked: Sequence[Asked]) -> Markdown:
    """Questions with their answers, one after the other."""
    return Markdown("\n\n".join(_shown(a) for a in asked))


def _shown(asked: Asked) -> str:
    question = asked.question
    lines = [f"**Q{asked.number}** ({question.kind}). *{escape(question.text)}*"]
    for source, answer in asked.answers:
        name = f"Run {escape(source.name)}: " if len(asked.answers) > 1 else ""
        lines.append(f"{name}{escape(answer.text)}")
        if answer.items:
            lines.append(bullets(answer.items))
    return "\n\n".join(lines)


def index(themes: dict[str, list[Asked]]) -> Markdown:
    """Which questions have an answer."""
    rows = [(f"Q{a.number}", a.question.text, a.state) for group in themes.values() for a in group]
    return table(("", "hypothesis, claim or question", "state"), rows, 3)


def limits(source: Source) -> Iterator[str]:
    """What a reader must not conclude from this run."""
    strange = [m.key for m in source.models if not is_published(m) or m.weights != "pretrained"]
    if strange:
        yield (
            f"The models {listed(strange)} are not the published 8B checkpoints with their trained weights: nothing "
            "here says how good those are."
        )
    if source.random:
        yield "The weights are random: times, memory and energy are real, quality was not measured."
    env = source.run.environment
    yield f"One device: {env.device if env else 'not on record'}. Other hardware may order the two models differently."
    if env is not None and env.cuda is None:
        yield "There was no GPU. Ratios of times on a CPU do not carry over to one."
    yield (
        f"One engine for both models ({listed(source.values('engine'))}): architectures are compared, not the best "
        "that can be built for each."
    )
    if source.study.metrics and not source.random:
        n = sorted({q.n for s in source.study.cells for q in s.quality})
        yield f"Quality rests on {listed(n)} texts a cell and on {listed(m.words for m in source.study.metrics)}."
        if metric_for("likelihood") in {m.name for m in source.study.metrics}:
            yield (
                "The sampler likelihood thinks of tokens as drawn at temperature 1; the times belong to the "
                f"temperature of the cells ({listed(map(plain, source.values('temperature')))})."
            )
    steps = source.values("steps")
    yield f"Step counts K {listed(steps)} only." if steps else "No step count was swept."
    short = [r for r in source.run.results if r.timed and len(r.timed) < 10]
    if short:
        yield f"{len(short)} cells have fewer than 10 timed repetitions."
    processes = [len({s.process_id for s in r.timed}) for r in source.run.results if r.timed]
    if processes and max(processes) == 1:
        yield "Each cell was timed in one process: how much processes differ is not in the intervals."


def key_findings(source: Source) -> Markdown:
    """The use cases, each with its balance."""
    items = []
    for use in use_questions.USE_CASES:
        answer = use_questions.fitness(use)(source)
        items.append(escape(f"{use.name[0].upper()}{use.name[1:]} ({use.condition}): {answer.text}"))
        items += [Markdown(f"  {line}") for line in bullets(answer.items).splitlines()]
    return Markdown("\n".join(i if i.startswith("  ") else f"- {i}" for i in items))


def parity_in_short(source: Source) -> Answer:
    """Where parity is reached."""
    return quality_questions.steps_to_parity(source)


def recommendations(source: Source) -> Markdown:
    """Advice that follows from the numbers, and only from them."""
    items = []
    for curve in sorted(source.curves, key=lambda c: c.rank):
        line = curve.break_even
        if line is None or line.steps is None or line.steps < 1:
            continue
        rough = ", outside the step counts that were timed" if line.is_extrapolated else ""
        place = f"{curve.label}, B={curve.batch_size}, P={curve.prompt_tokens}, G={curve.new_tokens}"
        items.append(f"{place}: diffusion saves time below k* = {crossing(line)} steps{rough}")
    known = any(c.parities for c in source.curves)
    end = (
        "Choose the number of steps from the table of quality, then compare it with the break-even beside it."
        if known
        else "Before choosing diffusion, measure its quality at those step counts: it was not measured here."
    )
    more = len(items) - 8
    rest = [f"{more} more settings are in the table of break-even"] if more > 1 else []
    return bullets([*(f"{i}." for i in [*items[: 8 if rest else None], *rest]), end])


def open_questions(themes: dict[str, list[Asked]]) -> Markdown:
    """What was not measured, as future work."""
    asked = [a for group in themes.values() for a in group]
    none, part = (listed(f"Q{a.number}" for a in asked if a.state == s) for s in ("not measured", "in part"))
    return Markdown(f"The next to be measured is what has no answer yet: {none}; and the rest of {part}.")
