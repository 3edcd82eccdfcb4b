"""What the page shows, as plain values: the table of cells, figures, findings, what was not measured, where and how.

Nothing here is markup. Text is escaped by the template, names in figures where they enter a figure, and the data of
table and figures travel packed (gzip, base64), an alphabet in which no tag can be written.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from dlmbench import registry
from dlmbench.analysis.answer import block_length
from dlmbench.analysis.study import CellSummary, Study
from dlmbench.charts.frames import why_missing
from dlmbench.charts.write import caption, csv_of, names_in_order
from dlmbench.report.numbers import counted, gib
from dlmbench.results import GENERATIONS, read_generations
from dlmbench.types import Cell, Finding, Run

MOST_LISTED = 20
MOST_TEXTS = 6


def packed(text: str) -> str:
    """Text as base64 of gzip, the same bytes every time."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")


def packed_json(value: object) -> str:
    """A value as packed JSON."""
    return packed(_json(value))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


# ---------------------------------------------------------------- figures


@dataclass(frozen=True)
class PageFigure:
    """One figure: `plot` and `csv` packed. Where nothing could be drawn, `missing` says why and plot is empty."""

    name: str
    title: str
    caption: str
    missing: str = ""
    plot: str = ""
    csv: str = ""
    height_px: int = 0
    views: tuple[str, ...] = ()


def figures(run: Run, study: Study) -> tuple[PageFigure, ...]:
    """Every figure in its order, those not measured included."""
    return tuple(_figure(run, study, name) for name in names_in_order())


def _figure(run: Run, study: Study, name: str) -> PageFigure:
    title = re.split(r"[,:]", registry.summary("figures", name))[0].rstrip(".")
    try:
        module = registry.load("figures", name)
        frame = module.points(run, study)
        if why := why_missing(frame):
            return PageFigure(name, title, "", missing=why)
        plot = module.interactive(frame)
        views = (plot.layout.meta or {}).get("views", ())
        return PageFigure(
            name,
            title,
            caption(module, frame, on_page=True),
            plot=packed(plot.to_json()),
            csv=packed(csv_of(frame)),
            height_px=int(plot.layout.height or 400),
            views=tuple(str(v["label"]).replace("\n", ", ") for v in views),
        )
    except Exception as error:  # whatever one figure does, the page stands and says so
        return PageFigure(name, title, "", missing=f"it could not be drawn ({type(error).__name__}: {error})")


# ---------------------------------------------------------------- cells


@dataclass(frozen=True)
class Column:
    """A column of the table of cells. digits: decimals shown, None for text."""

    key: str
    title: str
    unit: str
    digits: int | None
    help: str


@dataclass(frozen=True)
class Table:
    """The table of cells: `data` holds columns and values, packed."""

    columns: tuple[Column, ...]
    rows: int
    data: str
    unmeasured: tuple[str, ...]


def table(run: Run, study: Study) -> Table:
    """A row for each cell; a column that no cell has a value in is left out and named in `unmeasured`."""
    scale, unit = _memory_unit(study)
    rows = [_row(study, c, scale) for c in study.cells]
    metrics = [
        Column(m.name, m.words, m.unit, 3, "higher is better" if m.higher_is_better else "lower is better")
        for m in study.metrics
    ]
    columns = (*_columns(unit), *metrics, _N)
    empty = {c.key for c in columns if all(r.get(c.key) is None for r in rows)}
    kept = tuple(c for c in columns if c.key not in empty)
    values = [[r.get(c.key) for r in rows] for c in kept]
    document = {"columns": [asdict(c) for c in kept], "values": [_coded(v) for v in values], "rows": len(rows)}
    unmeasured = tuple(c.title for c in columns if c.key in empty and c.digits is not None)
    return Table(kept, len(rows), packed_json(document), unmeasured)


_N = Column("n", "n", "", 0, "timed repetitions")


def _columns(memory: str) -> tuple[Column, ...]:
    return (
        Column("model", "model and settings", "", None, "the model, and the settings that tell it from others"),
        Column("status", "status", "", None, "ok, or why there is no value"),
        Column("steps", "K", "steps", 0, "diffusion steps"),
        Column("block", "block", "tokens", 0, "positions a block"),
        Column("batch", "B", "texts", 0, "batch size"),
        Column("prompt", "P", "tokens", 0, "prompt tokens"),
        Column("new", "G", "tokens", 0, "new tokens"),
        Column("latency", "latency", "ms", 1, "median of a whole generation"),
        Column("low", "low", "ms", 1, "lower end of the 95% interval of the median"),
        Column("high", "high", "ms", 1, "upper end of the 95% interval of the median"),
        Column("rate", "throughput", "tokens/s", 1, "new tokens a second, whole batch"),
        Column("first", "first text", "ms", 1, "time to the first token (autoregressive) or first final block"),
        Column("memory", "peak memory", memory, 2 if memory == "GiB" else 0, "of one generation, weights included"),
        Column("energy", "energy", "J", 1, "of one generated batch"),
        Column("speedup", "speedup", "x", 2, "the baseline's latency over this one's"),
        Column("speedup_low", "low", "x", 2, "lower end of the speedup's 95% interval"),
        Column("speedup_high", "high", "x", 2, "upper end of the speedup's 95% interval"),
    )


