"""Answers on quality, steps to parity and the latency there, and on what they mean for use and cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from dlmbench import registry
from dlmbench.analysis.parity import DELTAS
from dlmbench.analysis.quality import metric_for
from dlmbench.analysis.results import CellSummary, Curve, MetricParity, group_by
from dlmbench.analysis.stats import Interval
from dlmbench.analysis.winners import winner_of
from dlmbench.report.answer import BADGES, cost_at_parity, parity_text, speed_at_parity, verdict_text
from dlmbench.report.answers import Answer, Question, answer_of, answers, not_measured, sentences, shortened
from dlmbench.report.source import Source, name_of, shape
from dlmbench.report.text import counted, listed, percent, plain, seconds, sig, spread
from dlmbench.report.use_cases import INTERACTIVE, USE_CASES, UseCase

FEW_STEPS = 16
MANY_STEPS = 256
DEAR_STEPS = 100
QUALITY: list[Question] = []
USAGE: list[Question] = []


def why_no_quality(source: Source) -> str:
    """Why there is no parity in this run."""
    if source.random:
        return f"the weights of {listed(source.random)} are random, so texts and likelihoods mean nothing"
    if not source.study.metrics:
        return "no metric was scored"
    if not source.study.baselines:
        return "there is no autoregressive baseline in the run"
    return "no metric was scored text by text for both models"


def _scored(source: Source) -> Iterator[tuple[str, Curve, MetricParity]]:
    """The scored curves with their names and their parity by the headline metric."""
    for curve in source.scored_curves:
        headline = curve.headline()
        assert headline is not None
        yield name_of(curve, batch=False), curve, headline


@answers(QUALITY, "question")
def steps_to_parity(source: Source) -> Answer:
    """How many steps does LLaDA need to match the baseline's quality?

    S_parity by the headline metric, at margin 0 and at the others.
    """
    items = (f"{name}, {parity_text(curve)}" for name, curve, _ in _scored(source))
    return answer_of("S_parity at margin 0", items=items, missing=why_no_quality(source))


@answers(QUALITY, "question")
def _speedup_at_parity(source: Source) -> Answer:
    """At that number of steps, is its latency higher or lower than the baseline's?"""
    none = f"parity is not shown at any margin up to {percent(max(DELTAS))}, so there is no such latency"
    items = [f"{name_of(c)}: {speed_at_parity(c) or none}" for c in source.study.curves if c.headline()]
    missing = f"parity needs the quality of both models, and {why_no_quality(source)}"
    return answer_of("at S_parity, taken at the smallest margin that reaches it", items=items, missing=missing)


@answers(QUALITY, "claim")
def _prohibitive(source: Source) -> Answer:
    """If parity takes more than about 100 steps, LLaDA may be too expensive."""
    items = []
    for name, _, headline in _scored(source):
        steps = headline.parity.steps
        compared = f", {'more' if steps > DEAR_STEPS else 'no more'} than {DEAR_STEPS} steps" if steps else ""
        items.append(f"{name}: {headline.outcome_text}{compared}")
    return answer_of("S_parity at margin 0", items=items, missing=f"S_parity is unknown: {why_no_quality(source)}")


@answers(QUALITY, "hypothesis")
def _ends_of_the_curve(source: Source) -> Answer:
    """Few steps (K=16) are fast but likely gibberish; many (K=256) are good and slow.

    Quality and latency at the fewest and the most steps, beside the baseline.
    """
    items = []
    for name, curve, headline in _scored(source):
        metric = headline.metric
        scored = [p for p in curve.points if p.quality_in(metric.name)]
        baseline = curve.quality_baseline.quality_in(metric.name) if curve.quality_baseline else None
        if len(scored) > 1 and baseline:
            ends = "; ".join(_end(p, headline) for p in (scored[0], scored[-1]))
            items.append(f"{name}, {metric.title}: {ends}; the baseline: {sig(baseline.value)}")
    known = {p.cell.steps for c in source.scored_curves for p in c.points if p.quality}
    absent = [f"K={k}" for k in (FEW_STEPS, MANY_STEPS) if k not in known]
    lead = f"not scored: {listed(absent)}" if absent else "the fewest and the most steps that were scored"
    return answer_of(lead, items=items, state="in part" if absent else "measured", missing=why_no_quality(source))


