"""Measure: `run` for an experiment file, `demo` for the embedded pair of tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from dlmbench.cli.options import (
    HardwareFile,
    HardwareName,
    MaxPrompts,
    OutputDir,
    PlanOptions,
    RunOptions,
    command,
    expand_options,
)

if TYPE_CHECKING:
    from dlmbench.bench.forecast import Machine
    from dlmbench.types import Experiment, Plan


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
) -> None:
    """Measure speed and quality of every cell, then write tables, figures and a report.

    The same command resumes an interrupted run. Predictions use the detected GPU; --hardware names one that is not
    recognised, --hardware-file describes one that is unknown.

    \b
    Example: dlmbench run -c config/experiments.yaml -o results/raw_data --steps 16,64 --batch-size 1,8
    """
    from dlmbench.bench.forecast import Machine
    from dlmbench.roofline.hardware import load_rows

    experiment, plan = options.load()
    _run(experiment, plan, output_dir, Machine(hardware, load_rows(hardware_file)), try_oom=try_oom)


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
    experiment: Experiment, plan: Plan, output_dir: Path, machine: Machine | None = None, *, try_oom: bool = False
) -> None:
    from dlmbench.bench import run as session
    from dlmbench.bench.forecast import AS_FOUND
    from dlmbench.cli import console
    from dlmbench.cli.report import conclude

    console.left_out(plan.left_out)
    with console.measuring(experiment.name, experiment.protocol, plan, output_dir) as progress:
        hint = session.run(experiment, plan, output_dir, progress, machine or AS_FOUND, try_oom=try_oom)
    if hint:
        console.log(hint)
    conclude(output_dir)
