"""Section 5: the tables, the figures, what the text looks like, and the findings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dlmbench.analysis.answer import answer, block_length, headline, summary_rows
from dlmbench.analysis.breakeven import BreakEven
from dlmbench.analysis.quality import MetricInfo, Quality
from dlmbench.analysis.study import CellSummary, Curve
from dlmbench.report.answers import where
from dlmbench.report.markdown import Markdown, bullets, escape, quote, table
from dlmbench.report.numbers import DASH, counted, gib, listed, percent, seconds, sig, spread
from dlmbench.report.quality_questions import outcome_words, per_text, why_no_quality
from dlmbench.report.source import Source, sample_texts
from dlmbench.types import Finding

# A page holds so many rows; the rest is counted and stands in the CSV.
MOST_ROWS = 80
SHOWN_LETTERS = 220


def counts(source: Source) -> str:
    """How many cells there are and how they ended."""
    rows = summary_rows(source.study)
    ended = [r.status for r in rows]
    parts = [f"{ended.count(s)} {_STATUS.get(s, s)}" for s in dict.fromkeys(ended)]
    out = (
        f" {counted(len(source.run.left_out), 'combination')} of the grid could not be run."
        if source.run.left_out
        else ""
    )
    return f"{counted(len(rows), 'cell')}: {listed(parts)}.{out}" if rows else f"No cell is on record.{out}"


_UNCOVERED = (
    "With fewer than 6 repetitions (n) the brackets behind a latency are the whole range, which holds the true median "
    "less often than 95%."
)
_STATUS = {
    "ok": "complete",
    "unfinished": "with timed repetitions but not complete",
    "not measured": "not measured",
    "oom": "out of memory",
    "invalid": "with invalid output",
    "error": "ended by an error",
}


def left_out(source: Source) -> Markdown:
    """Which combinations were left out and why; nothing where there are none."""
    reasons: dict[str, list[str]] = {}
    for out in source.run.left_out:
        reasons.setdefault(out.reason, []).append(out.label)
    return bullets([f"{reason}: {_first(labels)}." for reason, labels in reasons.items()])


def _first(labels: Sequence[str], most: int = 3) -> str:
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return f"{'; '.join(labels[:most])}{more}"


def short_answer(source: Source) -> Markdown:
    """The answer in plain words."""
    return quote(answer(source.study))


def _shown(rows: Sequence[Sequence[str]], columns: Sequence[str], numbers_from: int = 1) -> Markdown:
    """A table of a page's length at most."""
    made = table(columns, rows[:MOST_ROWS], numbers_from)
    rest = len(rows) - MOST_ROWS
    return Markdown(f"{made}\n\n{counted(rest, 'more row')}, left out for length.") if rest > 0 else made


def cells(source: Source) -> Markdown:
    """Every cell: time, throughput, speedup, memory."""
    rows = []
    for s in source.study.cells:
        block = block_length(s.cell)
        rows.append(
            (
                source.study.label(s.cell),
                str(s.cell.steps or DASH),
                str(block or DASH),
                str(s.cell.batch_size),
                str(s.cell.prompt_tokens),
                str(s.cell.new_tokens),
                _latency(s),
                sig(s.throughput.median) if s.throughput else DASH,
                spread(s.speedup, "x") if s.speedup else DASH,
                gib(s.memory.bytes) if s.memory else DASH,
                str(s.latency.n) if s.latency else "0",
            )
        )
    columns = ("cell", "K", "block", "B", "P", "G", "latency", "tokens/s", "speed / baseline's", "peak memory", "n")
    if not rows:
        return Markdown("No cell is on record.")
    made = _shown(rows, columns)
    if any(s.latency is not None and not s.latency.covered for s in source.study.cells):
        made = Markdown(f"{made}\n\n{_UNCOVERED}")
    return made


def _latency(summary: CellSummary) -> str:
    if summary.latency is None:
        return f"{summary.status or 'not measured'}"
    factor, unit = (1e3, "ms") if summary.latency.median < 1 else (1.0, "s")
    low, middle, high = (sig(v * factor) for v in (summary.latency.low, summary.latency.median, summary.latency.high))
    return f"{middle} {unit} " + (f"({low} to {high})" if summary.latency.interval.is_known else "(no interval)")


