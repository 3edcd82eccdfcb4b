"""Who wins where: the step counts that quality asks for, laid over those at which diffusion is faster.

The verdict is at equal quality, and it is only given where all that is uncertain points the same way: every step count
at which parity may lie must be faster than the baseline, or every one slower. Anything else is undecided, and the
reason says what would decide it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dlmbench.analysis.nouns import RANDOM_WEIGHTS, Curve, MetricParity, Study
from dlmbench.analysis.parity import Outcome
from dlmbench.analysis.speedup import plausible_steps
from dlmbench.analysis.stats import Interval

Verdict = Literal["diffusion", "baseline", "undecided"]
Pace = Literal["faster", "slower", "unclear", "unknown"]


@dataclass(frozen=True)
class Winner:
    """The verdict at one (P, G, B, sampler), by one metric within one margin, and what it rests on.

    parity_low, parity_high: the step counts between which parity may lie, None beyond the largest measured. break_even
    is k*, None where no line could be fitted or it never crosses. speedup: at S_parity, where that was reached and
    timed. faster_at: the step counts measured at which diffusion is faster, whatever its quality.
    """

    prompt_tokens: int
    new_tokens: int
    batch_size: int
    sampler: str
    label: str
    metric: str | None
    delta: float
    verdict: Verdict
    reason: str
    outcome: Outcome | None
    parity_steps: int | None
    parity_low: int | None
    parity_high: int | None
    break_even: Interval | None
    speedup: Interval | None
    faster_at: tuple[int, ...]


def who_wins(study: Study, metric: str | None = None, delta: float = 0.0) -> tuple[Winner, ...]:
    """A row for every curve of `study`; without a metric by each curve's headline, the likelihood if it was scored."""
    return tuple(winner_of(curve, metric, delta) for curve in study.curves)


def headline(curve: Curve, delta: float = 0.0) -> MetricParity | None:
    """The parity that leads: by the metric of the smallest rank that was scored."""
    exact = [p for p in curve.parities if p.parity.delta == delta]
    return min(exact, key=lambda p: p.metric.rank, default=None)


def nearest(curve: Curve) -> MetricParity | None:
    """The leading metric's parity that is reached at the smallest margin; None where none is."""
    shown = headline(curve)
    reached = [p for p in curve.parities if shown and p.metric == shown.metric and p.parity.reached]
    return min(reached, key=lambda p: p.parity.delta, default=None)


def pace(curve: Curve, steps: int) -> Pace:
    """Whether diffusion with `steps` steps is faster than the baseline, beyond noise.

    Where the step count was timed its own ratio says so; where it was not, the line through the others does.
    """
    point, line = curve.at(steps), curve.break_even
    if point is not None and point.speedup is not None and point.speedup.is_known:
        return _side(point.speedup.low > 1, point.speedup.high < 1)
    if line is not None and line.low is not None and line.high is not None:
        return _side(steps < line.low, steps > line.high)
    return "unknown"


def _side(faster: bool, slower: bool) -> Pace:
    return "faster" if faster else "slower" if slower else "unclear"


def winner_of(curve: Curve, metric: str | None = None, delta: float = 0.0) -> Winner:
    """The verdict on one curve."""
    shown = headline(curve, delta) if metric is None else curve.parity(metric, delta)
    verdict, reason = _verdict(curve, shown)
    line, parity = curve.break_even, shown.parity if shown else None
    crossing = None
    if line is not None and line.steps is not None and line.low is not None and line.high is not None:
        crossing = Interval(line.steps, line.low, line.high)
    return Winner(
        prompt_tokens=curve.prompt_tokens,
        new_tokens=curve.new_tokens,
        batch_size=curve.batch_size,
        sampler=curve.sampler,
        label=curve.label,
        metric=shown.metric.name if shown else metric,
        delta=delta,
        verdict=verdict,
        reason=reason,
        outcome=parity.outcome if parity else None,
        parity_steps=parity.steps if parity else None,
        parity_low=parity.low_steps if parity else None,
        parity_high=parity.high_steps if parity else None,
        break_even=crossing,
        speedup=shown.speedup.latency if shown and shown.speedup else None,
        faster_at=tuple(p.cell.steps for p in curve.points if p.cell.steps and pace(curve, p.cell.steps) == "faster"),
    )


def _verdict(curve: Curve, shown: MetricParity | None) -> tuple[Verdict, str]:
    line = curve.break_even
    if line is not None and line.high is not None and line.high < 1:
        return "baseline", "even a single diffusion step takes longer than the baseline"
    if shown is None:
        if curve.weights == "random":
            return "undecided", RANDOM_WEIGHTS
        return "undecided", "quality was not measured for both models"
    parity = shown.parity
    steps, beyond = plausible_steps(parity)
    paces = {k: pace(curve, k) for k in steps}
    if "unknown" in paces.values() or not any(p.latency for p in curve.points):
        return "undecided", "the two were not both timed at the step counts that quality asks for"
    largest = parity.points[-1].steps
    if parity.reached:
        if set(paces.values()) == {"faster"}:
            return "diffusion", f"as good, and faster at {_between(steps)}"
        if set(paces.values()) == {"slower"}:
            return "baseline", f"to write as well, diffusion takes longer ({_between(steps)})"
        if "faster" in paces.values() and "slower" in paces.values():
            return "undecided", f"equal quality asks for {_between(steps)}, and within that the faster one changes"
        return "undecided", f"neither is shown to be faster at equal quality ({_between(steps)})"
    # More steps than new tokens do not exist, and each step more takes longer.
    all_steps_tried = largest >= curve.new_tokens
    out_of_reach = all_steps_tried or pace(curve, largest) == "slower"
    if parity.outcome == "not_reached" and out_of_reach:
        if all_steps_tried:
            return "baseline", f"diffusion is worse at every step count up to {largest}, a step for every token"
        return "baseline", f"diffusion is worse up to K={largest}, and slower from there on"
    if set(paces.values()) <= {"slower"} and (not beyond or out_of_reach):
        if not steps:
            return "baseline", f"diffusion is as good beyond K={largest} at best, and slower from there on"
        return "baseline", f"diffusion may be as good from K={steps[0]} on, but is slower there"
    if parity.outcome == "not_reached":
        return "undecided", f"diffusion is worse up to K={largest}; larger K were not measured and may still be faster"
    return "undecided", "whether diffusion is as good where it is faster is not known: more prompts would tell"


def _between(steps: tuple[int, ...]) -> str:
    return f"K={steps[0]}" if len(steps) == 1 else f"K={steps[0]} to {steps[-1]}"
