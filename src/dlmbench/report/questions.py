"""The hypotheses and questions that the study set out with, each with what this run measured, in one short sentence."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from dlmbench.analysis.contrasts import by_length, contrasts, equal_but, growth_shape
from dlmbench.analysis.quality import metric_for
from dlmbench.analysis.results import CellSummary, timed_of
from dlmbench.analysis.stats import Interval, group_by
from dlmbench.report.answer import COLUMNS
from dlmbench.report.source import Source
from dlmbench.report.tables import shape
from dlmbench.report.text import counted, from_to, gib, listed, percent, plain, seconds, sig, spread

# The parts of an answer, of which the first MOST are printed; none where it was not measured.
Ask = Callable[[Source], Iterable[str]]
QUESTIONS: list[tuple[str, Ask]] = []
MOST = 2
HIGH_BATCH = 8
# A perplexity over a million times as high is no longer printed as a number.
MOST_NATS = math.log(1e6)


def asked(question: str) -> Callable[[Ask], Ask]:
    """Decorator: the function answers this question."""

    def register(ask: Ask) -> Ask:
        QUESTIONS.append((question, ask))
        return ask

    return register


def answers(source: Source) -> dict[str, str]:
    """Every question with what the run measured of it, "" for nothing."""
    found = {}
    for question, ask in QUESTIONS:
        parts = list(ask(source))
        more = [f"{len(parts) - MOST} more in the tables"] if len(parts) > MOST else []
        text = "; ".join([*parts[:MOST], *more])
        found[question] = f"{text[0].upper()}{text[1:]}." if text else ""
    return found


# ---------------------------------------------------------------- quality


def _each_workload(source: Source, name: str) -> Iterator[str]:
    for row in source.answer.rows:
        if getattr(row, name) is not None:
            title = next(c.title for c in COLUMNS if c.key == name)
            yield f"batch {row.workload}: {title} {getattr(row, name)}"


QUESTIONS += [
    ("How many steps does LLaDA need for the baseline's quality?", partial(_each_workload, name="as_good_from")),
    ("Is it faster there?", partial(_each_workload, name="speed_there")),
]


@asked("More than about 100 steps would be too expensive.")
def _prohibitive(source: Source) -> Iterator[str]:
    if known := [v.parity_steps for v in source.study.verdicts if v.parity_steps]:
        yield f"S_parity exceeds 100 in {sum(k > 100 for k in known)} of {counted(len(known), 'setting')}"


@asked("Few steps (K=16) give gibberish fast, many (K=256) good text slowly.")
def _ends_of_the_curve(source: Source) -> Iterator[str]:
    for curve in source.scored_curves:
        headline = curve.headline()
        base = headline and curve.quality_baseline and curve.quality_baseline.quality_in(headline.metric.name)
        if headline and base and len(headline.parity.points) > 1:
            first, last = headline.parity.points[0], headline.parity.points[-1]
            ends = f"{sig(first.value)} at K={first.steps}, {sig(last.value)} at K={last.steps}"
            yield f"{curve.label}, {headline.metric.display_name}: {ends}, baseline {sig(base.value)}"


@asked("At 16 steps its perplexity is 9,900 times the baseline's.")
def _gap_at_few_steps(source: Source) -> Iterator[str]:
    for curve in source.scored_curves:
        found = curve.parity(metric_for("likelihood"))
        for point in found.parity.points if found else ():
            if point.steps == 16:
                ends = (point.gap.value, point.gap.high, point.gap.low)
                worse = Interval(*(math.exp(min(-v, MOST_NATS)) for v in ends))
                shown = spread(worse, "x") if -point.gap.value < MOST_NATS else "over a million times"
                yield f"{curve.label}: {shown}"


@asked("Do other metrics agree?")
def _other_metrics(source: Source) -> Iterator[str]:
    for curve in source.scored_curves:
        leading = [p for p in curve.parities if p.parity.delta == p.metric.margin]
        if len(leading) > 1:
            yield ", ".join(f"{p.metric.display_name} {p.outcome_text}" for p in leading)


@asked("Does task accuracy agree?")
def _tasks(source: Source) -> Iterator[str]:
    for s in source.tasks.scores:
        run = source.tasks.outcomes[s.run_id].run
        if s.value is not None and run.model.weights != "random":
            steps = f", K={run.steps}" if run.steps else ""
            ends = (math.nan if end is None else end for end in (s.low, s.high))
            yield f"{s.task}, {run.model.key}{steps}: {s.metric} {spread(Interval(s.value, *ends))}"


@asked("Temperature changes the output.")
def _temperature_and_quality(source: Source) -> Iterator[str]:
    values = source.values("temperature", "target")
    if len(values) > 1 and source.study.metrics and not source.random:
        yield f"temperatures {listed(map(plain, values))} stand in the table of quality"


# ---------------------------------------------------------------- latency and throughput


@asked("Diffusion has the higher throughput at large batches.")
def _throughput_at_high_batch(source: Source) -> Iterator[str]:
    for curves in group_by(source.study.curves, lambda c: (c.label, c.lengths)).values():
        family = sorted(curves, key=lambda c: c.batch_size)
        speedups = [{p.cell.steps or 0: p.speedup for p in c.points if p.speedup} for c in family]
        steps = max(set.intersection(*map(set, speedups)), default=0)
        if len(family) > 1 and steps and family[-1].batch_size >= HIGH_BATCH:
            ends = [f"{spread(s[steps], 'x')} at B={c.batch_size}" for s, c in zip(speedups, family, strict=True)]
            yield f"P={family[0].prompt_tokens}, K={steps}: {ends[0]}, {ends[-1]}"


@asked("Memory of the KV cache limits the baseline at large batches.")
def _baseline_batch_scaling(source: Source) -> Iterator[str]:
    cells = source.of_role("baseline")
    sizes = {c.cell.batch_size for c in cells if c.latency}
    if len(sizes) > 1:
        lost = sum(c.status == "oom" for c in cells)
        text = counted(lost, "baseline cell") if lost else "no baseline cell"
        yield f"{text} ran out of memory up to B={max(sizes)}"


@asked("At 16 steps LLaDA is already slower.")
def _slower_at_16_steps(source: Source) -> Iterator[str]:
    cells = [p for c in source.study.curves if (p := c.at(16)) is not None and p.ratio is not None]
    if cells:
        paces = listed(f"{pace} in {n}" for pace, n in Counter(c.pace for c in cells).items())
        yield f"of {counted(len(cells), 'cell')} with K=16: {paces}"


@asked("Is latency linear in the number of steps?")
def _linear_in_steps(source: Source) -> Iterator[str]:
    lines = [c.break_even.largest_residual for c in source.study.curves if c.break_even and len(c.timed) >= 3]
    if lines:
        yield f"within {from_to(lines, percent)} of a line in {counted(len(lines), 'setting')} of 3 K or more"


@asked("How does time grow with length?")
def _time_over_length(source: Source) -> Iterator[str]:
    powers = []
    for short, *_, long in by_length(timed_of(source.study.cells)):
        longer = long.cell.sequence_length / short.cell.sequence_length
        if longer >= 2 and short.latency and long.latency:
            power = math.log(long.latency.median / short.latency.median, longer)
            powers.append((power, source.study.label(short.cell)))
    if powers:
        (low, first), (high, last) = min(powers), max(powers)
        yield f"as N to the power {low:.1f} ({first}) to {high:.1f} ({last}), on average"


@asked("The first passes are slower.")
def _warm_up(source: Source) -> Iterator[str]:
    firsts = []
    for result in source.run.results:
        warm = [s.latency_s for s in result.samples if s.is_warmup and s.index == 0]
        later = [s.latency_s for s in result.timed]
        if warm and later:
            firsts.append((warm[0] / statistics.median(later), warm[0] > max(later)))
    if firsts:
        slower = f"the first is the slowest in {sum(s for _, s in firsts)} of {counted(len(firsts), 'cell')}"
        yield f"{slower}, {sig(statistics.median(r for r, _ in firsts))} times the median"


def _contrast(source: Source, name: str, dependent: tuple[str, ...] = ()) -> Iterator[str]:
    for c in contrasts(source.study.cells, name, *dependent):
        faster = f"{name.replace('_', ' ')} {plain(c.new)} has {from_to(c.speeds)} times the speed of {plain(c.old)}"
        yield f"{faster}, a difference shown in {c.shown} of {counted(len(c.speeds), 'pair')}"


QUESTIONS += [
    ("Temperature does not affect speed.", partial(_contrast, name="temperature")),
    ("float32 is too slow beside bfloat16.", partial(_contrast, name="precision")),
    ("Does FlashAttention, for both models, change the comparison?", partial(_contrast, name="attention")),
    ("Do the results carry over to other texts?", lambda source: ()),
    ("Prompts must be real text: embeddings influence time.", partial(_contrast, name="prompts")),
    ("Does generating block by block save time?", partial(_contrast, name="block_length")),
    (
        "Do caches and other accelerated samplers change the picture?",
        partial(_contrast, name="cache", dependent=("published_loop", "confidence_dtype")),
    ),
    ("Would serving engines or other devices change the result?", partial(_contrast, name="engine")),
]


# ---------------------------------------------------------------- memory


def _with_memory(cells: Iterable[CellSummary]) -> list[CellSummary]:
    return [c for c in cells if c.memory is not None]


def _growth(source: Source, role: str) -> Iterator[str]:
    for group in by_length(_with_memory(source.of_role(role))):
        lengths, peaks = [c.cell.sequence_length for c in group], [c.memory.bytes for c in group if c.memory]
        ends = f"{gib(peaks[0])} at N={lengths[0]} to {gib(peaks[-1])} at N={lengths[-1]}"
        yield f"B={group[0].cell.batch_size}: {ends}, {growth_shape(lengths, peaks)}"


QUESTIONS += [
    ("The KV cache makes the baseline's memory grow linearly.", partial(_growth, role="baseline")),
    ("LLaDA's memory depends on the full length, and explodes at 2,048.", partial(_growth, role="target")),
]


@asked("LLaDA's memory does not grow while it generates.")
def _constant_over_steps(source: Source) -> Iterator[str]:
    groups = equal_but(_with_memory(source.of_role("target")), "steps")
    peaks = [[c.memory.bytes for c in g if c.memory] for g in groups if len(g) > 1]
    if peaks:
        span = max(max(g) / min(g) - 1 for g in peaks)
        yield f"peaks of cells that differ in K alone differ by {percent(span)} at most"


@asked("Which of the two needs more memory?")
def _which_needs_more(source: Source) -> Iterator[str]:
    pairs = [
        (p.memory.bytes / c.baseline.memory.bytes, shape(p.cell))
        for c in source.study.curves
        for p in c.points
        if c.baseline and c.baseline.memory and p.memory and c.baseline.memory.source == p.memory.source
    ]
    if pairs:
        (low, smallest), (high, largest) = min(pairs), max(pairs)
        yield f"diffusion's peak is {sig(low)} ({smallest}) to {sig(high)} times ({largest}) the baseline's"


@asked("Which settings do not fit?")
def _out_of_memory(source: Source) -> Iterator[str]:
    lost = [c for c in source.study.cells if c.status == "oom"]
    yield from map(source.name_of, lost)
    done = [c.cell.sequence_length for c in timed_of(source.study.cells)]
    if done and not lost:
        yield f"all that were measured fit, up to N={max(done)}"


# ---------------------------------------------------------------- use


@asked("Text that appears all at once makes LLaDA unfit for chat.")
def _first_text(source: Source) -> Iterator[str]:
    for curve in (c for c in source.study.curves if c.batch_size == 1):
        base, shown = curve.baseline, [p.first_text_s for p in curve.timed if p.first_text_s is not None]
        if base is not None and base.first_text_s is not None and shown:
            ends = f"{from_to(shown, seconds)}, the baseline's after {seconds(base.first_text_s)}"
            yield f"{curve.label}, N={sum(curve.lengths)}: first text after {ends}"


@asked("What does the choice of steps mean for cost?")
def _cost(source: Source) -> Iterator[str]:
    ratios = [
        joules.value / base.value
        for c in source.study.curves
        for p in c.points
        if (joules := p.joules_per_token) and c.baseline and (base := c.baseline.joules_per_token) and base.value
    ]
    if ratios:
        yield f"energy of a token: {from_to(ratios)} times the baseline's over all step counts"


@asked("Is LLaDA fit for interactive use, servers and long texts?")
def _fit_for_use(source: Source) -> Iterator[str]:
    ends = Counter(r.outcome for r in source.answer.rows)
    if set(ends) - {"undecided"}:
        yield f"by workload, see section 5.1: {', '.join(f'{outcome} in {n}' for outcome, n in ends.items())}"


@asked("Do other diffusion models behave alike?")
def _other_models(source: Source) -> Iterator[str]:
    names = [m.key for m in source.models if m.role == "target"]
    if len(names) > 1:
        yield f"{listed(names)} were measured, see the tables"
