"""Which model wins where: the step counts that equal quality needs, compared with those at which diffusion is faster.

The verdict is at equal quality, and it is only given where everything uncertain points the same way: every step count
at which parity may lie must be faster than the baseline, or every one slower. Anything else is undecided, and the
reason names what would decide it.

A regime is a part of a study: fewer steps than tokens, or a step for every token. Diffusion saves time only where a
step commits several tokens. A comparison that sweeps the steps at batch size 1 and one that takes as many steps as
tokens, in batches, can therefore contradict each other and both be right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dlmbench.analysis.parity import ALPHA, FEWEST_PROMPTS, plausible_steps
from dlmbench.analysis.results import RANDOM_WEIGHTS, CellSummary, Curve, MetricParity

CurveVerdict = Literal["diffusion", "baseline", "undecided"]
Pace = Literal["faster", "slower", "unclear", "unknown"]


@dataclass(frozen=True)
class Winner:
    """The verdict on one curve and the parity it rests on, None where quality is not known."""

    verdict: CurveVerdict
    reason: str
    parity: MetricParity | None


def winner_of(curve: Curve, metric: str | None = None, delta: float = 0.0) -> Winner:
    """The verdict on `curve` by one metric within one margin; without a metric by the one that leads."""
    shown = curve.headline(delta) if metric is None else curve.parity(metric, delta)
    return Winner(*_verdict(curve, shown), shown)


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
    if shown is None:
        if curve.weights == "random":
            return "undecided", RANDOM_WEIGHTS
        return "undecided", "quality was not measured for both models"
    parity = shown.parity
    steps, beyond = plausible_steps(parity)
    paces = {pace(curve, k) for k in steps}
    if "unknown" in paces or not curve.timed:
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


# ---------------------------------------------------------------- regimes

Points = Sequence[tuple[Curve, CellSummary]]


def regimes(curves: Sequence[Curve]) -> list[str]:
    """A sentence for each regime, and one where their verdicts differ; nothing where a study has only one regime."""
    points = [(c, p) for c in curves for p in c.points]
    # By points: a curve may end at a step for every token.
    fewer = [(c, p) for c, p in points if p.cell.steps != c.new_tokens]
    full = [(c, p) for c, p in points if p.cell.steps == c.new_tokens]
    if not fewer or not full:
        return []
    found = ["Two regimes were measured.", _regime("With fewer steps than tokens", fewer)]
    found.append(_regime("With one step per token", full))
    if _faster(fewer) and not _faster(full):
        found.append(
            "Both statements are true in their own regime: a comparison that measures only one of them is incomplete."
        )
    return found


def _faster(points: Points) -> list[tuple[float, Curve, CellSummary]]:
    """Every point that is faster than the baseline beyond noise, with its speedup; the fastest first."""
    found = [(p.speedup.value, c, p) for c, p in points if p.speedup and p.cell.steps in steps_at(c, "faster")]
    return sorted(found, key=lambda f: -f[0])


def _regime(name: str, points: Points) -> str:
    tokens = " and ".join(str(g) for g in sorted({c.new_tokens for c, _ in points}))
    steps = sorted({p.cell.steps for _, p in points if p.cell.steps})
    is_full = all(p.cell.steps == c.new_tokens for c, p in points)
    span = tokens if is_full else " to ".join(dict.fromkeys(str(k) for k in (steps[0], steps[-1])))
    where = f"{name} (K={span} for {tokens} new tokens, {batches_text({c.batch_size for c, _ in points})}),"
    speeds = [p.speedup for _, p in points if p.speedup]
    if not speeds:
        return f"{where} the two were not timed side by side."
    if fastest := _faster(points):
        value, curve, point = fastest[0]
        text = f"{where} diffusion takes {1 / value:.2g} of the baseline's time at best (K={point.cell.steps})"
        if point.cell.steps in worse_but_faster(curve):
            text += ", but writes worse there"
        verdicts = {_regime_verdict(c, is_full) for c, _ in points}
        winners = ["the baseline" if v == "baseline" else v for v in sorted(verdicts - {"undecided"})]
        if winners:
            text += f"; at equal quality {' and '.join(winners)} {'wins' if len(winners) == 1 else 'each win'}"
            text += " in some settings" if len(verdicts) > 1 else ""
        return f"{text}."
    if all(s.high < 1 for s in speeds):
        times = sorted(1 / s.value for s in speeds)
        factor = " to ".join(dict.fromkeys(f"{t:.2g}" for t in (times[0], times[-1])))
        return f"{where} the baseline wins whatever the quality: diffusion takes {factor} times as long."
    return f"{where} diffusion is not shown to be faster anywhere."


def _regime_verdict(curve: Curve, is_full: bool) -> CurveVerdict:
    """The verdict on a curve; diffusion that needs one step per token does not win with fewer steps."""
    found = winner_of(curve)
    needs_all = found.parity is not None and found.parity.parity.steps == curve.new_tokens
    return "undecided" if found.verdict == "diffusion" and needs_all and not is_full else found.verdict


def batches_text(sizes: Iterable[int]) -> str:
    """Batch sizes as text, ascending."""
    known = sorted(sizes)
    return f"batch size{'s' if len(known) > 1 else ''} {', '.join(map(str, known))}"
