"""report.md: the study as a document, from abstract to appendix, every number from the files of its run.

Every statement is measured; what was not measured is named with its reason. The prose is in templates/report.md, the
tables in `Tables`. However large a run is, the document has at most MOST_WORDS words: tables get fewer rows.
"""

from __future__ import annotations

import re
from pathlib import Path

import jinja2

from dlmbench.analysis.results import Study
from dlmbench.charts.embed import document_figures
from dlmbench.errors import BenchError
from dlmbench.report.source import Source, family_title, is_published
from dlmbench.report.tables import Tables
from dlmbench.report.text import Markdown, counted, escape, finalize, gib, listed, percent, valued
from dlmbench.results.journal import replace_file
from dlmbench.results.settings import load_settings
from dlmbench.types import Run

NAME = "report.md"
MOST_WORDS = 3500
MOST_ABSTRACT = 150
# Rows of a table, from the most that are shown to the fewest.
ROWS = (40, 24, 12, 6, 3)
_TEMPLATES = Path(__file__).parent / "templates"


def write(run: Run, study: Study, folder: Path) -> Path:
    """Write report.md into `folder`; figures that do not exist yet are drawn into `folder`/figures.

    Raises:
        BenchError: a file of the run is not what dlmbench wrote, or `folder` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"{folder} cannot be made a folder ({error.strerror})", "Name another one") from error
    path = folder / NAME
    replace_file(path, compose(Source(run, study, load_settings(run.folder), document_figures(run, study, folder))))
    return path


def compose(source: Source) -> str:
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
    template = environment.get_template("report.md")
    context = {
        "source": source,
        "run": source.run,
        "abstract": abstract(source),
        "published": all(is_published(m) and m.weights == "pretrained" for m in source.models),
        "family_title": family_title,
        **{f.__name__: f for f in (gib, counted, listed, percent, valued)},
    }
    text = ""
    for most in ROWS:
        text = re.sub(r"\n{3,}", "\n\n", template.render(context, tables=Tables(source, most)).strip()) + "\n"
        if words(text) <= MOST_WORDS:
            break
    return text


def words(text: str) -> int:
    """The words that a reader sees: numbers count, comments and the marks of Markdown do not."""
    return sum(bool(re.search(r"\w", w)) for w in re.sub(r"<!--.*?-->", "", text).split())


def abstract(source: Source) -> Markdown:
    """The headline and the rows in brief, as many as MOST_ABSTRACT words allow."""
    parts = [valued("headline", source.answer.headline)]
    brief = source.answer.brief()
    for i, (value_id, where, text) in enumerate(brief):
        more = f"{counted(len(brief) - i, 'workload')}: see section 5.1."
        if words(" ".join([*parts, where, text, more])) > MOST_ABSTRACT:
            parts.append(Markdown(more))
            break
        parts.append(Markdown(f"{escape(where)} {valued(value_id, text)}."))
    return Markdown(" ".join(parts))
