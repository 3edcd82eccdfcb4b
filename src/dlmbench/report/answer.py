"""Each fact about a curve in words, and the answer of a run in plain English that is made of them.

Answer, document and page take their sentences from here. The answer follows the reader's questions: which regimes were
measured and who wins in each, how many steps does diffusion need to write as well as the baseline, is it faster there,
and up to how many steps is it faster at all. Only what was measured is stated; what was not is named.

A regime is a part of a study: fewer steps than tokens, or a step for every token. Diffusion saves time only where a
step commits several tokens. A comparison that sweeps the steps at batch size 1 and one that takes as many steps as
tokens, in batches, can therefore contradict each other and both be right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from dlmbench import registry
from dlmbench.analysis.quality import metric_for
from dlmbench.analysis.results import CellSummary, Curve, MetricParity, Study, group_by
from dlmbench.analysis.stats import Interval
from dlmbench.analysis.winners import CurveVerdict, no_quality_reason, pace, steps_at, winner_of, worse_but_faster
from dlmbench.report.text import counted, from_to, listed, seconds, sig, spread

# Beyond so many settings a paragraph is no longer read; the others are counted and are in the table.
MOST_SETTINGS = 6
# From such a distance between a median and the line on, the break-even is only a rough value.
POOR_FIT = 0.1
# In the order in which they favour diffusion.
BADGES: dict[CurveVerdict, str] = {
    "diffusion": "Diffusion wins",
    "undecided": "Undecided",
    "speed only": "Speed only",
    "baseline": "The baseline wins",
    "unknown": "Not known",
}


# ---------------------------------------------------------------- one curve


def parity_text(curve: Curve) -> str:
    """S_parity by the headline metric, at margin 0 and at the others; the gap where it is not reached."""
    lead = curve.headline()
    assert lead is not None
    parity = lead.parity
    parts = [f"by {lead.metric.phrase} on {counted(parity.n, 'prompt')}: {lead.outcome_text}"]
    if not parity.reached:
        parts.append(gap_text(lead))
    if parity.literal_steps is not None and parity.literal_steps != parity.steps:
        parts.append(f"K={parity.literal_steps} passes by itself, but a larger K does not")
    if not parity.is_monotone:
        parts.append("more steps do not always help here")
    margins = (p for p in curve.parities if p.metric == lead.metric and p.parity.delta)
    return "; ".join([*parts, *(f"allowing {p.margin_text}: {p.outcome_text}" for p in margins)])


def gap_text(shown: MetricParity) -> str:
    """How far diffusion is from the baseline at its largest step count, with the interval."""
    last = shown.parity.points[-1]
    gap, direction = last.gap, "better"
    if gap.value < 0:
        gap, direction = Interval(-gap.value, -gap.high, -gap.low), "worse"
    text = f"at K={last.steps} it is {sig(gap.value)} {shown.metric.unit} {direction}, "
    text += f"95% interval {sig(gap.low)} to {sig(gap.high)}" if gap.is_known else "a single prompt, so no interval"
    if shown.metric.log_scale and direction == "worse":
        text += f": a perplexity {math.expm1(gap.value):.0%} higher"
    return text


def speed_at_parity(curve: Curve) -> str:
    """Latency and speed at S_parity, at the smallest margin that reaches it; empty where none does."""
    best = curve.nearest_parity
    if best is None:
        return ""
    point, speedup, ratio = curve.at(best.parity.steps), best.speedup, best.latency_ratio
    if speedup is None or ratio is None or point is None or point.latency is None:
        return f"parity is at {_steps_needed(best)}, which was not timed"
    text = f"diffusion takes {seconds(point.latency.median)} at {_steps_needed(best)}, "
    text += f"{spread(ratio, 'x')} the baseline's speed: {speed_word(ratio)}"
    if speedup.low_steps != speedup.high_steps:
        text += f"; parity may be anywhere from K={speedup.low_steps} to {speedup.high_steps}"
    if not speedup.is_bounded:
        text += "; parity may also be where nothing was timed"
    if speedup.share_reached < 0.95:
        text += f"; found again in {speedup.share_reached:.0%} of the resamples"
    return text


def cost_at_parity(curve: Curve) -> str:
    """Throughput and energy of both models at S_parity; empty where it is not reached or not timed."""
    best = curve.nearest_parity
    target, baseline = (_efficiency(c) for c in (curve.at(best.parity.steps) if best else None, curve.baseline))
    if best is None or not target or not baseline:
        return ""
    text = f"diffusion generates {target} at {_steps_needed(best)}, the baseline {baseline}"
    return text + (f": {spread(best.energy_ratio, 'x')} the baseline's energy per token" if best.energy_ratio else "")


def _steps_needed(best: MetricParity) -> str:
    return f"K={best.parity.steps}" + (f" (allowing {best.margin_text})" if best.parity.delta else "")


def _efficiency(cell: CellSummary | None) -> str:
    if cell is None or cell.throughput is None:
        return ""
    rate = f"{spread(cell.throughput)} tokens/s"
    return rate if cell.joules_per_token is None else f"{rate} for {spread(cell.joules_per_token)} J per token"


def break_even_text(curve: Curve) -> str:
    """k*, the step count up to which diffusion is faster, with its reservations; or why it is not known."""
    line, timed = curve.break_even, curve.timed
    if not timed:
        return f"not known, diffusion was not timed ({curve.untimed_reason or 'no reason is on record'})"
    if curve.baseline is None or curve.baseline.latency is None:
        return "not known, the baseline was not timed"
    if line is None:
        speed = f", at {spread(timed[0].speedup, 'x')} the baseline's speed" if timed[0].speedup else ""
        return f"not known, only K={timed[0].cell.steps} was timed{speed}"
    if line.steps is None or line.steps < 1:
        return line.text()
    text = f"K={line.text()}"
    if line.is_extrapolated:
        text += f", extrapolated from K={timed[0].cell.steps} to {timed[-1].cell.steps}"
    if line.largest_residual > POOR_FIT:
        text += f", a rough value, as latency deviates from a straight line by {line.largest_residual:.0%}"
    return text


def verdict_text(curve: Curve) -> str:
    """Why one model wins, or none, and the step counts at which diffusion is faster, or only with worse text."""
    groups: dict[str, list[int]] = {}
    for point in curve.points:
        if point.speedup and point.cell.steps:
            side = pace(curve, point.cell.steps)
            text = side if side in ("faster", "slower") else "not shown to differ in speed"
            groups.setdefault(text, []).append(point.cell.steps)
    parts = [winner_of(curve).reason]
    if groups:
        parts.append(f"diffusion is {', '.join(f'{text} at K={listed(steps)}' for text, steps in groups.items())}")
    if worse := worse_but_faster(curve):
        parts.append(f"at K={listed(worse)} it is faster only with worse text")
    return "; ".join(parts)


def speed_word(ratio: Interval) -> str:
    """Diffusion's speed in words, by the interval of its ratio to the baseline's."""
    return "faster" if ratio.low > 1 else "slower" if ratio.high < 1 else "not shown to differ in speed"


def batches_text(sizes: Iterable[int]) -> str:
    """Batch sizes as text, ascending."""
    known = sorted(sizes)
    return f"batch size{'s' if len(known) > 1 else ''} {listed(known)}"


# ---------------------------------------------------------------- the answer


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
    paragraphs = [" ".join([against, *_regimes(study.curves)])]
    shown = 0
    # The best known first, because the last may be truncated: with quality, then by their break-even.
    for curves in sorted(groups, key=lambda g: min((c.headline() is None, c.rank) for c in g)):
        if shown and shown + len(curves) > MOST_SETTINGS:
            continue
        shown += len(curves)
        paragraphs.append(" ".join(_paragraph(curves, name_it=len(groups) > 1)))
    last = []
    if rest := len(study.curves) - shown:
        last.append(f"{rest} more of {len(study.curves)} settings are in the table, not in this answer.")
    if study.others:
        last.append(
            f"{len(study.others)} settings whose sampler chooses its own number of steps have no place on a curve "
            "over K; they are in the table."
        )
    return "\n\n".join(filter(None, [*paragraphs, " ".join(last)]))


def _paragraph(curves: Sequence[Curve], name_it: bool) -> list[str]:
    """The curves that differ only in batch size: quality once, then speed, break-even and verdict by batch size."""
    first = curves[0]
    where = f"With {first.new_tokens} new tokens after prompts of {first.prompt_tokens}"
    where += f" ({first.label})" if name_it else ""
    sentences = [f"{where}: {no_quality_reason(first)}."]
    if first.headline() is not None:
        base = first.quality_baseline.cell.model.key if first.quality_baseline else "the baseline"
        sentences = [f"{where}: S_parity, the diffusion steps needed to match {base}, {parity_text(first)}."]
        sentences.append(why_parities_differ(first) or "")
    break_even = "Break-even k*, the step count below which diffusion is faster and above which it is slower"
    metered = [c for c in curves if c.nearest_parity and c.nearest_parity.energy_ratio]
    judged = [c for c in curves if winner_of(c).verdict in ("diffusion", "undecided", "baseline")]
    for lead, text_of, some in (
        ("Speed at S_parity:", speed_at_parity, curves),
        ("Throughput and energy there:", cost_at_parity, metered),
        (f"{break_even}:", break_even_text, curves),
        ("So", _verdict, judged),
    ):
        by_text = {text: group for text, group in group_by(some, text_of).items() if text}
        parts = [f"{batches_text(c.batch_size for c in group)}, {text}" for text, group in by_text.items()]
        sentences.append(f"{lead} at {'. At '.join(parts)}." if parts else "")
    return list(filter(None, sentences))


def _verdict(curve: Curve) -> str:
    badge = BADGES[winner_of(curve).verdict]
    return f"{badge[0].lower()}{badge[1:]}: {verdict_text(curve)}"


# ---------------------------------------------------------------- regimes

Points = Sequence[tuple[Curve, CellSummary]]


def _regimes(curves: Sequence[Curve]) -> list[str]:
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
    tokens = listed(sorted({c.new_tokens for c, _ in points}))
    is_full = all(p.cell.steps == c.new_tokens for c, p in points)
    span = tokens if is_full else from_to([p.cell.steps for _, p in points if p.cell.steps], str)
    where = f"{name} (K={span} for {tokens} new tokens, {batches_text({c.batch_size for c, _ in points})}),"
    speeds = [p.speedup for _, p in points if p.speedup]
    if not speeds:
        return f"{where} the two were not timed side by side."
    if fastest := _faster(points):
        value, curve, point = fastest[0]
        text = f"{where} diffusion takes {1 / value:.2g} of the baseline's time at best (K={point.cell.steps})"
        if point.cell.steps in worse_but_faster(curve):
            text += ", but writes worse there"
        winners = {_regime_winner(c, is_full) for c, _ in points}
        if names := sorted(winners - {""}, reverse=True):
            text += f"; at equal quality {listed(names)} {'wins' if len(names) == 1 else 'each win'}"
            text += " in some settings" if len(winners) > 1 else ""
        return f"{text}."
    if all(s.high < 1 for s in speeds):
        factor = from_to([1 / s.value for s in speeds], "{:.2g}".format)
        return f"{where} the baseline wins whatever the quality: diffusion takes {factor} times as long."
    return f"{where} diffusion is not shown to be faster anywhere."


def _regime_winner(curve: Curve, is_full: bool) -> str:
    """The winner of a curve, or ""; diffusion that needs one step per token does not win with fewer steps."""
    found = winner_of(curve)
    needs_all = found.parity is not None and found.parity.parity.steps == curve.new_tokens
    if found.verdict == "diffusion" and (is_full or not needs_all):
        return "diffusion"
    return "the baseline" if found.verdict == "baseline" else ""


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
    if scorer is None or writer is None:
        return None
    if len({(p.parity.steps, p.parity.reached or p.parity.outcome) for p in (scorer, writer)}) == 1:
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
