"""The answer by use case: interactive, server, long context; each with its conditions, or plainly not measured.

The question is the same three times: from how many steps on is diffusion as good (S_parity), and up to how many is it
faster (k*)? It is worth it where the two overlap. A use case is a part of the grid. Each workload in it (a batch size
and lengths) is answered by the sampler settings that serve diffusion best there, and the page says that they were
chosen so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dlmbench.analysis.answer import headline
from dlmbench.analysis.stats import Interval
from dlmbench.analysis.study import CellSummary, Curve, MetricParity, Study
from dlmbench.analysis.winners import nearest, winner_of
from dlmbench.report.numbers import counted, from_to, gib, listed, seconds, sig, spread

SERVER_BATCH = 8
LONG_TOKENS = 1024

# What a use case asks beside: a fact about a curve.
_Extra = Callable[[Curve], "Fact | None"]
Winner = Literal["diffusion", "baseline", "undecided", "speed only", "unknown"]
# In the order in which they serve diffusion: what is chosen where several settings were measured.
_RANK: tuple[Winner, ...] = ("diffusion", "undecided", "speed only", "baseline", "unknown")
_BADGES: dict[Winner, str] = {
    "diffusion": "Diffusion wins",
    "baseline": "Autoregressive wins",
    "undecided": "Undecided",
    "speed only": "Speed only",
    "unknown": "Not known",
}


@dataclass(frozen=True)
class Fact:
    """One line of evidence."""

    name: str
    value: str


@dataclass(frozen=True)
class Strip:
    """The steps measured on a line from 0 to 100: where diffusion is faster, and where it is as good.

    faster_to, good_from: percent along the line; None where nowhere. faster_surely, faster_perhaps: the ends of k*'s
    interval, cut at the ends of the line.
    """

    ticks: tuple[tuple[float, int], ...]
    faster_to: float | None
    faster_surely: float
    faster_perhaps: float
    good_from: float | None
    words: str


@dataclass(frozen=True)
class Workload:
    """One batch size and pair of lengths, with the settings that serve diffusion best there."""

    winner: Winner
    where: str
    why: str
    facts: tuple[Fact, ...]
    strip: Strip | None
    chosen: str

    @property
    def badge(self) -> str:
        """The verdict in two words."""
        return _BADGES[self.winner]


@dataclass(frozen=True)
class Case:
    """A use case; without workloads, `missing` says why it was not measured."""

    key: str
    title: str
    meaning: str
    workloads: tuple[Workload, ...]
    missing: str = ""
    note: str = ""

    @property
    def winner(self) -> Winner:
        """The verdict where all workloads agree, else undecided."""
        found = {w.winner for w in self.workloads}
        return found.pop() if len(found) == 1 else "undecided"

    @property
    def badge(self) -> str:
        """The verdict in two words."""
        if not self.workloads:
            return "Not measured"
        return _BADGES[self.winner] if len({w.winner for w in self.workloads}) == 1 else "It depends"


def cases(study: Study) -> tuple[Case, ...]:
    """The three use cases of `study`, always all three."""
    return (_interactive(study), _server(study), _long(study))


def _interactive(study: Study) -> Case:
    curves = [c for c in study.curves if c.batch_size == 1]
    missing = "" if curves else "no diffusion cell has batch size 1"
    return Case(
        "interactive",
        "Interactive use",
        "one request at a time: batch size 1",
        _workloads(curves, _first_text),
        missing,
    )


def _server(study: Study) -> Case:
    title = "Server"
    sizes = {c.batch_size for c in study.curves}
    largest = max(sizes, default=0)
    wanted = {b for b in sizes if b >= SERVER_BATCH}
    meaning = f"many requests at once: batch size {SERVER_BATCH} or more"
    if wanted:
        curves = [c for c in study.curves if c.batch_size in wanted]
        return Case("server", title, meaning, _workloads(curves, _throughput))
    if largest > 1:
        curves = [c for c in study.curves if c.batch_size == largest]
        note = f"The largest batch measured is {largest}; a server would run {SERVER_BATCH} or more."
        return Case("server", title, meaning, _workloads(curves, _throughput), note=note)
    why = "only batch size 1 was measured" if sizes else "no diffusion cell with a step count"
    return Case("server", title, meaning, (), why)


def _long(study: Study) -> Case:
    longest = max((c.prompt_tokens + c.new_tokens for c in study.curves), default=0)
    title, meaning = "Long context", f"prompt and answer of {LONG_TOKENS:,} tokens or more together"
    if longest < LONG_TOKENS:
        why = f"the longest sequence measured is {longest} tokens" if longest else "no diffusion cell with a step count"
        return Case("long", title, meaning, (), why)
    curves = [c for c in study.curves if c.prompt_tokens + c.new_tokens >= LONG_TOKENS]
    return Case("long", title, meaning, _workloads(curves, _memory))


# ---------------------------------------------------------------- one workload


def _workloads(curves: Iterable[Curve], extra: _Extra) -> tuple[Workload, ...]:
    groups: dict[tuple[int, int, int], list[Curve]] = {}
    for c in curves:
        groups.setdefault((c.prompt_tokens + c.new_tokens, c.new_tokens, c.batch_size), []).append(c)
    return tuple(_workload(groups[key], extra) for key in sorted(groups))


def _workload(curves: Sequence[Curve], extra: _Extra) -> Workload:
    judged = [(_judge(c), c) for c in curves]
    (winner, why), best = min(judged, key=lambda j: (_RANK.index(j[0][0]), -_best_speedup(j[1])))
    chosen = f"settings: {best.label}"
    if len(curves) > 1:
        others = {w for (w, _), _ in judged}
        same = "all with this verdict" if len(others) == 1 else "those that serve diffusion best"
        chosen += f" ({len(curves)} settings measured, {same})"
    where = f"batch {best.batch_size} · {best.prompt_tokens} prompt + {best.new_tokens} new tokens"
    fact = extra(best)
    facts = (_parity_fact(best), *_margin_facts(best), _speed_fact(best), _break_even_fact(best))
    return Workload(winner, where, why, tuple(f for f in (*facts, fact) if f), _strip(best), chosen)


def _best_speedup(curve: Curve) -> float:
    return max((p.speedup.value for p in curve.points if p.speedup), default=0.0)


def _judge(curve: Curve) -> tuple[Winner, str]:
    """Who wins at equal quality, and why."""
    if not any(p.latency for p in curve.points):
        reason = next((p.reason or p.status or "" for p in curve.points), "")
        return "unknown", f"diffusion was not timed: {reason}" if reason else "diffusion was not timed"
    if curve.baseline is None or curve.baseline.latency is None:
        return "unknown", "no autoregressive baseline was timed with the same batch size and lengths"
    faster = [p.cell.steps for p in curve.points if p.speedup and p.speedup.low > 1 and p.cell.steps]
    timed = [p.cell.steps for p in curve.points if p.latency and p.cell.steps]
    up_to = "diffusion was not shown to be faster at any K"
    if faster:
        where = f"up to K={max(faster)}" if len(faster) < len(timed) else f"at every K timed ({from_to(timed, str)})"
        up_to = f"diffusion is faster {where}"
    if headline(curve) is None:
        why = "the weights are random" if curve.weights == "random" else "no metric was scored for both models"
        return "speed only", f"{up_to}; quality was not measured ({why})"
    won = winner_of(curve)
    return won.verdict, won.reason if won.verdict == "diffusion" else f"{won.reason}; {up_to}"


def _parity_fact(curve: Curve) -> Fact | None:
    shown = headline(curve)
    if shown is None:
        return None
    parity, last = shown.parity, shown.parity.points[-1]
    name = "Steps to equal quality (S_parity)"
    by = f"by {shown.metric.words}, on {counted(parity.n, 'prompt')}"
    if parity.reached:
        fewer = " or fewer" if parity.outcome == "reached_at_smallest" else ""
        return Fact(name, f"{parity.steps}{fewer} ({by})")
    word = "not reached" if parity.outcome == "not_reached" else "undecided"
    gap, side = last.gap, "better"
    if gap.value < 0:
        gap, side = Interval(-gap.value, -gap.high, -gap.low), "worse"
    ends = f"{sig(gap.low, 2)} to {sig(gap.high, 2)}" if gap.is_known else "no interval"
    return Fact(name, f"{word} up to K={last.steps}: there {sig(gap.value)} {shown.metric.unit} {side} ({ends}), {by}")


def _margin_facts(curve: Curve) -> tuple[Fact, ...]:
    """The smallest margin that makes a difference, where none at margin 0 is reached."""
    best = _at(curve)
    if best is None or not best.parity.delta or not best.parity.reached:
        return ()
    return (Fact(f"Steps if {_allowed(best)} is enough", f"{best.parity.steps}"),)


def _allowed(shown: MetricParity) -> str:
    delta = shown.parity.delta
    return f"a perplexity {delta:.0%} higher" if shown.metric.log_scale else f"a margin of {delta:g}"


def _at(curve: Curve) -> MetricParity | None:
    """The leading parity that is reached at the smallest margin; the one at margin 0 where none is."""
    return nearest(curve) or headline(curve)


def _point(curve: Curve) -> CellSummary | None:
    """The point to tell times and memory at: where quality is equal, else with the most steps timed."""
    best = _at(curve)
    steps = best.parity.steps if best else None
    timed = [p for p in curve.points if p.latency]
    return (curve.at(steps) if steps is not None else None) or (timed[-1] if timed else None)


def _speed_fact(curve: Curve) -> Fact | None:
    best = _at(curve)
    base = curve.baseline.cell.model.key if curve.baseline else "the baseline"
    if best is not None and best.parity.reached:
        if best.speedup is None or best.speedup.latency is None:
            return Fact(f"Speed there, as a multiple of {base}'s", "not timed")
        value = spread(best.speedup.latency, "x")
        if best.speedup.share_reached < 0.95:
            value += f"; found again in {best.speedup.share_reached:.0%} of the resamples"
        return Fact(f"Speed there, as a multiple of {base}'s", value)
    point = _point(curve)
    if point is None or point.speedup is None:
        return None
    return Fact(f"Speed at K={point.cell.steps}, as a multiple of {base}'s", spread(point.speedup, "x"))


def _break_even_fact(curve: Curve) -> Fact | None:
    line, timed = curve.break_even, [p.cell.steps for p in curve.points if p.latency]
    name = "Steps up to which it is faster (k*)"
    if line is None:
        return Fact(name, "not known: fewer than two step counts timed") if timed else None
    if line.steps is None:
        return Fact(name, f"no break-even: {line.reason}")
    if line.steps < 1:
        return Fact(name, "none: by the measured line, one step alone would take longer")
    text = _steps(line.steps)
    if line.low is not None and line.high is not None:
        text += f" ({_steps(max(line.low, 0))} to {_steps(line.high)})"
    if line.is_extrapolated:
        text += f", extrapolated from K={timed[0]} to {timed[-1]}"
    return Fact(name, text)


def _steps(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _pair(name: str, curve: Curve, values: tuple[str | None, str | None]) -> Fact | None:
    base, point = curve.baseline, _point(curve)
    if base is None or point is None or None in values:
        return None
    return Fact(name, f"{base.cell.model.key} {values[0]}; {curve.model} {values[1]} at K={point.cell.steps}")


def _first_text(curve: Curve) -> Fact | None:
    base, point = curve.baseline, _point(curve)
    both = (base.first_text_s if base else None, point.first_text_s if point else None)
    words = tuple(None if s is None else seconds(s) for s in both)
    return _pair("First text on the screen after", curve, (words[0], words[1]))


def _throughput(curve: Curve) -> Fact | None:
    base, point = curve.baseline, _point(curve)
    both = (base.throughput if base else None, point.throughput if point else None)
    words = tuple(None if t is None else f"{sig(t.median)} tokens/s" for t in both)
    return _pair("Throughput, whole batch", curve, (words[0], words[1]))


def _memory(curve: Curve) -> Fact | None:
    base, point = curve.baseline, _point(curve)
    both = (base.memory if base else None, point.memory if point else None)
    words = tuple(None if m is None else gib(m.bytes) for m in both)
    return _pair(f"Peak memory ({listed(m.source for m in both if m)})", curve, (words[0], words[1]))


def _strip(curve: Curve) -> Strip | None:
    """S_parity and k* on one line: between the first and the last step count measured."""
    steps = [p.cell.steps for p in curve.points if p.cell.steps]
    if len(steps) < 2:
        return None
    low, high = math.log2(steps[0]), math.log2(steps[-1])

    def place(k: float) -> float:
        return round(100 * (math.log2(max(k, 1e-9)) - low) / (high - low), 1)

    line, best = curve.break_even, _at(curve)
    faster, ends = None, (0.0, 0.0)
    if line is not None and line.steps is not None:
        ends_of_k = [line.steps if end is None else end for end in (line.low, line.high)]
        at = [_within(place(k)) for k in (line.steps, *ends_of_k)]
        faster, ends = at[0] or None, (at[1], at[2])
    good = place(best.parity.steps) if best and best.parity.steps and not best.parity.delta else None
    if best is None:
        words = "where it is as good was not measured"
    elif faster is not None and good is not None and good < faster:
        words = "both as good and faster in between"
    else:
        words = "nowhere both as good and faster"
    return Strip(tuple((place(k), k) for k in steps), faster, *ends, good, words)


def _within(place: float) -> float:
    return min(max(place, 0.0), 100.0)
