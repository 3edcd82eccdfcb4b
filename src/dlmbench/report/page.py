"""report.html: the answer, then the evidence, in one file that makes no network request.

The page allows exactly two scripts, named by their hashes (a content security policy): its own and Vega's. Whatever
text a run contains can therefore not become a third, even if an escape were forgotten. Text is escaped by the template,
names in figures where they enter a figure, and the data of table and figures are packed (gzip, base64), an alphabet in
which no tag can be written.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from dlmbench.analysis.results import CellSummary, Study
from dlmbench.charts import style as charts_style
from dlmbench.report.answer import BADGES, answer
from dlmbench.report.figures import packed, page_figures
from dlmbench.report.source import NotMeasured, Source, load_settings
from dlmbench.report.use_cases import use_case_answers
from dlmbench.results.journal import replace_file
from dlmbench.types import Run

PAGE = "report.html"
MOST_LISTED = 20
MOST_TEXTS = 6


@dataclass(frozen=True)
class Column:
    """A column of the table of cells. digits: decimals shown, None for text.

    path: the attribute of a `CellSummary` that is shown, times `factor`; "" for columns that are not one attribute.
    """

    key: str
    title: str
    unit: str
    digits: int | None
    help: str
    path: str = ""
    factor: float = 1


@dataclass(frozen=True)
class CellTable:
    """The table of cells: `data` holds columns and values, packed."""

    columns: tuple[Column, ...]
    rows: int
    data: str
    unmeasured: tuple[str, ...]


def write(run: Run, study: Study, folder: Path, progress: Callable[[str], None] = lambda stage: None) -> Path:
    """Write the page into `folder` and return its path; `progress` is called with each stage.

    Raises:
        BenchError: the folder cannot be written.
    """
    path = folder / PAGE
    replace_file(path, render(gather(run, study, progress)))
    return path


def gather(run: Run, study: Study, progress: Callable[[str], None] = lambda stage: None) -> dict[str, Any]:
    """Everything the template shows as `page`, from the run and its analysis."""
    progress("drawing the figures of the page")
    figures = page_figures(run, study)
    progress("collecting cells, findings and texts")
    source = Source(run, study, load_settings(run))
    table = cell_table(study)
    prompt, texts = source.sample_texts(MOST_TEXTS)
    ended = Counter(c.status_text for c in study.cells)
    return {
        "source": source,
        "baselines": list(dict.fromkeys(c.cell.model.key for c in study.baselines)),
        "targets": list(dict.fromkeys(c.cell.model.key for c in source.of_role("target"))),
        "answer": answer(study),
        "use_cases": use_case_answers(study),
        "badges": BADGES,
        "drawn": [f for f in figures if f.plot],
        "table": table,
        "statuses": ", ".join(f"{n:,} {status}" for status, n in ended.most_common()),
        # Pairs of writer and text, after the prompt of that index.
        "texts_prompt": prompt,
        "texts": () if source.random else texts,
        "missing": [
            *source.not_measured(),
            *(NotMeasured("Table column", f"{title}: no cell has a value") for title in table.unmeasured),
            *(NotMeasured("Figure", f"{f.title}: {f.missing}") for f in figures if f.missing),
        ],
        "environment": source.environment,
        "most_listed": MOST_LISTED,
        "random_weights": charts_style.RANDOM_WEIGHTS,
    }


def render(page: dict[str, Any]) -> str:
    """The page as HTML; every value is escaped by the template."""
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


# ---------------------------------------------------------------- the table of cells


def cell_table(study: Study) -> CellTable:
    """A row for each cell; a column without any value is left out and named in `unmeasured`."""
    largest = max((c.memory.bytes for c in study.cells if c.memory), default=0)
    scale, unit, decimals = (1 << 30, "GiB", 2) if largest >= 2 << 30 else (1 << 20, "MiB", 0)
    columns = (
        Column("model", "model and settings", "", None, "the model, and the settings that distinguish it from others"),
        Column("status", "status", "", None, "ok, or why there is no value"),
        Column("steps", "K", "steps", 0, "diffusion steps", "cell.steps"),
        Column("block", "block", "tokens", 0, "positions in a block", "block_length"),
        Column("batch", "B", "texts", 0, "batch size", "cell.batch_size"),
        Column("prompt", "P", "tokens", 0, "prompt tokens", "cell.prompt_tokens"),
        Column("new", "G", "tokens", 0, "new tokens", "cell.new_tokens"),
        Column("latency", "latency", "ms", 1, "median of a whole generation", "latency.median", 1e3),
        Column("low", "low", "ms", 1, "lower end of the 95% interval of the median", "latency.interval.low", 1e3),
        Column("high", "high", "ms", 1, "upper end of the 95% interval of the median", "latency.interval.high", 1e3),
        Column("rate", "throughput", "tokens/s", 1, "new tokens a second, whole batch", "throughput.median"),
        Column(
            *("first", "first text", "ms", 1, "time to the first token (autoregressive) or first final block"),
            *("first_text_s", 1e3),
        ),
        Column(
            *("memory", "peak memory", unit, decimals, "of one generation, weights included"),
            *("memory.bytes", 1 / scale),
        ),
        Column("energy", "energy", "J", 1, "of one generated batch", "energy.median"),
        Column("speedup", "speedup", "x", 2, "the baseline's latency over this one's", "speedup.value"),
        Column("speedup_low", "low", "x", 2, "lower end of the speedup's 95% interval", "speedup.low"),
        Column("speedup_high", "high", "x", 2, "upper end of the speedup's 95% interval", "speedup.high"),
        *(
            Column(m.name, m.display_name, m.unit, 3, "higher is better" if m.higher_is_better else "lower is better")
            for m in study.metrics
        ),
        Column("n", "n", "", 0, "timed repetitions", "latency.n"),
    )
    rows = [_row(study, s, columns) for s in study.cells]
    kept = tuple(c for c in columns if any(r.get(c.key) is not None for r in rows))
    heads = [{name: getattr(c, name) for name in ("key", "title", "unit", "digits", "help")} for c in kept]
    values = [_coded([r.get(c.key) for r in rows]) for c in kept]
    data = _packed_json({"columns": heads, "values": values, "rows": len(rows)})
    unmeasured = tuple(c.title for c in columns if c not in kept and c.digits is not None)
    return CellTable(kept, len(rows), data, unmeasured)


def _row(study: Study, summary: CellSummary, columns: Sequence[Column]) -> dict[str, Any]:
    status = summary.status_text
    row: dict[str, Any] = {
        "model": study.label(summary.cell),
        "status": f"{status}: {summary.reason}" if summary.reason and status != "ok" else status,
    }
    for column in columns:
        if column.path:
            # An attribute of something that was not measured is not measured either.
            value: Any = summary
            for name in column.path.split("."):
                value = getattr(value, name, None)
            row[column.key] = None if value is None else _rounded(value * column.factor)
    return row | {q.metric.name: _rounded(q.value) for q in summary.quality}


def _rounded(value: float) -> float | None:
    """Five digits, more than is shown or known; a count unchanged. None for an unknown value."""
    if isinstance(value, int):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _coded(values: Sequence[Any]) -> dict[str, Any]:
    """A column of text as its distinct words and an index for each row; any other column unchanged."""
    if not any(isinstance(v, str) for v in values):
        return {"values": list(values)}
    words = {v: i for i, v in enumerate(dict.fromkeys(values))}
    return {"words": list(words), "values": [words[v] for v in values]}


def _packed_json(value: object) -> str:
    return packed(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
