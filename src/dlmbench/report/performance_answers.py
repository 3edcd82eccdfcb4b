"""Answers on latency, throughput and memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from dlmbench.analysis.results import CellSummary, group_by, timed_of
from dlmbench.analysis.stats import ratio_interval
from dlmbench.analysis.study import repetitions_of
from dlmbench.report.answer import speed_word
from dlmbench.report.answers import Answer, Kind, Question, answer_of, answers, not_measured
from dlmbench.report.source import Source, name_of, setting, shape
from dlmbench.report.text import counted, from_to, gib, listed, percent, plain, seconds, sig, spread, times

HIGH_BATCH = 8
LONG = 2048
# A quadratic term below this share of the growth is negligible; a fit this close to all points describes them.
NEGLIGIBLE = 0.1
GOOD_FIT = 0.05
LATENCY: list[Question] = []
MEMORY: list[Question] = []


# ---------------------------------------------------------------- cells that are compared


def _equal_but(cells: Iterable[CellSummary], *names: str) -> list[list[CellSummary]]:
    """Cells that differ at most in the settings named, together."""
    compared = {"engine", "sampler", "batch_size", "prompt_tokens", "new_tokens", "precision", "attention", "seed"}
    fixed = sorted((compared | {"prompts"}) - set(names))

    def key(summary: CellSummary) -> object:
        cell = summary.cell
        # A knob that is off equals one that the sampler does not have.
        knobs = tuple((k, repr(v)) for k, v in cell.knobs if k not in names and v not in (None, False, 0, "none"))
        return (cell.model, tuple(getattr(cell, n) for n in fixed), knobs)

    return list(group_by(cells, key).values())


def _by_length(cells: Iterable[CellSummary]) -> list[list[CellSummary]]:
    """Cells that differ only in prompt length, ascending, where there are two lengths or more."""
    groups = _equal_but(cells, "prompt_tokens", "prompts")
    ordered = [sorted(g, key=lambda c: c.cell.sequence_length) for g in groups]
    return [g for g in ordered if g[0].cell.sequence_length < g[-1].cell.sequence_length]


def _contrasts(source: Source, name: str, *dependent: str) -> Iterator[str]:
    """The speed of every timed pair that differs in `name` only, against the first value of each group.

    dependent: settings that only exist for some values of `name`, and so differ with it.
    """
    for base, *others in _equal_but(timed_of(source.study.cells), name, *dependent):
        for other in others:
            old, new = (plain(setting(c.cell, name)) for c in (base, other))
            ours, theirs = (repetitions_of(source.results[c.cell.id]) for c in (base, other))
            if old != new and ours and theirs:
                ratio = ratio_interval(ours.latency_s, theirs.latency_s)
                steps = f", K={base.cell.steps}" if base.cell.steps else ""
                lead = f"{base.cell.model.key}, {shape(base.cell)}{steps}"
                yield f"{lead}: {new} runs at {spread(ratio, 'x')} the speed of {old}: {speed_word(ratio)}"


def _setting(source: Source, summary: CellSummary) -> str:
    """A cell without its lengths."""
    steps = f", K={summary.cell.steps}" if summary.cell.steps else ""
    return f"{source.study.label(summary.cell)}, B={summary.cell.batch_size}{steps}"


# ---------------------------------------------------------------- latency and throughput


@answers(LATENCY, "hypothesis")
def _throughput_at_high_batch(source: Source) -> Answer:
    """Diffusion reaches the higher throughput at large batches, because it parallelises better.

    At the largest K that all batch sizes of a setting share.
    """
    items, largest = [], 0
    for curves in group_by(source.study.curves, lambda c: (c.label, c.lengths)).values():
        family = sorted(curves, key=lambda c: c.batch_size)
        speedups = [{p.cell.steps or 0: p.speedup for p in c.points if p.speedup} for c in family]
        steps = max(set.intersection(*map(set, speedups)), default=0)
        if len(family) < 2 or not steps:
            continue
        ratios = {c.batch_size: s[steps] for c, s in zip(family, speedups, strict=True)}
        largest = max(largest, *ratios)
        text = "; ".join(f"{spread(r, 'x')} at B={b}" for b, r in ratios.items())
        first, *_, last = ratios.values()
        change = "no change with the batch is shown"
        if last.high < first.low:
            change = "the larger the batch, the less diffusion gains, against the hypothesis"
        elif last.low > first.high:
            change = "diffusion gains with the batch, in line with the hypothesis"
        change += f"; at B={max(ratios)} diffusion is {speed_word(last)}"
        items.append(f"{name_of(family[0], batch=False)}, K={steps}: {text}: {change}")
    missing = "no diffusion setting was timed with its baseline at two batch sizes"
    lead = "throughput of diffusion as a multiple of the baseline's, quality apart"
    if largest < HIGH_BATCH:
        limit = f"in part: batches above {largest} were not measured"
        return answer_of(limit, lead, items=items, state="in part", missing=missing)
    return answer_of(lead, items=items, missing=missing)


@answers(LATENCY, "hypothesis")
def _baseline_batch_scaling(source: Source) -> Answer:
    """The memory of the KV cache is what limits the autoregressive model at large batches."""
    items = []
    for group in _equal_but(timed_of(source.of_role("baseline")), "batch_size"):
        ordered = sorted(group, key=lambda c: c.cell.batch_size)
        first, last = ordered[0], ordered[-1]
        more = last.cell.batch_size / first.cell.batch_size
        if more == 1 or not first.throughput or not last.throughput:
            continue
        text = (
            f"{shape(first.cell, batch=False)}: from B={first.cell.batch_size} to {last.cell.batch_size} "
            f"({times(more)} the sequences) throughput grows {times(last.throughput.median / first.throughput.median)}"
        )
        if first.memory and last.memory and first.memory.source == last.memory.source:
            text += f" and peak memory ({first.memory.source}) {times(last.memory.bytes / first.memory.bytes)}"
        items.append(text)
    lead = "no baseline cell ran out of memory, so memory did not limit it in the range measured"
    if lost := sum(c.status == "oom" for c in source.of_role("baseline")):
        lead = f"{counted(lost, 'baseline cell')} ran out of memory"
    return answer_of(lead, items=items, missing="the baseline was timed at one batch size only")


@answers(LATENCY, "claim")
def _slower_at_16_steps(source: Source) -> Answer:
    """Already at 16 steps LLaDA takes longer than the autoregressive model."""
    items = [
        f"{source.name_of(p)}: {spread(p.speedup, 'x')} the baseline's speed: {speed_word(p.speedup)}"
        for c in source.study.curves
        if (p := c.at(16)) is not None and p.speedup is not None
    ]
    lead = "speed of diffusion as a multiple of the baseline's at K=16"
    return answer_of(lead, items=items, missing="no cell with K=16 was timed beside its baseline")


@answers(LATENCY, "question")
def _linear_in_steps(source: Source) -> Answer:
    """Is latency linear in the number of steps?"""
    residuals = [c.break_even.largest_residual for c in source.study.curves if c.break_even and len(c.timed) >= 3]
    if not residuals:
        return not_measured("no setting was timed at three step counts or more, and two always lie on a line")
    text = f"in {counted(len(residuals), 'setting')} of 3 step counts or more the medians deviate from a straight line "
    text += f"by at most {from_to(residuals, percent)}"
    if rough := sum(r > 0.1 for r in residuals):
        text += f"; in {rough} of them by more than 10%, so a break-even read from the line is rough there"
    return answer_of(text)


@answers(LATENCY, "question")
def _time_over_length(source: Source) -> Answer:
    """How does time grow with the sequence length: linearly, or with its square?

    The average exponent between the shortest and the longest sequence.
    """
    items = []
    for short, *_, long in _by_length(timed_of(source.study.cells)):
        longer = long.cell.sequence_length / short.cell.sequence_length
        if longer < 2 or not short.latency or not long.latency:
            continue
        power = np.log(long.latency.median / short.latency.median) / np.log(longer)
        ends = (f"{seconds(c.latency.median)} at N={c.cell.sequence_length}" for c in (short, long) if c.latency)
        items.append(
            f"{_setting(source, short)}, G={short.cell.new_tokens}: {', '.join(ends)}, "
            f"an average exponent of {abs(power):.1f}"
        )
    kernels = listed(source.values("attention"))
    return answer_of(
        f"with the attention setting {kernels}; an exponent of 1 is linear in N, 2 quadratic",
        items=items,
        missing="no setting was timed at two lengths of the same number of new tokens",
    )


@answers(LATENCY, "claim")
def _warm_up(source: Source) -> Answer:
    """The first passes are slower and have to be discarded.

    The first warm-up of each process against the timed repetitions.
    """
    ratios, slowest = [], 0
    for result in source.run.results:
        firsts = [s.latency_s for s in result.samples if s.is_warmup and s.index == 0]
        later = [s.latency_s for s in result.timed]
        if firsts and later:
            ratios.append(firsts[0] / float(np.median(later)))
            slowest += firsts[0] > max(later)
    if not ratios:
        return not_measured("no warm-up is on record")
    return answer_of(
        f"the very first pass was slower than every timed one in {slowest} of {counted(len(ratios), 'cell')}; it took "
        f"{times(float(np.median(ratios)))} the median of the timed ones in the median cell, {times(max(ratios))} at "
        "most. Warm-ups are kept on record and excluded from averages"
    )


def _effect_of(source: Source, name: str) -> Answer:
    """The effect of one setting on latency, all else equal."""
    values, title = source.values(name), name.replace("_", " ")
    shown = listed(map(plain, values))
    missing = f"cells differ in {title} ({shown}), but in other settings as well"
    if len(values) < 2:
        missing = f"all cells have the same {title}, {shown}" if values else f"no cell has a value of {title}"
    lead = f"two values of {title}, all else equal"
    return answer_of(lead, items=_contrasts(source, name), noun="pair", missing=missing)


_EFFECTS: dict[str, tuple[Kind, str]] = {
    "temperature": ("claim", "Temperature does not affect speed directly."),
    "precision": ("claim", "float32 is too slow to be of use beside bfloat16."),
    "attention": ("question", "FlashAttention on for both models, or off for both: does it change the comparison?"),
    "prompts": ("claim", "Prompts must be real text, since token embeddings influence time and memory."),
    "block_length": ("question", "Does generating block by block, between diffusion and autoregression, save time?"),
}
LATENCY += [Question(kind, text, partial(_effect_of, name=name)) for name, (kind, text) in _EFFECTS.items()]


@answers(LATENCY, "question")
def _caches(source: Source) -> Answer:
    """Do accelerated samplers (caches, parallel commits) change the picture?"""
    items = list(_contrasts(source, "cache", "published_loop", "confidence_dtype"))
    own = [o for o in source.study.others if o.speedup is not None]
    items += [f"{source.name_of(o)}: {spread(o.speedup, 'x')} the baseline's speed" for o in own if o.speedup]
    missing = "no cell differs from another in its cache only, or chooses its own number of steps"
    lead = "a cache comes with its published loop [11] and its number type of the confidence"
    if source.study.metrics and not source.random:
        return answer_of(lead, "the quality of each is in the table of quality", items=items, missing=missing)
    rest = "whether the texts stay as good was not measured"
    return answer_of(lead, rest, items=items, state="in part", missing=missing)


@answers(LATENCY, "question")
def _serving_engines(source: Source) -> Answer:
    """Would specialised inference engines change the comparison?"""
    return not_measured(
        f"both models run in the same engine ({listed(source.values('engine'))}), so that models are compared and not "
        "engineering; serving systems such as vLLM [13] are not among the engines"
    )


@answers(LATENCY, "question")
def _other_devices(source: Source) -> Answer:
    """Do the results hold on other devices, ROCm among them?"""
    env = source.run.environment
    device = env.device if env else "not on record"
    return not_measured(f"a run has one environment, here {device}; runs of two devices are never merged")


# ---------------------------------------------------------------- memory


def _with_memory(cells: Sequence[CellSummary]) -> list[CellSummary]:
    return [c for c in cells if c.memory is not None]


def _peaks(group: Sequence[CellSummary]) -> tuple[list[int], list[int]]:
    return [c.cell.sequence_length for c in group], [c.memory.bytes for c in group if c.memory]


def _counter(source: Source) -> str:
    sources = listed(c.memory.source for c in source.study.cells if c.memory)
    resident = " (weights and libraries included, so small differences are noise)" if "resident" in sources else ""
    return f"the counter is {sources}{resident}"


def _memory_over_length(source: Source, role: str) -> Answer:
    """The peak of one role's cells against N."""
    known = _with_memory(source.study.cells)
    missing = "peaks are known at one length only" if known else "no peak memory is on record"
    return answer_of(_counter(source), items=_memory_growth(source, role), missing=missing)


