"""Which model wins where, decided once: everything that is said or drawn of a verdict is a view of its record.

The verdict on a curve is at equal quality. It is given only where everything uncertain points the same way: every step
count at which parity may lie must be faster than the baseline, or every one slower. Anything else is undecided, and
the record says what would settle it. The verdicts of a report are one family: they are tested together by Holm's
step-down procedure (Scandinavian Journal of Statistics 6, 1979), so that a report gives a false one in at most 5%.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dlmbench.analysis.parity import ALPHA, LEAST_PROMPTS, ParityRange, speedup_at_parity
from dlmbench.analysis.replication import DISTURBED, LEAST
from dlmbench.analysis.results import RANDOM_WEIGHTS, Curve, MetricParity, Verdict, VerdictOutcome

Pace = Literal["faster", "slower", "unclear", "unknown"]


# The outcome of the tests at one level, the reason, and what would settle it.
Decision = tuple[VerdictOutcome, str, str]


def verdicts_of(curves: Sequence[Curve]) -> tuple[Verdict, ...]:
    """The verdict on every curve by its headline metric at its leading margin, tested together."""
    found: dict[int, Verdict] = {}
    while left := [i for i in range(len(curves)) if i not in found]:
        alpha = ALPHA / len(left)
        tested = {i: verdict_of(curves[i], curves[i].headline(), alpha) for i in left}
        settled = {i: v for i, v in tested.items() if v.outcome != "undecided"}
        found |= settled or tested
    return tuple(found[i] for i in range(len(curves)))


def verdict_of(curve: Curve, shown: MetricParity | None, alpha: float = ALPHA) -> Verdict:
    """The verdict on `curve` by one metric and margin at the two-sided level `alpha`."""
    outcome, reason, settles = _decide(curve, shown, alpha)
    at = shown.parity.at(alpha) if shown else None
    line, base = curve.break_even, curve.baseline
    paces = [(p.cell.steps, p.pace) for p in curve.points if p.cell.steps]
    ratios = {p.cell.steps: p.ratio for p in curve.points if p.cell.steps and p.ratio}
    return Verdict(
        label=curve.label,
        baseline=base.cell.model.key if base else None,
        batch_size=curve.batch_size,
        prompt_tokens=curve.prompt_tokens,
        new_tokens=curve.new_tokens,
        outcome=outcome,
        reason=reason,
        settles=settles,
        alpha=alpha,
        metric=shown.metric.name if shown else None,
        margin=shown.parity.delta if shown else None,
        parity=at.outcome if at else None,
        parity_steps=at.steps if at else None,
        low_steps=at.low_steps if at else None,
        high_steps=at.steps if at else None,
        speed=speedup_at_parity(shown.parity, ratios, alpha) if shown else None,
        faster_steps=tuple(k for k, pace in paces if pace == "faster"),
        slower_steps=tuple(k for k, pace in paces if pace == "slower"),
        break_even=line.text() if line else "not known",
        evidence=tuple(c.cell.id for c in (*([base] if base else []), *curve.points)),
    )


def pace(curve: Curve, steps: int, alpha: float = ALPHA) -> Pace:
    """Whether diffusion with `steps` steps is shown to be faster or slower than the baseline.

    A step count that was not timed is slower if a smaller one is, and faster if a larger one is: steps take time.
    Between those, k* decides, where it is not a rough value.
    """
    point = curve.at(steps)
    if point is not None and point.ratio is not None:
        return "faster" if point.ratio.is_above(alpha) else "slower" if point.ratio.is_below(alpha) else "unclear"
    timed = [(p.cell.steps or 0, p.ratio) for p in curve.points if p.ratio is not None]
    line = curve.break_even
    if any(k < steps and ratio.is_below(alpha) for k, ratio in timed):
        return "slower"
    if any(k > steps and ratio.is_above(alpha) for k, ratio in timed):
        return "faster"
    if line is None or line.low is None or line.high is None:
        return "unknown"
    return "slower" if steps > line.high else "faster" if steps < line.low else "unclear"


_MORE_PROMPTS = "more prompts"
_MORE_PROCESSES = "more processes, or a larger difference in time"


def _decide(curve: Curve, shown: MetricParity | None, alpha: float) -> Decision:
    if shown is None:
        if curve.weights == "random":
            return "undecided", RANDOM_WEIGHTS, "trained weights"
        if curve.quality_baseline is not None and any(p.quality for p in curve.points):
            return "undecided", "no quality metric was scored on the same prompts for both models", "such scores"
        return "undecided", "quality was not measured for both models", "scores of both models"
    parity, found = shown.parity, shown.parity.at(alpha)
    if not parity.decides:
        few = f"{parity.n} prompts are too few for a verdict on quality"
        return "undecided", few, f"{LEAST_PROMPTS} prompts or more"
    steps = parity.plausible_steps(alpha)
    paces = {pace(curve, k, alpha) for k in steps}
    if any(p.ratio and p.ratio.is_disturbed for p in curve.points):
        return "undecided", DISTURBED, "a quiet machine"
    if not curve.timed or "unknown" in paces:
        return "undecided", "the two were not both timed where quality may be equal", "times at those steps"
    span = (f"K={steps[0]}" if len(steps) == 1 else f"K={steps[0]} to {steps[-1]}") if steps else ""
    if found.steps is not None and paces == {"faster"}:
        return "diffusion", f"as good and faster at {span}", ""
    largest = parity.points[-1].steps
    # There are never more steps than new tokens, and every further step takes longer.
    all_steps_tried = largest >= curve.new_tokens
    out_of_reach = all_steps_tried or pace(curve, largest, alpha) == "slower"
    open_steps = [p.steps for p in parity.points if p.p_worse_jointly > alpha / 2]
    if paces <= {"slower"} and (found.steps is not None or out_of_reach):
        return _baseline(curve, found, open_steps, alpha)
    if found.steps is not None:
        if paces >= {"faster", "slower"}:
            return "undecided", f"parity lies at {span}, where the faster model changes", _MORE_PROMPTS
        if not all(p.ratio and p.ratio.suffices for p in curve.points if p.cell.steps in steps):
            return "undecided", f"as good at {span}, where too little was timed for a verdict", LEAST
        return "undecided", f"as good at {span}, where the times are not shown to differ", _MORE_PROCESSES
    if found.outcome == "not_reached":
        return "undecided", f"diffusion is worse up to K={largest}, still not slower there", "larger K"
    return "undecided", "whether diffusion is as good where it is faster is not known", _MORE_PROMPTS


def _baseline(curve: Curve, found: ParityRange, open_steps: Sequence[int], alpha: float) -> Decision:
    """That the baseline wins, unless diffusion may be as good and faster at a step count off the range.

    open_steps: those not shown to be worse by themselves. The range leaves out what lies below a K that is worse, and
    what lies between two measured K.
    """
    grid = [p.cell.steps for p in curve.points if p.cell.steps]
    if any(pace(curve, k, alpha) != "slower" for k in open_steps):
        return "undecided", "quality does not rise with K, and a faster K may be as good", _MORE_PROMPTS
    below = max((k for k in grid if k not in open_steps and (not open_steps or k < min(open_steps))), default=None)
    first = next((k for k in grid if below is None or k > below), None)
    if below is not None and first is not None and first > below + 1 and pace(curve, below + 1, alpha) != "slower":
        between = f"worse at K={below}, slower at K={first}, and not measured between them"
        return "undecided", between, "step counts between"
    if found.outcome == "reached_at_smallest":
        return "baseline", f"as good at K={found.steps}, the fewest steps measured, and slower there", ""
    if found.steps is not None:
        return "baseline", f"as good only from K={found.steps} on, and slower there", ""
    if found.outcome == "not_reached":
        tried = ", a step for every token" if grid[-1] >= curve.new_tokens else ", and slower from there on"
        return "baseline", f"diffusion is worse at every K measured up to {grid[-1]}{tried}", ""
    start = found.low_steps
    if start is None:
        return "baseline", f"diffusion is as good beyond K={grid[-1]} at best, and slower there", ""
    return "baseline", f"diffusion may be as good from K={start} on, but is slower there", ""
