"""Start: `init` writes a commented experiment file."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from dlmbench import registry
from dlmbench.cli.options import command, split_names
from dlmbench.cli.plan import beyond_context, remark_beyond_context
from dlmbench.errors import BenchError, did_you_mean

if TYPE_CHECKING:
    from dlmbench.types import Plan

_MODELS = "meta-llama/Meta-Llama-3-8B,GSAI-ML/LLaDA-8B-Base"
_LENGTHS = "384+128"

_FILE = """\
# An experiment for dlmbench; docs/experiment_variables.md explains every key. Look at it with `dlmbench plan` first.
# Lists are axes: the cells of a grid are their product. A list of grids is their union.

name: {name}

models: # one baseline, and the models to compare with it
{models}
grid:
{grids}
prompts:
{prompts}
protocol:
  warmup: 3 # recorded and marked, never averaged
  processes: 3 # times often vary more between processes than within one

metrics: [likelihood, distinct_1, distinct_2, distinct_3, repetition] # see `dlmbench list metrics`
{hardware}
seed: 0
"""
_GRID = """\
  - lengths:
      prompt_tokens: {prompt}
      new_tokens: {new} # every model generates exactly this many
    batch_size: {batches}
    precision: {precision}
    attention: auto # or one kernel for every model: flash, efficient, cudnn, math
    engine: hf # plain transformers; see `dlmbench list engines`
    samplers: # their knobs: `dlmbench list samplers`
{samplers}"""
_PROMPTS = """\
  source: wikitext-103 # or: file, with a path
  size: medium # small 8, medium 32, large 128
"""
_TINY_PROMPTS = """\
  source: tiny # stories that the embedded models know
  count: 12
"""
_HARDWARE = """
hardware: # a note; the hardware used is recorded with the results
  gpu: {}