def _memory_growth(source: Source, role: str, longest: int = 0) -> Iterator[str]:
    """How the peak grows with N in every setting that was measured up to N = `longest` or more."""
    for group in _by_length(_with_memory(source.of_role(role))):
        lengths, peaks = _peaks(group)
        if lengths[-1] >= longest:
            per_token = (peaks[-1] - peaks[0]) / (lengths[-1] - lengths[0]) / group[0].cell.batch_size
            yield (
                f"{_setting(source, group[0])}: {times(lengths[-1] / lengths[0])} as long (N={lengths[0]} to "
                f"{lengths[-1]}) needs {times(peaks[-1] / peaks[0])} the memory ({gib(peaks[0])} to {gib(peaks[-1])}), "
                f"{sig(per_token / 1024)} KiB more for each token of each sequence{growth_shape(lengths, peaks)}"
            )


def growth_shape(lengths: Sequence[int], peaks: Sequence[float]) -> str:
    """How memory grows with N, from fits of a + b N and a + b N + c N^2; a takes up weights and libraries.

    Linear only where the quadratic term is negligible: its share of the growth between the ends is named.
    """
    grown = max(peaks) - min(peaks)
    if len(lengths) < 3:
        return " (two lengths, so the shape is unknown)"
    if not grown:
        return "; it does not grow"
    n, sizes = np.array(lengths, dtype=float), np.array(peaks, dtype=float)
    line, parabola = (np.polyfit(n, sizes, degree) for degree in (1, 2))
    off_line, off_parabola = (float(np.max(np.abs(np.polyval(f, n) - sizes))) / grown for f in (line, parabola))
    quadratic = float(parabola[0]) * (lengths[-1] ** 2 - lengths[0] ** 2) / grown
    if abs(quadratic) <= NEGLIGIBLE and off_line <= NEGLIGIBLE:
        text = "grows linearly"
    elif off_parabola > GOOD_FIT:
        text = "has no clear shape (no good fit by a line or a parabola)"
    else:
        text = f"grows {'faster' if quadratic > 0 else 'slower'} than linearly"
    deviation, share = (percent(0.0 if abs(v) < 5e-4 else v) for v in (off_line, quadratic))
    return (
        f"; memory {text}: at {len(lengths)} lengths it deviates from a line by {deviation} of the growth at "
        f"most, and the quadratic term of a fit makes up {share} of the growth"
    )


