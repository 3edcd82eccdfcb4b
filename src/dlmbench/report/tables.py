"""The tables of a report as records, of which document and page are two views.

A row has an id and a column a key, so that a value has the id `row.key` and one text wherever it is printed.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dlmbench.analysis.break_even import BreakEven
from dlmbench.analysis.findings import in_one_line
from dlmbench.analysis.published import MARGIN, PublishedAnswer
from dlmbench.analysis.quality import MetricInfo, Quality
from dlmbench.analysis.results import CellSummary, Curve, Study
from dlmbench.analysis.stats import Interval, group_by
from dlmbench.charts.frames import memory_unit
from dlmbench.report.text import listed, percent, rounded, sig, spread, value_id
from dlmbench.types import Finding

FALSE_DISCOVERIES = (
    "Shown: faster or slower than the baseline, with false discoveries among all cells of the run held at 5% "
    "(Benjamini and Hochberg)."
)
Shown = Interval | float | int | str | None


@dataclass(frozen=True)
class Column:
    """A column. read: its value for what a row is about, or the path of the attribute that is it, times `factor`.

    unit: of all its numbers. page_only: it is left out of the document.
    """

    key: str
    title: str
    read: str | Callable[[Any], Shown]
    unit: str = ""
    help: str = ""
    page_only: bool = False
    factor: float = 1

    def value(self, item: Any) -> Shown:
        """The value for a row; None for an unknown one, as is any attribute of something that was not measured."""
        found: Shown
        if isinstance(self.read, str):
            found = functools.reduce(lambda of, name: getattr(of, name, None), self.read.split("."), item)
        else:
            found = self.read(item)
        if isinstance(found, Interval):
            return found.times(self.factor)
        return found * self.factor if isinstance(found, float | int) and self.factor != 1 else found

    @property
    def heading(self) -> str:
        """The title with the unit."""
        return f"{self.title} [{self.unit}]" if self.unit else self.title


_on_page = functools.partial(Column, page_only=True)


@dataclass(frozen=True)
class Table:
    """Rows with their ids, and a value for each column; `missing` says why there are none. notes stand below it.

    unmeasured: titles of columns without any value; constant: columns with one value in all rows, and its text. Both
    are left out of `columns`.
    """

    columns: tuple[Column, ...]
    ids: tuple[str, ...]
    rows: tuple[tuple[Shown, ...], ...]
    missing: str = ""
    notes: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()
    constant: tuple[tuple[Column, str], ...] = ()

    @property
    def marks(self) -> list[str]:
        """The alignment of each column in Markdown: numbers to the right."""
        return [":--" if any(isinstance(v, str) for v in values) else "--:" for values in zip(*self.rows, strict=True)]

    @property
    def texts(self) -> list[list[tuple[str, str]]]:
        """(value id, text) of every row."""
        return [
            [(value_id(row_id, c.key), text_of(value)) for c, value in zip(self.columns, row, strict=True)]
            for row_id, row in zip(self.ids, self.rows, strict=True)
        ]

    @property
    def in_document(self) -> Table:
        """The same without the columns of the page alone."""
        kept = [i for i, c in enumerate(self.columns) if not c.page_only]
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return replace(self, columns=tuple(self.columns[i] for i in kept), rows=rows)

    @property
    def constants(self) -> str:
        """The columns with one value in all rows, as a list."""
        return "; ".join(f"{column.title}: {text}" for column, text in self.constant)

    def as_json(self) -> str:
        """All of it for the page: ids, texts, and the numbers to sort by and to export."""
        columns = []
        for column, values in zip(self.columns, zip(*self.rows, strict=True), strict=True):
            record: dict[str, Any] = {n: getattr(column, n) for n in ("key", "title", "unit", "help")}
            record["texts"] = list(map(text_of, values))
            if not any(isinstance(v, str) for v in values):
                for end in ("value", "low", "high"):
                    numbers = [_number(v, end) for v in values]
                    record |= {end: numbers} if any(n is not None for n in numbers) else {}
            columns.append(record)
        # The terms that find every row, for a link that names all of a workload.
        terms = [f"{name}={text}".lower() for column, text in self.constant for name in (column.key, column.title)]
        record = {"ids": self.ids, "columns": columns, "constant": terms}
        return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def text_of(value: Shown) -> str:
    """A value as precise as its interval allows, to three digits without one; "" for an unknown one."""
    if isinstance(value, Interval):
        return spread(value) if value.is_known else rounded(value)
    if isinstance(value, int):
        return f"{value:,}"
    return sig(value) if isinstance(value, float) else value or ""


def _number(value: Shown, end: str) -> float | None:
    """To five digits, more than is known; None for an unknown one."""
    found: Any = getattr(value, end) if isinstance(value, Interval) else value if end == "value" else None
    if isinstance(found, float):
        return float(f"{found:.5g}") if math.isfinite(found) else None
    return None if found is None else int(found)


def tabulate(
    columns: Sequence[Column],
    items: Sequence[Any],
    ids: Iterable[str],
    missing: str = "",
    notes: Iterable[str] = (),
    drop_constant: Container[str] = (),
) -> Table:
    """A row for each item; columns without a value are left out, those of `drop_constant` also with a single one."""
    values = {c.key: [c.value(item) for item in items] for c in columns}
    known = [c for c in columns if any(v is not None for v in values[c.key])]
    unmeasured = tuple(c.title for c in columns if c not in known)
    same = [c for c in known[1:] if c.key in drop_constant and len(items) > 1 and len(set(values[c.key])) == 1]
    kept = tuple(c for c in known if c not in same)
    constant = tuple((c, text_of(values[c.key][0])) for c in same)
    rows = tuple(zip(*(values[c.key] for c in kept), strict=True))
    return Table(kept, tuple(ids), rows, missing, tuple(filter(None, notes)), unmeasured, constant)


def shape(cell: Any, batch: bool = True) -> str:
    """B, P and G of a cell or curve."""
    size = f"B={cell.batch_size}, " if batch else ""
    return f"{size}P={cell.prompt_tokens}, G={cell.new_tokens}"


def name_of(curve: Curve, batch: bool = True) -> str:
    """A curve's label and shape."""
    return f"{curve.label}, {shape(curve, batch)}"


