"""What was asked about quality, steps to parity, and the latency there."""

from __future__ import annotations

import math

from dlmbench import registry
from dlmbench.analysis.answer import headline
from dlmbench.analysis.quality import metric_for
from dlmbench.analysis.stats import Interval
from dlmbench.analysis.study import CellSummary, Curve, MetricParity
from dlmbench.analysis.winners import nearest
from dlmbench.report.answers import Answer, Question, listing, not_measured, sentences, verdict, where
from dlmbench.report.numbers import counted, listed, percent, plain, seconds, sig, spread
from dlmbench.report.source import Source

FEW_STEPS = 16
MANY_STEPS = 256
DEAR_STEPS = 100
# What an earlier draft of this study printed: a causal perplexity of a masked model at 16 steps, over the baseline's.
DRAFT_FACTOR = 103_745.26 / 10.47


def why_no_quality(source: Source) -> str:
    """Why there is no parity in this run."""
    if source.random:
        return f"the weights of {listed(source.random)} are random, so texts and likelihoods say nothing"
    if not source.study.metrics:
        return "no metric was scored"
    if not source.study.baselines:
        return "there is no autoregressive baseline in the run"
    return "no metric was scored text by text for both models"


def per_text(source: Source) -> list[Curve]:
    """One curve for each set of texts that has a parity: batch sizes share theirs."""
    unique: dict[object, Curve] = {}
    for curve in source.curves:
        if headline(curve):
            key = (curve.label, curve.prompt_tokens, curve.new_tokens)
            # The one with most step counts stands for the others.
            unique[key] = max(unique.get(key, curve), curve, key=lambda c: len(c.points))
    return list(unique.values())


def steps_to_parity(source: Source) -> Answer:
    """S_parity by the leading metric, at margin 0, and what a margin changes."""
    curves = per_text(source)
    if not curves:
        return not_measured(why_no_quality(source))
    parts = []
    for curve in curves:
        shown = headline(curve)
        assert shown is not None
        margins = [
            f"a margin of {_margin(p)}: {outcome_words(p)}"
            for p in curve.parities
            if p.metric == shown.metric and p.parity.delta > 0
        ]
        extra = f" ({'; '.join(margins)})" if margins else ""
        parts.append(
            f"{curve.label}, {where(curve, batch=False)}, by {shown.metric.words} "
            f"on {counted(shown.parity.n, 'prompt')}: {outcome_words(shown)}{extra}"
        )
    return listing(["S_parity at margin 0"], parts)


def _margin(shown: MetricParity) -> str:
    delta = shown.parity.delta
    return f"{percent(delta)} in perplexity" if shown.metric.log_scale else f"{delta:g} in the metric's unit"


def outcome_words(shown: MetricParity) -> str:
    """Where parity is reached, in words."""
    parity = shown.parity
    last = parity.points[-1].steps
    if parity.outcome == "reached":
        return f"reached at K={parity.steps}"
    if parity.outcome == "reached_at_smallest":
        return f"reached at K={parity.steps}, the smallest step count scored"
    return f"not reached up to K={last}" if parity.outcome == "not_reached" else f"undecided up to K={last}"


def speedup_at_parity(source: Source) -> Answer:
    """The speedup factor at S_parity, at the smallest margin that reaches it."""
    parts = []
    for curve in source.curves:
        shown = headline(curve)
        if shown is None:
            continue
        best = nearest(curve)
        label = f"{curve.label}, {where(curve)}"
        if best is None:
            parts.append(
                f"{label}: parity is not shown at any margin up to {percent(0.2)}, so there is no such latency"
            )
            continue
        margin = f" with a margin of {_margin(best)}" if best.parity.delta else ""
        point = curve.at(best.parity.steps or 0)
        if best.speedup is None or best.speedup.latency is None or point is None or point.latency is None:
            parts.append(f"{label}: parity at K={best.parity.steps}{margin}, which was not timed")
            continue
        word = verdict(best.speedup.latency, "faster", "slower", "not shown to be faster or slower")
        parts.append(
            f"{label}: at K={best.parity.steps}{margin} diffusion takes {seconds(point.latency.median)}, "
            f"{spread(best.speedup.latency, 'x')} the baseline's speed: {word}"
        )
    if not parts:
        return not_measured(f"parity needs the quality of both models, and {why_no_quality(source)}")
    return listing(["at S_parity, taken at the smallest margin that reaches it"], parts)


def prohibitive(source: Source) -> Answer:
    """Whether S_parity lies beyond 100 steps."""
    curves = per_text(source)
    if not curves:
        return not_measured(f"S_parity is unknown: {why_no_quality(source)}")
    parts = []
    for curve in curves:
        shown = headline(curve)
        assert shown is not None
        steps, last = shown.parity.steps, shown.parity.points[-1].steps
        if steps is not None:
            word = "more" if steps > DEAR_STEPS else "no more"
            parts.append(f"{curve.label}, {where(curve, batch=False)}: K={steps}, {word} than {DEAR_STEPS}")
        elif last < DEAR_STEPS:
            parts.append(
                f"{curve.label}, {where(curve, batch=False)}: not known, parity is not shown and no more than {last} "
                "steps were scored"
            )
        else:
            parts.append(f"{curve.label}, {where(curve, batch=False)}: parity is not shown up to K={last}")
    return listing(["S_parity at margin 0"], parts)