for _role, _text in (
    ("baseline", "The KV cache makes the autoregressive model's memory grow linearly with length."),
    ("target", "LLaDA's memory depends on the full length from the start."),
):
    MEMORY.append(Question("hypothesis", _text, partial(_memory_over_length, role=_role)))


@answers(MEMORY, "hypothesis")
def _constant_over_steps(source: Source) -> Answer:
    """LLaDA's memory does not grow while it generates.

    Peaks of cells that differ in K only: memory that grew during generation would grow with K.
    """
    groups = [_peaks(g)[1] for g in _equal_but(_with_memory(source.of_role("target")), "steps")]
    spans = [max(peaks) / min(peaks) - 1 for peaks in groups if len(peaks) > 1]
    if not spans:
        return not_measured("no diffusion setting has peaks at two step counts")
    text = (
        f"in part: only the peak of a generation is on record, not its course. Between step counts the peak differs by "
        f"{from_to(spans, percent)} in {counted(len(spans), 'setting')}, and memory that accumulates from step to step "
        "would grow with them"
    )
    return answer_of(text, _counter(source), state="in part")


@answers(MEMORY, "question")
def _explodes_at_2048(source: Source) -> Answer:
    """Does the memory of the attention map explode at N=2048?"""
    cells = _with_memory(source.of_role("target"))
    if not any(c.cell.sequence_length >= LONG for c in cells):
        lost = [c for c in source.of_role("target") if c.cell.sequence_length >= LONG]
        longest = max((c.cell.sequence_length for c in cells), default=None)
        why = f"the longest diffusion cell with a peak has N={longest}" if longest else "no diffusion peak is on record"
        failed = f"; {len(lost)} longer cells ended without one ({listed(c.status or 'unfinished' for c in lost)})"
        return not_measured(why + (failed if lost else ""))
    kernels = source.values("attention", "target")
    note = f"this applies to the attention setting {listed(kernels)}: a kernel that stores the attention map was "
    note += "measured" if "math" in kernels else "not measured"
    missing = f"N={LONG} was measured, but no shorter length beside it"
    return answer_of(note, items=_memory_growth(source, "target", longest=LONG), missing=missing)


