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
from pathlib import Path

import vl_convert
from markupsafe import Markup

from dlmbench.analysis.findings import in_one_line
from dlmbench.charts import figure, style
from dlmbench.charts.figure import packed
from dlmbench.report.source import Source
from dlmbench.report.tables import FALSE_DISCOVERIES
from dlmbench.report.text import TEMPLATES, templates
from dlmbench.results.journal import replace_file


def write(source: Source, folder: Path) -> Path:
    """Write the page into `folder` and return its path.

    Raises:
        BenchError: the folder cannot be written.
    """
    path = folder / "report.html"
    replace_file(path, compose(source))
    return path


def compose(source: Source) -> str:
    """The page as HTML."""
    scripts = (Path(figure.__file__).with_name("figures.js"), TEMPLATES / "page.js")
    own = "".join(path.read_text(encoding="utf-8") for path in scripts)
    # Vega, Vega-Lite and vega-embed, from the installed package, as one script without names of its own.
    bundle = vl_convert.javascript_bundle(None)  # type: ignore[arg-type]  # None is the default, and all of Vega
    vega = f'(() => {{"use strict";{bundle}}})()'
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            source=source,
            figures=source.figures,
            many_panels=[f for f in source.figures if len(f.panels) > figure.MOST_PANELS],
            cells=packed(source.cells.as_json()),
            false_discoveries=FALSE_DISCOVERIES,
            in_one_line=in_one_line,
            # Part of the package, not of a run: the only text that is not escaped.
            style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
            script=Markup(own),
            vega=packed(vega),
            packed=packed,
            policy=f"script-src {script_hash(own)} {script_hash(vega)}",
            colours=packed(json.dumps(dict(style.DARK))),
        )
    )


def script_hash(script: str) -> str:
    """A script as the content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}'"