def _memory_unit(study: Study) -> tuple[int, str]:
    largest = max((c.memory.bytes for c in study.cells if c.memory), default=0)
    return (1 << 30, "GiB") if largest >= 2 << 30 else (1 << 20, "MiB")


def _row(study: Study, summary: CellSummary, memory_scale: int) -> dict[str, Any]:
    cell = summary.cell
    status = summary.status or ("unfinished" if summary.latency else "not measured")
    row: dict[str, Any] = {
        "model": study.label(cell),
        "status": f"{status}: {summary.reason}" if summary.reason and status != "ok" else status,
        "steps": cell.steps,
        "block": block_length(cell),
        "batch": cell.batch_size,
        "prompt": cell.prompt_tokens,
        "new": cell.new_tokens,
        "first": _short(summary.first_text_s, 1e3),
        "memory": _short(summary.memory.bytes, 1 / memory_scale) if summary.memory else None,
        "energy": _short(summary.energy.median) if summary.energy else None,
    }
    if summary.latency:
        row |= {n: _short(getattr(summary.latency, f), 1e3) for n, f in (("latency", "median"), ("low", "low"))}
        row |= {"high": _short(summary.latency.high, 1e3), "n": summary.latency.n}
    if summary.throughput:
        row["rate"] = _short(summary.throughput.median)
    if summary.speedup:
        ratio = summary.speedup
        row |= {"speedup": _short(ratio.value), "speedup_low": _short(ratio.low), "speedup_high": _short(ratio.high)}
    return row | {q.metric.name: _short(q.value) for q in summary.quality}


def _short(value: float | None, factor: float = 1) -> float | None:
    """Five figures: more than is shown or known."""
    return None if value is None or not math.isfinite(value) else float(f"{value * factor:.5g}")


def _coded(values: Sequence[Any]) -> dict[str, Any]:
    """A column of text as its distinct words and a number for each row; any other as it is."""
    if not any(isinstance(v, str) for v in values):
        return {"values": list(values)}
    words = {v: i for i, v in enumerate(dict.fromkeys(values))}
    return {"words": list(words), "values": [words[v] for v in values]}


# ---------------------------------------------------------------- findings


@dataclass(frozen=True)
class FindingGroup:
    """Findings of one kind: the advice once, the messages of as many as are read."""

    severity: str
    title: str
    hints: tuple[str, ...]
    messages: tuple[str, ...]
    count: int