"""


@command()
def init(
    output: Annotated[Path, Option("--output", "-o", metavar="FILE", help="file to write")] = Path("experiment.yaml"),
    models: Annotated[
        list[str] | None,
        Option(
            metavar="SOURCE[,SOURCE...]",
            help="baseline and target: folders, hub ids, embedded:ar or embedded:llada; FAMILY=SOURCE names the family",
        ),
    ] = None,
    lengths: Annotated[
        list[str] | None, Option(metavar="P+G[,P+G...]", help=f"prompt and new tokens; default: {_LENGTHS}")
    ] = None,
    batch_size: Annotated[list[str] | None, Option(metavar="B[,B...]", help="batch sizes; default: 1")] = None,
    hardware: Annotated[
        str | None, Option(metavar="NAME", help="device to measure on; see `dlmbench list hardware`")
    ] = None,
) -> None:
    """Write a commented experiment file to start from. Asks for what is not given, if on a terminal.

    An existing file is never overwritten.

    \b
    Example: dlmbench init -o study.yaml --models meta-llama/Meta-Llama-3-8B,GSAI-ML/LLaDA-8B-Base --lengths 384+128
    """
    from dlmbench.cli import console

    if output.exists():
        raise BenchError(f"{output} exists already", "Choose another file with --output")
    sources = split_names(models) or _ask("models, baseline first", _MODELS, "--models")
    pairs = [_length(text) for text in split_names(lengths) or _ask("prompt and new tokens", _LENGTHS)]
    batches = [_count(text) for text in split_names(batch_size) or _ask("batch sizes", "1")]
    device = hardware if hardware is not None else ",".join(_ask("GPU (empty: not known yet)", ""))
    text = experiment_text(output.stem, sources, pairs, batches, device)
    planned, beyond = _check(text)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise BenchError(f"{output} cannot be written: {error.strerror}", "Choose another --output") from error
    prediction = f" --hardware {shlex.quote(device)}" if device else ""
    path = shlex.quote(str(output))
    console.left_out(planned)
    if remark := remark_beyond_context(planned, beyond):
        console.log(remark)
    cells = "1 cell" if len(planned.cells) == 1 else f"{len(planned.cells)} cells"
    console.log(f"{cells}; next: dlmbench plan -c {path}{prediction}, then dlmbench run -c {path}")
    print(output)


def _ask(question: str, default: str, required: str = "") -> list[str]:
    """The names that the user types; the default where nobody can be asked."""
    if not sys.stdin.isatty():
        if required:
            raise BenchError(f"init needs {required}", f"Write, for example, {required} {default}")
        return split_names([default])
    return split_names([typer.prompt(question, default=default, err=True)])


def _length(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)\+([1-9]\d*)", text)
    if found is None:
        raise BenchError(f"--lengths: '{text}' is not P+G", f"Write prompt and new tokens as in --lengths {_LENGTHS}")
    return int(found[1]), int(found[2])


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise BenchError(f"--batch-size: '{text}' is not a positive whole number", "Write, for example, 1,8")
    return int(text)


def _family_of(source: str) -> tuple[str, str]:
    """The family and the source in `FAMILY=SOURCE`, or the only family that can read the checkpoint's config.json.

    Raises:
        BenchError: an unknown family, or a checkpoint that is not on this machine and not known.
    """
    from dlmbench.models.loading import architecture_of
    from dlmbench.types import ModelSpec

    families = registry.names("families")
    family, sign, rest = source.partition("=")
    if sign:
        if family not in families:
            raise BenchError(f"unknown family '{family}'", did_you_mean(family, families))
        return family, rest
    readable = [f for f in families if not isinstance(architecture_of(ModelSpec("", f, source, "target")), str)]
    if len(readable) != 1:
        raise BenchError(
            f"the family of {source} is not known: its config.json is not here, or no family can read it",
            f"Name it, as in --models {families[0]}={source} (families: {', '.join(families)})",
        )
    return readable[0], source


def experiment_text(
    name: str, sources: list[str], lengths: list[tuple[int, int]], batch_sizes: list[int], device: str
) -> str:
    """An experiment file.

    Args:
        name: of the experiment.
        sources: of the models, as the option --models has them.
        lengths: prompt and new tokens of each.
        batch_sizes: of the grid.
        device: a GPU's name, "" for none.

    Raises:
        BenchError: a model's family or the device is not known.
    """
    from dlmbench.roofline import hardware
    from dlmbench.tiny import EMBEDDED_MODELS

    models = [_family_of(source) for source in sources]
    families = [registry.load("families", family) for family, _ in models]
    is_embedded = all(source in EMBEDDED_MODELS for _, source in models)
    entries = ""
    for number, ((family, source), module) in enumerate(zip(models, families, strict=True), 1):
        key = family if [f for f, _ in models].index(family) == number - 1 else f"{family}_{number}"
        entries += f"  {key}:\n    family: {family} # role: {module.ROLE} by default\n"
        entries += f"    source: {json.dumps(source)} # a folder, or a hub id\n"
    grids = ""
    for prompt, new in lengths:
        samplers = ""
        for sampler in dict.fromkeys(module.SAMPLER for module in families):
            samplers += f"      {sampler}:\n        temperature: 0 # greedy\n"
            if "steps" in registry.all_knobs(sampler):
                steps = sorted({max(1, new // 4), max(1, new // 2), new})
                samplers += f"        steps: {steps} # K: fewer are faster, more are better\n"
        precision = "float32" if is_embedded else "bfloat16"
        grids += _GRID.format(prompt=prompt, new=new, batches=batch_sizes, precision=precision, samplers=samplers)
    gpu = _HARDWARE.format(json.dumps(hardware.find(device).name)) if device else ""
    prompts = _TINY_PROMPTS if is_embedded else _PROMPTS
    return _FILE.format(name=json.dumps(name), models=entries, grids=grids, prompts=prompts, hardware=gpu)


def _check(text: str) -> tuple[Plan, dict[str, str]]:
    """The plan of an experiment file, and by id why a run would not measure some of its cells.

    Raises:
        BenchError: `dlmbench plan` would refuse it, or it has no cell that its models can run.
    """
    from dlmbench.experiment import load as configuration
    from dlmbench.experiment import plan

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experiment.yaml"
        path.write_text(text, encoding="utf-8")
        planned = plan.expand(configuration.load(path))
    if not planned.cells:
        raise BenchError("no cell of this experiment can be run", planned.left_out[0].reason)
    reasons = beyond_context(planned)
    if len(reasons) == len(planned.cells):
        raise BenchError(
            f"no cell of this experiment can be run: {next(iter(reasons.values()))}", "Write shorter --lengths"
        )
    return planned, reasons
