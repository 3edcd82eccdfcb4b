"""The answer in plain English.

Four questions in the reader's order: which regimes were measured and who wins in each, how many steps does diffusion
need to write as well as the baseline, is it faster there, and up to how many steps is it faster at all. Only what was
measured is said; what was not is named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlmbench.analysis.disagreement import why_parities_differ
from dlmbench.analysis.equal_quality import at_equal_quality
from dlmbench.analysis.nouns import RANDOM_WEIGHTS, Curve, MetricParity, Study
from dlmbench.analysis.regimes import regimes, worse_but_faster
from dlmbench.analysis.rows import SummaryRow, block_length, summary_rows
from dlmbench.analysis.stats import Interval
from dlmbench.analysis.winners import headline, nearest, winner_of

__all__ = ["SummaryRow", "answer", "block_length", "headline", "summary_rows"]

# Beyond so many settings a paragraph is no longer read; the rest is counted, and stands in the table.
MOST_SETTINGS = 6
# From such a distance of a median from the line on, the crossing is only a rough value.
POOR_FIT = 0.1


def answer(study: Study) -> str:
    """What a newcomer should know: the verdict of each regime, then parity, speedup and break-even behind it."""
    if not study.curves:
        reason = "; ".join(study.missing) or "no cell has a step count"
        return f"There is nothing to compare yet: {reason}."
    if not study.baselines:
        return (
            f"{_models(study)} was measured alone. Without an autoregressive baseline in the run there is no parity, "
            "no speedup and no break-even."
        )
    groups: dict[tuple[object, ...], list[Curve]] = {}
    for curve in study.curves:
        groups.setdefault((curve.label, curve.prompt_tokens, curve.new_tokens), []).append(curve)
    against = f"{_models(study)} (diffusion) against {study.baselines[0].cell.model.key} (autoregressive)."
    paragraphs = [" ".join([against, *regimes(study.curves)])]
    shown = 0
    # The best known first, for the last may be cut: with quality, then by their break-even.
    for curves in sorted(groups.values(), key=lambda g: min((headline(c) is None, c.rank) for c in g)):
        if shown and shown + len(curves) > MOST_SETTINGS:
            continue
        shown += len(curves)
        paragraphs.append(" ".join(_group(curves, name_it=len(groups) > 1)))
    last = []
    if shown < len(study.curves):
        rest = len(study.curves) - shown
        last.append(f"{rest} more of {len(study.curves)} settings are in the table, not in this answer.")
    if study.others:
        last.append(
            f"{len(study.others)} settings whose sampler chooses its own number of steps have no place on a curve "
            "over K; they are in the table."
        )
    return "\n\n".join([*paragraphs, *([" ".join(last)] if last else [])])


def _models(study: Study) -> str:
    return " and ".join(dict.fromkeys(c.model for c in study.curves))


def _group(curves: Sequence[Curve], name_it: bool) -> list[str]:
    """The curves that differ only in batch size: quality once, then speed by batch size, then what follows."""
    first = curves[0]
    where = f"With {first.new_tokens} new tokens after prompts of {first.prompt_tokens}"
    if name_it:
        where += f" ({first.label})"
    sentences = [f"{where}: {_quality(first, headline(first))}."]
    difference = why_parities_differ(first)
    if difference:
        sentences.append(difference)
    speeds = _at_parity(curves)
    sentences += [*speeds, *_break_even(curves, said=bool(speeds))]
    verdicts: dict[str, list[int]] = {}
    for curve in curves:
        verdicts.setdefault(_verdict(curve), []).append(curve.batch_size)
    for verdict, batches in verdicts.items():
        at = f"at {_batches(batches)} " if len(verdicts) > 1 else ""
        if verdict:
            sentences.append(f"So {at}{verdict}.")
    return sentences


def _quality(curve: Curve, headline_parity: MetricParity | None) -> str:
    if headline_parity is None:
        if curve.weights == "random":
            return RANDOM_WEIGHTS
        return "quality was not measured for both models, so parity is unknown"
    metric, parity = headline_parity.metric, headline_parity.parity
    name = metric.phrase
    last, gap = parity.points[-1], f" ({_gap(headline_parity)})"
    base = curve.quality_baseline.cell.model.key if curve.quality_baseline else "the baseline"
    if parity.outcome == "reached":
        text = f"S_parity, the diffusion steps needed to match {base} by {name}, is {parity.steps}"
    elif parity.outcome == "reached_at_smallest":
        text = f"S_parity, the diffusion steps needed to match {base} by {name}, is {parity.steps} or fewer"
        text += " (the smallest K measured already does)"
    elif parity.outcome == "not_reached":
        text = f"quality parity (S_parity) with {base} by {name} is not reached up to K={last.steps}{gap}"
    else:
        text = f"quality parity (S_parity) with {base} by {name} is undecided up to K={last.steps}{gap}"
    if parity.literal_steps is not None and parity.literal_steps != parity.steps:
        text += f"; K={parity.literal_steps} passes by itself, but a larger K does not"
    if not parity.is_monotone:
        text += "; more steps do not always help here"
    if not parity.reached:
        text += _with_margin(curve, headline_parity)
    return text + f" (tested on {parity.n} prompt{'' if parity.n == 1 else 's'})"


def _gap(shown: MetricParity) -> str:
    last = shown.parity.points[-1]
    gap = last.gap
    word, low, high, value = "better", gap.low, gap.high, gap.value
    if value < 0:
        word, low, high, value = "worse", -gap.high, -gap.low, -value
    text = f"at K={last.steps} it is {value:.3g} {shown.metric.unit} {word}, "
    text += f"95% interval {low:.3g} to {high:.3g}" if gap.is_known else "a single prompt, which has no interval"
    if shown.metric.log_scale and gap.value < 0:
        text += f": a perplexity {math.expm1(value):.0%} higher"
    return text


def _with_margin(curve: Curve, shown: MetricParity) -> str:
    """What allowing a margin changes."""
    parts = []
    for other in curve.parities:
        delta, steps = other.parity.delta, other.parity.steps
        if other.metric != shown.metric or delta == 0:
            continue
        allowed = _allowance(other)
        if steps is not None:
            small = " (the smallest measured)" if other.parity.outcome == "reached_at_smallest" else ""
            parts.append(f"allowing {allowed}, K={steps}{small} is enough")
        else:
            parts.append(f"allowing {allowed}, it is {other.parity.outcome.replace('_', ' ')}")
    return "".join(f"; {p}" for p in parts)


def _allowance(shown: MetricParity) -> str:
    """A margin in words."""
    delta = shown.parity.delta
    return f"a perplexity {delta:.0%} higher" if shown.metric.log_scale else f"a margin of {delta:g}"


def _at_parity(curves: Sequence[Curve]) -> list[str]:
    """The speedup at S_parity for each batch size: at margin 0, else at the smallest margin that reaches it."""
    parts, which = [], ""
    for curve in curves:
        best = nearest(curve)
        if best is None:
            continue
        margin = f", allowing {_allowance(best)}" if best.parity.delta else ""
        which = f"At K={best.parity.steps}{margin}"
        where = f"at batch size {curve.batch_size}"
        if best.speedup is None or best.speedup.latency is None:
            parts.append(f"not timed {where}")
            continue
        text = f"{_ratio(best.speedup.latency)} {where}"
        low, high = best.speedup.low_steps, best.speedup.high_steps
        if low != high:
            text += f" (parity may lie anywhere from K={low} to {high})"
        if not best.speedup.is_bounded:
            text += " (parity may also lie where nothing was timed)"
        parts.append(text)
    if not parts:
        return []
    return [f"{which}, diffusion's speed as a multiple of the baseline's is {'; '.join(parts)}.", *_energy(curves)]


def _energy(curves: Sequence[Curve]) -> list[str]:
    """What that costs in energy, for each batch size at which it was measured."""
    parts = []
    for curve in curves:
        best = nearest(curve)
        paid = at_equal_quality(curve, best) if best else None
        if paid is None or paid.energy is None:
            continue
        ours, base = paid.target.joules_per_token, paid.baseline.joules_per_token
        if ours is not None and base is not None:
            joules = f"({ours.value:.3g} J instead of {base.value:.3g} J)"
            parts.append(f"{_ratio(paid.energy, 'reading')} at batch size {curve.batch_size} {joules}")
    if not parts:
        return []
    return [f"The energy of a new token there, as a multiple of the baseline's, is {'; '.join(parts)}."]


def _ratio(ratio: Interval, noun: str = "repetition") -> str:
    if not ratio.is_known:
        return f"{ratio.value:.3g}x (a single {noun}: no interval)"
    return f"{ratio.value:.3g}x (95% interval {ratio.low:.3g} to {ratio.high:.3g})"


def _break_even(curves: Sequence[Curve], said: bool) -> list[str]:
    """Where the two take equally long, for each batch size, and what keeps it from being known.

    said: whether the speeds at parity were given already.
    """
    crossings, others, single, outside = [], [], [], ""
    for curve in curves:
        where = f"at batch size {curve.batch_size}"
        line, timed = curve.break_even, [p for p in curve.points if p.latency]
        if not timed:
            reason = next((p.reason or p.status or "" for p in curve.points), "")
            others.append(f"{where} diffusion was not timed ({reason})")
        elif curve.baseline is None or curve.baseline.latency is None:
            others.append(f"{where} the baseline was not timed, so no speedup is known")
        elif line is None:
            single.append((timed[0], where))
        elif line.steps is None:
            others.append(f"{where} there is no break-even: {line.reason}")
        elif line.steps < 1:
            others.append(f"{where} the measured line says that even one step would take longer than the baseline")
        else:
            text = f"K={_steps(line.steps)} {where}"
            if line.low is not None and line.high is not None:
                text += f" (95% interval {_steps(max(line.low, 0))} to {_steps(line.high)})"
            if line.is_extrapolated:
                text += ", extrapolated"
                outside = f" (K={timed[0].cell.steps} to {timed[-1].cell.steps} were timed)"
            if line.largest_residual > POOR_FIT:
                text += f", a rough value: latency strays from a straight line by {line.largest_residual:.0%}"
            crossings.append(text)
    found = []
    if crossings:
        found.append(
            f"Break-even k*, the step count at which both take equally long, is {'; '.join(crossings)}: "
            f"with fewer steps diffusion is faster, with more it is slower{outside}."
        )
    if single:
        steps = " or ".join(dict.fromkeys(f"K={p.cell.steps}" for p, _ in single))
        found.append(f"Here only {steps} was timed, so no break-even is known.")
        speeds = [f"{_ratio(p.speedup)} {where}" for p, where in single if p.speedup]
        if speeds and not said:
            found.append(f"Diffusion's speed as a multiple of the baseline's is {'; '.join(speeds)}.")
    if others:
        text = "; ".join(others)
        found.append(text[0].upper() + text[1:] + ".")
    return found


def _steps(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _verdict(curve: Curve) -> str:
    """What follows for this batch size, at equal quality (margin 0); nothing where quality is not known."""
    if headline(curve) is None:
        return ""
    found = winner_of(curve)
    if found.verdict == "diffusion":
        return f"diffusion wins: {found.reason}"
    text = (
        f"the baseline wins: {found.reason}" if found.verdict == "baseline" else f"no winner is known: {found.reason}"
    )
    faster = worse_but_faster(curve)
    if faster:
        text += f"; diffusion can be faster here (K={', '.join(map(str, faster))}), but only with worse text"
    return text


def _batches(sizes: Sequence[int]) -> str:
    return f"batch size{'s' if len(sizes) > 1 else ''} {', '.join(map(str, sizes))}"