def findings(study: Study) -> tuple[FindingGroup, ...]:
    """Findings by kind, errors first."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for f in study.findings:
        groups.setdefault((f.severity, f.code), []).append(f)
    return tuple(
        FindingGroup(
            severity,
            code.replace("_", " "),
            tuple(dict.fromkeys(f.hint for f in found)),
            tuple(f.message for f in found[:MOST_LISTED]),
            len(found),
        )
        for (severity, code), found in groups.items()
    )


# ---------------------------------------------------------------- what was not measured


@dataclass(frozen=True)
class Missing:
    """Something that was not measured, why, and the first of what it concerns."""

    what: str
    why: str
    examples: tuple[str, ...] = ()


def missing(run: Run, study: Study, drawn: Sequence[PageFigure], cells: Table) -> tuple[Missing, ...]:
    """Everything the run does not say, from whole questions to single cells."""
    return (
        *(Missing("The study", why) for why in study.missing),
        *_left_out(run),
        *_failed(study),
        *_of_curves(study),
        *(Missing("Table column", f"{title}: no cell has a value") for title in cells.unmeasured),
        *(Missing("Figure", f"{f.title}: {f.missing}") for f in drawn if f.missing),
    )


def _left_out(run: Run) -> Iterator[Missing]:
    ordered = sorted(run.left_out, key=lambda o: o.reason)
    for reason, group in groupby(ordered, key=lambda o: o.reason):
        labels = [o.label for o in group]
        yield Missing(
            f"{counted(len(labels), 'combination')} left out of the plan", reason, tuple(labels[:MOST_LISTED])
        )


def _failed(study: Study) -> Iterator[Missing]:
    groups: dict[tuple[str, str], list[str]] = {}
    for c in study.cells:
        if c.latency is None:
            groups.setdefault((c.status or "not measured", c.reason), []).append(c.cell.label)
    for (status, reason), labels in groups.items():
        words = {"oom": "out of memory"}.get(status, status)
        why = (
            reason if reason and reason != words else "planned, and not reached" if status == "not measured" else words
        )
        yield Missing(f"{counted(len(labels), 'cell')}: {words}", why, tuple(labels[:MOST_LISTED]))


def _of_curves(study: Study) -> Iterator[Missing]:
    where: dict[str, list[str]] = {}
    for curve in study.curves:
        name = f"{curve.label}, B={curve.batch_size}, P={curve.prompt_tokens}, G={curve.new_tokens}"
        for text in curve.missing:
            # Cells that failed have been named already.
            if not text.startswith("K="):
                where.setdefault(text, []).append(name)
    for text, names in where.items():
        yield Missing(f"{counted(len(names), 'curve')} over K", text, tuple(names[:MOST_LISTED]))


# ---------------------------------------------------------------- texts


@dataclass(frozen=True)
class Text:
    """One generated text and who wrote it."""

    writer: str
    text: str


def texts(run: Run, study: Study) -> tuple[int, tuple[Text, ...]]:
    """What the models wrote after one prompt: its place in the prompt set, and a text for the baseline and some K."""
    if not (Path(run.folder) / GENERATIONS).is_file():
        return 0, ()
    found: dict[str, dict[int, str]] = {}
    keys = {c.cell.id: c.cell.quality_key for c in study.cells}
    for g in read_generations(Path(run.folder)):
        if g.text and g.cell_id in keys:
            found.setdefault(keys[g.cell_id], {})[g.prompt_index] = g.text
    wanted = [c for c in _writers(study) if c.quality_key in found]
    shared = set.intersection(*(set(found[c.quality_key]) for c in wanted)) if wanted else set()
    if not shared:
        return 0, ()
    prompt = min(shared)
    return prompt, tuple(Text(_writer(study, c), found[c.quality_key][prompt]) for c in wanted)


def _writers(study: Study) -> Iterable[Cell]:
    """The baseline, then the first curve from few to many steps."""
    curve = next(iter(study.curves), None)
    base = (curve.quality_baseline or curve.baseline) if curve else next(iter(study.baselines), None)
    points = [p.cell for p in curve.points] if curve else []
    if len(points) > MOST_TEXTS:
        points = [points[round(i * (len(points) - 1) / (MOST_TEXTS - 1))] for i in range(MOST_TEXTS)]
    return [*([base.cell] if base else []), *points]


def _writer(study: Study, cell: Cell) -> str:
    return study.label(cell) + (f", K={cell.steps}" if cell.steps is not None else " (autoregressive)")


# ---------------------------------------------------------------- where and how


def environment(run: Run) -> tuple[tuple[str, str], ...]:
    """Where the run took place, in words; unknown is said."""
    env = run.environment
    if env is None:
        return ()
    started = sorted(s.started_at for r in run.results for s in r.samples)
    when = f"{started[0][:16].replace('T', ' ')} to {started[-1][:16].replace('T', ' ')}" if started else None
    pairs: list[tuple[str, object]] = [
        ("Device", f"{env.device_count} x {env.device}" if env.device_count > 1 else env.device),
        ("Driver", env.driver),
        ("CUDA", env.cuda),
        ("Power cap", None if env.power_cap_w is None else f"{env.power_cap_w:g} W"),
        ("Processor", f"{env.cpu}, {counted(env.cpu_threads, 'thread')}"),
        ("Memory", gib(env.memory_bytes)),
        ("Python", env.python),
        ("torch", env.torch),
        ("transformers", env.transformers),
        ("dlmbench", env.dlmbench + (f", commit {env.git_commit[:12]}" if env.git_commit else "")),
        ("System", env.platform),
        ("Host", f"{env.host} (a hash)"),
        ("Measured", when),
        ("Environment id", env.id),
    ]
    return tuple((name, "not known" if value is None else str(value)) for name, value in pairs)


def statuses(study: Study) -> str:
    """How the cells ended: `12 cells: 11 ok, 1 oom`."""
    counts = Counter(c.status or ("unfinished" if c.latency else "not measured") for c in study.cells)
    return f"{counted(len(study.cells), 'cell')}: " + ", ".join(f"{n:,} {s}" for s, n in counts.most_common())
