"""The hypotheses and questions that the study set out with, each with what this run measured, in one short sentence."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator

from dlmbench.analysis.contrasts import by_length, contrasts, equal_but, growth_shape
from dlmbench.analysis.quality import metric_for
from dlmbench.analysis.results import CellSummary, timed_of
from dlmbench.analysis.stats import Interval, group_by
from dlmbench.report.answer import COLUMNS
from dlmbench.report.source import Source
from dlmbench.report.tables import shape
from dlmbench.report.text import counted, from_to, gib, listed, percent, plain, seconds, sig, spread

# A question, and the parts of its answer; none where it was not measured.
Asked = Iterator[tuple[str, Iterable[str]]]
# Of the parts so many are printed.
MOST = 2
HIGH_BATCH = 8
# A perplexity over a million times as high is no longer printed as a number.
MOST_NATS = math.log(1e6)


def answers(source: Source) -> dict[str, str]:
    """Every question with what the run measured of it, "" for nothing."""
    found = {}
    for section in (_quality, _speed, _memory, _use):
        for question, answer in section(source):
            parts = list(answer)
            more = [f"{len(parts) - MOST} more in the tables"] if len(parts) > MOST else []
            text = "; ".join([*parts[:MOST], *more])
            found[question] = f"{text[0].upper()}{text[1:]}." if text else ""
    return found


def _quality(source: Source) -> Asked:
    yield "How many steps does LLaDA need for the baseline's quality?", _each_workload(source, "as_good_from")
    yield "Is it faster there?", _each_workload(source, "speed_there")
    known = [v.parity_steps for v in source.study.verdicts if v.parity_steps]
    over = f"S_parity exceeds 100 in {sum(k > 100 for k in known)} of {counted(len(known), 'setting')}"
    yield "More than about 100 steps would be too expensive.", [over] if known else []
    yield "Few steps (K=16) give gibberish fast, many (K=256) good text slowly.", _ends_of_the_curves(source)
    yield "At 16 steps its perplexity is 9,900 times the baseline's.", _gap_at_few_steps(source)
    leading = ([p for p in c.parities if p.parity.delta == p.metric.margin] for c in source.scored_curves)
    each = (", ".join(f"by {p.metric.display_name} {p.text}" for p in group) for group in leading if group[1:])
    yield "Do other metrics agree?", (f"as good from K: {text}" for text in each)
    yield "Does task accuracy agree?", _tasks(source)
    values = source.values("temperature", "target")
    is_scored = len(values) > 1 and source.study.metrics and not source.random
    where = f"temperatures {listed(map(plain, values))} are in the table of quality"
    yield "Temperature changes the output.", [where] if is_scored else []


def _each_workload(source: Source, name: str) -> Iterator[str]:
    title = next(c.title for c in COLUMNS if c.key == name)
    for row in source.answer.rows:
        if getattr(row, name) is not None:
            yield f"batch {row.workload}: {title} {getattr(row, name)}"


def _ends_of_the_curves(source: Source) -> Iterator[str]:
    for curve in source.scored_curves:
        headline = curve.headline()
        base = headline and curve.quality_baseline and curve.quality_baseline.quality_in(headline.metric.name)
        if headline and base and len(headline.parity.points) > 1:
            first, last = headline.parity.points[0], headline.parity.points[-1]
            ends = f"{sig(first.value)} at K={first.steps}, {sig(last.value)} at K={last.steps}"
            yield f"{curve.label}, {headline.metric.display_name}: {ends}, baseline {sig(base.value)}"


def _gap_at_few_steps(source: Source) -> Iterator[str]:
    for curve in source.scored_curves:
        found = curve.parity(metric_for("likelihood"))
        for point in (p for p in found.parity.points if p.steps == 16) if found else ():
            ends = (point.gap.value, point.gap.high, point.gap.low)
            worse = Interval(*(math.exp(min(-v, MOST_NATS)) for v in ends))
            yield f"{curve.label}: {spread(worse, 'x') if -point.gap.value < MOST_NATS else 'over a million times'}"


def _tasks(source: Source) -> Iterator[str]:
    for s in source.tasks.scores:
        run = source.tasks.outcomes[s.run_id].run
        if s.value is not None and run.model.weights != "random":
            steps = f", K={run.steps}" if run.steps else ""
            ends = (math.nan if end is None else end for end in (s.low, s.high))
            yield f"{s.task}, {run.model.key}{steps}: {s.metric} {spread(Interval(s.value, *ends))}"


def _speed(source: Source) -> Asked:
    study = source.study
    yield "Diffusion has the higher throughput at large batches.", _throughput_at_high_batch(source)
    cells = source.of_role("baseline")
    sizes = {c.cell.batch_size for c in cells if c.latency}
    lost = sum(c.status == "oom" for c in cells)
    text = counted(lost, "baseline cell") if lost else "no baseline cell"
    limited = [f"{text} ran out of memory up to B={max(sizes)}"] if len(sizes) > 1 else []
    yield "Memory of the KV cache limits the baseline at large batches.", limited
    few = [p for c in study.curves if (p := c.at(16)) is not None and p.ratio is not None]
    paces = listed(f"{pace} in {n}" for pace, n in Counter(c.pace for c in few).items())
    yield "At 16 steps LLaDA is already slower.", [f"of {counted(len(few), 'cell')} with K=16: {paces}"] if few else []
    off = [c.break_even.largest_residual for c in study.curves if c.break_even and len(c.timed) >= 3]
    lines = (
        [f"within {from_to(off, percent)} of a line in {counted(len(off), 'setting')} of 3 K or more"] if off else []
    )
    yield "Is latency linear in the number of steps?", lines
    yield "How does time grow with length?", _time_over_length(source)
    yield "The first passes are slower.", _warm_up(source)
    caches = "Do caches and other accelerated samplers change the picture?"
    yield "Temperature does not affect speed.", _contrast(source, "temperature")
    yield "float32 is too slow beside bfloat16.", _contrast(source, "precision")
    yield "Does FlashAttention, for both models, change the comparison?", _contrast(source, "attention")
    yield "Do the results carry over to other texts?", []
    yield "Prompts must be real text: embeddings influence time.", _contrast(source, "prompts")
    yield "Does generating block by block save time?", _contrast(source, "block_length")
    yield caches, _contrast(source, "cache", "published_loop", "confidence_dtype")
    yield "Would serving engines or other devices change the result?", _contrast(source, "engine")


def _throughput_at_high_batch(source: Source) -> Iterator[str]:
    for curves in group_by(source.study.curves, lambda c: (c.label, c.lengths)).values():
        family = sorted(curves, key=lambda c: c.batch_size)
        speedups = [{p.cell.steps or 0: p.speedup for p in c.points if p.speedup} for c in family]
        steps = max(set.intersection(*map(set, speedups)), default=0)
        if len(family) > 1 and steps and family[-1].batch_size >= HIGH_BATCH:
            ends = [f"{spread(s[steps], 'x')} at B={c.batch_size}" for s, c in zip(speedups, family, strict=True)]
            yield f"P={family[0].prompt_tokens}, K={steps}: {ends[0]}, {ends[-1]}"


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


def _contrast(source: Source, name: str, *dependent: str) -> Iterator[str]:
    for c in contrasts(source.study.cells, name, *dependent):
        faster = f"{name.replace('_', ' ')} {plain(c.new)} has {from_to(c.speeds)} times the speed of {plain(c.old)}"
        yield f"{faster}, a difference shown in {c.shown} of {counted(len(c.speeds), 'pair')}"


def _memory(source: Source) -> Asked:
    yield "The KV cache makes the baseline's memory grow linearly.", _growth(source, "baseline")
    yield "LLaDA's memory depends on the full length, and explodes at 2,048.", _growth(source, "target")
    groups = equal_but(_with_memory(source.of_role("target")), "steps")
    peaks = [[c.memory.bytes for c in g if c.memory] for g in groups if len(g) > 1]
    span = percent(max((max(g) / min(g) - 1 for g in peaks), default=0))
    constant = [f"peaks of cells that differ in K alone differ by {span} at most"] if peaks else []
    yield "LLaDA's memory does not grow while it generates.", constant
    yield "Which of the two needs more memory?", _which_needs_more(source)
    lost = [source.name_of(c) for c in source.study.cells if c.status == "oom"]
    done = [c.cell.sequence_length for c in timed_of(source.study.cells)]
    yield "Which settings do not fit?", lost or [f"all that were measured fit, up to N={n}" for n in sorted(done)[-1:]]


def _with_memory(cells: Iterable[CellSummary]) -> list[CellSummary]:
    return [c for c in cells if c.memory is not None]


def _growth(source: Source, role: str) -> Iterator[str]:
    for group in by_length(_with_memory(source.of_role(role))):
        lengths, peaks = [c.cell.sequence_length for c in group], [c.memory.bytes for c in group if c.memory]
        ends = f"{gib(peaks[0])} at N={lengths[0]} to {gib(peaks[-1])} at N={lengths[-1]}"
        yield f"B={group[0].cell.batch_size}: {ends}, {growth_shape(lengths, peaks)}"


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


def _use(source: Source) -> Asked:
    yield "Text that appears all at once makes LLaDA unfit for chat.", _first_text(source)
    ratios = [
        joules.value / base.value
        for c in source.study.curves
        for p in c.points
        if (joules := p.joules_per_token) and c.baseline and (base := c.baseline.joules_per_token) and base.value
    ]
    cost = [f"energy of a token: {from_to(ratios)} times the baseline's over all step counts"] if ratios else []
    yield "What does the choice of steps mean for cost?", cost
    ends = Counter(r.outcome for r in source.answer.rows)
    fit = f"by workload, see section 5.1: {', '.join(f'{outcome} in {n}' for outcome, n in ends.items())}"
    yield "Is LLaDA fit for interactive use, servers and long texts?", [fit] if set(ends) - {"undecided"} else []
    names = [m.key for m in source.models if m.role == "target"]
    measured = [f"{listed(names)} were measured, see the tables"] if len(names) > 1 else []
    yield "Do other diffusion models behave alike?", measured


def _first_text(source: Source) -> Iterator[str]:
    for curve in (c for c in source.study.curves if c.batch_size == 1):
        base, shown = curve.baseline, [p.first_text_s for p in curve.timed if p.first_text_s is not None]
        if base is not None and base.first_text_s is not None and shown:
            ends = f"{from_to(shown, seconds)}, the baseline's after {seconds(base.first_text_s)}"
            yield f"{curve.label}, N={sum(curve.lengths)}: first text after {ends}"
