"""What was asked about memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlmbench.analysis.study import CellSummary
from dlmbench.report.answers import Answer, Question, grouped, listing, not_measured, rest, sentences, where
from dlmbench.report.numbers import counted, from_to, gib, listed, percent, sig, times
from dlmbench.report.source import Source

LONG = 2048


def _with_memory(cells: Sequence[CellSummary]) -> list[CellSummary]:
    return [c for c in cells if c.memory is not None]


def _by_length(source: Source, role: str) -> list[list[CellSummary]]:
    """Cells with a peak that differ in length only, ascending, where there are two lengths or more."""
    groups = grouped(_with_memory(source.of_role(role)), lambda c: rest(c, "prompt_tokens", "prompts"))
    ordered = [sorted(g, key=lambda c: c.cell.sequence_length) for g in groups]
    return [g for g in ordered if g[0].cell.sequence_length < g[-1].cell.sequence_length]


def _peaks(group: Sequence[CellSummary]) -> tuple[list[int], list[int]]:
    return [c.cell.sequence_length for c in group], [c.memory.bytes for c in group if c.memory]


def _growth(source: Source, group: Sequence[CellSummary]) -> str:
    """From the shortest to the longest, and whether the points between lie on a line."""
    lengths, peaks = _peaks(group)
    first = group[0].cell
    steps = f", K={first.steps}" if first.steps else ""
    per_token = (peaks[-1] - peaks[0]) / (lengths[-1] - lengths[0]) / first.batch_size
    text = (
        f"{source.study.label(first)}, B={first.batch_size}{steps}: {gib(peaks[0])} at N={lengths[0]} and "
        f"{gib(peaks[-1])} at N={lengths[-1]}, {sig(per_token / 1024)} KiB more for each token of each sequence"
    )
    if len(lengths) < 3:
        return f"{text} (two lengths, so the shape is unknown)"
    slope, start = np.polyfit(lengths, peaks, 1)
    stray = float(np.max(np.abs(start + slope * np.array(lengths) - peaks)))
    grown = max(peaks) - min(peaks)
    share = stray / grown if grown else 0.0
    word = "linear" if share <= 0.05 else "roughly linear" if share <= 0.2 else "not linear"
    return f"{text}; {word}: its {len(lengths)} lengths stray from a line by {percent(share)} of the growth at most"


def _no_peaks(source: Source) -> str:
    return (
        "no peak memory is on record" if not _with_memory(source.study.cells) else "peaks are known at one length only"
    )


def _counter(source: Source) -> str:
    sources = listed(c.memory.source for c in _with_memory(source.study.cells) if c.memory)
    resident = " (weights and libraries included, so small differences are noise)" if "resident" in sources else ""
    return f"the counter is {sources}{resident}"


def cache_growth(source: Source) -> Answer:
    """The baseline's peak against N."""
    groups = _by_length(source, "baseline")
    if not groups:
        return not_measured(_no_peaks(source))
    return listing([_counter(source)], [_growth(source, g) for g in groups])


def activation_growth(source: Source) -> Answer:
    """The diffusion model's peak against N."""
    groups = _by_length(source, "target")
    if not groups:
        return not_measured(_no_peaks(source))
    return listing([_counter(source)], [_growth(source, g) for g in groups])


def constant_over_steps(source: Source) -> Answer:
    """Peaks of cells that differ in K only: what grew during generation would grow with K."""
    groups = grouped(_with_memory(source.targets), lambda c: rest(c, "steps"))
    spans = []
    for group in groups:
        peaks = [c.memory.bytes for c in group if c.memory]
        if len(peaks) > 1:
            spans.append(max(peaks) / min(peaks) - 1)
    if not spans:
        return not_measured("no diffusion setting has peaks at two step counts")
    text = (
        f"in part: only the peak of a generation is on record, not its course. Between step counts the peak differs by "
        f"{from_to(spans, percent)} in {counted(len(spans), 'setting')}, and what piled up from step to step would "
        "grow with them"
    )
    return Answer(sentences([text, _counter(source)]), "in part")