def _end(point: CellSummary, shown: MetricParity) -> str:
    quality, valid = point.quality_in(shown.metric.name), point.quality_in(metric_for("validity"))
    assert quality is not None
    text = f"K={point.cell.steps} has {sig(quality.value)}"
    if valid and shown.metric.name != metric_for("validity"):
        text += f" ({percent(valid.value)} of its sentences are valid)"
    return text + (f" in {seconds(point.latency.median)} at B={point.cell.batch_size}" if point.latency else "")


@answers(QUALITY, "claim")
def _gap_at_few_steps(source: Source) -> Answer:
    """At 16 steps LLaDA's perplexity is about 9,900 times the baseline's.

    An earlier draft printed a causal perplexity of a masked model, 103,745.26, over the baseline's 10.47. The answer is
    the ratio of perplexities by the sampler's likelihood.
    """
    items = []
    for curve in source.scored_curves:
        shown = curve.parity(metric_for("likelihood"))
        point = next((p for p in shown.parity.points if p.steps == FEW_STEPS), None) if shown else None
        if point is not None:
            worse, low, high = (math.exp(-v) for v in (point.gap.value, point.gap.high, point.gap.low))
            items.append(
                f"{name_of(curve, batch=False)}: at K={FEW_STEPS} the perplexity under the sampler is "
                f"{spread(Interval(worse, low, high), 'x')} the baseline's"
            )
    note = (
        "a causal perplexity of a masked model, from which the number came, has no meaning: the model was never "
        "trained to predict the next token from the left alone"
    )
    if not items:
        why = f"no likelihood at K={FEW_STEPS}" if source.scored_curves else why_no_quality(source)
        return Answer(sentences([f"not measured: {why}", note]), "not measured")
    return answer_of(note, items=items)


@answers(QUALITY, "question")
def _other_metrics(source: Source) -> Answer:
    """Do other metrics (BERTScore, tasks) tell the same story?"""
    measured = {m.name for m in source.study.metrics}
    expected = {n for n in registry.loadable("metrics") if registry.attribute("metrics", n, "REPORT_IF_MISSING", False)}
    absent = [registry.attribute("metrics", name, "TITLE", name) for name in sorted(expected - measured)]
    tasks = list(_task_scores(source))
    absent += [] if tasks else ["task accuracy"]
    items = []
    for name, curve, _ in _scored(source):
        exact = [f"{p.metric.display_name}: {p.outcome_text}" for p in curve.parities if p.parity.delta == 0]
        items.append(f"{name}: {'; '.join(exact)}")
    listed_items = [*shortened(items), *shortened(tasks, "task score")]
    if absent:
        lead = f"not scored: {listed(absent)}"
        return answer_of(lead, items=listed_items, state="in part", missing=why_no_quality(source))
    return answer_of("parity by each metric, and task accuracy", items=listed_items, missing=why_no_quality(source))


def _task_scores(source: Source) -> Iterator[str]:
    """The scores of trained models in tasks.json, and how far each is from the baseline's on the same documents."""
    tasks = source.tasks
    differences = {(d.run_id, d.task, d.metric, d.filter): d for d in tasks.differences}
    for s in tasks.scores:
        run, d = tasks.outcomes[s.run_id].run, differences.get((s.run_id, s.task, s.metric, s.filter))
        if s.value is not None and run.model.weights != "random":
            ends = (math.nan if end is None else end for end in (s.low, s.high))
            steps = f", K={run.steps}" if run.steps else ""
            text = f"{s.task}, {run.model.key}{steps}: {s.metric} {spread(Interval(s.value, *ends))}"
            yield text + (f", {spread(Interval(d.value, d.low, d.high))} from the baseline's" if d else "")


@answers(QUALITY, "question")
def _other_texts(source: Source) -> Answer:
    """Do the results carry over to other domains and data?"""
    return not_measured(f"quality by source of the text was not measured (prompts: {listed(source.values('prompts'))})")


@answers(QUALITY, "claim")
def _temperature_and_quality(source: Source) -> Answer:
    """Temperature changes the distribution of the output."""
    values = source.values("temperature", "target")
    if source.random:
        return not_measured(why_no_quality(source))
    if len(values) < 2:
        return not_measured(f"one temperature was used for diffusion ({listed(map(plain, values))})")
    return Answer("In part: see the table of quality, where the temperature is named in the setting.", "in part")


