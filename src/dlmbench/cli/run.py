"""Measure: `run` for an experiment file, `demo` for the embedded pair, `score` and `analyze` for a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlmbench.cli.options import (
    BatchSize,
    Bertscore,
    Config,
    HardwareFile,
    HardwareName,
    KnobOption,
    MaxPrompts,
    Models,
    OutputDir,
    PromptFile,
    RunFolder,
    SeqLen,
    Steps,
    app,
    conclude,
    load,
)
from dlmbench.errors import BenchError

if TYPE_CHECKING:
    from dlmbench.bench.forecast import Machine
    from dlmbench.types import Experiment, Plan


@app.command()
def run(
    config: Config = Path("config/experiments.yaml"),
    output_dir: OutputDir = Path("results/raw_data"),
    steps: Steps = None,
    batch_size: BatchSize = None,
    seq_len: SeqLen = None,
    max_prompts: MaxPrompts = None,
    prompt_file: PromptFile = None,
    compute_bertscore: Bertscore = False,
    models: Models = None,
    knob: KnobOption = None,
    hardware: HardwareName = None,
    hardware_file: HardwareFile = None,
    try_oom: Annotated[
        bool, typer.Option("--try-oom", help="also try the cells that are predicted not to fit into memory")
    ] = False,
) -> None:
    """Measure speed and quality of every cell, then tables, figures and the answer. Resumes where it stopped.

    The device is the one found; --hardware is for one that does not tell its name, --hardware-file for one not known.
    """
    experiment, plan = load(
        config,
        steps=steps,
        batch_size=batch_size,
        seq_len=seq_len,
        max_prompts=max_prompts,
        prompt_file=prompt_file,
        compute_bertscore=compute_bertscore,
        models=models,
        knob=knob,
    )
    from dlmbench.bench.forecast import Machine
    from dlmbench.roofline.hardware import load_rows

    _run(experiment, plan, output_dir, Machine(hardware, load_rows(hardware_file)), try_oom=try_oom)


def _run(
    experiment: Experiment, plan: Plan, output_dir: Path, machine: Machine | None = None, *, try_oom: bool = False
) -> None:
    from dlmbench.bench import run as session
    from dlmbench.bench.forecast import AS_FOUND
    from dlmbench.bench.stopping import Stopping, resumable
    from dlmbench.cli import console

    console.left_out(plan.left_out)
    visits = len(plan.cells) * (experiment.protocol.rounds + 1) + len(plan.scored_cells)
    title = f"{experiment.name}: {len(plan.cells)} cells into {output_dir}"
    with resumable(output_dir), console.LiveProgress(title, visits) as progress, Stopping(progress) as stopping:
        session.run(experiment, plan, output_dir, stopping, machine or AS_FOUND, try_oom=try_oom)
    conclude(output_dir)


@app.command()
def demo(
    output_dir: OutputDir = Path("results/demo/raw_data"),
    max_prompts: MaxPrompts = None,
) -> None:
    """Compare the embedded tiny pair on this machine: the whole way from measuring to the answer, in minutes."""
    experiment, planned = load(Path("config/experiments_tiny.yaml"), max_prompts=max_prompts)
    _run(experiment, planned, output_dir)


@app.command()
def score(
    run_folder: RunFolder,
    metrics: Annotated[list[str], typer.Option("--metrics", "-m", help="metrics to add; see `dlmbench list metrics`")],
    judge: Annotated[
        str | None, typer.Option(help="causal model that judges: a folder, org/name on the hub, or embedded:ar")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="setting of a metric, as in --setting bertscore.model=DIR; may be repeated")
    ] = None,
) -> None:
    """Add metrics to a finished run, from its stored texts and references, without generating again.

    As in: dlmbench score RUN -m judge_likelihood,judge_truth,unigram_entropy --judge org/name
    """
    import sys

    from rich.console import Console

    from dlmbench.bench import run as session
    from dlmbench.cli import console
    from dlmbench.results import read_run
    from dlmbench.scoring.settings import parse_settings

    names = [name.strip() for item in metrics for name in item.split(",")]
    settings = parse_settings(names, judge, setting or ())
    with console.LiveProgress(f"scoring {run_folder}", 0) as progress:
        session.score(run_folder, names, settings, progress)
    conclude(run_folder)
    out = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    scored = read_run(run_folder)
    out.print(console.scores(scored, names))
    for line in console.remarks(scored, names):
        out.print(line, markup=False, soft_wrap=True)


@app.command()
def analyze(
    run_folder: RunFolder,
    price: Annotated[
        float | None, typer.Option(help="of one GPU hour, in any currency: what each cell costs, and the cheapest way")
    ] = None,
    quality: Annotated[
        str | None, typer.Option(help="what the cheapest way must reach: METRIC=VALUE, or METRIC for parity by it")
    ] = None,
) -> None:
    """Draw the figures and state the answer again, from the files of a run alone; with a price, also what it costs."""
    if quality is not None and price is None:
        raise BenchError("--quality says what the cheapest way must reach, and there is no price", "Add --price 2.5")
    conclude(run_folder, price, quality)