def explodes_at_2048(source: Source) -> Answer:
    """The diffusion model's peak at N = 2048 against shorter lengths."""
    cells = _with_memory(source.targets)
    if not any(c.cell.sequence_length >= LONG for c in cells):
        known = [c.cell.sequence_length for c in cells]
        lost = [c for c in source.targets if c.cell.sequence_length >= LONG]
        why = (
            f"the longest diffusion cell with a peak has N={max(known)}" if known else "no diffusion peak is on record"
        )
        failed = f"; {len(lost)} longer cells ended without one ({listed(c.status or 'unfinished' for c in lost)})"
        return not_measured(why + (failed if lost else ""))
    parts = []
    for group in _by_length(source, "target"):
        lengths, peaks = _peaks(group)
        if lengths[-1] >= LONG:
            ratio, longer = peaks[-1] / peaks[0], lengths[-1] / lengths[0]
            parts.append(
                f"{source.study.label(group[0].cell)}, B={group[0].cell.batch_size}, K={group[0].cell.steps}: a canvas "
                f"{times(longer)} as long (N={lengths[0]} to {lengths[-1]}) needs {times(ratio)} the memory "
                f"({gib(peaks[0])} to {gib(peaks[-1])})"
            )
    if not parts:
        return not_measured(f"N={LONG} was measured, but no shorter length beside it")
    kernel = listed(source.values("attention", "target"))
    note = f"that holds for the attention setting {kernel}: a kernel that stores the attention map was "
    note += "measured" if "math" in source.values("attention", "target") else "not measured"
    return listing([note], parts)


def which_needs_more(source: Source) -> Answer:
    """Peaks side by side at equal B, P and G."""
    pairs = []
    for curve in source.curves:
        base = curve.baseline
        for p in curve.points:
            if base and base.memory and p.memory and base.memory.source == p.memory.source:
                pairs.append((p.memory.bytes / base.memory.bytes, p))
    if not pairs:
        return not_measured("no setting has a peak of both models by the same counter")
    low, high = min(pairs, key=lambda p: p[0]), max(pairs, key=lambda p: p[0])
    text = (
        f"diffusion's peak as a multiple of the baseline's, over {counted(len(pairs), 'cell')}: from {times(low[0])} "
    )
    text += f"({where(low[1].cell)}) to {times(high[0])} ({where(high[1].cell)})"
    return Answer(sentences([text, _counter(source)]))


def out_of_memory(source: Source) -> Answer:
    """Cells that did not fit."""
    lost = [c for c in source.study.cells if c.status == "oom"]
    done = [c for c in source.study.cells if c.latency is not None]
    if not done and not lost:
        return not_measured("no cell was run")
    if not lost:
        sizes = from_to([c.cell.batch_size for c in done], lambda v: f"{v:g}")
        lengths = from_to([c.cell.sequence_length for c in done], lambda v: f"{v:g}")
        text = f"no cell is on record as out of memory; {len(done)} were timed, at batch sizes {sizes} and N {lengths}"
        return Answer(sentences([text]))
    parts = [f"{source.study.label(c.cell)}, {where(c.cell)}: {c.reason or 'out of memory'}" for c in lost]
    return listing([f"{counted(len(lost), 'cell')} did not fit"], parts, noun="cell")


QUESTIONS = (
    Question(
        "hypothesis", "The KV cache makes the autoregressive model's memory grow linearly with length.", cache_growth
    ),
    Question("hypothesis", "LLaDA's memory depends on the full length from the start.", activation_growth),
    Question("hypothesis", "LLaDA's memory does not grow while it generates.", constant_over_steps),
    Question("question", f"Does the memory of the attention map explode at N={LONG}?", explodes_at_2048),
    Question("question", "Which of the two needs more memory at equal settings?", which_needs_more),
    Question("question", "Which settings do not fit?", out_of_memory),
)
