"""Finished runs: `report` and `analyze` what was measured, `score` further metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dlmbench.cli.options import Price, RunFolder, command, split_names
from dlmbench.errors import BenchError


@command()
def report(
    runs: Annotated[list[Path], Argument(metavar="RUN", help="folders of finished runs")],
) -> None:
    """Write report.html, report.md and the figures (PNG, PDF, CSV) into each run folder.

    Works from the run's files alone: no network, no models, no torch. The report starts with the answer, followed by
    the evidence: figures, cells, findings, and what was not measured. To put two runs side by side, use `compare`.

    \b
    Example: dlmbench report results/raw_data
    """
    from dlmbench import report
    from dlmbench.analysis.study import analyse
    from dlmbench.cli import console
    from dlmbench.results import read_run

    for folder in runs:
        run = read_run(folder)
        with console.stages(str(folder)) as show_stage:
            show_stage("analysing")
            paths = report.write(run, analyse(run), folder, show_stage)
        for path in paths:
            print(path)


@command()
def analyze(
    run_folder: RunFolder,
    price: Price = None,
    quality: Annotated[
        str | None,
        Option(
            metavar="METRIC[=VALUE]",
            help="with --price: quality that the cheapest cell must reach; without a VALUE, parity with the baseline",
        ),
    ] = None,
) -> None:
    """Print the summary and the answer of a finished run, and write its figures and reports again.

    With --price also the cost of a million tokens in each cell, and the cheapest cell of sufficient quality.

    \b
    Example: dlmbench analyze results/raw_data --price 2.5 --quality likelihood
    """
    if quality is not None and price is None:
        raise BenchError("--quality needs a price", "Add one, as in --price 2.5")
    conclude(run_folder, price, quality)


@command()
def score(
    run_folder: RunFolder,
    metrics: Annotated[
        list[str],
        Option("--metrics", "-m", metavar="NAME[,NAME...]", help="metrics to add; see `dlmbench list metrics`"),
    ],
    judge: Annotated[
        str | None, Option(metavar="MODEL", help="causal model as judge: a folder, hub id or embedded:ar")
    ] = None,
    setting: Annotated[
        list[str] | None,
        Option(metavar="METRIC.NAME=V", help="setting of a metric, such as bertscore.model=DIR; may be repeated"),
    ] = None,
) -> None:
    """Add metrics to a finished run, from its stored texts and references, without generating again.

    \b
    Example: dlmbench score results/raw_data -m judge_likelihood,unigram_entropy --judge org/name
    """
    from dlmbench.bench import run as session
    from dlmbench.cli import console
    from dlmbench.results import read_run
    from dlmbench.scoring.settings import parse_settings

    names = split_names(metrics)
    settings = parse_settings(names, judge, setting or ())
    with console.LiveProgress(f"scoring {run_folder}", 0) as progress:
        session.score(run_folder, names, settings, progress)
    conclude(run_folder)
    out = console.stdout()
    scored = read_run(run_folder)
    out.print(console.scores(scored, names))
    for line in console.remarks(scored, names):
        out.print(line, soft_wrap=True)


def conclude(output_dir: Path, price: float | None = None, quality: str | None = None) -> None:
    """Print the results of a finished run, and write its figures and reports."""
    from dlmbench import report
    from dlmbench.cli import console
    from dlmbench.report.answer import answer

    with console.stages(str(output_dir)) as show_stage:
        outcome = report.conclude(output_dir, price, quality, show_stage)
    console.findings(outcome.study.findings)
    out = console.stdout()
    out.print(console.summary(outcome.study, "Summary"))
    out.print(f"\n{answer(outcome.study)}\n", soft_wrap=True)
    if price is not None:
        out.print(console.costs(outcome.costs, price))
        for line in console.cheapest(outcome.cheapest):
            out.print(line, soft_wrap=True)
    tables = (output_dir / "raw_metrics.csv", output_dir / "quality_metrics.json")
    for path in (*tables, *outcome.files):
        print(path)