# ---------------------------------------------------------------- the tables


def cell_table(study: Study) -> Table:
    """Every cell: settings, time, speed, quality, memory, energy."""
    scale, unit = memory_unit(max((c.memory.bytes for c in study.cells if c.memory), default=0))
    parities = {
        p.cell.id: lead.parity.state_of(point)
        for curve in study.curves
        if (lead := curve.headline()) is not None
        for p in curve.points
        for point in lead.parity.points
        if point.steps == p.cell.steps
    }
    metrics = [_metric_column(m) for m in study.metrics]

    first = "first token, or first final block, of one generation; the latency where one block is the whole text"
    columns = (
        Column("model", "model", lambda c: study.label(c.cell), "", "with the settings that differ"),
        Column("steps", "K", "cell.steps", "", "diffusion steps"),
        Column("batch", "B", "cell.batch_size", "", "batch size"),
        Column("prompt", "P", "cell.prompt_tokens", "", "prompt tokens"),
        Column("new", "G", "cell.new_tokens", "", "new tokens"),
        Column("latency", "latency", "latency.interval", "ms", "median of a whole generation", factor=1e3),
        Column("speedup", "speedup", "speedup", "x", "the baseline's latency over this one's"),
        Column("shown", "shown", lambda c: None if c.pace == "unknown" else c.pace, "", FALSE_DISCOVERIES),
        *metrics[:1],
        _on_page("parity", "parity", lambda c: parities.get(c.cell.id), "", "by the leading metric"),
        _on_page("rate", "throughput", "throughput.interval", "tokens/s", "new tokens, whole batch"),
        _on_page("useful", "useful throughput", "useful_throughput.interval", "tokens/s", "up to the end of text"),
        Column("first", "first text", "first_text_s", "ms", first, factor=1e3),
        Column("memory", "peak memory", "memory.bytes", unit, "of a generation, with weights", factor=1 / scale),
        _on_page("energy", "energy", "energy", "J", "of one generated batch"),
        Column("joules", "energy of a token", "joules_per_token", "J", "gross, idle included"),
        _on_page("useful_j", "energy of a useful token", "joules_per_useful_token", "J", "up to the end of text"),
        *metrics[1:],
        _on_page("block", "block", "block_length", "", "positions in a block"),
        Column("busy", "device busy before", "busy_before", "", "a repetition, for so long at the median"),
        _on_page("processes", "processes", "latency.processes", "", "that the interval of the latency rests on"),
        _on_page("n", "n", "latency.n", "", "timed repetitions"),
        Column("status", "status", _status, "", "ok, or why there is no value"),
    )
    missing = "No cell is on record."
    cells = by_workload(study.cells)
    return tabulate(columns, cells, [c.cell.id for c in cells], missing, [FALSE_DISCOVERIES], [c.key for c in columns])


