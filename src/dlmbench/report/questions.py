"""The hypotheses and questions that the study set out with, each with what this run measured, in one short sentence."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from dlmbench import registry
from dlmbench.analysis.contrasts import by_length, contrasts, equal_but, growth_shape
from dlmbench.analysis.quality import metric_for
from dlmbench.analysis.results import CellSummary, timed_of
from dlmbench.analysis.stats import Interval, group_by
from dlmbench.report.answer import COLUMNS, NOT_MEASURED
from dlmbench.report.source import Source, shape
from dlmbench.report.text import counted, from_to, gib, listed, percent, plain, seconds, sig, spread

# The answer as a sentence; "" where it was not measured.
Ask = Callable[[Source], str]
QUESTIONS: list[tuple[str, Ask]] = []
# Settings named in one answer; the rest are in the tables.
MOST = 2
HIGH_BATCH = 8


def asked(question: str) -> Callable[[Ask], Ask]:
    """Decorator: the function answers this question."""

    def register(ask: Ask) -> Ask:
        QUESTIONS.append((question, ask))
        return ask

    return register


def answers(source: Source) -> tuple[list[tuple[str, str]], list[str]]:
    """Questions with their answers, and those that this run did not measure."""
    found = [(question, ask(source)) for question, ask in QUESTIONS]
    return [(q, a[:1].upper() + a[1:] + ".") for q, a in found if a], [q for q, a in found if not a]


def _some(items: Iterable[str]) -> str:
    known = list(items)
    more = len(known) - MOST
    return "; ".join(known[:MOST]) + (f"; {more} more in the tables" if more > 0 else "")


def _contrast(source: Source, name: str, dependent: Sequence[str] = ()) -> str:
    return _some(
        f"{name.replace('_', ' ')} {plain(c.new)} has {from_to(c.speeds)} times the speed of {plain(c.old)}; "
        f"a difference is shown in {c.shown} of {counted(len(c.speeds), 'pair')}"
        for c in contrasts(source.study.cells, name, *dependent)
    )


def _peaks(group: Sequence[CellSummary]) -> list[int]:
    return [c.memory.bytes for c in group if c.memory]


def _with_memory(cells: Iterable[CellSummary]) -> list[CellSummary]:
    return [c for c in cells if c.memory is not None]


# ---------------------------------------------------------------- quality


def _each_workload(source: Source, name: str) -> str:
    rows = [r for r in source.answer.rows if getattr(r, name) != NOT_MEASURED[name]]
    return _some(f"batch {r.workload}: {COLUMNS[name]} {getattr(r, name)}" for r in rows)


QUESTIONS += [
    ("How many steps does LLaDA need for the baseline's quality?", partial(_each_workload, name="as_good_from")),
    ("Is it faster there?", partial(_each_workload, name="speed_there")),
]


@asked("More than about 100 steps would be too expensive.")
def _prohibitive(source: Source) -> str:
    known = [v.parity_steps for v in source.study.verdicts if v.parity_steps]
    return f"S_parity exceeds 100 in {sum(k > 100 for k in known)} of {counted(len(known), 'setting')}" if known else ""


def _ends(source: Source) -> Iterator[str]:
    for curve in source.scored_curves:
        headline = curve.headline()
        base = headline and curve.quality_baseline and curve.quality_baseline.quality_in(headline.metric.name)
        if headline and base:
            first, last = headline.parity.points[0], headline.parity.points[-1]
            ends = f"{sig(first.value)} at K={first.steps}, {sig(last.value)} at K={last.steps}"
            yield f"{curve.label}, {headline.metric.display_name}: {ends}, baseline {sig(base.value)}"


@asked("Few steps (K=16) give gibberish fast, many (K=256) good text slowly.")
def _ends_of_the_curve(source: Source) -> str:
    return _some(_ends(source))


@asked("At 16 steps its perplexity is 9,900 times the baseline's.")
def _gap_at_few_steps(source: Source) -> str:
    items = []
    for curve in source.scored_curves:
        shown = curve.parity(metric_for("likelihood"))
        for point in shown.parity.points if shown else ():
            if point.steps == 16:
                worse, low, high = (math.exp(-v) for v in (point.gap.value, point.gap.high, point.gap.low))
                items.append(f"{curve.label}: {spread(Interval(worse, low, high), 'x')}")
    return _some(items)


@asked("Do other metrics agree?")
def _other_metrics(source: Source) -> str:
    exact = [[p for p in c.parities if p.parity.delta == p.metric.margin] for c in source.scored_curves]
    texts = ("; ".join(f"{p.metric.display_name} {p.outcome_text}" for p in found) for found in exact if len(found) > 1)
    return next(texts, "")


@asked("Does task accuracy agree?")
def _tasks(source: Source) -> str:
    scores = [s for s in source.tasks.scores if s.value is not None]
    items = []
    for s in scores:
        run = source.tasks.outcomes[s.run_id].run
        if run.model.weights != "random":
            steps = f", K={run.steps}" if run.steps else ""
            ends = (math.nan if end is None else end for end in (s.low, s.high))
            items.append(f"{s.task}, {run.model.key}{steps}: {s.metric} {spread(Interval(s.value or 0.0, *ends))}")
    return _some(items)


@asked("Temperature changes the output.")
def _temperature_and_quality(source: Source) -> str:
    values = source.values("temperature", "target")
    shown = len(values) > 1 and source.study.metrics and not source.random
    return f"temperatures {listed(map(plain, values))} stand in the table of quality" if shown else ""


# ---------------------------------------------------------------- latency and throughput


@asked("Diffusion has the higher throughput at large batches.")
def _throughput_at_high_batch(source: Source) -> str:
    items = []
    for curves in group_by(source.study.curves, lambda c: (c.label, c.lengths)).values():
        family = sorted(curves, key=lambda c: c.batch_size)
        speedups = [{p.cell.steps or 0: p.speedup for p in c.points if p.speedup} for c in family]
        steps = max(set.intersection(*map(set, speedups)), default=0)
        if len(family) > 1 and steps and family[-1].batch_size >= HIGH_BATCH:
            ends = (
                f"{spread(s[steps], 'x')} at B={c.batch_size}"
                for s, c in ((speedups[0], family[0]), (speedups[-1], family[-1]))
            )
            items.append(f"P={family[0].prompt_tokens}, K={steps}: {', '.join(ends)}")
    return _some(items)


@asked("Memory of the KV cache limits the baseline at large batches.")
def _baseline_batch_scaling(source: Source) -> str:
    cells = source.of_role("baseline")
    sizes = {c.cell.batch_size for c in cells if c.latency}
    if len(sizes) < 2:
        return ""
    lost = sum(c.status == "oom" for c in cells)
    return f"{counted(lost, 'baseline cell') if lost else 'no baseline cell'} ran out of memory up to B={max(sizes)}"


@asked("At 16 steps LLaDA is already slower.")
def _slower_at_16_steps(source: Source) -> str:
    cells = [p for c in source.study.curves if (p := c.at(16)) is not None and p.ratio is not None]
    paces = Counter(c.pace for c in cells)
    return (
        f"of {counted(len(cells), 'cell')} with K=16: {listed(f'{p} in {n}' for p, n in paces.items())}"
        if cells
        else ""
    )


@asked("Is latency linear in the number of steps?")
def _linear_in_steps(source: Source) -> str:
    residuals = [c.break_even.largest_residual for c in source.study.curves if c.break_even and len(c.timed) >= 3]
    if not residuals:
        return ""
    return f"within {from_to(residuals, percent)} of a line in {counted(len(residuals), 'setting')} of 3 K or more"


@asked("How does time grow with length?")
def _time_over_length(source: Source) -> str:
    items = []
    for short, *_, long in by_length(timed_of(source.study.cells)):
        longer = long.cell.sequence_length / short.cell.sequence_length
        if longer >= 2 and short.latency and long.latency:
            power = math.log(long.latency.median / short.latency.median, longer)
            items.append((power, source.study.label(short.cell)))
    if not items:
        return ""
    (low, first), (high, last) = min(items), max(items)
    return f"as N to the power {low:.1f} ({first}) to {high:.1f} ({last}), on average"


@asked("The first passes are slower.")
def _warm_up(source: Source) -> str:
    firsts = []
    for result in source.run.results:
        warm = [s.latency_s for s in result.samples if s.is_warmup and s.index == 0]
        later = [s.latency_s for s in result.timed]
        if warm and later:
            firsts.append((warm[0] / statistics.median(later), warm[0] > max(later)))
    if not firsts:
        return ""
    slower = f"the first is the slowest in {sum(s for _, s in firsts)} of {counted(len(firsts), 'cell')}"
    return f"{slower}, {sig(statistics.median(r for r, _ in firsts))} times the median"


QUESTIONS += [
    ("Temperature does not affect speed.", partial(_contrast, name="temperature")),
    ("float32 is too slow beside bfloat16.", partial(_contrast, name="precision")),
    ("Does FlashAttention, for both models, change the comparison?", partial(_contrast, name="attention")),
    ("Do the results carry over to other texts?", lambda source: ""),
    ("Prompts must be real text: embeddings influence time.", partial(_contrast, name="prompts")),
    ("Does generating block by block save time?", partial(_contrast, name="block_length")),
    (
        "Do caches and other accelerated samplers change the picture?",
        partial(_contrast, name="cache", dependent=("published_loop", "confidence_dtype")),
    ),
    ("Would serving engines or other devices change the result?", partial(_contrast, name="engine")),
]


# ---------------------------------------------------------------- memory


def _growth(source: Source, role: str) -> str:
    items = []
    for group in by_length(_with_memory(source.of_role(role))):
        lengths, peaks = [c.cell.sequence_length for c in group], _peaks(group)
        ends = f"{gib(peaks[0])} at N={lengths[0]} to {gib(peaks[-1])} at N={lengths[-1]}"
        items.append(f"B={group[0].cell.batch_size}: {ends}, {growth_shape(lengths, peaks)}")
    return _some(items)


QUESTIONS += [
    ("The KV cache makes the baseline's memory grow linearly.", partial(_growth, role="baseline")),
    ("LLaDA's memory depends on the full length, and explodes at 2,048.", partial(_growth, role="target")),
]


@asked("LLaDA's memory does not grow while it generates.")
def _constant_over_steps(source: Source) -> str:
    groups = [_peaks(g) for g in equal_but(_with_memory(source.of_role("target")), "steps")]
    spans = [max(g) / min(g) - 1 for g in groups if len(g) > 1]
    return f"peaks of cells that differ in K alone differ by at most {percent(max(spans))}" if spans else ""


@asked("Which of the two needs more memory?")
def _which_needs_more(source: Source) -> str:
    pairs = [
        (p.memory.bytes / c.baseline.memory.bytes, shape(p.cell))
        for c in source.study.curves
        for p in c.points
        if c.baseline and c.baseline.memory and p.memory and c.baseline.memory.source == p.memory.source
    ]
    if not pairs:
        return ""
    (low, smallest), (high, largest) = min(pairs), max(pairs)
    return f"diffusion's peak is {sig(low)} ({smallest}) to {sig(high)} times ({largest}) the baseline's"


@asked("Which settings do not fit?")
def _out_of_memory(source: Source) -> str:
    lost = [source.name_of(c) for c in source.study.cells if c.status == "oom"]
    done = [c.cell.sequence_length for c in timed_of(source.study.cells)]
    return _some(lost) or (f"all that were measured fit, up to N={max(done)}" if done else "")


# ---------------------------------------------------------------- use


@asked("Text that appears all at once makes LLaDA unfit for chat.")
def _first_text(source: Source) -> str:
    items = []
    for curve in (c for c in source.study.curves if c.batch_size == 1):
        base, shown = curve.baseline, [p for p in curve.timed if p.first_text_s is not None]
        if base is not None and base.first_text_s is not None and shown:
            ends = from_to([p.first_text_s or 0.0 for p in shown], seconds)
            items.append(f"N={sum(curve.lengths)}: after {ends}, the baseline's after {seconds(base.first_text_s)}")
    return _some(items)


@asked("What does the choice of steps mean for cost?")
def _cost(source: Source) -> str:
    ratios = [
        joules.value / base.value
        for c in source.study.curves
        for p in c.points
        if (joules := p.joules_per_token) and c.baseline and (base := c.baseline.joules_per_token) and base.value
    ]
    return f"energy of a token: {from_to(ratios)} times the baseline's over all step counts" if ratios else ""


@asked("Is LLaDA fit for interactive use, servers and long texts?")
def _fit_for_use(source: Source) -> str:
    ends = group_by(source.answer.rows, lambda r: r.outcome)
    outcomes = ", ".join(f"{name} in {len(rows)}" for name, rows in ends.items() if name != "undecided")
    return f"by workload, see section 5.1: {outcomes}" if outcomes else ""


@asked("Do other diffusion models behave alike?")
def _other_models(source: Source) -> str:
    names = [m.key for m in source.models if m.role == "target"]
    return f"{listed(names)} were measured, see the tables" if len(names) > 1 else ""


def expected_metrics(source: Source) -> list[str]:
    """Titles of the metrics that a report should have and this one lacks."""
    measured = {m.name for m in source.study.metrics}
    expected = {n for n in registry.loadable("metrics") if registry.attribute("metrics", n, "REPORT_IF_MISSING", False)}
    return [registry.attribute("metrics", name, "TITLE", name) for name in sorted(expected - measured)]