def curve_ends(source: Source) -> Answer:
    """Quality and latency at the fewest and the most steps, beside the baseline."""
    parts = []
    for curve in per_text(source):
        shown = headline(curve)
        assert shown is not None
        scored = [p for p in curve.points if p.quality_in(shown.metric.name)]
        if len(scored) < 2:
            continue
        ends = [_end(p, shown) for p in (scored[0], scored[-1])]
        base = curve.quality_baseline
        beside = base.quality_in(shown.metric.name) if base else None
        baseline = f"; the baseline: {sig(beside.value)}" if beside else ""
        parts.append(
            f"{curve.label}, {where(curve, batch=False)}, {shown.metric.title}: {ends[0]}; {ends[1]}{baseline}"
        )
    if not parts:
        return not_measured(why_no_quality(source))
    known = [p.cell.steps for c in per_text(source) for p in c.points if p.quality]
    steps = [k for k in known if k is not None]
    asked = [k for k in (FEW_STEPS, MANY_STEPS) if k not in steps]
    if asked:
        return listing([f"not scored: {listed(f'K={k}' for k in asked)}"], parts, "in part")
    return listing(["the fewest and the most steps that were scored"], parts)


def _end(point: CellSummary, shown: MetricParity) -> str:
    quality, valid = point.quality_in(shown.metric.name), point.quality_in(metric_for("validity"))
    assert quality is not None
    text = f"K={point.cell.steps} has {sig(quality.value)}"
    if valid and shown.metric.name != metric_for("validity"):
        text += f" ({percent(valid.value)} of its sentences are possible ones)"
    return text + (f" in {seconds(point.latency.median)} at B={point.cell.batch_size}" if point.latency else "")


def gap_at_16(source: Source) -> Answer:
    """The ratio of perplexities at 16 steps, by a likelihood that means something."""
    parts = []
    for curve in per_text(source):
        shown = curve.parity(metric_for("likelihood"))
        point = next((p for p in shown.parity.points if p.steps == FEW_STEPS), None) if shown else None
        if point is not None:
            worse = math.exp(-point.gap.value)
            low, high = math.exp(-point.gap.high), math.exp(-point.gap.low)
            parts.append(
                f"{curve.label}, {where(curve, batch=False)}: at K={FEW_STEPS} the perplexity under the sampler is "
                f"{spread(Interval(worse, low, high), 'x')} the baseline's"
            )
    note = (
        "a causal perplexity of a masked model, from which the number came, has no meaning: the model was never "
        "trained to predict the next token from the left alone"
    )
    if not parts:
        why = why_no_quality(source) if not per_text(source) else f"no likelihood at K={FEW_STEPS}"
        return Answer(sentences([f"not measured: {why}", note]), "not measured")
    return listing([note], parts)


def other_metrics(source: Source) -> Answer:
    """Whether parity by other metrics agrees with the leading one."""
    curves = per_text(source)
    if not curves:
        return not_measured(why_no_quality(source))
    measured = {m.name for m in source.study.metrics}
    expected = {n for n in registry.loadable("metrics") if registry.attribute("metrics", n, "REPORT_IF_MISSING", False)}
    absent = [registry.attribute("metrics", name, "TITLE", name) for name in sorted(expected - measured)]
    parts = []
    for curve in curves:
        exact = [p for p in curve.parities if p.parity.delta == 0]
        words = [f"{p.metric.words}: {outcome_words(p)}" for p in exact]
        parts.append(f"{curve.label}, {where(curve, batch=False)}: {'; '.join(words)}")
    end = f"not scored: {listed([*absent, 'task accuracy'])}"
    return listing([end], parts, "in part")


def other_texts(source: Source) -> Answer:
    """One run has one source of prompts."""
    prompts = source.settings.prompts
    name = prompts.source if prompts else listed(source.values("prompts"))
    return not_measured(f"all prompts of this run come from one source, {name}")


def temperature_and_quality(source: Source) -> Answer:
    """Quality at two temperatures, if there are two."""
    values = source.values("temperature", "target")
    if len(values) < 2 or source.random:
        held = listed(map(plain, values))
        return not_measured(
            why_no_quality(source) if source.random else f"one temperature was used for diffusion ({held})"
        )
    return Answer("In part: see the table of quality, where the temperature is named in the setting.", "in part")


QUESTIONS = (
    Question("question", "How many steps does LLaDA need to match the baseline's quality?", steps_to_parity),
    Question(
        "question", "At that number of steps, is its latency higher or lower than the baseline's?", speedup_at_parity
    ),
    Question(
        "claim",
        f"If parity takes more than about {DEAR_STEPS} steps, LLaDA may be too expensive.",
        prohibitive,
    ),
    Question(
        "hypothesis",
        f"Few steps (K={FEW_STEPS}) are fast but likely gibberish; many (K={MANY_STEPS}) are good and slow.",
        curve_ends,
    ),
    Question(
        "claim",
        f"At {FEW_STEPS} steps LLaDA's perplexity is about {sig(DRAFT_FACTOR, 2)} times the baseline's.",
        gap_at_16,
    ),
    Question("question", "Do other metrics (BERTScore, tasks) tell the same story?", other_metrics),
    Question("question", "Do the results carry over to other domains and data?", other_texts),
    Question("claim", "Temperature changes the distribution of the output.", temperature_and_quality),
)
