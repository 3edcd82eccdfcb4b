"""The answer of a run in plain English, from its study alone.

Four questions in the reader's order: which regimes were measured and who wins in each, how many steps does diffusion
need to write as well as the baseline, is it faster there, and up to how many steps is it faster at all. Only what was
measured is stated; what was not is named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlmbench import registry
from dlmbench.analysis.parity import Parity
from dlmbench.analysis.quality import metric_for
from dlmbench.analysis.results import RANDOM_WEIGHTS, CellSummary, Curve, MetricParity, Study, group_by
from dlmbench.analysis.stats import Interval
from dlmbench.analysis.winners import batches_text, regimes, winner_of, worse_but_faster

# Beyond so many settings a paragraph is no longer read; the others are counted and are in the table.
MOST_SETTINGS = 6
# From such a distance between a median and the line on, the break-even is only a rough value.
POOR_FIT = 0.1


def answer(study: Study) -> str:
    """Summary for new readers: the verdict of each regime, then parity, speedup and break-even behind it."""
    if not study.curves:
        reason = "; ".join(study.missing) or "no cell has a step count"
        return f"There is nothing to compare yet: {reason}."
    models = " and ".join(dict.fromkeys(c.model for c in study.curves))
    if not study.baselines:
        return (
            f"{models} was measured alone. Without an autoregressive baseline in the run there is no parity, "
            "no speedup and no break-even."
        )
    groups = group_by(study.curves, lambda c: (c.label, c.lengths)).values()
    against = f"{models} (diffusion) against {study.baselines[0].cell.model.key} (autoregressive)."
    paragraphs = [" ".join([against, *regimes(study.curves)])]
    shown = 0
    # The best known first, because the last may be truncated: with quality, then by their break-even.
    for curves in sorted(groups, key=lambda g: min((c.headline() is None, c.rank) for c in g)):
        if shown and shown + len(curves) > MOST_SETTINGS:
            continue
        shown += len(curves)
        paragraphs.append(" ".join(_group(curves, name_it=len(groups) > 1)))
    last = []
    if rest := len(study.curves) - shown:
        last.append(f"{rest} more of {len(study.curves)} settings are in the table, not in this answer.")
    if study.others:
        last.append(
            f"{len(study.others)} settings whose sampler chooses its own number of steps have no place on a curve "
            "over K; they are in the table."
        )
    return "\n\n".join(filter(None, [*paragraphs, " ".join(last)]))


def _group(curves: Sequence[Curve], name_it: bool) -> list[str]:
    """The curves that differ only in batch size: quality once, then speed by batch size, then the verdict."""
    first = curves[0]
    where = f"With {first.new_tokens} new tokens after prompts of {first.prompt_tokens}"
    if name_it:
        where += f" ({first.label})"
    sentences = [f"{where}: {_quality(first)}."]
    difference = why_parities_differ(first)
    if difference:
        sentences.append(difference)
    speeds = _at_parity(curves)
    sentences += [*speeds, *_break_even(curves, with_speeds=not speeds)]
    verdicts = group_by(curves, _verdict)
    for verdict, group in verdicts.items():
        at = f"at {batches_text(c.batch_size for c in group)} " if len(verdicts) > 1 else ""
        if verdict:
            sentences.append(f"So {at}{verdict}.")
    return sentences


# ---------------------------------------------------------------- quality


def _quality(curve: Curve) -> str:
    lead = curve.headline()
    if lead is None:
        if curve.weights == "random":
            return RANDOM_WEIGHTS
        return "quality was not measured for both models, so parity is unknown"
    metric, parity = lead.metric, lead.parity
    base = curve.quality_baseline.cell.model.key if curve.quality_baseline else "the baseline"
    if parity.reached:
        text = f"S_parity, the diffusion steps needed to match {base} by {metric.phrase}, is {parity.steps}"
        if parity.outcome == "reached_at_smallest":
            text += " or fewer (the smallest K measured already does)"
    else:
        text = f"quality parity (S_parity) with {base} by {metric.phrase} is {lead.outcome_text} ({gap_text(lead)})"
    if parity.literal_steps is not None and parity.literal_steps != parity.steps:
        text += f"; K={parity.literal_steps} passes by itself, but a larger K does not"
    if not parity.is_monotone:
        text += "; more steps do not always help here"
    if not parity.reached:
        allowing = [p for p in curve.parities if p.metric == metric and p.parity.delta]
        text += "".join(f"; allowing {p.margin_text}, it is {p.outcome_text}" for p in allowing)
    return text + f" (tested on {parity.n} prompt{'' if parity.n == 1 else 's'})"


def gap_text(shown: MetricParity) -> str:
    """How far diffusion is from the baseline at its largest step count, with the interval."""
    last = shown.parity.points[-1]
    gap, direction = last.gap, "better"
    if gap.value < 0:
        gap, direction = Interval(-gap.value, -gap.high, -gap.low), "worse"
    text = f"at K={last.steps} it is {gap.value:.3g} {shown.metric.unit} {direction}, "
    text += f"95% interval {gap.low:.3g} to {gap.high:.3g}" if gap.is_known else "a single prompt, so no interval"
    if shown.metric.log_scale and direction == "worse":
        text += f": a perplexity {math.expm1(gap.value):.0%} higher"
    return text


def _verdict(curve: Curve) -> str:
    """Which model wins at this batch size, at equal quality (margin 0); empty where quality is not known."""
    if curve.headline() is None:
        return ""
    found = winner_of(curve)
    if found.verdict == "diffusion":
        return f"diffusion wins: {found.reason}"
    winner = "the baseline wins" if found.verdict == "baseline" else "no winner is known"
    faster = worse_but_faster(curve)
    only = f"; diffusion can be faster here (K={', '.join(map(str, faster))}), but only with worse text"
    return f"{winner}: {found.reason}{only if faster else ''}"


# ---------------------------------------------------------------- why two metrics differ

_QUESTIONS = (
    "They ask different things. The likelihood rates the model as a scorer: how probable it finds the true text, word "
    "by word, when it has K steps for it. Validity judges what the model wrote: the share of its own sentences that "
    "break no rule of the source"
)
_SAFE_WRITER = (
    "A model can write without mistakes by keeping to what it is sure of, and still find the less usual turns of true "
    "text improbable"
)
_GOOD_SCORER = (
    "A model can score well when it is given the true words and still slip when it has only its own: words chosen "
    "in the same step do not see each other, and a slip stays"
)
_SUREST_FIRST = (
    "Committing the surest words first helps writing more than scoring: the surprising words of a true text are left "
    "to be guessed together"
)


def why_parities_differ(curve: Curve, delta: float = 0.0) -> str | None:
    """Why parity by likelihood and by validity differ on `curve`; None where they agree or one was not measured.

    A likelihood and a judgement of the generated text answer different questions. Where they name different step
    counts, a reader should learn which question each has answered before taking the friendlier one.
    """
    scorer, writer = (curve.parity(metric_for(m), delta) for m in ("likelihood", "validity"))
    if scorer is None or writer is None or _place(scorer.parity) == _place(writer.parity):
        return None
    by = f"By likelihood parity is {scorer.outcome_text}, by validity {writer.outcome_text}"
    if "undecided" in (scorer.parity.outcome, writer.parity.outcome):
        unsure = scorer if scorer.parity.outcome == "undecided" else writer
        return f"{by}: {unsure.parity.n} prompts are too few to call this a contradiction. {_QUESTIONS}."
    one, other = scorer.parity.steps, writer.parity.steps
    if one is not None and (other is None or one <= other):
        return ". ".join([by, _QUESTIONS, _GOOD_SCORER]) + "."
    parts = [by, _QUESTIONS, _SAFE_WRITER]
    if registry.attribute("commit", str(curve.points[0].cell.knob("commit")), "SUREST_FIRST", False):
        parts.append(_SUREST_FIRST)
    return ". ".join([*parts, _repetition(curve, writer)]) + "."


def _place(parity: Parity) -> tuple[str, int | None]:
    return ("reached" if parity.reached else parity.outcome, parity.steps)


def _repetition(curve: Curve, writer: MetricParity) -> str:
    """Whether the text that is valid also repeats itself, which validity does not punish."""
    point = curve.at(writer.parity.steps) if writer.parity.steps else None
    own, base = (c.quality_in(metric_for("repetition")) if c else None for c in (point, curve.quality_baseline))
    if own is None or base is None:
        return "Whether it plays safe by repeating itself was not measured"
    figures = f"{own.value:.0%} of its 4-grams are repeated at K={writer.parity.steps}, the baseline's {base.value:.0%}"
    if own.low is not None and base.high is not None and own.low > base.high:
        return f"It also repeats itself, which no rule forbids: {figures}"
    return f"It does not do so by repeating itself: {figures}"


# ---------------------------------------------------------------- speed


def _at_parity(curves: Sequence[Curve]) -> list[str]:
    """Speed and energy at S_parity for each batch size: at margin 0, else at the smallest margin that reaches it."""
    speeds, energies, which = [], [], ""
    for curve in curves:
        best, where = curve.nearest_parity, f"at batch size {curve.batch_size}"
        if best is None:
            continue
        which = f"At K={best.parity.steps}{f', allowing {best.margin_text}' if best.parity.delta else ''}"
        if best.speedup is None or best.latency_ratio is None:
            speeds.append(f"not timed {where}")
            continue
        text = f"{_ratio(best.latency_ratio)} {where}"
        low, high = best.speedup.low_steps, best.speedup.high_steps
        if low != high:
            text += f" (parity may be anywhere from K={low} to {high})"
        if not best.speedup.is_bounded:
            text += " (parity may also be where nothing was timed)"
        speeds.append(text)
        ours, base = (c.joules_per_token if c else None for c in (curve.at(best.parity.steps), curve.baseline))
        if best.energy_ratio and ours and base:
            joules = f"({ours.value:.3g} J instead of {base.value:.3g} J)"
            energies.append(f"{_ratio(best.energy_ratio, 'reading')} {where} {joules}")
    sentences = []
    if speeds:
        sentences.append(f"{which}, diffusion's speed as a multiple of the baseline's is {'; '.join(speeds)}.")
    if energies:
        sentences.append(f"The energy per new token there, as a multiple of the baseline's, is {'; '.join(energies)}.")
    return sentences


def _ratio(ratio: Interval, noun: str = "repetition") -> str:
    if not ratio.is_known:
        return f"{ratio.value:.3g}x (a single {noun}: no interval)"
    return f"{ratio.value:.3g}x (95% interval {ratio.low:.3g} to {ratio.high:.3g})"


def _break_even(curves: Sequence[Curve], with_speeds: bool) -> list[str]:
    """Where the two take equally long, for each batch size, or why that is not known.

    with_speeds: whether to give the speed of a curve whose only step count it is.
    """
    crossings, others, outside = [], [], ""
    single: list[tuple[CellSummary, str]] = []
    for curve in curves:
        where = f"at batch size {curve.batch_size}"
        line, timed = curve.break_even, curve.timed
        if not timed:
            others.append(f"{where} diffusion was not timed ({curve.untimed_reason})")
        elif curve.baseline is None or curve.baseline.latency is None:
            others.append(f"{where} the baseline was not timed, so no speedup is known")
        elif line is None:
            single.append((timed[0], where))
        elif line.steps is None or line.steps < 1:
            others.append(f"{where} break-even is {line.text()}")
        else:
            text = f"K={line.text()} {where}"
            if line.is_extrapolated:
                text += ", extrapolated"
                outside = f" (K={timed[0].cell.steps} to {timed[-1].cell.steps} were timed)"
            if line.largest_residual > POOR_FIT:
                text += f", a rough value: latency deviates from a straight line by {line.largest_residual:.0%}"
            crossings.append(text)
    found = []
    if crossings:
        found.append(
            f"Break-even k*, the step count at which both take equally long (95% interval), is {'; '.join(crossings)}: "
            f"with fewer steps diffusion is faster, with more it is slower{outside}."
        )
    if single:
        steps = " or ".join(dict.fromkeys(f"K={p.cell.steps}" for p, _ in single))
        found.append(f"Here only {steps} was timed, so no break-even is known.")
        speeds = [f"{_ratio(p.speedup)} {where}" for p, where in single if p.speedup]
        if speeds and with_speeds:
            found.append(f"Diffusion's speed as a multiple of the baseline's is {'; '.join(speeds)}.")
    if others:
        text = "; ".join(others)
        found.append(text[0].upper() + text[1:] + ".")
    return found