@answers(MEMORY, "question")
def _which_needs_more(source: Source) -> Answer:
    """Which of the two needs more memory at equal settings?"""
    pairs = [
        (p.memory.bytes / c.baseline.memory.bytes, shape(p.cell))
        for c in source.study.curves
        for p in c.points
        if c.baseline and c.baseline.memory and p.memory and c.baseline.memory.source == p.memory.source
    ]
    if not pairs:
        return not_measured("no setting has a peak of both models by the same counter")
    (low, smallest), (high, largest) = (pick(pairs, key=lambda p: p[0]) for pick in (min, max))
    text = f"diffusion's peak as a multiple of the baseline's, over {counted(len(pairs), 'cell')}: "
    return answer_of(f"{text}from {times(low)} ({smallest}) to {times(high)} ({largest})", _counter(source))


@answers(MEMORY, "question")
def _out_of_memory(source: Source) -> Answer:
    """Which settings do not fit?"""
    lost = [c for c in source.study.cells if c.status == "oom"]
    if lost:
        items = [f"{source.name_of(c)}: {c.reason or 'out of memory'}" for c in lost]
        return answer_of(f"{counted(len(lost), 'cell')} did not fit", items=items, noun="cell")
    done = [c.cell for c in timed_of(source.study.cells)]
    if not done:
        return not_measured("no cell was run")
    sizes, lengths = (from_to([getattr(c, n) for c in done], "{:g}".format) for n in ("batch_size", "sequence_length"))
    return answer_of(f"no cell ran out of memory; {len(done)} were timed, at batch sizes {sizes} and N {lengths}")
