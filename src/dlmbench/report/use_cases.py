"""The answer by use case: interactive, server, long context; each with its conditions, or plainly not measured.

The question is the same three times: from how many steps on is diffusion as good (S_parity), and up to how many is it
faster (k*)? Diffusion pays off where the two overlap. A use case is a part of the grid. Each workload in it (a batch
size and lengths) is answered by the sampler settings that favour diffusion most there, which the page states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dlmbench.analysis.results import CellSummary, Curve, Study, group_by
from dlmbench.analysis.winners import CurveVerdict, winner_of
from dlmbench.report.answer import BADGES, break_even_text, parity_text, speed_at_parity, verdict_text
from dlmbench.report.text import gib, listed, seconds, sig, spread

SERVER_BATCH = 8
LONG_TOKENS = 1024


@dataclass(frozen=True)
class UseCase:
    """A way of using a model, and the settings of a run that belong to it.

    fact: one more number that matters in this use, as text for one cell; None where it was not measured.
    """

    key: str
    title: str
    meaning: str
    question: str
    condition: str
    matches: Callable[[Curve], bool]
    fact_name: str
    fact: Callable[[CellSummary], str | None]

    def curves(self, study: Study) -> list[Curve]:
        """The curves of `study` that belong to it."""
        return [c for c in study.curves if self.matches(c)]

    def why_missing(self, study: Study) -> str:
        """Why `study` has no curve that belongs to it."""
        if not study.curves:
            return "no diffusion cell has a step count"
        batches = listed(f"B={b}" for b in sorted({c.batch_size for c in study.curves}))
        lengths = listed(f"N={n}" for n in sorted({sum(c.lengths) for c in study.curves}))
        return f"no diffusion setting has {self.condition} (there are {batches}; {lengths})"


INTERACTIVE = UseCase(
    "interactive",
    "Interactive use",
    "one request at a time: batch size 1",
    "Is LLaDA responsive enough for interactive use?",
    "B=1",
    lambda c: c.batch_size == 1,
    "First text on the screen after",
    lambda c: None if c.first_text_s is None else seconds(c.first_text_s),
)
SERVER = UseCase(
    "server",
    "Server",
    f"many requests at once: batch size {SERVER_BATCH} or more",
    "Is LLaDA fit for batch processing and servers?",
    f"B>={SERVER_BATCH}",
    lambda c: c.batch_size >= SERVER_BATCH,
    "Throughput, whole batch",
    lambda c: f"{sig(c.throughput.median)} tokens/s" if c.throughput else None,
)
LONG = UseCase(
    "long",
    "Long context",
    f"prompt and answer of {LONG_TOKENS:,} tokens or more together",
    "Is LLaDA fit for long texts?",
    f"N>={LONG_TOKENS}",
    lambda c: c.prompt_tokens + c.new_tokens >= LONG_TOKENS,
    "Peak memory",
    lambda c: f"{gib(c.memory.bytes)} ({c.memory.source})" if c.memory else None,
)
USE_CASES = (INTERACTIVE, SERVER, LONG)


# ---------------------------------------------------------------- one workload


@dataclass(frozen=True)
class Strip:
    """The steps measured on a line from 0 to 100: where diffusion is faster, and where it is as good.

    faster_to, good_from: percent along the line; None where nowhere. faster_low, faster_high: the ends of k*'s
    interval, cut at the ends of the line.
    """

    ticks: tuple[tuple[float, int], ...]
    faster_to: float | None
    faster_low: float
    faster_high: float
    good_from: float | None


@dataclass(frozen=True)
class Workload:
    """One batch size and pair of lengths, with the settings that favour diffusion most there.

    facts: the evidence, as pairs of name and value.
    """

    verdict: CurveVerdict
    where: str
    why: str
    facts: tuple[tuple[str, str], ...]
    strip: Strip | None
    chosen: str


@dataclass(frozen=True)
class UseCaseAnswer:
    """A use case with its workloads; without any, `missing` says why it was not measured."""

    use: UseCase
    workloads: tuple[Workload, ...]
    missing: str = ""
    note: str = ""

    @property
    def verdict(self) -> CurveVerdict:
        """The verdict where all workloads agree, undecided where they differ, unknown where there is none."""
        found = {w.verdict for w in self.workloads} or {"unknown"}
        return found.pop() if len(found) == 1 else "undecided"

    @property
    def badge(self) -> str:
        """The verdict in two words."""
        if not self.workloads:
            return "Not measured"
        return BADGES[self.verdict] if len({w.verdict for w in self.workloads}) == 1 else "It depends"


def use_case_answers(study: Study) -> tuple[UseCaseAnswer, ...]:
    """The three use cases of `study`, always all three."""
    return tuple(_answer(study, use) for use in USE_CASES)


def _answer(study: Study, use: UseCase) -> UseCaseAnswer:
    curves, note = use.curves(study), ""
    largest = max((c.batch_size for c in study.curves), default=0)
    if not curves and use is SERVER and largest > 1:
        curves = [c for c in study.curves if c.batch_size == largest]
        note = f"The largest batch measured is {largest}; a server would run {SERVER_BATCH} or more."
    groups = group_by(curves, lambda c: (sum(c.lengths), c.new_tokens, c.batch_size))
    workloads = tuple(_workload(group, use) for _, group in sorted(groups.items()))
    return UseCaseAnswer(use, workloads, "" if curves else use.why_missing(study), note)


def _workload(curves: Sequence[Curve], use: UseCase) -> Workload:
    verdicts = [winner_of(c).verdict for c in curves]

    def rank(found: tuple[CurveVerdict, Curve]) -> tuple[int, float]:
        verdict, curve = found
        return list(BADGES).index(verdict), -max((p.speedup.value for p in curve.points if p.speedup), default=0.0)

    verdict, best = min(zip(verdicts, curves, strict=True), key=rank)
    chosen = f"settings: {best.label}"
    if len(curves) > 1:
        chosen += f" ({len(curves)} settings measured, "
        chosen += "all with this verdict)" if len(set(verdicts)) == 1 else "those that favour diffusion most)"
    where = f"batch {best.batch_size} · {best.prompt_tokens} prompt + {best.new_tokens} new tokens"
    return Workload(verdict, where, verdict_text(best), tuple(_facts(best, use)), _strip(best), chosen)


def _facts(curve: Curve, use: UseCase) -> Iterator[tuple[str, str]]:
    best, base, timed = curve.nearest_parity, curve.baseline, curve.timed
    if curve.headline() is not None:
        yield "Steps to equal quality (S_parity)", parity_text(curve)
    # Speed and memory where quality is equal, otherwise with the most steps timed.
    point = (curve.at(best.parity.steps) if best else None) or (timed[-1] if timed else None)
    if best is not None:
        yield "Speed there", speed_at_parity(curve)
    elif point is not None and point.speedup is not None and base is not None:
        name = f"Speed at K={point.cell.steps}, as a multiple of {base.cell.model.key}'s"
        yield name, spread(point.speedup, "x")
    yield "Steps up to which it is faster (k*)", break_even_text(curve)
    ours, theirs = (use.fact(c) if c else None for c in (point, base))
    if point is not None and base is not None and ours is not None and theirs is not None:
        yield use.fact_name, f"{base.cell.model.key} {theirs}; {curve.model} {ours} at K={point.cell.steps}"


def _strip(curve: Curve) -> Strip | None:
    """S_parity and k* on one line: between the first and the last step count measured."""
    steps = [p.cell.steps for p in curve.points if p.cell.steps]
    if len(steps) < 2:
        return None
    low, high = math.log2(steps[0]), math.log2(steps[-1])

    def place(k: float) -> float:
        return round(100 * (math.log2(max(k, 1e-9)) - low) / (high - low), 1)

    line, best = curve.break_even, curve.nearest_parity or curve.headline()
    faster, ends = None, (0.0, 0.0)
    if line is not None and line.steps is not None:
        ends_of_k = [line.steps if end is None else end for end in (line.low, line.high)]
        at = [min(max(place(k), 0.0), 100.0) for k in (line.steps, *ends_of_k)]
        faster, ends = at[0] or None, (at[1], at[2])
    good = place(best.parity.steps) if best and best.parity.steps and not best.parity.delta else None
    return Strip(tuple((place(k), k) for k in steps), faster, *ends, good)
