"""The answer of a run: a headline and one row per workload. Console, page and document print these and say no more.

Everything here is read from the verdicts and curves; nothing is decided here. A workload is a batch size with its
lengths. It is judged over all diffusion settings that were measured for it: the row shows the best of them and says how
the others ended, so that none is hidden.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dlmbench.analysis.results import Curve, Study
from dlmbench.analysis.stats import Interval, group_by
from dlmbench.analysis.verdict import Verdict

COLUMNS = {
    "workload": "batch and lengths",
    "as_good_from": "as good from K",
    "speed_there": "speed there",
    "faster_up_to": "faster only up to k*",
    "verdict": "how sure",
    "settles": "what would settle it",
}
# Beyond so many different claims the headline names the best and the worst; the rows have them all.
MOST_CLAIMS = 3
_WINNERS = {"diffusion": "diffusion wins", "baseline": "the baseline wins", "undecided": "undecided"}


@dataclass(frozen=True)
class AnswerRow:
    """One workload as text. id: of the workload; the id of a value is this and the name of its column."""

    id: str
    workload: str
    as_good_from: str
    speed_there: str
    faster_up_to: str
    verdict: str
    settles: str

    def cells(self) -> list[tuple[str, str]]:
        """(value id, text) of each column in the order of `COLUMNS`."""
        return [(f"{self.id}.{name}", getattr(self, name)) for name in COLUMNS]


@dataclass(frozen=True)
class Answer:
    """The headline, the rows in order of lengths and batch size, and notes that concern all of them."""

    headline: str
    rows: tuple[AnswerRow, ...] = ()
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """All of it as plain text, a paragraph for each part."""
        rows = (f"{r.workload}: {'; '.join(f'{COLUMNS[n]} {t}' for n, t in _named(r) if t)}." for r in self.rows)
        return "\n\n".join([self.headline, *rows, *self.notes])


def _named(row: AnswerRow) -> list[tuple[str, str]]:
    return [(name, getattr(row, name)) for name in COLUMNS if name != "workload"]


def answer_of(study: Study) -> Answer:
    """The answer of `study`; without a comparison the headline says what is missing."""
    if not study.curves:
        missing = "; ".join(study.missing) or "no cell has a step count"
        return Answer(f"There is nothing to compare yet: {missing}.")
    if not study.baselines:
        models = " and ".join(dict.fromkeys(c.model for c in study.curves))
        return Answer(f"{models} was measured alone: a comparison needs an autoregressive baseline.")
    pairs = list(zip(study.curves, study.verdicts, strict=True))
    workloads = group_by(pairs, lambda pair: (*pair[0].lengths, pair[0].batch_size))
    found = [(at, _best(group), [v for _, v in group]) for at, group in sorted(workloads.items())]
    one_length = len({at[:2] for at, _, _ in found}) == 1
    places = [f"batch {at[2]}" if one_length else f"batch {at[2]} with {at[0]}+{at[1]} tokens" for at, _, _ in found]
    return Answer(
        headline(places, [best for _, best, _ in found]),
        tuple(_row(at, *best, verdicts) for at, best, verdicts in found),
        tuple(_notes(study)),
    )


def _best(pairs: Sequence[tuple[Curve, Verdict]]) -> tuple[Curve, Verdict]:
    """The setting most favourable to diffusion: by verdict, then by speed at parity, then by break-even."""
    order = ("baseline", "undecided", "diffusion")

    def merit(pair: tuple[Curve, Verdict]) -> tuple[int, float, float]:
        curve, verdict = pair
        speed = verdict.speed.value if verdict.speed else 0.0
        return order.index(verdict.outcome), speed, (curve.break_even and curve.break_even.steps) or 0.0

    return max(pairs, key=merit)


# ---------------------------------------------------------------- numbers


def rounded(interval: Interval) -> str:
    """A value with as many digits as its interval allows, two of the interval's width; three digits without one."""
    width = interval.high - interval.low
    if not width > 0:  # also where an end is unknown
        return f"{interval.value:.3g}"
    digits = 1 - math.floor(math.log10(width))
    return f"{round(interval.value, digits):,.{max(0, digits)}f}"


def times_faster(speed: Interval) -> str:
    """A speed relative to the baseline as "2.5x faster" or "3.1x slower"."""
    if speed.value >= 1:
        return f"{rounded(speed)}x faster"
    return f"{rounded(Interval(1 / speed.value, 1 / speed.high, 1 / speed.low))}x slower"


# ---------------------------------------------------------------- the headline


