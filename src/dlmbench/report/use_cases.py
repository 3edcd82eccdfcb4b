"""The answer by use case: interactive, server, long context; each with its conditions, or plainly not measured.

The question is the same three times: from how many steps on is diffusion as good (S_parity), and up to how many is it
faster (k*)? Diffusion pays off where the two overlap. A use case is a part of the grid. Each workload in it (a batch
size and lengths) is answered by the sampler settings that favour diffusion most there, which the page states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from dlmbench.analysis.answer import gap_text
from dlmbench.analysis.results import CellSummary, Curve, Study, group_by
from dlmbench.analysis.winners import steps_at, winner_of
from dlmbench.report.text import counted, gib, listed, seconds, sig, spread

SERVER_BATCH = 8
LONG_TOKENS = 1024

WorkloadVerdict = Literal["diffusion", "baseline", "undecided", "speed only", "unknown"]
# In the order in which they favour diffusion: the first is chosen where several settings were measured.
BADGES: dict[WorkloadVerdict, str] = {
    "diffusion": "Diffusion wins",
    "undecided": "Undecided",
    "speed only": "Speed only",
    "baseline": "Autoregressive wins",
    "unknown": "Not known",
}


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


# ---------------------------------------------------------------- one curve


def speed_by_steps(curve: Curve) -> str:
    """At which timed step counts diffusion is faster than its baseline, slower, or not shown to differ."""
    timed = [p.cell.steps for p in curve.points if p.speedup and p.cell.steps]
    by_pace = {"faster": steps_at(curve, "faster"), "slower": steps_at(curve, "slower")}
    parts = [
        f"{word} at K={listed(k for k in timed if k in steps)}"
        for word, steps in by_pace.items()
        if {*timed} & {*steps}
    ]
    undecided = [k for k in timed if k not in (*by_pace["faster"], *by_pace["slower"])]
    if undecided:
        parts.append(f"not shown to differ in speed at K={listed(undecided)}")
    return ", ".join(parts)


def verdict_of(curve: Curve) -> tuple[WorkloadVerdict, str]:
    """Which model wins at equal quality, and why; by speed alone where quality is not known."""
    if not curve.timed:
        reason = curve.untimed_reason
        return "unknown", f"diffusion was not timed: {reason}" if reason else "diffusion was not timed"
    if curve.baseline is None or curve.baseline.latency is None:
        return "unknown", "no autoregressive baseline was timed with the same batch size and lengths"
    speed = f"diffusion is {speed_by_steps(curve)}"
    if curve.headline() is None:
        why = "the weights are random" if curve.weights == "random" else "no metric was scored for both models"
        return "speed only", f"{speed}; quality was not measured ({why})"
    winner = winner_of(curve)
    return winner.verdict, f"{winner.reason}; {speed}"


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
    text: str


@dataclass(frozen=True)
class Workload:
    """One batch size and pair of lengths, with the settings that favour diffusion most there.

    facts: the evidence, as pairs of name and value.
    """

    verdict: WorkloadVerdict
    where: str
    why: str
    facts: tuple[tuple[str, str], ...]
    strip: Strip | None
    chosen: str

    @property
    def badge(self) -> str:
        """The verdict in two words."""
        return BADGES[self.verdict]


@dataclass(frozen=True)
class UseCaseAnswer:
    """A use case with its workloads; without any, `missing` says why it was not measured."""

    use: UseCase
    workloads: tuple[Workload, ...]
    missing: str = ""
    note: str = ""

    @property
    def verdict(self) -> WorkloadVerdict:
        """The verdict where all workloads agree, otherwise undecided."""
        found = {w.verdict for w in self.workloads}
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
    curves, missing, note = use.curves(study), "", ""
    largest = max((c.batch_size for c in study.curves), default=0)
    if not curves and use is SERVER and largest > 1:
        curves = [c for c in study.curves if c.batch_size == largest]
        note = f"The largest batch measured is {largest}; a server would run {SERVER_BATCH} or more."
    if not curves:
        longest = max((c.prompt_tokens + c.new_tokens for c in study.curves), default=0)
        why = {
            INTERACTIVE.key: "no diffusion cell has batch size 1",
            SERVER.key: "only batch size 1 was measured",
            LONG.key: f"the longest sequence measured is {longest} tokens",
        }
        missing = why[use.key] if study.curves else "no diffusion cell with a step count"
    groups = group_by(curves, lambda c: (sum(c.lengths), c.new_tokens, c.batch_size))
    workloads = tuple(_workload(group, use) for _, group in sorted(groups.items()))
    return UseCaseAnswer(use, workloads, missing, note)


def _workload(curves: Sequence[Curve], use: UseCase) -> Workload:
    def rank(found: tuple[tuple[WorkloadVerdict, str], Curve]) -> tuple[int, float]:
        (verdict, _), curve = found
        return list(BADGES).index(verdict), -max((p.speedup.value for p in curve.points if p.speedup), default=0.0)

    judged = [(verdict_of(c), c) for c in curves]
    (verdict, why), best = min(judged, key=rank)
    chosen = f"settings: {best.label}"
    if len(curves) > 1:
        same = len({v for (v, _), _ in judged}) == 1
        chosen += f" ({len(curves)} settings measured, "
        chosen += "all with this verdict)" if same else "those that favour diffusion most)"
    where = f"batch {best.batch_size} · {best.prompt_tokens} prompt + {best.new_tokens} new tokens"
    return Workload(verdict, where, why, tuple(_facts(best, use)), _strip(best), chosen)


def _facts(curve: Curve, use: UseCase) -> list[tuple[str, str]]:
    lead, best, base = curve.headline(), curve.nearest_parity, curve.baseline
    baseline = base.cell.model.key if base else "the baseline"
    timed = curve.timed
    # Times and memory where quality is equal, otherwise with the most steps timed.
    point = (curve.at(best.parity.steps) if best else None) or (timed[-1] if timed else None)
    facts = []
    if lead is not None:
        by = f"by {lead.metric.display_name}, on {counted(lead.parity.n, 'prompt')}"
        value = f"{lead.outcome_text}: {gap_text(lead)}, {by}"
        if lead.parity.reached:
            fewer = " or fewer" if lead.parity.outcome == "reached_at_smallest" else ""
            value = f"{lead.parity.steps}{fewer} ({by})"
        facts.append(("Steps to equal quality (S_parity)", value))
    if best is not None and best.parity.delta:
        facts.append((f"Steps if {best.margin_text} is enough", f"{best.parity.steps}"))
    if best is not None:
        value = spread(best.latency_ratio, "x") if best.latency_ratio else "not timed"
        if best.latency_ratio and best.speedup and best.speedup.share_reached < 0.95:
            value += f"; found again in {best.speedup.share_reached:.0%} of the resamples"
        facts.append((f"Speed there, as a multiple of {baseline}'s", value))
    elif point is not None and point.speedup is not None:
        facts.append((f"Speed at K={point.cell.steps}, as a multiple of {baseline}'s", spread(point.speedup, "x")))
    line = curve.break_even
    if line is not None or timed:
        value = line.text() if line else "not known: fewer than two step counts timed"
        if line is not None and line.is_extrapolated:
            value += f", extrapolated from K={timed[0].cell.steps} to {timed[-1].cell.steps}"
        facts.append(("Steps up to which it is faster (k*)", value))
    ours, theirs = (use.fact(c) if c else None for c in (point, base))
    if point is not None and ours is not None and theirs is not None:
        facts.append((use.fact_name, f"{baseline} {theirs}; {curve.model} {ours} at K={point.cell.steps}"))
    return facts


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
    if best is None:
        text = "where it is as good was not measured"
    elif faster is not None and good is not None and good < faster:
        text = "both as good and faster in between"
    else:
        text = "nowhere both as good and faster"
    return Strip(tuple((place(k), k) for k in steps), faster, *ends, good, text)
