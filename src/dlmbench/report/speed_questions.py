"""What was asked about latency and throughput."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dlmbench.analysis.study import CellSummary, Curve
from dlmbench.report.answers import (
    Answer,
    Contrast,
    Question,
    contrasts,
    grouped,
    listing,
    not_measured,
    rest,
    sentences,
    timed,
    verdict,
    where,
)
from dlmbench.report.numbers import counted, from_to, listed, percent, plain, seconds, spread, times
from dlmbench.report.source import Source

HIGH_BATCH = 8


def families(source: Source) -> list[list[Curve]]:
    """Curves that differ in batch size only, batches ascending."""
    found: dict[object, list[Curve]] = {}
    for curve in source.curves:
        found.setdefault((curve.label, curve.prompt_tokens, curve.new_tokens), []).append(curve)
    return [sorted(f, key=lambda c: c.batch_size) for f in found.values()]


def throughput_at_high_batch(source: Source) -> Answer:
    """How the ratio of throughputs changes with the batch, at the largest K that all batches share."""
    parts, largest = [], 0
    for family in families(source):
        points = [{p.cell.steps: p for p in c.points if p.speedup} for c in family]
        shared = [k for k in set.intersection(*map(set, points)) if k is not None] if points else []
        if len(family) < 2 or not shared:
            continue
        k = max(shared)
        ends = [(c.batch_size, p[k]) for c, p in zip(family, points, strict=True)]
        largest = max(largest, ends[-1][0])
        rates = [f"{_ratio(p)} at B={b}" for b, p in ends]
        parts.append(f"{family[0].label}, {where(family[0], batch=False)}, K={k}: {'; '.join(rates)}: {_trend(ends)}")
    if not parts:
        return not_measured("no diffusion setting was timed with its baseline at two batch sizes")
    lead = "throughput of diffusion as a multiple of the baseline's, quality apart"
    if largest < HIGH_BATCH:
        return listing([f"in part: batches above {largest} were not measured", lead], parts, "in part")
    return listing([lead], parts)


def _ratio(point: CellSummary) -> str:
    assert point.speedup is not None
    return spread(point.speedup, "x")


def _trend(ends: Sequence[tuple[int, CellSummary]]) -> str:
    first, last = ends[0][1].speedup, ends[-1][1].speedup
    assert first is not None
    assert last is not None
    if last.high < first.low:
        change = "the larger the batch, the less diffusion gains, against the hypothesis"
    elif last.low > first.high:
        change = "diffusion gains with the batch, as the hypothesis says"
    else:
        change = "no change with the batch is shown"
    lead = verdict(last, "ahead", "behind", "not shown to be ahead or behind")
    return f"{change}; at B={ends[-1][0]} diffusion is {lead}"


def baseline_batch_scaling(source: Source) -> Answer:
    """Throughput and memory of the baseline from its smallest to its largest batch."""
    parts = []
    for group in grouped(timed(source.of_role("baseline")), lambda c: rest(c, "batch_size")):
        cells = sorted(group, key=lambda c: c.cell.batch_size)
        first, last = cells[0], cells[-1]
        if first.cell.batch_size == last.cell.batch_size or not first.throughput or not last.throughput:
            continue
        gain = last.throughput.median / first.throughput.median
        more = last.cell.batch_size / first.cell.batch_size
        text = (
            f"{where(first.cell, batch=False)}: from B={first.cell.batch_size} to {last.cell.batch_size} "
            f"({times(more)} the sequences) throughput grows {times(gain)}"
        )
        if first.memory and last.memory and first.memory.source == last.memory.source:
            text += f" and peak memory ({first.memory.source}) {times(last.memory.bytes / first.memory.bytes)}"
        parts.append(text)
    if not parts:
        return not_measured("the baseline was timed at one batch size only")
    lost = [c for c in source.of_role("baseline") if c.status == "oom"]
    end = f"{counted(len(lost), 'baseline cell')} ran out of memory"
    if not lost:
        end = "no baseline cell is on record as out of memory, so memory did not limit it in the range measured"
    return listing([end], parts)


def linear_in_steps(source: Source) -> Answer:
    """How far latency strays from a line in K."""
    lines = [c for c in source.curves if c.break_even and sum(p.latency is not None for p in c.points) >= 3]
    if not lines:
        return not_measured("no setting was timed at three step counts or more, and two always lie on a line")
    strays = [c.break_even.largest_residual for c in lines if c.break_even]
    text = f"in {counted(len(lines), 'setting')} of 3 step counts or more the medians stray from a straight line by at "
    text += f"most {from_to(strays, percent)}"
    rough = sum(s > 0.1 for s in strays)
    if rough:
        text += f"; in {rough} of them by more than 10%, so a break-even read from the line is rough there"
    return Answer(sentences([text]))


def slower_at_16_steps(source: Source) -> Answer:
    """Latency at K = 16 against the baseline."""
    points = [p for c in source.curves if (p := c.at(16)) is not None and p.speedup is not None]
    if not points:
        return not_measured("no cell with K=16 was timed beside its baseline")
    parts = []
    for p in points:
        assert p.speedup is not None
        word = verdict(p.speedup, "faster", "slower", "not shown to be faster or slower")
        label = source.study.label(p.cell)
        parts.append(f"{label}, {where(p.cell)}: {spread(p.speedup, 'x')} the baseline's speed: {word}")
    return listing(["speed of diffusion as a multiple of the baseline's at K=16"], parts)


def shape_of_time(source: Source) -> Answer:
    """Exponents of latency in the sequence length, between the shortest and the longest measured."""
    parts = []
    for group in grouped(timed(source.study.cells), lambda c: rest(c, "prompt_tokens", "prompts")):
        cells = sorted(group, key=lambda c: c.cell.sequence_length)
        short, long = cells[0], cells[-1]
        if long.cell.sequence_length < 2 * short.cell.sequence_length or not short.latency or not long.latency:
            continue
        power = np.log(long.latency.median / short.latency.median) / np.log(
            long.cell.sequence_length / short.cell.sequence_length
        )
        steps = f", K={short.cell.steps}" if short.cell.steps else ""
        parts.append(
            f"{source.study.label(short.cell)}, B={short.cell.batch_size}, G={short.cell.new_tokens}{steps}: "
            f"{seconds(short.latency.median)} at N={short.cell.sequence_length}, {seconds(long.latency.median)} at "
            f"N={long.cell.sequence_length}, an average exponent of {abs(power):.1f}"
        )
    if not parts:
        return not_measured("no setting was timed at two lengths of the same number of new tokens")
    kernels = listed(source.values("attention"))
    lead = f"with the attention setting {kernels}; an exponent of 1 is linear in N, 2 quadratic"
    return listing([lead], parts)


def warm_up(source: Source) -> Answer:
    """The first repetition of each process against the timed ones."""
    ratios, slowest = [], 0
    for result in source.run.results:
        firsts = [s.latency_s for s in result.samples if s.is_warmup and s.index == 0]
        later = [s.latency_s for s in result.timed]
        if firsts and later:
            ratios.append(firsts[0] / float(np.median(later)))
            slowest += firsts[0] > max(later)
    if not ratios:
        return not_measured("no warm-up is on record")
    text = (
        f"the very first pass was slower than every timed one in {slowest} of {counted(len(ratios), 'cell')}; it took "
        f"{times(float(np.median(ratios)))} the median of the timed ones in the median cell, {times(max(ratios))} at "
        "most. Warm-ups are kept on record and never averaged"
    )
    return Answer(sentences([text]))


def varied(name: str, words: str, *dependent: str) -> Callable[[Source], Answer]:
    """The effect of one setting on latency, all else equal."""

    def ask(source: Source) -> Answer:
        found = list(contrasts(source, name, *dependent))
        if not found:
            held = source.values(name)
            if not held:
                return not_measured(f"no cell has a {words}")
            values = listed(map(plain, held))
            return not_measured(
                f"all cells have the {words} {values}"
                if len(held) == 1
                else f"cells differ in {words} ({values}), but in other settings as well"
            )
        return listing([f"two values of the {words}, all else equal"], [_contrast(c) for c in found], noun="pair")

    return ask


def _contrast(pair: Contrast) -> str:
    cell = pair.first.cell
    steps = f", K={cell.steps}" if cell.steps else ""
    old, new = map(plain, pair.values)
    word = verdict(pair.ratio, "faster", "slower", "no difference shown")
    return f"{cell.model.key}, {where(cell)}{steps}: {new} runs at {spread(pair.ratio, 'x')} the speed of {old}: {word}"


def caches(source: Source) -> Answer:
    """Fast-dLLM's caches and rules beside the plain sampler."""
    parts = [_contrast(c) for c in contrasts(source, "cache", "published_loop", "confidence_dtype")]
    parts += [
        f"{source.study.label(o.cell)}, {where(o.cell)}: {spread(o.speedup, 'x')} the baseline's speed"
        for o in source.study.others
        if o.speedup is not None
    ]
    if not parts:
        return not_measured("no cell differs from another in its cache only, or chooses its own number of steps")
    lead = "a cache comes with its published loop [11] and its number type of the confidence"
    if source.study.metrics and not source.random:
        return listing([lead, "the quality of each stands in the table of quality"], parts)
    return listing([lead, "whether the texts stay as good was not measured"], parts, "in part")


