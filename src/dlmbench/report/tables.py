"""The tables and lists of the document: at most so many rows, columns without a value left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dlmbench import registry
from dlmbench.analysis.quality import MetricInfo, Quality
from dlmbench.analysis.stats import Interval, group_by
from dlmbench.report.questions import answers
from dlmbench.report.source import Source, first_of, is_published, name_of, shape
from dlmbench.report.text import (
    Markdown,
    bullets,
    counted,
    escape,
    gib,
    listed,
    percent,
    plain,
    quote,
    seconds,
    sig,
    spread,
    table,
    valued,
)

SHOWN_LETTERS = 200
FALSE_DISCOVERIES = (
    "Shown: faster or slower than the baseline, with false discoveries among all cells of the run held at 5% "
    "(Benjamini and Hochberg)."
)


class Tables:
    """The tables of one run, each of at most `most` rows."""

    def __init__(self, source: Source, most: int) -> None:
        self.source, self.study, self.most = source, source.study, most

    def _table(
        self, columns: Sequence[str], rows: Sequence[Sequence[object]], missing: str, *notes: str, numbers_from: int = 1
    ) -> Markdown:
        """A table with notes below it; without rows, the reason why there is none."""
        if not rows:
            return Markdown(escape(missing))
        kept = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
        rest = len(rows) - self.most
        cut = [f"{counted(rest, 'more row')}: see report.html and raw_metrics.csv."] if rest > 0 else []
        shown = table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows[: self.most]], numbers_from)
        return Markdown("\n\n".join([shown, *map(escape, (*cut, *filter(None, notes)))]))

    def answer(self) -> Markdown:
        """The answer: headline, a row for each workload, notes; every text with the id of its value."""
        found = self.source.answer
        rows = [[valued(i, text) if text else None for i, text in found.cells(row)] for row in found.rows]
        # The headline has been given in the abstract; all rows are printed, for none may be hidden.
        parts = [table(list(found.columns.values()), rows, len(found.columns))] if rows else []
        parts += [valued(f"note-{i}", note) for i, note in enumerate(found.notes, 1)]
        return Markdown("\n\n".join(parts or [valued("headline", found.headline)]))

    def cells(self) -> Markdown:
        """Every cell: time, speed, first text, memory, energy."""
        rows = [
            (
                self.study.label(s.cell),
                s.cell.steps,
                s.cell.batch_size,
                f"{s.cell.prompt_tokens}+{s.cell.new_tokens}",
                spread(s.latency.interval.times(1e3)) if s.latency else s.status_text,
                s.speedup and spread(s.speedup),
                None if s.pace in ("unknown", "unclear") else s.pace,
                s.state,
                None if s.first_text_s is None else sig(1e3 * s.first_text_s),
                s.memory and gib(s.memory.bytes),
                s.joules_per_token and sig(s.joules_per_token.value),
            )
            for s in self.study.cells
        ]
        columns = ("cell", "K", "B", "P+G", "latency [ms]", "speed, x baseline's", "shown", "state", "first text [ms]")
        return self._table((*columns, "memory", "J/token"), rows, "No cell is on record.", FALSE_DISCOVERIES)

    def quality(self) -> Markdown:
        """Every metric of every set of texts; a row for each step count."""
        scored = group_by((s for s in self.study.cells if s.quality), lambda s: s.cell.quality_key)
        shown = [group[0] for group in scored.values()]
        metrics = list(dict.fromkeys(q.metric for s in shown for q in s.quality))
        rows = [
            (
                f"{self.study.label(s.cell)}, {shape(s.cell, batch=False)}",
                s.cell.steps,
                *(_quality(s.quality_in(m.name)) for m in metrics),
            )
            for s in shown
        ]
        texts = listed(sorted({q.n for s in shown for q in s.quality}))
        note = f"{'; '.join(map(_legend, metrics))}. Texts a cell: {texts}."
        columns = ("texts of", "K", *(m.display_name for m in metrics))
        return self._table(columns, rows, f"Not measured: {self.why_no_quality()}.", note)

    def why_no_quality(self) -> str:
        """Why there is no parity in this run."""
        if self.source.random:
            return f"the weights of {listed(self.source.random)} are random"
        if not self.study.metrics:
            return "no metric was scored"
        if not self.study.baselines:
            return "there is no autoregressive baseline in the run"
        return "no metric of quality was scored text by text for both models"

    def parity(self) -> Markdown:
        """S_parity of every set of texts, by each metric at each of its margins."""
        rows = [
            (
                name_of(curve, batch=False),
                p.metric.display_name,
                f"{p.parity.delta:g}",
                p.outcome_text,
                p.parity.literal_steps,
                None if p.parity.is_monotone else "not monotone",
            )
            for curve in self.source.scored_curves
            for p in sorted(curve.parities, key=lambda p: (p.metric.rank, p.parity.delta != p.metric.margin))
        ]
        columns = ("setting", "metric", "margin", "parity", "first K that passes", "curve")
        note = "A metric's first margin is its leading one. First K that passes: by itself, whatever larger ones do."
        return self._table(columns, rows, f"Not measured: {self.why_no_quality()}.", note, numbers_from=6)

    def break_even(self) -> Markdown:
        """k* of every setting with its line."""
        rows = []
        for c in self.study.curves:
            line = c.break_even
            # No time is below zero, but a line's intercept can be: by noise, or where latency bends.
            fixed = line and (seconds(line.intercept_s) if line.intercept_s > 0 else "below 0")
            deviation = line and (percent(line.largest_residual) if line.is_checked else "two points")
            shown = line.text() if line else "not known"
            rows.append((name_of(c), shown, fixed, line and seconds(line.slope_s), deviation))
        columns = ("setting", "break-even k*", "fixed time", "time per step", "off the line")
        return self._table(columns, rows, "No curve over K is in this run.")

    def figures(self) -> Markdown:
        """Every figure with its caption; those without data in one line."""
        drawn = [f for f in self.source.figures if f.picture]
        parts = [
            f"![{escape(f.title)}]({f.picture})\n\n*Figure {i}.* {escape(f.caption)}" for i, f in enumerate(drawn, 1)
        ]
        lost = [f"{f.title}: {f.missing}" for f in self.source.figures if f.missing]
        parts += [escape(f"Not drawn: {'; '.join(lost)}.")] if lost else []
        return Markdown("\n\n".join(parts) or "There are no figures.")

    def texts(self) -> Markdown:
        """The same prompt continued by the baseline, and by diffusion at the fewest and the most steps."""
        if self.source.random:
            return Markdown("Not shown: random weights write noise.")
        parts = []
        for writer, text in self.source.sample_texts(most=2)[1]:
            cut = text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]} ..."
            parts.append(f"{escape(writer)}:\n\n{quote(cut)}")
        return Markdown("\n\n".join(parts) or "Not shown: no text of one prompt is stored for both models.")

    def findings(self) -> Markdown:
        """One row per kind of finding: how often, the first, and the advice."""
        rows = [(g[0].severity, len(g), g[0].message, g[0].hint) for g in self.source.finding_groups]
        return self._table(("severity", "times", "first", "advice"), rows, "Every check passed.", numbers_from=4)

    def missing(self) -> Markdown:
        """What was not measured, each reason once, with the first of what it concerns."""
        items = []
        for lacking in self.source.not_measured():
            examples = f" ({first_of(lacking.examples, 2)})" if lacking.examples else ""
            items.append(f"{lacking.what}: {lacking.why}{examples}.")
        measured = {m.name for m in self.study.metrics}
        wanted = {
            n for n in registry.loadable("metrics") if registry.attribute("metrics", n, "REPORT_IF_MISSING", False)
        }
        if absent := [registry.attribute("metrics", name, "TITLE", name) for name in sorted(wanted - measured)]:
            items.append(f"Not scored: {listed(absent)}.")
        optional = {"energy": "energy", "first_text_s": "times inside a generation", "memory": "peak memory"}
        absent = [text for name, text in optional.items() if all(getattr(s, name) is None for s in self.study.cells)]
        items += [f"Not on record: {listed(absent)}."] if absent else []
        return bullets(items[: self.most] or ["Nothing of the plan is missing."])

    def commands(self) -> Markdown:
        """The commands of this run as code; as escaped text where a name in them could end the code."""
        lines = self.source.commands
        safe = all(re.fullmatch(r"[\w ./:='@+,-]+", line) for line in lines)
        return Markdown("\n".join(["```", *lines, "```"])) if safe else bullets(lines)

    def questions(self) -> Markdown:
        """Every hypothesis and question that was measured, with its answer."""
        return table(("hypothesis or question", "measured"), answers(self.source)[0], 2)

    def unanswered(self) -> str:
        """The questions that this run did not measure, in one line."""
        return " ".join(answers(self.source)[1])

    def limits(self) -> Markdown:
        """What a reader must not conclude from this run."""
        return bullets(list(self._limits()))

    def _limits(self) -> Iterator[str]:
        source, env = self.source, self.source.run.environment
        others = [m.key for m in source.models if not is_published(m) or m.weights != "pretrained"]
        if others:
            yield f"Not the published 8B checkpoints with their trained weights: {listed(others)}."
        if source.random:
            yield "The weights are random: times, memory and energy are real, quality was not measured."
        yield f"One device: {env.device if env else 'not on record'}. Other hardware may rank the models differently."
        if env is not None and env.cuda is None:
            yield "There was no GPU. Ratios of times on a CPU do not carry over to one."
        yield f"One engine for both models ({self.values('engine')}): not the best implementation of each."
        if self.study.metrics and not source.random:
            n = sorted({q.n for s in self.study.cells for q in s.quality})
            yield f"Quality rests on {listed(n)} texts a cell."
        if source.noise_floor:
            yield source.noise_floor

    def knobs(self) -> str:
        """Every setting of the diffusion sampler with its values."""
        targets = self.source.of_role("target")
        names = dict.fromkeys(name for s in targets for name, _ in s.cell.knobs if name != "steps")
        known = {n: dict.fromkeys(plain(s.cell.knob(n)) for s in targets if n in dict(s.cell.knobs)) for n in names}
        return "; ".join(f"{n.replace('_', ' ')} {listed(values)}" for n, values in known.items())

    def lengths(self) -> str:
        """Every N with its P and G."""
        shapes = sorted({(s.cell.sequence_length, s.cell.prompt_tokens, s.cell.new_tokens) for s in self.study.cells})
        shown = [f"{n} ({p}+{g})" for n, p, g in shapes]
        return listed(shown if len(shown) <= self.most else [*shown[: self.most], f"{len(shown) - self.most} more"])

    def values(self, name: str) -> str:
        """The values of an axis, as a list."""
        return listed(map(plain, self.source.values(name)))

    def clock(self) -> str:
        """Which clock timed the cells."""
        names = {"cuda": "CUDA events", "wall": "the host's wall clock (there is no GPU)"}
        clocks = dict.fromkeys(s.clock for r in self.source.run.results for s in r.timed)
        return listed(names.get(c, c) for c in clocks) if clocks else "no cell was timed"

    def repetitions(self) -> str:
        """How many processes and timed repetitions there are."""
        timed = [r.timed for r in self.source.run.results if r.timed]
        if not timed:
            return "No cell was timed."
        per_cell, processes = sorted(map(len, timed)), sorted(len({s.process_id for s in t}) for t in timed)
        ends = (f"{v[0]}" if v[0] == v[-1] else f"{v[0]} to {v[-1]}" for v in (per_cell, processes))
        return "On record: {} timed repetitions a cell; processes: {}.".format(*ends)

    def counts(self) -> str:
        """How many cells there are and how they ended."""
        ended = [c.status_text for c in self.study.cells]
        parts = [f"{ended.count(s)} {_STATUS.get(s, s)}" for s in dict.fromkeys(ended)]
        lost = len(self.source.run.left_out)
        out = f" {counted(lost, 'combination')} of the grid could not be run." if lost else ""
        return f"{counted(len(ended), 'cell')}: {listed(parts)}.{out}" if ended else f"No cell is on record.{out}"


_STATUS = {
    "ok": "complete",
    "unfinished": "with timed repetitions but not complete",
    "oom": "out of memory",
    "invalid": "with invalid output",
    "error": "ended by an error",
}


def _legend(metric: MetricInfo) -> str:
    if metric.truth_of is not None:
        return f"{metric.display_name} [{metric.unit}], the true continuation's own score, of no model"
    return metric.title


def _quality(value: Quality | None) -> str | None:
    if value is None:
        return None
    if value.low is None or value.high is None:
        return sig(value.value)
    return spread(Interval(value.value, value.low, value.high))
