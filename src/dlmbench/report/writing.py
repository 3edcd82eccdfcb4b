"""Everything that can be made of a finished run: figures, document, page.

The page and the document need packages of the extra `report`; a run is not held up where they are not installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from dlmbench.analysis.study import Study
from dlmbench.errors import BenchError
from dlmbench.figures._write import figures_folder, write_all
from dlmbench.types import Run

_PACKAGES = ("jinja2", "plotly")


def missing_packages() -> tuple[str, ...]:
    """What the reports need and is not installed."""
    return tuple(p for p in _PACKAGES if importlib.util.find_spec(p) is None)


def write(run: Run, study: Study, folder: Path, say: Callable[[str], None] = lambda stage: None) -> list[Path]:
    """Figures, then report.md, then report.html, for the run in `folder`; the paths written, the page last.

    Raises:
        BenchError: a package is not installed, or the folder cannot be written.
    """
    if absent := missing_packages():
        raise BenchError(f"a report needs {' and '.join(absent)}", "pip install 'dlmbench[report]'")
    say("drawing the figures as PNG and PDF")
    figures = write_all(run, study, figures_folder(folder))
    return [*figures, *write_reports(run, study, folder, say)]


def write_reports(run: Run, study: Study, folder: Path, say: Callable[[str], None] = lambda stage: None) -> list[Path]:
    """report.md and report.html, the page last; figures that lie beside the run are shown from there."""
    from dlmbench.report import document, page

    say("writing the document")
    return [document.write(run, study, folder), page.write(run, study, folder, say)]
