"""Tables, answer, findings, figures and reports of a finished run, from the files of its folder alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dlmbench.analysis.answer import answer
from dlmbench.analysis.cost import CellCost, CheapestCell, cheapest, costs, goal_of
from dlmbench.analysis.results import Study
from dlmbench.analysis.study import analyse
from dlmbench.analysis.summary_table import SummaryRow, summary_rows
from dlmbench.charts.write import figures_folder, write_all
from dlmbench.errors import BenchError
from dlmbench.results import read_run
from dlmbench.types import Finding, Run

_PACKAGES = ("jinja2",)


def missing_packages() -> tuple[str, ...]:
    """The packages that reports need and that are not installed."""
    return tuple(p for p in _PACKAGES if importlib.util.find_spec(p) is None)


def write(run: Run, study: Study, folder: Path, progress: Callable[[str], None] = lambda stage: None) -> list[Path]:
    """Figures, then report.md, then report.html, for the run in `folder`; the paths written, the page last.

    Raises:
        BenchError: a package is not installed, or the folder cannot be written.
    """
    if absent := missing_packages():
        raise BenchError(f"a report needs {' and '.join(absent)}", "pip install 'dlmbench[report]'")
    progress("drawing the figures as PNG and PDF")
    figures = write_all(run, study, figures_folder(folder))
    return [*figures, *write_reports(run, study, folder, progress)]


def write_reports(
    run: Run, study: Study, folder: Path, progress: Callable[[str], None] = lambda stage: None
) -> list[Path]:
    """report.md and report.html, the page last; existing figures beside the run are used."""
    from dlmbench.report import document, page

    progress("writing the document")
    return [document.write(run, study, folder), page.write(run, study, folder, progress)]


@dataclass(frozen=True)
class Conclusion:
    """Everything that `conclude` made from the files of a run."""

    rows: list[SummaryRow]
    answer: str
    findings: tuple[Finding, ...]
    figures: list[Path]
    reports: list[Path]
    costs: tuple[CellCost, ...] = ()
    cheapest: tuple[CheapestCell, ...] = ()


def conclude(
    output: Path,
    price_per_gpu_hour: float | None = None,
    quality: str | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Conclusion:
    """Tables, answer, findings, figures and reports, from the files alone; with a price also what the cells cost.

    Without the packages they need, reports are left out. `quality` is the goal of the cheapest cell: see
    `analysis.cost.goal_of`. `progress` is called with each stage.

    Raises:
        BenchError: the folder holds no run, or the metric or the price is not valid.
    """
    run = read_run(output)
    study = analyse(run)
    priced: tuple[CellCost, ...] = ()
    best: tuple[CheapestCell, ...] = ()
    if price_per_gpu_hour is not None:
        priced = costs(run, study, price_per_gpu_hour)
        best = cheapest(priced, study, goal_of(quality, study))
    progress("drawing the figures as PNG and PDF")
    figures = write_all(run, study, figures_folder(output))
    reports = [] if missing_packages() else write_reports(run, study, output, progress)
    return Conclusion(summary_rows(study), answer(study), study.findings, figures, reports, priced, best)
