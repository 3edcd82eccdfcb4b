"""Finished runs: `report` and `analyze` what was measured, `score` further metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from dlmbench.cli.options import AsJson, Price, RunFolder, command, split_names
from dlmbench.errors import BenchError

if TYPE_CHECKING:
    from dlmbench.analysis.results import CellSummary


@command()
def report(
    runs: Annotated[list[Path], Argument(metavar="RUN", help="folders of finished runs")],
    published: Annotated[
        Path | None,
        Option(metavar="FILE", help="published scores (CSV) to join with the run's times; copied into its folder"),
    ] = None,
) -> None:
    """Write report.html, report.md and the figures (PNG, PDF, CSV) into each run folder.

    Works from the run's files alone: no network, no models, no torch. The report starts with the answer, followed by
    the evidence: figures, cells, findings, and what was not measured. To put two runs side by side, use `compare`.

    \b
    Example: dlmbench report results/raw_data
    """
    for folder in runs:
        conclude(folder, published=published, answer_only=True)


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
    as_json: AsJson = False,
) -> None:
    """Print the summary and the answer of a finished run, and write its figures and reports again.

    With --price also the cost of a million tokens in each cell, and the cheapest cell of sufficient quality.

    \b
    Example: dlmbench analyze results/raw_data --price 2.5 --quality likelihood
    """
    if quality is not None and price is None:
        raise BenchError("--quality needs a price", "Add one, as in --price 2.5")
    conclude(run_folder, price, quality, as_json=as_json)


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
    from dlmbench.cli import console

    console.load_libraries("torch", "dlmbench.bench.run")
    from dlmbench.bench import run as session
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


def conclude(
    folder: Path,
    price: float | None = None,
    quality: str | None = None,
    published: Path | None = None,
    *,
    as_json: bool = False,
    answer_only: bool = False,
) -> None:
    """Write the figures and reports of a finished run, from its files alone, and print its results."""
    from dlmbench.cli import console

    console.load_libraries("dlmbench.report")
    from dlmbench import report
    from dlmbench.analysis.cost import cheapest, check_price, costs, goal_of
    from dlmbench.analysis.published import keep_published
    from dlmbench.analysis.study import analyse
    from dlmbench.report.answer import answer_of
    from dlmbench.results import read_run
    from dlmbench.results.journal import is_being_written

    if price is not None:
        check_price(price)
    run = read_run(folder)
    if is_being_written(folder):
        console.log(f"A run is writing to {folder}: these are its results so far.")
    if published is not None:
        keep_published(published, folder)
    with console.stages(str(folder)) as show_stage:
        show_stage("analysing")
        study = analyse(run)
        priced = () if price is None else costs(study, price)
        best = () if price is None else cheapest(priced, study, goal_of(quality, study))
        files = report.write(run, study, folder, show_stage)
    answer = answer_of(study)
    if as_json:
        money = {cost.cell.id: {k: v for k, v in vars(cost).items() if k != "cell"} for cost in priced}
        record = {
            "folder": folder,
            "headline": answer.headline,
            "caveats": answer.caveats,
            "workloads": answer.rows,
            "notes": answer.notes,
            "verdicts": study.verdicts,
            "cells": [{**_cell(row), "cost": money.get(row.cell.id)} for row in study.cells],
            "cheapest": [
                {**vars(c), "cost": c.cost and c.cost.per_million, "id": c.cost and c.cost.cell.id} for c in best
            ],
            "findings": study.findings,
            "missing": study.missing,
            "files": files,
        }
        console.print_json(record)
        return
    out = console.stdout()
    if not answer_only:
        console.findings(study.findings)
        for part in () if console.STDERR.quiet else console.summary(study):
            out.print(part)
    if price is not None:
        out.print(console.costs(priced, price))
        for line in console.cheapest(best):
            out.print(line, soft_wrap=True)
    console.answer(answer, files[-1])


def _cell(row: CellSummary) -> dict[str, Any]:
    from dlmbench.cli import console

    quality = {q.metric.name: {"value": q.value, "low": q.low, "high": q.high, "n": q.n} for q in row.quality}
    return {
        **console.cell_json(row.cell),
        "status": row.status,
        "reason": row.reason,
        "latency_s": row.latency,
        "tokens_per_s": row.throughput and row.throughput.median,
        "memory_bytes": row.memory and row.memory.bytes,
        "joules_per_token": row.joules_per_token,
        "speedup": row.speedup,
        "adjusted_p": row.adjusted_p if row.speedup else None,
        "quality": quality,
    }
