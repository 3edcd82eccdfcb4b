"""Sections 4 and 5: what was varied and held fixed, the tables, the figures, sample texts, and the findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlmbench.analysis.quality import MetricInfo, Quality
from dlmbench.analysis.results import CellSummary, group_by
from dlmbench.report.answer import answer, break_even_text
from dlmbench.report.quality_answers import why_no_quality
from dlmbench.report.source import ABSENT, Source, first_of, name_of, shape
from dlmbench.report.text import (
    Markdown,
    bullets,
    counted,
    escape,
    from_to,
    gib,
    listed,
    percent,
    plain,
    quote,
    seconds,
    sig,
    spread,
    table,
)
from dlmbench.types import Environment

# The rows of a table in the document; the rest is counted and is in the CSV.
MOST_ROWS = 80
SHOWN_LETTERS = 220
_STATUS = {
    "ok": "complete",
    "unfinished": "with timed repetitions but not complete",
    "oom": "out of memory",
    "invalid": "with invalid output",
    "error": "ended by an error",
}
# Attributes of a cell that not every run measures, and what it means that none is there.
_OPTIONAL = {
    "energy": "No energy: no counter of the device was read",
    "first_text_s": "No times inside a generation: no traced pass is on record",
    "memory": "No peak memory is on record",
}


# ---------------------------------------------------------------- section 4: setup


def values(source: Source, name: str, role: str | None = None) -> str:
    """The values of an axis, as a list."""
    return listed(map(plain, source.values(name, role)))


def lengths(source: Source) -> str:
    """Every N with its P and G."""
    shapes = sorted({(s.cell.sequence_length, s.cell.prompt_tokens, s.cell.new_tokens) for s in source.study.cells})
    return listed(f"{n} (P={p}, G={g})" for n, p, g in shapes)


def knobs(source: Source) -> Markdown:
    """Every setting of the diffusion sampler with its values."""
    names = dict.fromkeys(name for s in source.of_role("target") for name, _ in s.cell.knobs if name != "steps")
    rows = []
    for name in names:
        known = dict.fromkeys(s.cell.knob(name) for s in source.of_role("target") if name in dict(s.cell.knobs))
        rows.append((name, listed(map(plain, known))))
    return table(("setting", "values"), rows, 2) if rows else Markdown("No diffusion cell is planned.")


def clock(source: Source) -> str:
    """Which clock timed the cells."""
    names = {"cuda": "CUDA events", "wall": "the host's wall clock (there is no GPU)"}
    clocks = dict.fromkeys(s.clock for r in source.run.results for s in r.timed)
    return listed(names.get(c, c) if len(clocks) == 1 else c for c in clocks) if clocks else "no cell was timed"


def repetitions(source: Source) -> str:
    """How many timed repetitions there are."""
    counts = [len(r.timed) for r in source.run.results if r.timed]
    if not counts:
        return "No cell was timed."
    return f"On record: {from_to(counts, lambda n: f'{n:g}')} timed repetitions a cell, {sum(counts):,} in all."


_DESIGN: tuple[tuple[str, str, Callable[[Source], str]], ...] = (
    ("independent", "models", lambda s: listed(m.key for m in s.models)),
    ("independent", "diffusion steps K", lambda s: values(s, "steps")),
    ("independent", "batch size B", lambda s: values(s, "batch_size")),
    ("independent", "sequence length N", lengths),
    ("independent", "block length", lambda s: values(s, "block_length", "target")),
    ("control", "new tokens G, the same for both models", lambda s: values(s, "new_tokens")),
    ("control", "precision", lambda s: values(s, "precision")),
    ("control", "attention setting", lambda s: values(s, "attention")),
    ("control", "engine", lambda s: values(s, "engine")),
    ("control", "temperature", lambda s: values(s, "temperature")),
    ("control", "device", lambda s: s.run.environment.device if s.run.environment else ABSENT),
    ("control", "prompts", lambda s: values(s, "prompts")),
)


def design(sources: Sequence[Source]) -> Markdown:
    """The summary of the design, one column per run."""
    rows = [(kind, name, *(read(s) for s in sources)) for kind, name, read in _DESIGN]
    return table(("type", "variable", *(s.run.name for s in sources)), rows, 2 + len(sources))


def environment(source: Source) -> Markdown:
    """Everything on record about the machine and its software."""
    if not source.environment:
        return Markdown("The environment is not on record.")
    equal = {name.replace("_", " ") for name in Environment.COMPARABLE}
    rows = [(f"{n} (must agree within a folder)" if n in equal else n, value) for n, value in source.environment]
    return table(("what", "value"), rows, 2)


# ---------------------------------------------------------------- section 5: results


def counts(source: Source) -> str:
    """How many cells there are and how they ended."""
    ended = [c.status_text for c in source.study.cells]
    parts = [f"{ended.count(s)} {_STATUS.get(s, s)}" for s in dict.fromkeys(ended)]
    lost = source.run.left_out
    out = (
        f" {counted(len(lost), 'combination')} of the grid could not be run: see the end of this section."
        if lost
        else ""
    )
    return f"{counted(len(ended), 'cell')}: {listed(parts)}.{out}" if ended else f"No cell is on record.{out}"


def short_answer(source: Source) -> Markdown:
    """The answer in plain English."""
    return quote(answer(source.study))


def _table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    missing: str,
    *notes: str,
    numbers_from: int = 1,
) -> Markdown:
    """A table of limited length with notes below it; without rows, the reason why there is none."""
    if not rows:
        return Markdown(escape(missing))
    rest = len(rows) - MOST_ROWS
    cut = [f"{counted(rest, 'more row')}, left out for length."] if rest > 0 else []
    parts = [table(columns, rows[:MOST_ROWS], numbers_from), *map(escape, (*cut, *filter(None, notes)))]
    return Markdown("\n\n".join(parts))


def cells(source: Source) -> Markdown:
    """Every cell: time, throughput, speedup, memory."""
    rows = [
        (
            source.study.label(s.cell),
            s.cell.steps,
            s.block_length,
            s.cell.batch_size,
            s.cell.prompt_tokens,
            s.cell.new_tokens,
            _latency(s),
            s.throughput and sig(s.throughput.median),
            s.speedup and spread(s.speedup, "x"),
            s.memory and gib(s.memory.bytes),
            s.latency.n if s.latency else 0,
        )
        for s in source.study.cells
    ]
    columns = ("cell", "K", "block", "B", "P", "G", "latency", "tokens/s", "speed / baseline's", "peak memory", "n")
    few = any(s.latency is not None and not s.latency.covered for s in source.study.cells)
    note = (
        "With fewer than 6 repetitions (n) the brackets behind a latency are the whole range, which contains the true "
        "median less often than 95%."
    )
    return _table(columns, rows, "No cell is on record.", note if few else "")


def _latency(summary: CellSummary) -> str:
    if summary.latency is None:
        return summary.status_text
    factor, unit = (1e3, "ms") if summary.latency.median < 1 else (1.0, "s")
    low, middle, high = (sig(v * factor) for v in (summary.latency.low, summary.latency.median, summary.latency.high))
    return f"{middle} {unit} " + (f"({low} to {high})" if summary.latency.interval.is_known else "(no interval)")


def quality(source: Source) -> Markdown:
    """Every metric of every set of texts; a row for each step count."""
    scored = group_by((s for s in source.study.cells if s.quality), lambda s: s.cell.quality_key)
    shown = [group[0] for group in scored.values()]
    metrics = list(dict.fromkeys(q.metric for s in shown for q in s.quality))
    rows = [
        (
            f"{source.study.label(s.cell)}, {shape(s.cell, batch=False)}",
            s.cell.steps,
            *(_quality(s.quality_in(m.name)) for m in metrics),
        )
        for s in shown
    ]
    texts = listed(sorted({q.n for s in shown for q in s.quality}))
    note = f"Metrics: {'; '.join(map(_legend, metrics))}. Texts a cell: {texts}."
    columns = ("texts of", "K", *(m.display_name for m in metrics))
    return _table(columns, rows, f"Not measured: {why_no_quality(source)}.", note)


def _legend(metric: MetricInfo) -> str:
    if metric.truth_of is not None:
        return f"{metric.display_name} [{metric.unit}], the true continuation's own score, of no model"
    return metric.title


def _quality(value: Quality | None) -> str | None:
    if value is None:
        return None
    if value.low is None or value.high is None:
        return sig(value.value)
    # Three digits even where the interval is wide: it is unpaired, and the models are compared prompt by prompt.
    return f"{sig(value.value)} ({sig(value.low)} to {sig(value.high)})"


def parity(source: Source) -> Markdown:
    """S_parity and the speedup there: by the headline metric at every margin, by others once a set of texts at 0."""
    rows = []
    for curve in source.study.curves:
        lead = curve.headline()
        for p in curve.parities:
            if lead is None or (p.metric != lead.metric and (p.parity.delta or curve not in source.scored_curves)):
                continue
            rows.append(
                (
                    name_of(curve),
                    p.metric.display_name,
                    f"{p.parity.delta:g}",
                    p.outcome_text,
                    p.parity.literal_steps,
                    "yes" if p.parity.is_monotone else "no",
                    p.latency_ratio and spread(p.latency_ratio, "x"),
                    p.speedup and percent(p.speedup.share_reached),
                )
            )
    columns = (
        *("setting", "metric", "margin", "S_parity", "first K that passes", "monotone"),
        *("speed / baseline's there", "found again"),
    )
    note = (
        "First K that passes: by itself, whatever larger ones do. Monotone: no step count is worse than the one before "
        "it, beyond noise. Found again: the share of resamples in which parity was found at a step count with times."
    )
    return _table(columns, rows, f"Not measured: {why_no_quality(source)}.", note, numbers_from=6)


def break_even(source: Source) -> Markdown:
    """k* of every setting with its line."""
    rows: list[tuple[str | None, ...]] = []
    for c in source.study.curves:
        line = c.break_even
        if line is None:
            rows.append((name_of(c), break_even_text(c), None, None, None))
            continue
        deviation = percent(line.largest_residual) if line.is_checked else "2 points only"
        # No time is below zero, but a line's intercept can be: by noise, or where latency bends.
        fixed = seconds(line.intercept_s) if line.intercept_s > 0 else "below 0"
        rows.append((name_of(c), break_even_text(c), fixed, seconds(line.slope_s), deviation))
    columns = ("setting", "break-even k*", "fixed time", "time per step", "largest deviation")
    note = "Latency over K is fitted by a line: fixed time, and time per step. Largest deviation: of a median from it."
    return _table(columns, rows, "No curve over K is in this run.", note)


def inner_times(source: Source) -> Markdown:
    """Time to first text and between tokens, from traced passes."""
    rows = [
        (source.name_of(s), s.cell.steps, seconds(s.first_text_s), s.inter_token_s and seconds(s.inter_token_s))
        for s in source.study.cells
        if s.first_text_s is not None
    ]
    columns = ("cell", "K", "first text after", "between tokens")
    return _table(columns, rows, "Not measured: no traced pass is on record.")


def energy(source: Source) -> Markdown:
    """Energy a batch and a token."""
    rows = [
        (source.name_of(s), s.cell.steps, f"{sig(s.energy.median)} J", f"{sig(s.joules_per_token.value)} J")
        for s in source.study.cells
        if s.energy and s.joules_per_token
    ]
    missing = "Not measured: no energy is on record (it is read from an NVIDIA GPU's own counter)."
    return _table(("cell", "K", "a generated batch", "a new token"), rows, missing)


def figures(source: Source) -> Markdown:
    """Every figure with its caption."""
    parts = []
    for i, f in enumerate(source.figures, 1):
        picture = f"![{escape(f.title)}]({f.picture})\n\n" if f.picture else ""
        parts.append(f"{picture}*Figure {i}.* {escape(f.caption or f'{f.missing}.')}")
    return Markdown("\n\n".join(parts) or "There are no figures.")


def texts(source: Source) -> Markdown:
    """The same prompt continued by the baseline, and by diffusion at the fewest and the most steps."""
    if source.random:
        return Markdown("Not shown: random weights write noise.")
    if not source.study.curves:
        return Markdown("Not shown: there is no curve over K.")
    parts = []
    for writer, text in source.sample_texts(most=2)[1]:
        cut = text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]} ..."
        parts.append(f"{escape(writer)}:\n\n{quote(cut)}")
    return Markdown("\n\n".join(parts) or "Not shown: no text of the same prompt is stored for these cells.")


def findings(source: Source) -> Markdown:
    """One row per kind of finding: how often, the first, and the advice."""
    rows = [(g[0].severity, len(g), g[0].message, g[0].hint) for g in source.finding_groups]
    columns = ("severity", "times", "first", "advice")
    return _table(columns, rows, "Every check that had its data passed.", numbers_from=4)


def missing(source: Source) -> Markdown:
    """What was not measured, each reason once, with the first of what it concerns."""
    items = []
    for lacking in source.not_measured():
        examples = f" ({first_of(lacking.examples)})" if lacking.examples else ""
        items.append(f"{lacking.what}: {lacking.why}{examples}.")
    for name, reason in _OPTIONAL.items():
        if all(getattr(s, name) is None for s in source.study.cells):
            items.append(f"{reason}.")
    return bullets([*items, "Questions of the study that have no answer are listed in section 7.4."])


SECTIONS: tuple[tuple[str, Callable[[Source], Markdown]], ...] = (
    ("Every cell", cells),
    ("Quality by steps", quality),
    ("Steps to parity, and the speed there", parity),
    ("Break-even", break_even),
    ("Time to first text", inner_times),
    ("Energy", energy),
    ("What the text looks like", texts),
    ("Figures", figures),
    ("Findings, with advice", findings),
    ("What was not measured", missing),
)
