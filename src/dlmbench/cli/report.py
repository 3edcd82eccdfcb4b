"""Report: everything a finished run says, as a page, a document and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlmbench.cli.options import app


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders of finished runs: a report in each")],
) -> None:
    """Write report.html and report.md into each run folder, from its files alone: no network, no models, no torch.

    The page states the answer first, then the evidence: figures, cells, findings, and what was not measured. Figures
    are written too, as PNG, PDF and CSV. Each run has a report of its own, for times of two machines are not one study.
    """
    from dlmbench import report
    from dlmbench.analysis.study import analyse
    from dlmbench.cli import console
    from dlmbench.results import read_run

    for folder in runs:
        run = read_run(folder)
        with console.Stages(str(folder)) as stages:
            stages.say("analysing")
            paths = report.write(run, analyse(run), folder, stages.say)
        for path in paths:
            print(path)
