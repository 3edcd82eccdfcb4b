"""Run one checkpoint without measuring: `generate` from prompts, or compute the `likelihood` of references."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from dlmbench.cli.options import KnobOption, command, expand_options
from dlmbench.errors import BenchError, did_you_mean

if TYPE_CHECKING:
    from dlmbench.bench.generate import GenerateRequest

METRICS = ("likelihood", "elbo")


@dataclass(frozen=True)
class CheckpointOptions:
    """A checkpoint, how it is run, and the prompt file."""

    model: Annotated[str, Option(metavar="MODEL", help="checkpoint folder, hub id, embedded:ar or embedded:llada")]
    prompt_file: Annotated[Path, Option(metavar="FILE", help="text lines, JSONL or paragraphs")]
    seed: Annotated[int, Option(metavar="N", help="seed of all random draws")] = 0
    precision: Annotated[
        str | None,
        Option(metavar="DTYPE", help="float32 | bfloat16 | float16; default: by device"),
    ] = None
    attention: Annotated[str, Option(metavar="KERNEL", help="auto | flash | efficient | cudnn | math")] = "auto"
    engine: Annotated[str, Option(metavar="NAME", help="see `dlmbench list engines`")] = "hf"
    knob: KnobOption = None

    def request(self, **further: Any) -> GenerateRequest:
        """A request with these options and `further` fields; its knobs include those of --knob."""
        from dlmbench import registry
        from dlmbench.bench.generate import GenerateRequest, check_controls
        from dlmbench.experiment.load import parse_overrides

        registry.load("engines", self.engine)
        check_controls(self.precision, self.attention)
        knobs = {name: values[0] for name, values in parse_overrides(knobs=self.knob or ()).knobs}
        own = {name: value for name, value in vars(self).items() if name != "knob"}
        return GenerateRequest(**own, **further | {"knobs": further["knobs"] | knobs})


@command()
@expand_options
def generate(
    options: CheckpointOptions,
    prompt_ids: Annotated[bool, Option("--prompt-ids", help='lines are {"prompt_ids": [..]}')] = False,
    sampler: Annotated[str | None, Option(metavar="NAME", help="default: the sampler of the model's family")] = None,
    new_tokens: Annotated[int, Option(min=1, metavar="G", help="tokens to generate for each prompt")] = 128,
    steps: Annotated[int | None, Option(metavar="K", help="diffusion steps; default: one per token")] = None,
    block_length: Annotated[int | None, Option(metavar="N", help="tokens per block; default: all new ones")] = None,
    cache: Annotated[str | None, Option(metavar="NAME", help="see `dlmbench list cache`")] = None,
    commit: Annotated[str | None, Option(metavar="NAME", help="commit rule; see `dlmbench list commit`")] = None,
    threshold: Annotated[float | None, Option(metavar="P", help="of the threshold rule; default 0.9")] = None,
    factor: Annotated[float | None, Option(metavar="F", help="of the factor rule; default 1.0")] = None,
    cfg_scale: Annotated[float | None, Option(metavar="S", help="classifier-free guidance; default 0: none")] = None,
    temperature: Annotated[float | None, Option(metavar="T", help="default 0: the most probable token")] = None,
    batch_size: Annotated[int, Option(min=1, metavar="B", help="prompts per batch, padded on the left")] = 1,
    chat: Annotated[bool, Option("--chat", help="apply the chat template to each prompt")] = False,
    trace: Annotated[bool, Option("--trace", help="also print when each position was committed")] = False,
    as_json: Annotated[bool, Option("--json", help="print one JSON line per prompt")] = False,
) -> None:
    """Generate from a prompt file, for example to compare a sampler with its authors' code.

    \b
    Example: dlmbench generate --model embedded:llada --prompt-file prompts.txt --steps 16 --json
    """
    from dlmbench import registry
    from dlmbench.bench import generate as generation

    named = {
        "steps": steps,
        "block_length": block_length,
        "cache": cache,
        "commit": commit,
        "threshold": threshold,
        "factor": factor,
        "cfg_scale": cfg_scale,
        "temperature": temperature,
    }
    for kind, name in (("cache", cache), ("commit", commit), ("samplers", sampler)):
        if name is not None:
            registry.load(kind, name)
    request = options.request(
        prompts_are_ids=prompt_ids,
        sampler=sampler,
        knobs={name: value for name, value in named.items() if value is not None},
        new_tokens=new_tokens,
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
@expand_options
def likelihood(
    options: CheckpointOptions,
    metric: Annotated[str, Option(metavar="NAME", help="likelihood (exact, or the sampler's) | elbo")] = "likelihood",
    draws: Annotated[int | None, Option(min=1, metavar="N", help="Monte Carlo draws of the elbo; default 128")] = None,
    rows: Annotated[int, Option(min=1, metavar="B", help="sequences per forward pass")] = 16,
) -> None:
    """Compute the likelihood of reference texts, for example to compare with other code; prints one JSON line each.

    Lines of the file are {"prompt": .., "reference": ..} or {"prompt_ids": [..], "reference_ids": [..]}.

    \b
    Example: dlmbench likelihood --model GSAI-ML/LLaDA-8B-Base --prompt-file pairs.jsonl --metric elbo
    """
    from dlmbench.bench import score_references

    if metric not in METRICS:
        raise BenchError(f"no likelihood is called '{metric}'", did_you_mean(metric, METRICS))
    if draws is not None and metric != "elbo":
        raise BenchError("--draws applies to the elbo only", "Add --metric elbo")
    request = options.request(
        prompts_are_ids=False, sampler=None, knobs={}, new_tokens=1, batch_size=1, chat=False, trace=False
    )
    settings = {metric: {"draws": draws}} if draws is not None else {}
    for found in score_references.score(request, metric, settings, rows):
        print(json.dumps(asdict(found), ensure_ascii=False), flush=True)
