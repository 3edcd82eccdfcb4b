"""Measure: `run` for an experiment file, `demo` for the embedded pair of tiny models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from dlmbench.cli.options import (
    Extend,
    HardwareFile,
    HardwareName,
    MaxPrompts,
    OutputDir,
    PlanOptions,
    RunOptions,
    command,
    expand_options,
)
from dlmbench.errors import CellsFailedError

if TYPE_CHECKING:
    from dlmbench.bench.forecast import Machine
    from dlmbench.types import Cell, Experiment, Plan, Run


@command()
@expand_options
def run(
    options: RunOptions,
    output_dir: OutputDir = Path("results/raw_data"),
    hardware: HardwareName = None,
    hardware_file: HardwareFile = None,
    try_oom: Annotated[
        bool, Option("--try-oom", help="also run cells that are predicted not to fit into memory")
    ] = False,
    extend: Extend = False,
    gpus: Annotated[
        str | None, Option(metavar="all|N", help="GPUs of this node to use; all must be of one kind [default: 1]")
    ] = None,
    concurrent: Annotated[
        bool,
        Option(
            "--concurrent", help="with --gpus: also measure cells whose speed the host limits while other GPUs are busy"
        ),
    ] = False,
) -> None:
    """Measure speed and quality of every cell, then write tables, figures and a report.

    The same command resumes an interrupted run; other steps, batch sizes, lengths or models extend it. Predictions use
    the detected GPU; --hardware names one that is not recognised, --hardware-file describes one that is unknown. Exits
    with code 1 if cells failed; running out of memory is a result.

    \b
    Example: dlmbench run -c config/experiments.yaml -o results/raw_data --steps 16,64 --batch-size 1,8
    """
    from dlmbench.bench.forecast import Machine
    from dlmbench.roofline.hardware import load_rows

    experiment, plan = options.load()
    _run(
        experiment,
        plan,
        output_dir,
        Machine(hardware, load_rows(hardware_file)),
        try_oom=try_oom,
        extend=extend,
        gpus=gpus or str(experiment.gpus),
        concurrent=concurrent,
    )


@command()
def demo(
    output_dir: OutputDir = Path("results/demo/raw_data"),
    max_prompts: MaxPrompts = None,
) -> None:
    """Compare the embedded pair of tiny models on this machine: from measuring to the report, in minutes.

    \b
    Example: dlmbench demo --max-prompts 8
    """
    experiment, plan = PlanOptions(Path("config/experiments_tiny.yaml"), max_prompts=max_prompts).load()
    _run(experiment, plan, output_dir)


def _run(
    experiment: Experiment,
    plan: Plan,
    output_dir: Path,
    machine: Machine | None = None,
    *,
    try_oom: bool = False,
    extend: bool = False,
    gpus: str = "1",
    concurrent: bool = False,
) -> None:
    from dlmbench.cli import console

    console.left_out(plan)
    console.load_libraries("dlmbench.bench.run")
    from dlmbench.bench import run as session
    from dlmbench.bench.forecast import AS_FOUND
    from dlmbench.bench.gpus import find_gpus
    from dlmbench.bench.worker import ANYWHERE
    from dlmbench.cli.report import conclude
    from dlmbench.results import read_run

    if not extend:
        session.refuse_other_settings(output_dir, experiment)
    console.load_libraries("torch")
    placements = (ANYWHERE,) if gpus == "1" else find_gpus(gpus)
    if concurrent and len(placements) == 1:
        console.log("--concurrent has no effect with one GPU.")
    with console.measuring(experiment.name, experiment.protocol, plan, output_dir) as progress:
        hint = session.run(
            experiment,
            plan,
            output_dir,
            progress,
            machine or AS_FOUND,
            try_oom=try_oom,
            placements=placements,
            concurrent=concurrent,
        )
    if hint:
        console.log(hint)
    measured = read_run(output_dir)
    if spent := console.device_time(measured.device_time):
        console.log(spent)
    failure = failed_cells(plan, measured)
    conclude(output_dir)
    if failure is not None:
        raise failure


def failed_cells(plan: Plan, run: Run) -> CellsFailedError | None:
    """Log how many cells of `plan` are done; the error that ends the command if some of them failed.

    Out of memory, or skipped because it would be, is a result.
    """
    from dlmbench.cli import console

    wanted = {_without_content(cell) for cell in plan.cells}
    results = [r for r in run.results if _without_content(r.cell) in wanted]
    console.log(f"{sum(r.status is not None for r in results)} of {len(wanted)} cells done")
    failed = [r for r in results if r.status in ("error", "invalid")]
    if not failed:
        return None
    return CellsFailedError(
        f"{len(failed)} of {len(wanted)} cells failed, the first: {failed[0].cell.label}: {failed[0].reason}",
        f"All results are in {run.folder}; fix the cause, and the same command tries these cells again",
    )


def _without_content(cell: Cell) -> str:
    """The id that a cell has before its checkpoint is read."""
    return replace(cell, model=replace(cell.model, content=None)).id
