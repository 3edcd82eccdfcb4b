"""report.html: the answer, then the evidence, in one file that makes no network request.

The page allows exactly two scripts, named by their hashes (a content security policy): its own and Vega's. Whatever
text a run contains can therefore not become a third, even if an escape were forgotten. Text is escaped by the template,
names in figures where they enter a figure, and the data of table and figures are packed (gzip, base64), an alphabet in
which no tag can be written.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from dlmbench.analysis.answer import answer
from dlmbench.analysis.results import CellSummary, Study
from dlmbench.analysis.summary_table import block_length
from dlmbench.charts import style as charts_style
from dlmbench.errors import BenchError
from dlmbench.report.figures import PageFigure, packed, page_figures
from dlmbench.report.numbers import counted, gib
from dlmbench.report.source import Source, load_settings
from dlmbench.report.use_cases import UseCaseAnswer, use_case_answers
from dlmbench.results.journal import replace_file
from dlmbench.types import Run

PAGE = "report.html"
MOST_LISTED = 20
MOST_TEXTS = 6


@dataclass(frozen=True)
class Column:
    """A column of the table of cells. digits: decimals shown, None for text."""

    key: str
    title: str
    unit: str
    digits: int | None
    help: str


@dataclass(frozen=True)
class CellTable:
    """The table of cells: `data` holds columns and values, packed."""

    columns: tuple[Column, ...]
    rows: int
    data: str
    unmeasured: tuple[str, ...]


@dataclass(frozen=True)
class NotMeasured:
    """Something that was not measured, why, and the first of what it concerns."""

    what: str
    why: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """Everything the template shows. texts: pairs of writer and text, after the prompt of that index."""

    source: Source
    answer: str
    use_cases: tuple[UseCaseAnswer, ...]
    figures: tuple[PageFigure, ...]
    table: CellTable
    texts_prompt: int
    texts: tuple[tuple[str, str], ...]
    missing: tuple[NotMeasured, ...]
    environment: tuple[tuple[str, str], ...]
    most_listed: int = MOST_LISTED
    random_weights: str = charts_style.RANDOM_WEIGHTS

    @property
    def drawn(self) -> tuple[PageFigure, ...]:
        """The figures that have something to show."""
        return tuple(f for f in self.figures if f.plot)

    @property
    def baselines(self) -> list[str]:
        """The keys of the autoregressive models."""
        return list(dict.fromkeys(c.cell.model.key for c in self.source.study.baselines))

    @property
    def targets(self) -> list[str]:
        """The keys of the diffusion models."""
        return list(dict.fromkeys(c.cell.model.key for c in self.source.targets))

    @property
    def statuses(self) -> str:
        """How many cells ended in which way, the most frequent first."""
        counts = Counter(c.status_text for c in self.source.study.cells)
        return ", ".join(f"{n:,} {status}" for status, n in counts.most_common())


def write(run: Run, study: Study, folder: Path, progress: Callable[[str], None] = lambda stage: None) -> Path:
    """Write the page into `folder` and return its path; `progress` is called with each stage.

    Raises:
        BenchError: jinja2 is not installed, or the folder cannot be written.
    """
    path = folder / PAGE
    replace_file(path, render(gather(run, study, progress)))
    return path


def gather(run: Run, study: Study, progress: Callable[[str], None] = lambda stage: None) -> Page:
    """Everything the page shows, from the run and its analysis."""
    progress("drawing the figures of the page")
    figures = page_figures(run, study)
    progress("collecting cells, findings and texts")
    source = Source(run, study, load_settings(run))
    table = cell_table(study)
    prompt, texts = source.sample_texts(MOST_TEXTS)
    return Page(
        source=source,
        answer=answer(study),
        use_cases=use_case_answers(study),
        figures=figures,
        table=table,
        texts_prompt=prompt,
        texts=() if source.random else texts,
        missing=tuple(_missing(source, figures, table)),
        environment=tuple(_environment(run)),
    )


def render(page: Page) -> str:
    """The page as HTML; every value is escaped by the template."""
    _needs("jinja2")
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    files = resources.files("dlmbench.report") / "templates"
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    vega = charting_script()
    environment = Environment(
        loader=PackageLoader("dlmbench.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        page=page,
        # Part of the package, not of a run: the only text that is not escaped.
        style=Markup(style),
        script=Markup(script),
        vega=packed(vega),
        policy=f"script-src {script_hash(script)} {script_hash(vega)}",
        colours=_packed_json(dict(charts_style.DARK)),
    )


def charting_script() -> str:
    """Vega, Vega-Lite and vega-embed as one script without names of its own, from the installed package."""
    import vl_convert

    bundle = vl_convert.javascript_bundle(None)  # type: ignore[arg-type]  # None is the default, and all of Vega
    return f'(() => {{"use strict";{bundle}}})()'


def script_hash(script: str) -> str:
    """A script as the content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}'"


