"""Figures and reports of a finished run, and what it cost, from the files of its folder alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dlmbench.analysis.cost import CellCost, CheapestCell, cheapest, costs, goal_of
from dlmbench.analysis.results import Study
from dlmbench.analysis.study import analyse
from dlmbench.charts.write import figures_folder, write_all
from dlmbench.errors import BenchError
from dlmbench.results import read_run
from dlmbench.types import Run

_PACKAGES = ("jinja2",)


def _ignore(stage: str) -> None:
    """Progress that nobody watches."""


def missing_packages() -> tuple[str, ...]:
    """The packages that reports need and that are not installed."""
    return tuple(p for p in _PACKAGES if importlib.util.find_spec(p) is None)


def write(run: Run, study: Study, folder: Path, progress: Callable[[str], None] = _ignore) -> list[Path]:
    """Figures, then report.md, then report.html, for the run in `folder`; the paths written, the page last.

    Raises:
        BenchError: a package is not installed, or the folder cannot be written.
    """
    if absent := missing_packages():
        raise BenchError(f"a report needs {' and '.join(absent)}", "pip install 'dlmbench[report]'")
    figures, reports = _write(run, study, folder, progress)
    return [*figures, *reports]


def _write(run: Run, study: Study, folder: Path, progress: Callable[[str], None]) -> tuple[list[Path], list[Path]]:
    """The figures and, where their packages are installed, the reports."""
    progress("drawing the figures as PNG and PDF")
    figures = write_all(run, study, figures_folder(folder))
    if missing_packages():
        return figures, []
    from dlmbench.report import document, page

    progress("writing the document")
    return figures, [document.write(run, study, folder), page.write(run, study, folder, progress)]


@dataclass(frozen=True)
class Conclusion:
    """Everything that `conclude` made from the files of a run."""

    study: Study
    figures: list[Path]
    reports: list[Path]
    costs: tuple[CellCost, ...] = ()
    cheapest: tuple[CheapestCell, ...] = ()


def conclude(
    output: Path,
    price_per_gpu_hour: float | None = None,
    quality: str | None = None,
    progress: Callable[[str], None] = _ignore,
) -> Conclusion:
    """The analysis of a run with its figures and reports, from the files alone; with a price also what the cells cost.

    Without the packages they need, reports are left out. `quality` is the goal of the cheapest cell: see
    `analysis.cost.goal_of`. `progress` is called with each stage.

    Raises:
        BenchError: the folder is not a run folder, or the metric or the price is not valid.
    """
    run = read_run(output)
    study = analyse(run)
    priced: tuple[CellCost, ...] = ()
    best: tuple[CheapestCell, ...] = ()
    if price_per_gpu_hour is not None:
        priced = costs(run, study, price_per_gpu_hour)
        best = cheapest(priced, study, goal_of(quality, study))
    return Conclusion(study, *_write(run, study, output, progress), priced, best)