def headline(places: Sequence[str], best: Sequence[tuple[Curve, Verdict]]) -> str:
    """What a person would say first, from the best setting of each workload; workloads that ended alike together."""
    if all(verdict.metric is None for _, verdict in best):
        ranked = sorted(zip(best, places, strict=True), key=lambda item: _share_faster(item[0][0]), reverse=True)
        groups = group_by([(_speed_alone(*pair), place) for pair, place in ranked], lambda item: item[0])
        claims = [f"{claim} at {_listed([place for _, place in group])}" for claim, group in groups.items()]
        if len(claims) > MOST_CLAIMS:
            claims = [f"at best {claims[0]}", f"at worst {claims[-1]}"]
        return f"Speed only: {'; '.join(claims)}."
    groups = group_by(zip((_at_equal_quality(*pair) for pair in best), places, strict=True), lambda pair: pair[0])
    return " ".join(f"{claim} at {_listed([place for _, place in group])}." for claim, group in groups.items())


def _share_faster(curve: Curve) -> float:
    """The share of the steps up to which diffusion is faster."""
    line = curve.break_even
    return (line.steps or 0.0) / curve.new_tokens if line else 0.0


def _at_equal_quality(curve: Curve, verdict: Verdict) -> str:
    if verdict.outcome == "undecided":
        return "Not decided"
    if verdict.speed is not None:
        return f"At near-equal quality {curve.model} is {times_faster(verdict.speed)}"
    if verdict.parity == "not_reached":
        return f"{curve.model} does not reach near-equal quality"
    return f"{curve.model} is slower wherever its quality could be near-equal"


def _speed_alone(curve: Curve, verdict: Verdict) -> str:
    line = curve.break_even
    if line is not None and line.steps is not None and curve.timed:
        if line.steps < (curve.timed[0].cell.steps or 0):
            return "slower at every step count measured"
        about = "about " if line.is_rough else ""
        return f"faster up to {about}{min(line.steps, curve.new_tokens):.0f} of {curve.new_tokens} steps"
    known = ", ".join(f"K={k}" for k in verdict.faster_steps)
    return f"faster with {known}" if known else "not shown to be faster"


def _listed(parts: Sequence[str]) -> str:
    """ "batch 1, 4 and 8": what the parts begin with alike is said once."""
    words = parts[0].split()[0] if all(" " in p and p.split()[0] == parts[0].split()[0] for p in parts) else ""
    rest = [p.removeprefix(words).strip() for p in parts]
    joined = rest[0] if len(rest) == 1 else f"{', '.join(rest[:-1])} and {rest[-1]}"
    return f"{words} {joined}".strip()


# ---------------------------------------------------------------- the rows


def _row(at: tuple[int, int, int], curve: Curve, verdict: Verdict, settings: Sequence[Verdict]) -> AnswerRow:
    prompt, new, batch = at
    processes = min((p.latency.processes for p in (*curve.timed, curve.baseline) if p and p.latency), default=0)
    sure = f"{_WINNERS[verdict.outcome]}: {verdict.reason}"
    if processes == 1:
        sure += " (within one process)"
    if len(settings) > 1:
        counts = Counter(_WINNERS[v.outcome] for v in settings)
        sure += f"; of {len(settings)} settings: " + ", ".join(f"{text} in {n}" for text, n in counts.items())
    return AnswerRow(
        id=f"b{batch}-p{prompt}-g{new}",
        workload=f"{batch}, {prompt}+{new} tokens",
        as_good_from=_parity(verdict, curve),
        speed_there=_speed(verdict.speed),
        faster_up_to=verdict.break_even,
        verdict=sure,
        settles=verdict.settles,
    )


def _parity(verdict: Verdict, curve: Curve) -> str:
    if verdict.parity is None:
        return "not measured"
    largest = curve.points[-1].cell.steps
    if verdict.parity == "not_reached":
        return f"not up to {largest}"
    low, high = verdict.low_steps, verdict.high_steps
    if verdict.parity_steps is not None:
        at = f"{verdict.parity_steps}" + (" or fewer" if verdict.parity == "reached_at_smallest" else "")
        return at if low == verdict.parity_steps else f"{at} (perhaps {low})"
    if low is None:
        return f"beyond {largest}, or nowhere"
    return f"undecided: {low} to {high or f'beyond {largest}'}"


def _speed(speed: Interval | None) -> str:
    if speed is None:
        return "not known"
    text = f"{rounded(speed)}x the baseline's"
    if not speed.is_known:
        return text
    ends = (rounded(Interval(end, speed.low, speed.high)) for end in (speed.low, speed.high))
    return f"{text} ({' to '.join(ends)})"


def _notes(study: Study) -> list[str]:
    notes = []
    lead = next((p.metric for c in study.curves if (p := c.headline())), None)
    if lead is not None:
        margin = "a perplexity up to {:.0%} higher" if lead.log_scale else "up to {:g} worse"
        notes.append(f"As good: by {lead.phrase}, {margin.format(lead.margin)}, on the same prompts.")
    if study.others:
        notes.append(f"{len(study.others)} settings choose their own number of steps: see the table of cells.")
    return notes