def quality(source: Source) -> Markdown:
    """Every metric of every set of texts; a row for each step count."""
    shown: dict[str, CellSummary] = {}
    for s in source.study.cells:
        if s.quality:
            shown.setdefault(s.cell.quality_key, s)
    if not shown:
        return Markdown(f"Not measured: {escape(why_no_quality(source))}.")
    metrics = list(dict.fromkeys(q.metric for s in shown.values() for q in s.quality))
    rows = []
    for s in shown.values():
        values = {q.metric.name: q for q in s.quality}
        rows.append(
            (
                f"{source.study.label(s.cell)}, {where(s.cell, batch=False)}",
                str(s.cell.steps or DASH),
                *(_quality(values.get(m.name)) for m in metrics),
            )
        )
    legend = "; ".join(_legend(m) for m in metrics)
    body = _shown(rows, ("texts of", "K", *(m.words for m in metrics)))
    texts = sorted({q.n for s in shown.values() for q in s.quality})
    return Markdown(f"{body}\n\nMetrics: {escape(legend)}. Texts a cell: {listed(texts)}.")


def _legend(metric: MetricInfo) -> str:
    if metric.truth_of is not None:
        return f"{metric.words} [{metric.unit}], the true continuation's own score, of no model"
    return metric.title


def _quality(value: Quality | None) -> str:
    if value is None:
        return DASH
    if value.low is None or value.high is None:
        return sig(value.value)
    # Three digits even where the interval is wide: it is unpaired, and the models are compared prompt by prompt.
    return f"{sig(value.value)} ({sig(value.low)} to {sig(value.high)})"


def parity(source: Source) -> Markdown:
    """S_parity and the speedup there: by the leading metric at every margin, by others once a set of texts at 0."""
    fullest = per_text(source)
    if not fullest:
        return Markdown(f"Not measured: {escape(why_no_quality(source))}.")
    rows = []
    for curve in source.curves:
        lead = headline(curve)
        for p in curve.parities:
            if lead is None or (p.metric != lead.metric and (p.parity.delta or curve not in fullest)):
                continue
            latency = p.speedup.latency if p.speedup else None
            literal = p.parity.literal_steps
            rows.append(
                (
                    f"{curve.label}, {where(curve)}",
                    p.metric.words,
                    f"{p.parity.delta:g}",
                    outcome_words(p),
                    str(literal or DASH),
                    "yes" if p.parity.is_monotone else "no",
                    spread(latency, "x") if latency else DASH,
                    percent(p.speedup.share_reached) if p.speedup else DASH,
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
    return Markdown(f"{_shown(rows, columns, 6)}\n\n{note}")


def break_even(source: Source) -> Markdown:
    """k* of every setting with its line."""
    rows = []
    for c in source.curves:
        line = c.break_even
        if line is None:
            reason = next((m for m in c.missing if "break-even" in m), "fewer than two step counts timed")
            rows.append((f"{c.label}, {where(c)}", f"not known: {reason}", DASH, DASH, DASH))
            continue
        rows.append((f"{c.label}, {where(c)}", crossing(line), *_line(c)))
    columns = ("setting", "break-even k*", "fixed time", "time a step", "strays by")
    if not rows:
        return Markdown("No curve over K is in this run.")
    note = (
        "Latency over K is fitted by a line: fixed time, and time a step. Strays by: the largest distance of a median."
    )
    return Markdown(f"{_shown(rows, columns)}\n\n{note}")


def crossing(line: BreakEven) -> str:
    """k* with its interval, or why there is none."""
    steps, low, high = line.steps, line.low, line.high
    if steps is None:
        return f"none: {line.reason}"
    if steps < 1:
        return "below one step: the baseline is always faster on this line"
    known = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    # The ends take the digits of the value: rounded more coarsely, they may leave it outside.
    digits = 1 if steps < 10 else 0
    ends = f" ({max(low or 0.0, 0.0):.{digits}f} to {max(high or 0.0, 0.0):.{digits}f})" if known else ""
    return f"{steps:.{digits}f}{ends}"


def _line(curve: Curve) -> tuple[str, str, str]:
    line = curve.break_even
    assert line is not None
    points = sum(p.latency is not None for p in curve.points)
    strays = percent(line.largest_residual) if points > 2 else "2 points only"
    outside = ", extrapolated" if line.is_extrapolated else ""
    # No time is below zero, but a line's intercept can be: by noise, or where latency bends.
    fixed = seconds(line.intercept_s) if line.intercept_s > 0 else "below 0"
    return (fixed, seconds(line.slope_s), f"{strays}{outside}")


def inner_times(source: Source) -> Markdown:
    """Time to first text and between tokens, from traced passes."""
    rows = []
    for s in source.study.cells:
        if s.first_text_s is not None:
            gap = seconds(s.inter_token_s) if s.inter_token_s is not None else DASH
            label = f"{source.study.label(s.cell)}, {where(s.cell)}"
            rows.append((label, str(s.cell.steps or DASH), seconds(s.first_text_s), gap))
    if not rows:
        return Markdown("Not measured: no traced pass is on record.")
    return _shown(rows, ("cell", "K", "first text after", "between tokens"))


def joules(source: Source) -> Markdown:
    """Energy a batch and a token."""
    rows = []
    for s in source.study.cells:
        if s.energy is not None:
            value, tokens = s.energy.median, s.cell.batch_size * s.cell.new_tokens
            label = f"{source.study.label(s.cell)}, {where(s.cell)}"
            rows.append((label, str(s.cell.steps or DASH), f"{sig(value)} J", f"{sig(value / tokens)} J"))
    if not rows:
        return Markdown("Not measured: no energy is on record (it is read from an NVIDIA GPU's own counter).")
    return _shown(rows, ("cell", "K", "a generated batch", "a new token"))


def figures(source: Source) -> Markdown:
    """Every figure with its caption."""
    parts = []
    for i, f in enumerate(source.figures, 1):
        picture = f"![{escape(f.title)}]({f.path})\n\n" if f.path else ""
        parts.append(f"{picture}*Figure {i}.* {escape(f.caption)}")
    return Markdown("\n\n".join(parts)) if parts else Markdown("There are no figures.")


def texts(source: Source) -> Markdown:
    """The same prompt continued by the baseline, and by diffusion at the fewest and the most steps."""
    if source.random:
        return Markdown("Not shown: random weights write noise.")
    curves = per_text(source) or list(source.curves)
    if not curves:
        return Markdown("Not shown: there is no curve over K.")
    curve = curves[0]
    base = curve.quality_baseline or curve.baseline
    ends = [base] if base else []
    wanted = [s.cell for s in (*ends, *dict.fromkeys((curve.points[0], curve.points[-1])))]
    found = sample_texts(source, wanted)
    if not found:
        return Markdown("Not shown: no text of the same prompt is stored for these cells.")
    parts = []
    for cell, text in found:
        cut = text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]} ..."
        steps = f", K={cell.steps}" if cell.steps else ""
        parts.append(f"{escape(source.study.label(cell) + steps)}:\n\n{quote(cut)}")
    return Markdown("\n\n".join(parts))