def _needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise BenchError(f"the page needs {package}, which is not installed", "pip install 'dlmbench[report]'")


# ---------------------------------------------------------------- the table of cells


def cell_table(study: Study) -> CellTable:
    """A row for each cell; a column without any value is left out and named in `unmeasured`."""
    largest = max((c.memory.bytes for c in study.cells if c.memory), default=0)
    scale, unit, decimals = (1 << 30, "GiB", 2) if largest >= 2 << 30 else (1 << 20, "MiB", 0)
    rows = [_row(study, c, scale) for c in study.cells]
    columns = (
        Column("model", "model and settings", "", None, "the model, and the settings that distinguish it from others"),
        Column("status", "status", "", None, "ok, or why there is no value"),
        Column("steps", "K", "steps", 0, "diffusion steps"),
        Column("block", "block", "tokens", 0, "positions in a block"),
        Column("batch", "B", "texts", 0, "batch size"),
        Column("prompt", "P", "tokens", 0, "prompt tokens"),
        Column("new", "G", "tokens", 0, "new tokens"),
        Column("latency", "latency", "ms", 1, "median of a whole generation"),
        Column("low", "low", "ms", 1, "lower end of the 95% interval of the median"),
        Column("high", "high", "ms", 1, "upper end of the 95% interval of the median"),
        Column("rate", "throughput", "tokens/s", 1, "new tokens a second, whole batch"),
        Column("first", "first text", "ms", 1, "time to the first token (autoregressive) or first final block"),
        Column("memory", "peak memory", unit, decimals, "of one generation, weights included"),
        Column("energy", "energy", "J", 1, "of one generated batch"),
        Column("speedup", "speedup", "x", 2, "the baseline's latency over this one's"),
        Column("speedup_low", "low", "x", 2, "lower end of the speedup's 95% interval"),
        Column("speedup_high", "high", "x", 2, "upper end of the speedup's 95% interval"),
        *(
            Column(m.name, m.display_name, m.unit, 3, "higher is better" if m.higher_is_better else "lower is better")
            for m in study.metrics
        ),
        Column("n", "n", "", 0, "timed repetitions"),
    )
    empty = {c.key for c in columns if all(r.get(c.key) is None for r in rows)}
    kept = tuple(c for c in columns if c.key not in empty)
    values = [_coded([r.get(c.key) for r in rows]) for c in kept]
    data = _packed_json({"columns": [asdict(c) for c in kept], "values": values, "rows": len(rows)})
    unmeasured = tuple(c.title for c in columns if c.key in empty and c.digits is not None)
    return CellTable(kept, len(rows), data, unmeasured)


