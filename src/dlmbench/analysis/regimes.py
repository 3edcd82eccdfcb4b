"""The regimes of a study and the verdict of each: fewer steps than tokens, or a step for every token.

Diffusion saves time only where a step commits several tokens. A comparison that sweeps the steps at batch size 1 and
one that takes as many steps as tokens, in batches, can therefore contradict each other and both be right.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlmbench.analysis.nouns import CellSummary, Curve
from dlmbench.analysis.parity import FEWEST_PROMPTS
from dlmbench.analysis.winners import Verdict, headline, pace, winner_of

Points = Sequence[tuple[Curve, CellSummary]]


def regimes(curves: Sequence[Curve]) -> list[str]:
    """A sentence for each regime, and one where their verdicts differ; nothing where a study has only one regime."""
    points = [(c, p) for c in curves for p in c.points]
    # By points: one curve may sweep fewer steps and end at a step for every token.
    sweeps = [(c, p) for c, p in points if p.cell.steps != c.new_tokens]
    full = [(c, p) for c, p in points if p.cell.steps == c.new_tokens]
    if not sweeps or not full:
        return []
    first = _sentence("Where steps are saved", sweeps)
    second = _sentence("Where every token gets a step of its own", full)
    found = ["It was measured in two regimes.", first, second]
    if _faster(sweeps) and not _faster(full):
        found.append("Both are true, each in its regime: a comparison that measures only one of them tells half of it.")
    return found


def worse_but_faster(curve: Curve) -> tuple[int, ...]:
    """The step counts at which diffusion is faster than the baseline and its text is worse, both beyond noise."""
    shown = headline(curve)
    if shown is None or shown.parity.n < FEWEST_PROMPTS:
        return ()
    worse = [p.steps for p in shown.parity.points if p.probability <= shown.parity.alpha]
    return tuple(k for k in worse if pace(curve, k) == "faster")


def _faster(points: Points) -> list[tuple[float, Curve, CellSummary]]:
    """Every point that is faster than the baseline beyond noise, with its speedup; the fastest first."""
    found = [
        (p.speedup.value, c, p) for c, p in points if p.speedup and p.cell.steps and pace(c, p.cell.steps) == "faster"
    ]
    return sorted(found, key=lambda f: -f[0])


def _sentence(regime: str, points: Points) -> str:
    tokens = " and ".join(str(g) for g in sorted({c.new_tokens for c, _ in points}))
    sizes = sorted({c.batch_size for c, _ in points})
    steps = sorted({p.cell.steps for _, p in points if p.cell.steps})
    is_full = all(p.cell.steps == c.new_tokens for c, p in points)
    span = tokens if is_full else " to ".join(dict.fromkeys(str(k) for k in (steps[0], steps[-1])))
    batches = f"batch size{'s' if len(sizes) > 1 else ''} {', '.join(map(str, sizes))}"
    where = f"{regime} (K={span} for {tokens} new tokens, {batches}),"
    speeds = [p.speedup for _, p in points if p.speedup]
    if not speeds:
        return f"{where} the two were not timed side by side."
    if fastest := _faster(points):
        value, curve, point = fastest[0]
        text = f"{where} diffusion takes {1 / value:.2g} of the baseline's time at best (K={point.cell.steps})"
        if point.cell.steps in worse_but_faster(curve):
            text += ", but writes worse there"
        verdicts = {_verdict(c, is_full) for c, _ in points}
        known = sorted(verdicts - {"undecided"})
        if known:
            winners = " and ".join("the baseline" if v == "baseline" else v for v in known)
            text += (
                f"; at equal quality {winners} wins" if len(known) == 1 else f"; at equal quality {winners} each win"
            )
            text += " in some settings" if len(verdicts) > 1 else ""
        return f"{text}."
    if all(s.high < 1 for s in speeds):
        times = sorted(1 / s.value for s in speeds)
        factor = " to ".join(dict.fromkeys(f"{t:.2g}" for t in (times[0], times[-1])))
        return f"{where} the baseline wins whatever the quality: diffusion takes {factor} times as long."
    return f"{where} diffusion is not shown to be faster anywhere."


def _verdict(curve: Curve, is_full: bool) -> Verdict:
    """The verdict on a curve; diffusion that needs a step for every token does not win where steps are saved."""
    found = winner_of(curve)
    if found.verdict == "diffusion" and found.parity_steps == curve.new_tokens and not is_full:
        return "undecided"
    return found.verdict
