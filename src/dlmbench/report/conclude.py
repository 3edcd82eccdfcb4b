"""Figures and reports of a finished run, and what it cost, from the files of its folder alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from dlmbench.analysis.cost import CellCost, CheapestCell, cheapest, costs, goal_of
from dlmbench.analysis.results import Study
from dlmbench.analysis.study import analyse
from dlmbench.charts.figure import draw, files_of
from dlmbench.report import document, page
from dlmbench.report.source import Source
from dlmbench.results import read_run
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
    return [folder / VERDICTS, *files_of(figures, folder), report, page.write(source, folder, progress)]


@dataclass(frozen=True)
class Conclusion:
    """Everything that `conclude` made from the files of a run."""

    study: Study
    files: list[Path]
    costs: tuple[CellCost, ...] = ()
    cheapest: tuple[CheapestCell, ...] = ()


def conclude(
    output: Path, price_per_gpu_hour: float | None, quality: str | None, progress: Callable[[str], None]
) -> Conclusion:
    """The analysis of a run with its figures and reports, from the files alone; with a price also what the cells cost.

    `quality` is the goal of the cheapest cell: see `analysis.cost.goal_of`. `progress` is called with each stage.

    Raises:
        BenchError: the folder is not a run folder, or the metric or the price is not valid.
    """
    run = read_run(output)
    study = analyse(run)
    priced: tuple[CellCost, ...] = ()
    best: tuple[CheapestCell, ...] = ()
    if price_per_gpu_hour is not None:
        priced = costs(study, price_per_gpu_hour)
        best = cheapest(priced, study, goal_of(quality, study))
    return Conclusion(study, write(run, study, output, progress), priced, best)