def _row(study: Study, summary: CellSummary, memory_scale: int) -> dict[str, Any]:
    cell, status = summary.cell, summary.status_text
    row: dict[str, Any] = {
        "model": study.label(cell),
        "status": f"{status}: {summary.reason}" if summary.reason and status != "ok" else status,
        "steps": cell.steps,
        "block": block_length(cell),
        "batch": cell.batch_size,
        "prompt": cell.prompt_tokens,
        "new": cell.new_tokens,
        "first": _rounded(summary.first_text_s, 1e3),
        "memory": _rounded(summary.memory.bytes, 1 / memory_scale) if summary.memory else None,
        "energy": _rounded(summary.energy.median) if summary.energy else None,
        "rate": _rounded(summary.throughput.median) if summary.throughput else None,
    }
    if summary.latency:
        latency = summary.latency.interval
        row |= {"latency": _rounded(latency.value, 1e3), "n": summary.latency.n}
        row |= {"low": _rounded(latency.low, 1e3), "high": _rounded(latency.high, 1e3)}
    if (ratio := summary.speedup) is not None:
        row |= {
            "speedup": _rounded(ratio.value),
            "speedup_low": _rounded(ratio.low),
            "speedup_high": _rounded(ratio.high),
        }
    return row | {q.metric.name: _rounded(q.value) for q in summary.quality}


def _rounded(value: float | None, factor: float = 1) -> float | None:
    """Five digits: more than is shown or known. None for an unknown value."""
    return None if value is None or not math.isfinite(value) else float(f"{value * factor:.5g}")


def _coded(values: Sequence[Any]) -> dict[str, Any]:
    """A column of text as its distinct words and an index for each row; any other column unchanged."""
    if not any(isinstance(v, str) for v in values):
        return {"values": list(values)}
    words = {v: i for i, v in enumerate(dict.fromkeys(values))}
    return {"words": list(words), "values": [words[v] for v in values]}


def _packed_json(value: object) -> str:
    return packed(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


# ---------------------------------------------------------------- what was not measured, and where


def _missing(source: Source, figures: Sequence[PageFigure], table: CellTable) -> Iterator[NotMeasured]:
    """Everything that is missing, from whole questions to single cells."""
    yield from (NotMeasured("The study", why) for why in source.study.missing)
    for reason, labels in sorted(source.left_out.items()):
        what = f"{counted(len(labels), 'combination')} left out of the plan"
        yield NotMeasured(what, reason, tuple(labels[:MOST_LISTED]))
    groups: dict[tuple[str, str], list[str]] = {}
    for c in source.study.cells:
        if c.latency is None:
            groups.setdefault((c.status_text, c.reason), []).append(c.cell.label)
    for (status, reason), labels in groups.items():
        text = "out of memory" if status == "oom" else status
        why = "planned, and not reached" if status == "not measured" else text
        why = reason if reason not in ("", text) else why
        yield NotMeasured(f"{counted(len(labels), 'cell')}: {text}", why, tuple(labels[:MOST_LISTED]))
    for reason, names in source.missing_of_curves.items():
        # Cells that failed have been named already.
        if not reason.startswith("K="):
            yield NotMeasured(f"{counted(len(names), 'curve')} over K", reason, tuple(names[:MOST_LISTED]))
    yield from (NotMeasured("Table column", f"{title}: no cell has a value") for title in table.unmeasured)
    yield from (NotMeasured("Figure", f"{f.title}: {f.missing}") for f in figures if f.missing)


def _environment(run: Run) -> Iterator[tuple[str, str]]:
    """Where the run took place; unknown values are named as such."""
    env = run.environment
    if env is None:
        return
    started = sorted(s.started_at for r in run.results for s in r.samples)
    when = " to ".join(t[:16].replace("T", " ") for t in (started[0], started[-1])) if started else None
    pairs: dict[str, object] = {
        "Device": f"{env.device_count} x {env.device}" if env.device_count > 1 else env.device,
        "Driver": env.driver,
        "CUDA": env.cuda,
        "Power cap": None if env.power_cap_w is None else f"{env.power_cap_w:g} W",
        "Processor": f"{env.cpu}, {counted(env.cpu_threads, 'thread')}",
        "Memory": gib(env.memory_bytes),
        "Python": env.python,
        "torch": env.torch,
        "transformers": env.transformers,
        "dlmbench": env.dlmbench + (f", commit {env.git_commit[:12]}" if env.git_commit else ""),
        "System": env.platform,
        "Host": f"{env.host} (a hash)",
        "Measured": when,
        "Environment id": env.id,
    }
    yield from ((name, "not known" if value is None else str(value)) for name, value in pairs.items())
