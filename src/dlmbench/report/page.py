"""report.html: the answer, then the evidence, in one file that asks nothing of any network.

The page allows itself two scripts, named by their hashes (a content security policy): its own and plotly's. Whatever
text a run contains can therefore not become a third, even if an escape were forgotten.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dlmbench.analysis.answer import answer
from dlmbench.analysis.study import Study
from dlmbench.charts import page as _page
from dlmbench.errors import BenchError
from dlmbench.report import cases as _cases
from dlmbench.report import page_parts
from dlmbench.report.source import Settings, load_settings
from dlmbench.results.journal import replace_file
from dlmbench.types import Run

PAGE = "report.html"


@dataclass(frozen=True)
class Page:
    """Everything the template shows."""

    title: str
    name: str
    description: str
    baseline: str
    target: str
    is_random: bool
    random_words: str
    answer: str
    statuses: str
    cases: tuple[_cases.Case, ...]
    figures: tuple[page_parts.PageFigure, ...]
    table: page_parts.Table
    findings: tuple[page_parts.FindingGroup, ...]
    texts_prompt: int
    texts: tuple[page_parts.Text, ...]
    missing: tuple[page_parts.Missing, ...]
    environment: tuple[tuple[str, str], ...]
    settings: Settings

    @property
    def drawn(self) -> tuple[page_parts.PageFigure, ...]:
        """The figures that have something to show."""
        return tuple(f for f in self.figures if f.plot)


def write(run: Run, study: Study, folder: Path, say: Callable[[str], None] = lambda stage: None) -> Path:
    """Write the page into `folder` and return its path; `say` is told each stage.

    Raises:
        BenchError: plotly or jinja2 is not installed, or the folder cannot be written.
    """
    path = folder / PAGE
    replace_file(path, render(gather(run, study, say)))
    return path


def gather(run: Run, study: Study, say: Callable[[str], None] = lambda stage: None) -> Page:
    """Everything the page shows, from the run and its analysis."""
    say("drawing the figures of the page")
    _needs("plotly")
    figures = page_parts.figures(run, study)
    say("gathering cells, findings and texts")
    table = page_parts.table(run, study)
    prompt, texts = page_parts.texts(run, study)
    settings = load_settings(run)
    baselines = dict.fromkeys(b.cell.model.key for b in study.baselines)
    targets = dict.fromkeys([c.model for c in study.curves] + [o.cell.model.key for o in study.others])
    random = any(c.cell.model.weights == "random" for c in study.cells)
    return Page(
        title=f"{' and '.join(targets) or 'no diffusion model'} against {' and '.join(baselines) or 'no baseline'}",
        name=run.name,
        description=settings.description,
        baseline=next(iter(baselines), "the baseline"),
        target=next(iter(targets), "diffusion"),
        is_random=random,
        random_words=_page.RANDOM_WEIGHTS,
        answer=answer(study),
        statuses=page_parts.statuses(study),
        cases=_cases.cases(study),
        figures=figures,
        table=table,
        findings=page_parts.findings(study),
        texts_prompt=prompt,
        texts=() if random else texts,
        missing=page_parts.missing(run, study, figures, table),
        environment=page_parts.environment(run),
        settings=settings,
    )


def render(page: Page) -> str:
    """The page as HTML; every value is escaped by the template."""
    _needs("jinja2")
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    files = resources.files("dlmbench.report") / "templates"
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    plotly = get_plotlyjs()
    environment = Environment(
        loader=PackageLoader("dlmbench.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        page=page,
        # Of the package, not of a run: the only text that is not escaped.
        style=Markup(style),
        script=Markup(script),
        plotly=page_parts.packed(plotly),
        policy=f"script-src {_allowed(script)} {_allowed(plotly)}",
        colours=page_parts.packed_json(dict(_page.DARK)),
    )


def _allowed(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}'"


def _needs(package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise BenchError(f"the page needs {package}, which is not installed", "pip install 'dlmbench[report]'")