# ---------------------------------------------------------------- use


def fitness(source: Source, use: UseCase) -> Answer:
    """The settings of a use case: how many have which verdict, and the verdict of each with its reason."""
    curves = use.curves(source.study)
    if not curves:
        return not_measured(use.why_missing(source.study))
    groups = group_by(curves, lambda c: BADGES[winner_of(c).verdict])
    items = [f"{name_of(c)}: {verdict_text(c)}" for c in curves]
    lead = "; ".join(f"{counted(len(g), 'setting')}: {badge[0].lower()}{badge[1:]}" for badge, g in groups.items())
    if any(c.headline() for c in curves):
        return answer_of(lead, items=items)
    note = "fitness needs quality as well, which was not measured"
    return answer_of(lead, note, items=items, state="in part")


USAGE += [Question("question", use.question, partial(fitness, use=use)) for use in USE_CASES]


@answers(USAGE, "claim")
def _first_text(source: Source) -> Answer:
    """LLaDA shows its text all at once and the autoregressive model streams, which makes LLaDA unfit for chat whatever
    its latency.

    Time until there is something to read: the first token, or the first finished block.
    """
    items = []
    for curve in INTERACTIVE.curves(source.study):
        base = curve.baseline
        shown = [p for p in curve.timed if p.first_text_s is not None]
        if base is None or base.first_text_s is None or not shown:
            continue
        ends = "; ".join(_waiting(p) for p in dict.fromkeys((shown[0], shown[-1])))
        gap = f", then {seconds(base.inter_token_s)} a token" if base.inter_token_s else ""
        first = seconds(base.first_text_s)
        items.append(f"{name_of(curve)}: diffusion {ends}; the baseline shows its first token after {first}{gap}")
    note = "user perception was not studied"
    missing = "no setting at B=1 has the times inside a generation of both models"
    return answer_of(note, items=items, state="in part", missing=missing)


def _waiting(point: CellSummary) -> str:
    whole = point.block_length == point.cell.new_tokens
    what = "shows nothing before the end" if whole else "shows its first finished block"
    return f"at K={point.cell.steps} {what} (after {seconds(point.first_text_s or 0)})"


@answers(USAGE, "question")
def _cost(source: Source) -> Answer:
    """What does the choice of steps mean for the cost of deployment?

    Throughput and energy of both models at equal quality; then energy over all step counts.
    """
    at_parity = [f"{name_of(c)}: at equal quality {text}" for c in source.study.curves if (text := cost_at_parity(c))]
    ratios = [
        (joules.value / base.value, joules.value, base.value, p.cell)
        for c in source.study.curves
        for p in c.points
        if (joules := p.joules_per_token)
        and c.baseline
        and (base := c.baseline.joules_per_token)
        and joules.value * base.value
    ]
    if not ratios:
        lead = "no setting has the energy of both models (it is read from the GPU's own counter)"
        return answer_of(lead, items=at_parity, state="in part", missing=lead)
    items = []
    for _, batch_rows in sorted(group_by(ratios, lambda f: f[3].batch_size).items()):
        for ratio, own_j, base_j, cell in dict.fromkeys(pick(batch_rows, key=lambda f: f[:3]) for pick in (min, max)):
            text = f"{sig(ratio, 2)}x ({sig(own_j, 2)} J and {sig(base_j, 2)} J)"
            items.append(f"{shape(cell)}, K={cell.steps}: {text}")
    note = "by the board's own counter, idle power included; minimum and maximum per batch size"
    lead = sentences([f"energy per new token as a multiple of the baseline's: {note}"])
    return Answer(lead, items=(*shortened(at_parity), *shortened(items, "cell")))


@answers(USAGE, "question")
def _other_models(source: Source) -> Answer:
    """Do other diffusion language models behave alike?"""
    names = [m.key for m in source.models if m.role == "target"]
    if len(names) > 1:
        return Answer(f"In part: {listed(names)} were measured; see the tables.", "in part")
    return not_measured(f"{listed(names)} is the only diffusion model in this run")
