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
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from dlmbench.analysis.parity import ALPHA, ParityPoint
from dlmbench.analysis.quality import MetricInfo
from dlmbench.analysis.results import CellSummary, MetricParity, Study
from dlmbench.charts import style as charts_style
from dlmbench.charts.embed import drawing_script, packed, page_figures
from dlmbench.report.source import NotMeasured, Source
from dlmbench.report.tables import FALSE_DISCOVERIES
from dlmbench.results.journal import replace_file
from dlmbench.results.settings import load_settings
from dlmbench.types import Run

PAGE = "report.html"
MOST_LISTED = 20
MOST_TEXTS = 6


@dataclass(frozen=True)
class Column:
    """A column of the table of cells. digits: decimals shown, None for text.

    read: the value for a cell, or the path of the attribute of a `CellSummary` that is it, times `factor`.
    """

    key: str
    title: str
    unit: str
    digits: int | None
    help: str
    read: str | Callable[[CellSummary], Any]
    factor: float = 1

    def value(self, cell: CellSummary) -> Any:
        """The value for a cell, a number to five digits, more than is shown or known; None for an unknown one."""
        found: Any = cell
        if isinstance(self.read, str):
            for name in self.read.split("."):
                # An attribute of something that was not measured is not measured either.
                found = getattr(found, name, None)
        else:
            found = self.read(cell)
        if found is None or isinstance(found, str) or (isinstance(found, int) and self.factor == 1):
            return found
        return float(f"{found * self.factor:.5g}") if math.isfinite(found) else None


@dataclass(frozen=True)
class CellTable:
    """The table of cells: `data` holds columns and values, packed. constant: title and value of columns left out."""

    columns: tuple[Column, ...]
    rows: int
    data: str
    unmeasured: tuple[str, ...]
    constant: tuple[tuple[str, str], ...]


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
    source = Source(run, study, load_settings(run.folder))
    table = cell_table(study)
    prompt, texts = source.sample_texts(MOST_TEXTS)
    ended = Counter(c.status_text for c in study.cells)
    constant = [f"{title} {value}" for title, value in table.constant]
    return {
        "source": source,
        "answer": source.answer,
        "models": list(dict.fromkeys(m.key for m in source.models)),
        "drawn": [f for f in figures if f.plot],
        "table": table,
        "constant": ", ".join(constant),
        "false_discoveries": FALSE_DISCOVERIES,
        "statuses": ", ".join(f"{n:,} {status}" for status, n in ended.most_common()),
        # Pairs of writer and text, after the prompt of that index.
        "texts_prompt": prompt,
        "texts": () if source.random else texts,
        "missing": [
            *source.not_measured(),
            *(NotMeasured("Table column", f"{title}: no cell has a value") for title in table.unmeasured),
            *(NotMeasured("Figure", f"{f.title}: {f.missing}") for f in figures if f.missing),
        ],
        "most_listed": MOST_LISTED,
        "random_weights": charts_style.RANDOM_WEIGHTS,
    }


