"""Generate from a prompt file, without measuring."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dlmbench.cli.options import KnobOption, app


@app.command()
def generate(
    model: Annotated[str, typer.Option(help="checkpoint folder, hub id, or embedded:ar | embedded:llada")],
    prompt_file: Annotated[Path, typer.Option(help="text lines, JSONL or paragraphs")],
    prompt_ids: Annotated[bool, typer.Option("--prompt-ids", help='lines are {"prompt_ids": [..]}')] = False,
    sampler: Annotated[str | None, typer.Option(help="default: the one of the checkpoint's family")] = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="G, tokens to generate for each prompt")] = 128,
    steps: Annotated[int | None, typer.Option(help="diffusion steps K; default: one a token")] = None,
    block_length: Annotated[int | None, typer.Option(help="positions a block; default: all new tokens")] = None,
    cache: Annotated[str | None, typer.Option(help="none | prefix | dual")] = None,
    commit: Annotated[str | None, typer.Option(help="low_confidence | random | threshold | factor")] = None,
    threshold: Annotated[float | None, typer.Option(help="of commit threshold; default 0.9")] = None,
    factor: Annotated[float | None, typer.Option(help="of commit factor; default 1.0")] = None,
    cfg_scale: Annotated[float | None, typer.Option(help="classifier-free guidance; default 0, none")] = None,
    temperature: Annotated[float | None, typer.Option(help="default 0, the most probable token")] = None,
    seed: Annotated[int, typer.Option(help="of all random draws")] = 0,
    precision: Annotated[str | None, typer.Option(help="float32 | bfloat16 | float16; default by device")] = None,
    attention: Annotated[str, typer.Option(help="auto | flash | efficient | cudnn | math")] = "auto",
    engine: Annotated[str, typer.Option(help="see `dlmbench list engines`")] = "hf",
    batch_size: Annotated[int, typer.Option(min=1, help="rows at once; padded on the left where they differ")] = 1,
    chat: Annotated[bool, typer.Option("--chat", help="put each prompt into the chat template")] = False,
    knob: KnobOption = None,
    trace: Annotated[bool, typer.Option("--trace", help="also write when each position was committed")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON line a prompt")] = False,
) -> None:
    """Generate from a prompt file: how to check a sampler against its authors' own examples."""
    from dlmbench import registry
    from dlmbench.bench import generate as generation
    from dlmbench.experiment.load import parse_overrides

    given = {
        "steps": steps,
        "block_length": block_length,
        "cache": cache,
        "commit": commit,
        "threshold": threshold,
        "factor": factor,
        "cfg_scale": cfg_scale,
        "temperature": temperature,
    }
    knobs = {name: value for name, value in given.items() if value is not None}
    for part, folder in (("cache", "cache"), ("commit", "commit")):
        if part in knobs:
            registry.load(folder, str(knobs[part]))
    if sampler is not None:
        registry.load("samplers", sampler)
    registry.load("engines", engine)
    for name, values in parse_overrides(knobs=knob or ()).knobs:
        knobs[name] = values[0]  # type: ignore[assignment]
    generation.check_controls(precision, attention)
    request = generation.GenerateRequest(
        model=model,
        prompt_file=prompt_file,
        prompts_are_ids=prompt_ids,
        sampler=sampler,
        knobs=knobs,
        new_tokens=new_tokens,
        seed=seed,
        precision=precision,
        attention=attention,
        engine=engine,
        batch_size=batch_size,
        chat=chat,
        trace=trace,
    )
    for output in generation.generate(request):
        if as_json:
            shown = {k: v for k, v in asdict(output).items() if trace or k not in ("committed_at", "confidence")}
            print(json.dumps(shown, ensure_ascii=False), flush=True)
        else:
            print(output.text if output.text is not None else " ".join(map(str, output.output_ids)), flush=True)