def by_workload(cells: Iterable[CellSummary]) -> list[CellSummary]:
    """Cells of one workload together, the baseline first: the first rows of a table that is cut are a comparison."""
    return sorted(cells, key=lambda c: (c.cell.prompt_tokens, c.cell.new_tokens, c.cell.batch_size))


def _metric_column(metric: MetricInfo) -> Column:
    direction = "higher is better" if metric.higher_is_better else "lower is better"

    def read(cell: CellSummary) -> Shown:
        quality = cell.quality_in(metric.name)
        return None if quality is None else _interval(quality)

    return _on_page(metric.name, metric.display_name, read, metric.unit, direction)


def _interval(quality: Quality) -> Interval:
    return Interval(quality.value, *(math.nan if end is None else end for end in (quality.low, quality.high)))


def _status(cell: CellSummary) -> str:
    status = cell.status_text
    return f"{status}: {cell.reason}" if cell.reason and status != "ok" else status


def quality_table(study: Study, missing: str) -> Table:
    """Every metric of every set of texts; a row for each step count."""
    scored = group_by((s for s in study.cells if s.quality), lambda s: s.cell.quality_key)
    shown = by_workload(group[0] for group in scored.values())
    metrics = list(dict.fromkeys(q.metric for s in shown for q in s.quality))
    texts = listed(sorted({q.n for s in shown for q in s.quality}))
    columns = (
        Column("texts", "texts of", lambda s: f"{study.label(s.cell)}, {shape(s.cell, batch=False)}"),
        Column("steps", "K", "cell.steps"),
        *(replace(_metric_column(m), unit="", page_only=False) for m in metrics),
    )
    note = f"{'; '.join(map(_legend, metrics))}. Texts a cell: {texts}."
    return tabulate(columns, shown, [s.cell.id for s in shown], f"Not measured: {missing}.", [note])


def _legend(metric: MetricInfo) -> str:
    if metric.truth_of is not None:
        return f"{metric.display_name} [{metric.unit}], the true continuation's own score, of no model"
    return metric.title


def parity_table(curves: Iterable[Curve], missing: str) -> Table:
    """S_parity of every set of texts, by each metric at each of its margins."""
    columns = (
        Column("setting", "setting", lambda row: name_of(row[0], batch=False)),
        Column("metric", "metric", lambda row: row[1].metric.display_name),
        Column("margin", "margin", lambda row: f"{row[1].parity.delta:g}"),
        Column("parity", "as good from K", lambda row: row[1].text),
        Column("first", "first K that passes", lambda row: row[1].parity.literal_steps),
        Column("curve", "curve", lambda row: None if row[1].parity.is_monotone else "not monotone"),
    )
    rows = [
        (curve, p)
        for curve in curves
        for p in sorted(curve.parities, key=lambda p: (p.metric.rank, p.parity.delta != p.metric.margin))
    ]
    note = "A metric's first margin is its leading one. First K that passes: by itself, whatever larger ones do."

    ids = [f"{curve.points[0].cell.id}.{p.metric.name}-{p.parity.delta:g}" for curve, p in rows]
    return tabulate(columns, rows, ids, f"Not measured: {missing}.", [note])


