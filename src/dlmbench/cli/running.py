"""Measure: `run` for an experiment file, `demo` for the embedded pair, `score` and `analyze` for a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlmbench.cli._app import (
    BatchSize,
    Bertscore,
    Config,
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

if TYPE_CHECKING:
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
) -> None:
    """Measure speed and quality of every cell, then tables, figures and the answer. Resumes where it stopped."""
    experiment, plan = load(
        config,
        steps=steps,
        batch_size=batch_size,
        seq_len=seq_len,
        max_prompts=max_prompts,
        prompt_file=prompt_file,
        compute_bertscore=compute_bertscore,
        models=models,
        knobs=knob,
    )
    _run(experiment, plan, output_dir)


def _run(experiment: Experiment, plan: Plan, output_dir: Path) -> None:
    from dlmbench import console, session
    from dlmbench.cluster.stopping import Stopping, resumable

    console.left_out(plan.left_out)
    visits = len(plan.cells) * (experiment.protocol.rounds + 1) + len(plan.scored_cells)
    title = f"{experiment.name}: {len(plan.cells)} cells into {output_dir}"
    with resumable(output_dir), console.LiveProgress(title, visits) as progress, Stopping(progress) as stopping:
        session.measure(experiment, plan, output_dir, stopping)
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
) -> None:
    """Add metrics to a finished run, from its stored texts and references, without generating again."""
    from dlmbench import console, session

    names = ",".join(metrics).split(",")
    with console.LiveProgress("scoring", len(names)) as progress:
        session.score(run_folder, names, progress)
    conclude(run_folder)


@app.command()
def analyze(run_folder: RunFolder) -> None:
    """Draw the figures and state the answer again, from the files of a run alone."""
    conclude(run_folder)