def serving_engines(source: Source) -> Answer:
    """Never measured: there is no such engine."""
    engines = listed(source.values("engine"))
    return not_measured(
        f"both models run in the same engine ({engines}), so that models are compared and not engineering; "
        "serving systems such as vLLM [13] are not among the engines"
    )


def other_devices(source: Source) -> Answer:
    """One run, one environment."""
    env = source.run.environment
    device = env.device if env else "not on record"
    return not_measured(f"one run belongs to one environment, here {device}; runs of two devices are never merged")


QUESTIONS = (
    Question(
        "hypothesis",
        "Diffusion reaches the higher throughput at large batches, because it parallelises better.",
        throughput_at_high_batch,
    ),
    Question(
        "hypothesis",
        "The memory of the KV cache is what limits the autoregressive model at large batches.",
        baseline_batch_scaling,
    ),
    Question("claim", "Already at 16 steps LLaDA takes longer than the autoregressive model.", slower_at_16_steps),
    Question("question", "Is latency linear in the number of steps?", linear_in_steps),
    Question("question", "How does time grow with the sequence length: linearly, or with its square?", shape_of_time),
    Question("claim", "The first passes are slower and have to be discarded.", warm_up),
    Question("claim", "Temperature does not affect speed directly.", varied("temperature", "temperature")),
    Question("claim", "float32 is too slow to be of use beside bfloat16.", varied("precision", "precision")),
    Question(
        "question",
        "FlashAttention on for both models, or off for both: does it change the comparison?",
        varied("attention", "attention setting"),
    ),
    Question(
        "claim",
        "Prompts must be real text, since token embeddings influence time and memory.",
        varied("prompts", "prompt source"),
    ),
    Question("question", "Do accelerated samplers (caches, parallel commits) change the picture?", caches),
    Question(
        "question",
        "Does generating block by block, between diffusion and autoregression, save time?",
        varied("block_length", "block length"),
    ),
    Question("question", "Would specialised inference engines change the comparison?", serving_engines),
    Question("question", "Do the results hold on other devices, ROCm among them?", other_devices),
)
