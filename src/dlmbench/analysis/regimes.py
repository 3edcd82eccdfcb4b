"""The regimes of a study and the verdict of each: fewer steps than tokens, or a step for every token.

Diffusion saves time only where a step commits several tokens. A comparison that sweeps the steps at batch size 1 and
one that takes as many steps as tokens, in batches, can therefore contradict each other and both be right.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlmbench.analysis.nouns import CellSummary, Curve
from dlmbench.analysis.winners import headline, pace, winner_of


def regimes(curves: Sequence[Curve]) -> list[str]:
    """A sentence for each regime and one on what that means; nothing where a study has only one."""
    sweeps = [c for c in curves if not c.is_step_per_token]
    full = [c for c in curves if c.is_step_per_token]
    if not sweeps or not full:
        return []
    first = _sentence("With fewer steps than new tokens", sweeps)
    second = _sentence("With a step for every new token", full)
    found = ["It was measured in two regimes.", first, second]
    if _faster(sweeps) and not _faster(full):
        found.append("The verdicts differ: a comparison that looks at one of these regimes alone finds only its half.")
    return found


def worse_but_faster(curve: Curve) -> tuple[int, ...]:
    """The step counts at which diffusion is faster than the baseline and its text is worse, both beyond noise."""
    shown = headline(curve)
    if shown is None:
        return ()
    worse = [p.steps for p in shown.parity.points if p.probability <= shown.parity.alpha]
    return tuple(k for k in worse if pace(curve, k) == "faster")


def _faster(curves: Sequence[Curve]) -> list[tuple[float, Curve, CellSummary]]:
    """Every point that is faster than the baseline beyond noise, with its speedup; the fastest first."""
    found = [
        (p.speedup.value, c, p)
        for c in curves
        for p in c.points
        if p.speedup and p.cell.steps and pace(c, p.cell.steps) == "faster"
    ]
    return sorted(found, key=lambda f: -f[0])


def _sentence(regime: str, curves: Sequence[Curve]) -> str:
    tokens = " and ".join(str(g) for g in sorted({c.new_tokens for c in curves}))
    sizes = sorted({c.batch_size for c in curves})
    where = f"{regime} ({tokens} of them, batch size{'s' if len(sizes) > 1 else ''} {', '.join(map(str, sizes))})"
    speeds = [p.speedup for c in curves for p in c.points if p.speedup]
    if not speeds:
        return f"{where} the two were not timed side by side."
    if fastest := _faster(curves):
        value, curve, point = fastest[0]
        steps = point.cell.steps
        text = f"{where} diffusion takes {1 / value:.2g} of the baseline's time at best (K={steps})"
        if steps in worse_but_faster(curve):
            text += ", but writes worse there"
        verdicts = {winner_of(c).verdict for c in curves}
        if verdicts == {"baseline"}:
            text += "; at equal quality the baseline wins"
        elif "diffusion" in verdicts:
            text += "; at equal quality diffusion wins" + (" in some settings" if len(verdicts) > 1 else "")
        return f"{text}."
    if all(s.high < 1 for s in speeds):
        times = sorted(1 / s.value for s in speeds)
        span = f"{times[0]:.2g}" if len(times) == 1 else f"{times[0]:.2g} to {times[-1]:.2g}"
        return f"{where} the baseline wins whatever the quality: diffusion takes {span} times as long."
    return f"{where} diffusion is not shown to be faster anywhere."