def findings(source: Source) -> Markdown:
    """One row a kind of finding: how often, the first, and the advice."""
    groups: dict[str, list[Finding]] = {}
    for f in source.study.findings:
        groups.setdefault(f.code, []).append(f)
    rows = [(g[0].severity, str(len(g)), g[0].message, g[0].hint) for g in groups.values()]
    if not rows:
        return Markdown("Every check that had its data passed.")
    return table(("severity", "times", "first", "advice"), rows, 4)


def missing(source: Source) -> Markdown:
    """What the analysis lacked, each reason once, with the settings it concerns."""
    reasons: dict[str, list[str]] = {m: [] for m in source.study.missing}
    for curve in source.curves:
        for m in curve.missing:
            reasons.setdefault(m, []).append(f"{curve.label}, {where(curve)}")
    items = [f"{reason}{f' ({_first(settings)})' if settings else ''}." for reason, settings in reasons.items()]
    if all(s.energy is None for s in source.study.cells):
        items.append("no energy: no counter of the device was read.")
    if all(s.first_text_s is None for s in source.study.cells):
        items.append("no times inside a generation: no traced pass is on record.")
    if all(s.memory is None for s in source.study.cells):
        items.append("no peak memory is on record.")
    return bullets([*items, "Questions of the study that have no answer are listed in section 7.4."])


SECTIONS: tuple[tuple[str, Callable[[Source], Markdown]], ...] = (
    ("Every cell", cells),
    ("Quality by steps", quality),
    ("Steps to parity, and the speed there", parity),
    ("Break-even", break_even),
    ("Time to first text", inner_times),
    ("Energy", joules),
    ("What the text looks like", texts),
    ("Figures", figures),
    ("Findings, with advice", findings),
    ("What was not measured", missing),
)
