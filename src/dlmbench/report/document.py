"""report.md: the study as a document, from abstract to appendix, every number from the files of its run.

Every statement is measured; what was not measured is named with its reason. The prose is in templates/report.md.
However large a run is, the document has at most MOST_WORDS words: tables get fewer rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from dlmbench.charts.figure import Figure
from dlmbench.report import tables
from dlmbench.report.answer import Answer
from dlmbench.report.questions import answers
from dlmbench.report.source import Source
from dlmbench.report.text import counted, escape, listed, plain, templates
from dlmbench.results.journal import replace_file

MOST_WORDS = 3500
MOST_ABSTRACT = 150
# Rows of a table, from the most that are shown to the fewest.
ROWS = (40, 24, 16, 12, 9, 6, 4, 3)


def write(source: Source, folder: Path, figures: Sequence[Figure]) -> Path:
    """Write report.md into `folder`, with `figures` as they were drawn there.

    Raises:
        BenchError: a file of the run is not what dlmbench wrote, or `folder` cannot be written.
    """
    path = folder / "report.md"
    replace_file(path, compose(source, figures))
    return path


def compose(source: Source, figures: Sequence[Figure] = ()) -> str:
    """The whole document as Markdown."""
    template = templates(escape).get_template("report.md")
    context = {
        "source": source,
        "figures": figures,
        "in_abstract": rows_in_abstract(source.answer),
        "answers": answers(source),
        "tables": tables,
        "commands": code(source.commands),
        "axis": lambda name: listed(map(plain, source.values(name))),
        "counted": counted,
        "listed": listed,
    }
    text = ""
    for most in ROWS:
        text = re.sub(r"\n{3,}", "\n\n", template.render(context, most=most).strip()) + "\n"
        if words(text) <= MOST_WORDS:
            break
    return text


def words(text: str) -> int:
    """The words that a reader sees: numbers count, comments and the marks of Markdown do not."""
    return sum(bool(re.search(r"\w", w)) for w in re.sub(r"<!--.*?-->", "", text).split())


def rows_in_abstract(answer: Answer) -> int:
    """Of how many workloads the verdict fits into the abstract, and a sentence that there are more."""
    left = MOST_ABSTRACT - words(answer.headline) - words("9 more workloads: see section 5.1.")
    for i, (_, where, text) in enumerate(answer.brief()):
        left -= words(f"{where} {text}")
        if left < 0:
            return i
    return len(answer.rows)


def code(lines: Sequence[str]) -> Markup:
    """Lines as code; as escaped text where a name in them could end the code."""
    safe = all(re.fullmatch(r"[\w ./:;='@+,#-]+", line) for line in lines)
    return Markup("\n".join(["```", *lines, "```"]) if safe else "\n".join(f"- {escape(line)}" for line in lines))
