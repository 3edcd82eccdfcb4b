"""report.md: the study as a document, from abstract to appendix, every number from the files of its runs.

Every statement is measured; what was not measured is named with its reason, so no section is ever a promise. Prose is
in templates/, one file for each group of sections; sentences with numbers are made in the modules beside this one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import jinja2

from dlmbench.analysis.results import Study
from dlmbench.errors import BenchError
from dlmbench.report import discussion, results
from dlmbench.report.figures import document_figures
from dlmbench.report.quality_answers import fitness, steps_to_parity
from dlmbench.report.source import Source, family_title, is_published, load_settings
from dlmbench.report.text import Markdown, counted, escape, finalize, gib, listed
from dlmbench.report.use_cases import USE_CASES
from dlmbench.results.journal import replace_file
from dlmbench.types import Run

NAME = "report.md"
_TEMPLATES = Path(__file__).parent / "templates"
# In the order of the document.
PARTS = (
    *("abstract", "related_work", "methodology", "setup", "results"),
    *("discussion", "conclusion", "references", "reproducibility"),
)


def write(run: Run, study: Study, folder: Path, more: Sequence[tuple[Run, Study]] = ()) -> Path:
    """Write report.md into `folder` from one run, or from several: each is analysed by itself, none are merged.

    Figures are shown from `folder`/figures; those that do not exist yet are drawn.

    Raises:
        BenchError: a file of a run is not what dlmbench wrote, or `folder` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"{folder} cannot be made a folder ({error.strerror})", "Name another one") from error
    runs = [(run, study), *more]
    path = folder / NAME
    numbers = [None] if len(runs) == 1 else range(1, len(runs) + 1)
    sources = [
        Source(r, s, load_settings(r), document_figures(r, s, folder, number))
        for (r, s), number in zip(runs, numbers, strict=True)
    ]
    replace_file(path, compose(sources))
    return path


def compose(sources: Sequence[Source]) -> str:
    """The whole document as Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        # Escaping is for Markdown and done by `finalize`; HTML's would come on top of it.
        autoescape=False,
    )
    themes = discussion.ask(sources)
    context = {
        "sources": sources,
        "several": len(sources) > 1,
        # Sections of several runs are below a heading for each run.
        "level": Markdown("####" if len(sources) > 1 else "###"),
        "published": all(is_published(m) and m.weights == "pretrained" for s in sources for m in s.models),
        "family_title": family_title,
        "steps_to_parity": steps_to_parity,
        "use_cases": USE_CASES,
        "fitness": fitness,
        "heading": heading,
        "gib": gib,
        "counted": counted,
        "listed": listed,
        "results": results,
        "discussion": discussion,
        "themes": themes,
    }
    parts = [environment.get_template(f"{name}.md").render(context).strip() for name in PARTS]
    return re.sub(r"\n{3,}", "\n\n", "\n\n".join(parts)) + "\n"


def heading(source: Source, several: bool, level: int = 4) -> Markdown:
    """A heading with the name of the run; empty where there is only one."""
    return Markdown(f"{'#' * level} Run {escape(source.run.name)}" if several else "")
