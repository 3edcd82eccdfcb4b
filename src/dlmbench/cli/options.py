"""What all commands share: the application, the options that several take, and the way from a file to a plan."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dlmbench.types import Experiment, Plan

app = typer.Typer(
    name="dlmbench",
    help="Is a diffusion language model worth it for you, instead of an autoregressive one? Measure both, and see.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Config = Annotated[Path, typer.Option("--config", "-c", help="experiment file; see config/ for annotated ones")]
OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="run folder; the same one again resumes the run")]
Steps = Annotated[list[str] | None, typer.Option(help="diffusion steps K instead of the file's, as in --steps 16,64")]
BatchSize = Annotated[list[str] | None, typer.Option(help="batch sizes B instead of the file's")]
SeqLen = Annotated[list[str] | None, typer.Option(help="total lengths N (prompt and new tokens) instead of the file's")]
MaxPrompts = Annotated[str | None, typer.Option(help="use at most so many prompts")]
PromptFile = Annotated[str | None, typer.Option(help="prompts from this file: text lines, JSONL or paragraphs")]
Bertscore = Annotated[bool, typer.Option("--compute-bertscore", help="also score BERTScore against the references")]
Models = Annotated[list[str] | None, typer.Option(help="only these models of the file, by their keys")]
KnobOption = Annotated[list[str] | None, typer.Option("--knob", help="any sampler knob: name=value or name=v1,v2")]
HardwareName = Annotated[str | None, typer.Option("--hardware", help="device, as in --hardware h200")]
HardwareFile = Annotated[Path | None, typer.Option("--hardware-file", help="YAML with devices of your own")]
RunFolder = Annotated[Path, typer.Argument(help="folder of a finished run")]


def load(
    config: Path,
    *,
    steps: list[str] | None = None,
    batch_size: list[str] | None = None,
    seq_len: list[str] | None = None,
    max_prompts: str | None = None,
    prompt_file: str | None = None,
    compute_bertscore: bool = False,
    models: list[str] | None = None,
    knob: list[str] | None = None,
) -> tuple[Experiment, Plan]:
    """The experiment of a file, changed by the options that several commands take, and its cells."""
    from dlmbench.experiment import load as configuration
    from dlmbench.experiment import plan

    # A path that is not found from here is tried from the checkout, so that programs run from any folder.
    checkout = Path(__file__).parents[2] / config
    path = checkout if not config.is_absolute() and not config.exists() and checkout.exists() else config
    overrides = configuration.parse_overrides(
        steps=_joined(steps),
        batch_size=_joined(batch_size),
        seq_len=_joined(seq_len),
        max_prompts=max_prompts,
        prompt_file=prompt_file,
        compute_bertscore=compute_bertscore,
        models=_joined(models),
        knobs=knob or (),
    )
    experiment = configuration.load(path, overrides)
    return experiment, plan.expand(experiment)


def _joined(given: list[str] | None) -> str | None:
    """An option given several times is the comma-separated list it could have been."""
    return None if given is None else ",".join(given)


def conclude(output_dir: Path, price: float | None = None, quality: str | None = None) -> None:
    """Print what a finished run says, and write its figures and reports."""
    from rich.console import Console

    from dlmbench import report
    from dlmbench.cli import console

    with console.Stages(str(output_dir)) as stages:
        outcome = report.conclude(output_dir, price, quality, stages.say)
    console.findings(outcome.findings)
    width = None if sys.stdout.isatty() else 160
    out = Console(width=width, highlight=False)
    out.print(console.summary(outcome.rows, "Summary"))
    out.print(f"\n{outcome.answer}\n", markup=False, soft_wrap=True)
    if price is not None:
        out.print(console.costs(outcome.costs, price))
        for line in console.cheapest(outcome.cheapest):
            out.print(line, markup=False, soft_wrap=True)
    for path in (output_dir / "raw_metrics.csv", output_dir / "quality_metrics.json", *outcome.figures):
        print(path)
    for path in outcome.reports:
        print(path)
    if not outcome.reports:
        console.say("no report.html: pip install 'dlmbench[report]', then `dlmbench report` on the folder")
