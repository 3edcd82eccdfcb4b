"""What a finished run says: tables, answer, findings, figures and reports, from the files of its folder alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dlmbench.analysis.answer import SummaryRow, answer, summary_rows
from dlmbench.analysis.cost import CellCost, Cheapest, cheapest, costs, goal_of
from dlmbench.analysis.study import Study, analyse
from dlmbench.charts.write import figures_folder, write_all
from dlmbench.errors import BenchError
from dlmbench.results import read_run
from dlmbench.types import Finding, Run

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


@dataclass(frozen=True)
class Conclusion:
    """What the files of a run say."""

    rows: list[SummaryRow]
    answer: str
    findings: tuple[Finding, ...]
    figures: list[Path]
    reports: list[Path]
    costs: tuple[CellCost, ...] = ()
    cheapest: tuple[Cheapest, ...] = ()


def conclude(
    output: Path,
    price_per_gpu_hour: float | None = None,
    quality: str | None = None,
    say: Callable[[str], None] = lambda stage: None,
) -> Conclusion:
    """Tables, answer, findings, figures and reports, from the files alone; with a price also what the cells cost.

    There are no reports where the packages they need are not installed. `quality` is the goal of the cheapest way: see
    `analysis.cost.goal_of`. `say` is told each stage.

    Raises:
        BenchError: no run there, no such metric, or no price.
    """
    run = read_run(output)
    study = analyse(run)
    priced: tuple[CellCost, ...] = ()
    best: tuple[Cheapest, ...] = ()
    if price_per_gpu_hour is not None:
        priced = costs(run, study, price_per_gpu_hour)
        best = cheapest(priced, study, goal_of(quality, study))
    say("drawing the figures as PNG and PDF")
    figures = write_all(run, study, figures_folder(output))
    reports = [] if missing_packages() else write_reports(run, study, output, say)
    return Conclusion(summary_rows(study), answer(study), study.findings, figures, reports, priced, best)
