"""Run one checkpoint without measuring: `generate` from prompts, or compute the `likelihood` of references."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Option

from dlmbench.cli.options import Attention, Engine, KnobOption, ModelSource, Precision, Seed, command
from dlmbench.errors import BenchError, did_you_mean

METRICS = ("likelihood", "elbo")


@command()
def generate(
    model: ModelSource,
    prompt_file: Annotated[Path, Option(metavar="FILE", help="prompts: text lines, JSONL or paragraphs")],
    prompt_ids: Annotated[bool, Option("--prompt-ids", help='lines are {"prompt_ids": [..]}')] = False,
    sampler: Annotated[
        str | None, Option(metavar="NAME", help="default: the sampler of the checkpoint's family")
    ] = None,
    new_tokens: Annotated[int, Option(min=1, metavar="G", help="tokens to generate for each prompt")] = 128,
    steps: Annotated[int | None, Option(metavar="K", help="diffusion steps; default: one per token")] = None,
    block_length: Annotated[int | None, Option(metavar="N", help="tokens per block; default: all new ones")] = None,
    cache: Annotated[str | None, Option(metavar="NAME", help="see `dlmbench list cache`")] = None,
    commit: Annotated[str | None, Option(metavar="NAME", help="commit rule; see `dlmbench list commit`")] = None,
    threshold: Annotated[
        float | None, Option(metavar="P", help="confidence for the threshold rule; default 0.9")
    ] = None,
    factor: Annotated[float | None, Option(metavar="F", help="factor of the factor rule; default 1.0")] = None,
    cfg_scale: Annotated[float | None, Option(metavar="S", help="classifier-free guidance; default 0: none")] = None,
    temperature: Annotated[float | None, Option(metavar="T", help="default 0: the most probable token")] = None,
    seed: Seed = 0,
    precision: Precision = None,
    attention: Attention = "auto",
    engine: Engine = "hf",
    batch_size: Annotated[int, Option(min=1, metavar="B", help="prompts per batch, padded on the left")] = 1,
    chat: Annotated[bool, Option("--chat", help="apply the chat template to each prompt")] = False,
    knob: KnobOption = None,
    trace: Annotated[bool, Option("--trace", help="also print when each position was committed")] = False,
    as_json: Annotated[bool, Option("--json", help="print one JSON line per prompt")] = False,
) -> None:
    """Generate from a prompt file, for example to compare a sampler with its authors' code.

    \b
    Example: dlmbench generate --model embedded:llada --prompt-file prompts.txt --steps 16 --json
    """
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
    request = generation.Request(
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


@command()
def likelihood(
    model: ModelSource,
    prompt_file: Annotated[
        Path, Option(metavar="FILE", help='JSON lines {"prompt": .., "reference": ..}, or the same with _ids')
    ],
    metric: Annotated[
        str, Option(metavar="NAME", help="likelihood (exact, or the sampler's) | elbo (diffusion only)")
    ] = "likelihood",
    knob: KnobOption = None,
    draws: Annotated[int | None, Option(min=1, metavar="N", help="Monte Carlo draws of the elbo; default 128")] = None,
    rows: Annotated[int, Option(min=1, metavar="B", help="sequences per forward pass")] = 16,
    seed: Seed = 0,
    precision: Precision = None,
    attention: Attention = "auto",
    engine: Engine = "hf",
) -> None:
    """Compute the likelihood of reference texts, one JSON line each, for example to compare with other code.

    \b
    Example: dlmbench likelihood --model GSAI-ML/LLaDA-8B-Base --prompt-file pairs.jsonl --metric elbo
    """
    from dlmbench.bench import generate, score_references
    from dlmbench.experiment.load import parse_overrides

    if metric not in METRICS:
        raise BenchError(f"no likelihood is called '{metric}'", did_you_mean(metric, METRICS))
    if draws is not None and metric != "elbo":
        raise BenchError("--draws applies to the elbo only", "Add --metric elbo")
    generate.check_controls(precision, attention)
    request = generate.Request(
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
