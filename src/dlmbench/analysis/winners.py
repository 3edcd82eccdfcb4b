"""Which model wins where: the step counts that equal quality needs, compared with those at which diffusion is faster.

The verdict is at equal quality, and it is only given where everything uncertain points the same way: every step count
at which parity may lie must be faster than the baseline, or every one slower. Anything else is undecided, and the
reason names what would decide it. Where only one of quality and speed was measured, the verdict says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dlmbench.analysis.parity import ALPHA, FEWEST_PROMPTS, plausible_steps
from dlmbench.analysis.results import RANDOM_WEIGHTS, Curve, MetricParity

CurveVerdict = Literal["diffusion", "undecided", "speed only", "baseline", "unknown"]
Pace = Literal["faster", "slower", "unclear", "unknown"]


@dataclass(frozen=True)
class Winner:
    """The verdict on one curve and the parity it rests on, None where quality is not known."""

    verdict: CurveVerdict
    reason: str
    parity: MetricParity | None


def winner_of(curve: Curve, delta: float = 0.0) -> Winner:
    """The verdict on `curve` by the headline metric within the margin `delta`."""
    shown = curve.headline(delta)
    return Winner(*_verdict(curve, shown), shown)


def no_quality_reason(curve: Curve) -> str:
    """Why a curve without parity has none."""
    return RANDOM_WEIGHTS if curve.weights == "random" else "quality was not measured for both models"


def pace(curve: Curve, steps: int) -> Pace:
    """Whether diffusion with `steps` steps is faster than the baseline, beyond noise.

    Decided by the ratio measured at that step count or, where it was not timed, by the line through the others.
    """
    point, line = curve.at(steps), curve.break_even
    if point is not None and point.speedup is not None and point.speedup.is_known:
        return _side(point.speedup.low > 1, point.speedup.high < 1)
    if line is not None and line.low is not None and line.high is not None:
        return _side(steps < line.low, steps > line.high)
    return "unknown"


def _side(faster: bool, slower: bool) -> Pace:
    return "faster" if faster else "slower" if slower else "unclear"


def steps_at(curve: Curve, wanted: Pace) -> tuple[int, ...]:
    """The step counts on the curve at which diffusion has this pace, whatever its quality."""
    return tuple(k for p in curve.points if (k := p.cell.steps) and pace(curve, k) == wanted)


def worse_but_faster(curve: Curve) -> tuple[int, ...]:
    """The step counts at which diffusion is faster than the baseline and its text is worse, both beyond noise."""
    lead = curve.headline()
    if lead is None or lead.parity.n < FEWEST_PROMPTS:
        return ()
    worse = [p.steps for p in lead.parity.points if p.probability <= ALPHA]
    return tuple(k for k in worse if pace(curve, k) == "faster")


def _verdict(curve: Curve, shown: MetricParity | None) -> tuple[CurveVerdict, str]:
    line = curve.break_even
    if line is not None and line.high is not None and line.high < 1:
        return "baseline", "even a single diffusion step takes longer than the baseline"
    if not curve.timed:
        return "unknown", f"diffusion was not timed ({curve.untimed_reason or 'no reason is on record'})"
    if curve.baseline is None or curve.baseline.latency is None:
        return "unknown", "no autoregressive baseline was timed with the same batch size and lengths"
    if shown is None:
        return "speed only", no_quality_reason(curve)
    parity = shown.parity
    steps, beyond = plausible_steps(parity)
    paces = {pace(curve, k) for k in steps}
    if "unknown" in paces:
        return "undecided", "the two were not both timed at the step counts that equal quality needs"
    largest = parity.points[-1].steps
    if parity.reached:
        between = f"K={steps[0]}" if len(steps) == 1 else f"K={steps[0]} to {steps[-1]}"
        if paces == {"faster"}:
            return "diffusion", f"as good, and faster at {between}"
        if paces == {"slower"}:
            return "baseline", f"to write as well, diffusion takes longer ({between})"
        if paces >= {"faster", "slower"}:
            return "undecided", f"equal quality needs {between}, and within that range the faster one changes"
        return "undecided", f"no difference in speed is shown at equal quality ({between})"
    # There are never more steps than new tokens, and every further step takes longer.
    all_steps_tried = largest >= curve.new_tokens
    out_of_reach = all_steps_tried or pace(curve, largest) == "slower"
    if parity.outcome == "not_reached" and out_of_reach:
        if all_steps_tried:
            return "baseline", f"diffusion is worse at every step count up to {largest}, a step for every token"
        return "baseline", f"diffusion is worse up to K={largest}, and slower from there on"
    if paces <= {"slower"} and (not beyond or out_of_reach):
        if not steps:
            return "baseline", f"diffusion is as good beyond K={largest} at best, and slower from there on"
        return "baseline", f"diffusion may be as good from K={steps[0]} on, but is slower there"
    if parity.outcome == "not_reached":
        return "undecided", f"diffusion is worse up to K={largest}; larger K were not measured and may still be faster"
    return "undecided", "whether diffusion is as good where it is faster is not known: more prompts are needed"
