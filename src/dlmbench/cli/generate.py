"""Run one checkpoint without measuring: `generate` from prompts, or compute the `likelihood` of references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    # The bounds of an experiment file's seed.
    seed: Annotated[int, Option(min=0, max=2**53, metavar="N", help="seed of all random draws")] = 0
    precision: Annotated[
        str | None,
        Option(metavar="DTYPE", help="float32 | bfloat16 | float16; default: by device"),
    ] = None
    attention: Annotated[str, Option(metavar="KERNEL", help="auto | flash | efficient | cudnn | math")] = "auto"
    engine: Annotated[str, Option(metavar="NAME", help="see `dlmbench list engines`")] = "hf"
    knob: KnobOption = None

    def request(self) -> GenerateRequest:
        """A request with these options; those that are no field of it are knobs, as are those of --knob."""
        from dlmbench import registry
        from dlmbench.bench.generate import GenerateRequest, check_controls
        from dlmbench.experiment.load import parse_overrides

        values = vars(self)
        own = {f.name: values[f.name] for f in fields(GenerateRequest) if f.name in values}
        knobs = {n: v for n, v in values.items() if n not in own and n != "knob" and v is not None}
        for kind, name in (("engines", self.engine), *((k, knobs[k]) for k in ("cache", "commit") if k in knobs)):
            registry.load(kind, name)
        check_controls(self.precision, self.attention)
        knobs |= {name: texts[0] for name, texts in parse_overrides(knobs=self.knob or ()).knobs}
        return GenerateRequest(**own, knobs=knobs)


@dataclass(frozen=True)
class GenerateOptions(CheckpointOptions):
    """Adds how to generate; the options that are no field of `GenerateRequest` are knobs."""

    prompts_are_ids: Annotated[
        bool, Option("--prompt-ids", help='prompt file has token ids: one {"prompt_ids": [..]} per line')
    ] = False
    sampler: Annotated[str | None, Option(metavar="NAME", help="default: the sampler of the model's family")] = None
    new_tokens: Annotated[int, Option(min=1, metavar="G", help="tokens to generate for each prompt")] = 128
    steps: Annotated[int | None, Option(metavar="K", help="diffusion steps; default: one per token")] = None
    block_length: Annotated[int | None, Option(metavar="N", help="tokens per block; default: all new tokens")] = None
    cache: Annotated[str | None, Option(metavar="NAME", help="see `dlmbench list cache`")] = None
    commit: Annotated[str | None, Option(metavar="NAME", help="commit rule; see `dlmbench list commit`")] = None
    threshold: Annotated[
        float | None, Option(metavar="P", help="confidence threshold (commit=threshold); default 0.9")
    ] = None
    factor: Annotated[float | None, Option(metavar="F", help="factor (commit=factor); default 1.0")] = None
    cfg_scale: Annotated[float | None, Option(metavar="S", help="classifier-free guidance; default 0: none")] = None
    temperature: Annotated[float | None, Option(metavar="T", help="default 0: the most probable token")] = None
    batch_size: Annotated[int, Option(min=1, metavar="B", help="prompts per batch, padded on the left")] = 1
    chat: Annotated[bool, Option("--chat", help="apply the chat template to each prompt")] = False
    trace: Annotated[bool, Option("--trace", help="show in which forward each token was committed")] = False


@command()
@expand_options
def generate(
    options: GenerateOptions,
    as_json: Annotated[bool, Option("--json", help="print one JSON line per prompt")] = False,
) -> None:
    """Generate from a prompt file, for example to compare a sampler with its authors' code.

    With --trace also a picture of the order in which the tokens were committed; with --json as numbers.

    \b
    Example: dlmbench generate --model embedded:llada --prompt-file prompts.txt --steps 16 --json
    """
    from dlmbench import registry
    from dlmbench.cli import console

    console.load_libraries("torch")
    from dlmbench.bench import generate as generation

    if options.sampler is not None:
        registry.load("samplers", options.sampler)
    for output in generation.generate(options.request()):
        if as_json:
            hidden = () if options.trace else ("committed_at", "confidence")
            print(console.json_text({k: v for k, v in asdict(output).items() if k not in hidden}), flush=True)
        else:
            print(output.text if output.text is not None else " ".join(map(str, output.output_ids)), flush=True)
            if output.committed_at is not None:
                print(commitment(output.committed_at), flush=True)


def commitment(committed_at: Sequence[int], width: int = 80, rows: int = 32) -> str:
    """A picture of the forwards (rows) in which the tokens (columns) were committed; long ones are drawn in parts."""
    last = max(committed_at)
    per_row = -(-last // rows)
    lines = [f"committed in forward 1 to {last}: # now, - before, . still masked"]
    for start in range(0, len(committed_at), width):
        part = committed_at[start : start + width]
        if len(committed_at) > width:
            lines.append(f"tokens {start + 1} to {start + len(part)}")
        for first in range(1, last + 1, per_row):
            end = min(first + per_row - 1, last)
            marks = "".join("." if at > end else "#" if at >= first else "-" for at in part)
            label = str(first) if first == end else f"{first}-{end}"
            lines.append(f"{label:>9} |{marks}|")
    return "\n".join(lines)


@dataclass(frozen=True)
class LikelihoodOptions(CheckpointOptions):
    """A prompt file with references."""

    prompt_file: Annotated[Path, Option(metavar="FILE", help="JSON lines, see above")]


@command()
@expand_options
def likelihood(
    options: LikelihoodOptions,
    metric: Annotated[str, Option(metavar="NAME", help="likelihood (exact, or the sampler's) | elbo")] = "likelihood",
    draws: Annotated[int | None, Option(min=1, metavar="N", help="Monte Carlo draws of the elbo; default 128")] = None,
    rows: Annotated[int, Option(min=1, metavar="B", help="sequences per forward pass")] = 16,
) -> None:
    """Compute the likelihood of reference texts, for example to compare with other code; prints one JSON line each.

    Lines of the file are {"prompt": .., "reference": ..} or {"prompt_ids": [..], "reference_ids": [..]}.

    \b
    Example: dlmbench likelihood --model GSAI-ML/LLaDA-8B-Base --prompt-file pairs.jsonl --metric elbo
    """
    from dlmbench.cli import console

    console.load_libraries("torch")
    from dlmbench.bench import generate as generation

    if metric not in METRICS:
        raise BenchError(f"unknown likelihood '{metric}'", did_you_mean(metric, METRICS))
    if draws is not None and metric != "elbo":
        raise BenchError("--draws applies to the elbo only", "Add --metric elbo")
    settings = {metric: {"draws": draws}} if draws is not None else {}
    for scored in generation.score_references(options.request(), metric, settings, rows):
        print(console.json_text(asdict(scored)), flush=True)