def break_even_table(curves: Sequence[Curve]) -> Table:
    """k* of every setting with its line."""

    def fixed(line: BreakEven) -> str:
        # No time is below zero, but a line's intercept can be: by noise, or where latency bends.
        return sig(1e3 * line.intercept_s) if line.intercept_s > 0 else "below 0"

    def off(line: BreakEven) -> str:
        return percent(line.largest_residual) if line.is_checked else "two points"

    columns = (
        Column("setting", "setting", name_of),
        Column("steps", "faster only up to k*", lambda c: c.break_even.text() if c.break_even else "not known"),
        Column("fixed", "fixed time", lambda c: c.break_even and fixed(c.break_even), "ms"),
        Column("slope", "time per step", "break_even.slope_s", "ms", factor=1e3),
        Column("off", "off the line", lambda c: c.break_even and off(c.break_even)),
    )
    return tabulate(columns, curves, [f"{c.points[0].cell.id}.line" for c in curves], "No curve over K is in this run.")


def published_table(answers: Sequence[PublishedAnswer]) -> Table:
    """Parity by published scores, with the speed that this run measured there."""

    def quality(answer: PublishedAnswer) -> str:
        row = answer.curve.points[0] if answer.curve else answer.score
        parts = (row.task, row.variant, row.commit, "" if row.cache in ("", "none") else f"cache {row.cache}")
        # Hollow: read at second hand, or no share of the items.
        return f"{'○ ' if answer.score.problem else ''}{', '.join(filter(None, parts))} ({row.source})"

    def baseline(answer: PublishedAnswer) -> str | None:
        return f"{answer.score.value:g}" if answer.curve else None

    columns = (
        Column("quality", "published quality", quality),
        Column("baseline", "baseline's score", baseline),
        _on_page("source", "its source", lambda a: a.score.source if a.curve else None),
        Column("parity", "as good from K", _published_parity),
        Column("setting", "measured", lambda a: name_of(a.measured) if a.measured else None),
        Column("steps", "at K", "steps"),
        Column("speed", "speed there", "speed", "x"),
        _on_page("reason", "no time because", lambda a: a.reason if a.curve and a.reason else None),
    )
    notes = (
        f"As good: at most {MARGIN:g} points worse. Hollow marks (○) decide nothing. "
        "Without parity a speed is no speed at equal quality.",
    )
    missing = "No published scores belong to this run: `published:` in the experiment file, or `--published`."
    return tabulate(columns, answers, [f"published-{i}" for i in range(len(answers))], missing, notes)


def _published_parity(answer: PublishedAnswer) -> str:
    if answer.curve is None:
        return f"decides nothing: {answer.reason}" if answer.score.problem else f"not derivable: {answer.reason}"
    parity = answer.curve.parity
    return parity.text(answer.curve.points[-1].forwards or 0) + ("" if parity.is_monotone else ", not monotone")


def finding_table(groups: Sequence[Sequence[Finding]]) -> Table:
    """One row per kind of finding: how often, the first and where else, and the advice."""
    columns = (
        Column("severity", "severity", lambda group: group[0].severity),
        Column("times", "times", len),
        Column("finding", "finding", in_one_line),
        Column("advice", "advice", lambda group: group[0].hint),
    )
    return tabulate(columns, groups, [f"{g[0].code}.{g[0].severity}" for g in groups], "Every check passed.")