def render(page: dict[str, Any]) -> str:
    """The page as HTML; every value is escaped by the template."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    files = resources.files("dlmbench.report") / "templates"
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    script = drawing_script() + script
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
    """A row for each cell; columns without a value, or with one value everywhere, are left out and named."""
    largest = max((c.memory.bytes for c in study.cells if c.memory), default=0)
    scale, unit, decimals = (1 << 30, "GiB", 2) if largest >= 2 << 30 else (1 << 20, "MiB", 0)
    parities = {
        p.cell.id: _parity_text(point, lead)
        for curve in study.curves
        if (lead := curve.headline()) is not None
        for p in curve.points
        for point in lead.parity.points
        if point.steps == p.cell.steps
    }
    metrics = [_metric_column(m) for m in study.metrics]
    end = "end of its 95% interval"

    first = "time to the first token (autoregressive) or first final block"
    columns = (
        Column("model", "model", "", None, "the model, and the settings that differ", lambda c: study.label(c.cell)),
        Column("steps", "K", "steps", 0, "diffusion steps", "cell.steps"),
        Column("batch", "B", "texts", 0, "batch size", "cell.batch_size"),
        Column("prompt", "P", "tokens", 0, "prompt tokens", "cell.prompt_tokens"),
        Column("new", "G", "tokens", 0, "new tokens", "cell.new_tokens"),
        Column("latency", "latency", "ms", 1, "median of a whole generation", "latency.median", 1e3),
        Column("speedup", "speedup", "x", 2, "the baseline's latency over this one's", "speedup.value"),
        Column("shown", "shown", "", None, FALSE_DISCOVERIES, lambda c: None if c.pace == "unknown" else c.pace),
        *metrics[:1],
        Column("parity", "parity", "", None, "by the leading metric", lambda c: parities.get(c.cell.id)),
        Column("low", "latency from", "ms", 1, f"lower {end}", "latency.interval.low", 1e3),
        Column("high", "latency to", "ms", 1, f"upper {end}", "latency.interval.high", 1e3),
        Column("speedup_low", "speedup from", "x", 2, f"lower {end}", "speedup.low"),
        Column("speedup_high", "speedup to", "x", 2, f"upper {end}", "speedup.high"),
        Column("rate", "throughput", "tokens/s", 1, "new tokens a second, whole batch", "throughput.median"),
        Column("useful", "useful throughput", "tokens/s", 1, "up to the first end of text", "useful_throughput.median"),
        Column("first", "first text", "ms", 1, first, "first_text_s", 1e3),
        Column("memory", "peak memory", unit, decimals, "of a generation, with weights", "memory.bytes", 1 / scale),
        Column("energy", "energy", "J", 1, "of one generated batch", "energy.value"),
        Column("useful_j", "energy, useful token", "J", 3, "gross, idle included", "joules_per_useful_token.value"),
        *metrics[1:],
        Column("block", "block", "tokens", 0, "positions in a block", "block_length"),
        Column("state", "state", "", None, "of the device: rested, or sustained under 20 s of load or more", "state"),
        Column("processes", "processes", "", 0, "that the interval of the latency rests on", "latency.processes"),
        Column("n", "n", "", 0, "timed repetitions", "latency.n"),
        Column("status", "status", "", None, "ok, or why there is no value", _status),
    )
    values = {c.key: [c.value(s) for s in study.cells] for c in columns}
    known = [c for c in columns if any(v is not None for v in values[c.key])]
    same = {c.key for c in known if c.key != "model" and len(study.cells) > 1 and len(set(values[c.key])) == 1}
    kept = tuple(c for c in known if c.key not in same)
    heads = [{name: getattr(c, name) for name in ("key", "title", "unit", "digits", "help")} for c in kept]
    # The terms that find every row, for a link that names all of a workload.
    found = [f"{name}={values[c.key][0]}".lower() for c in known if c.key in same for name in (c.key, c.title)]
    shown = [values[c.key] for c in kept]
    data = _packed_json({"columns": heads, "values": shown, "rows": len(study.cells), "constant": found})
    unmeasured = tuple(c.title for c in columns if c not in known and c.digits is not None)
    constant = tuple((c.title, str(values[c.key][0])) for c in known if c.key in same)
    return CellTable(kept, len(study.cells), data, unmeasured, constant)


def _metric_column(metric: MetricInfo) -> Column:
    direction = "higher is better" if metric.higher_is_better else "lower is better"

    def read(cell: CellSummary) -> float | None:
        quality = cell.quality_in(metric.name)
        return quality.value if quality else None

    return Column(metric.name, metric.display_name, metric.unit, 3, direction, read)


def _parity_text(point: ParityPoint, lead: MetricParity) -> str:
    if not lead.parity.decides:
        return "too few prompts"
    if point.p_good <= ALPHA / 2:
        return "as good"
    return "worse" if point.p_worse_jointly <= ALPHA / 2 else "undecided"


def _status(cell: CellSummary) -> str:
    status = cell.status_text
    return f"{status}: {cell.reason}" if cell.reason and status != "ok" else status


def _packed_json(value: object) -> str:
    return packed(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
