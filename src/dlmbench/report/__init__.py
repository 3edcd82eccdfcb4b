"""The report of a finished run, from the files of the run alone: offline, without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from dlmbench.analysis.results import Study
from dlmbench.charts.figure import draw, files_of
from dlmbench.report import document, page
from dlmbench.report.source import Source
from dlmbench.results.journal import replace_file
from dlmbench.types import Run

VERDICTS = "verdicts.json"


def write(run: Run, study: Study, folder: Path, progress: Callable[[str], None]) -> list[Path]:
    """The verdicts, figures, report.md and report.html of the run in `folder`; the paths written, the page last.

    Raises:
        BenchError: the folder cannot be written.
    """
    records = [{**asdict(v), "speed": v.speed and v.speed.as_dict()} for v in study.verdicts]
    replace_file(folder / VERDICTS, json.dumps({"verdicts": records}, indent=1, allow_nan=False) + "\n")
    progress("drawing the figures as PNG and PDF")
    source = Source(run, study)
    figures = draw(source.figures, folder)
    progress("writing the document")
    report = document.write(source, folder, figures)
    progress("writing the page")
    return [folder / VERDICTS, *files_of(figures, folder), report, page.write(source, folder)]
