"""The likelihood of given continuations, without measuring."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dlmbench.cli.options import KnobOption, app
from dlmbench.errors import BenchError, did_you_mean

METRICS = ("likelihood", "elbo")


@app.command()
def likelihood(
    model: Annotated[str, typer.Option(help="checkpoint folder, hub id, or embedded:ar | embedded:llada")],
    prompt_file: Annotated[Path, typer.Option(help='JSON lines {"prompt": .., "reference": ..}, or _ids of both')],
    metric: Annotated[
        str, typer.Option(help="likelihood (exact, or the sampler's own) | elbo (diffusion)")
    ] = "likelihood",
    knob: KnobOption = None,
    draws: Annotated[int | None, typer.Option(min=1, help="masked copies for the elbo; default 128")] = None,
    rows: Annotated[int, typer.Option(min=1, help="copies in one forward; the authors' batch_size")] = 16,
    seed: Annotated[int, typer.Option(help="of all random draws")] = 0,
    precision: Annotated[str | None, typer.Option(help="float32 | bfloat16 | float16; default by device")] = None,
    attention: Annotated[str, typer.Option(help="auto | flash | efficient | cudnn | math")] = "auto",
    engine: Annotated[str, typer.Option(help="see `dlmbench list engines`")] = "hf",
) -> None:
    """Score given continuations, one JSON line each: how to check a likelihood against its authors' own examples.

    As in: dlmbench likelihood --model GSAI-ML/LLaDA-8B-Base --prompt_file pairs.jsonl --metric elbo
    """
    from dlmbench.bench import generate, score_references
    from dlmbench.experiment.load import parse_overrides

    if metric not in METRICS:
        raise BenchError(f"no likelihood is called '{metric}'", did_you_mean(metric, METRICS))
    if draws is not None and metric != "elbo":
        raise BenchError("--draws says nothing of a likelihood", "add --metric elbo")
    generate.check_controls(precision, attention)
    request = generate.GenerateRequest(
        model=model,
        prompt_file=prompt_file,
        prompts_are_ids=False,
        sampler=None,
        knobs={name: values[0] for name, values in parse_overrides(knobs=knob or ()).knobs},
        new_tokens=1,
        seed=seed,
        precision=precision,
        attention=attention,
        engine=engine,
        batch_size=1,
        chat=False,
        trace=False,
    )
    settings = {metric: {"draws": draws}} if draws is not None else {}
    for found in score_references.score(request, metric, settings, rows):
        print(json.dumps(asdict(found), ensure_ascii=False), flush=True)
