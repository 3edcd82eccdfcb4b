"""Generate from a file of prompts, outside any experiment: how users check a sampler against the authors' examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dlmbench import registry
from dlmbench.errors import BenchError, did_you_mean
from dlmbench.experiment import knobs as axes
from dlmbench.models import attention as _attention
from dlmbench.models import checkpoint
from dlmbench.models.assets import resolve_model
from dlmbench.models.tokenizer import Codec, find
from dlmbench.prompts import load_texts
from dlmbench.types import Generation, KnobValue, ModelSpec, Prompt, PromptBatch, PromptSettings, SamplerAxes

PRECISIONS = ("float32", "bfloat16", "float16")
# What an option may name as the attention kernel: all that the engines can enforce, and torch's own choice.
ATTENTION = ("auto", *_attention.KERNELS)


def check_controls(precision: str | None, attention: str | None) -> None:
    """Refuse a precision or an attention kernel that does not exist; None is left to the default.

    Raises:
        BenchError: which, and what is meant perhaps.
    """
    for name, value, known in (("precision", precision, PRECISIONS), ("attention", attention, ATTENTION)):
        if value is not None and value not in known:
            raise BenchError(f"unknown {name} '{value}'", did_you_mean(value, known))


@dataclass(frozen=True)
class Request:
    """What to generate; None leaves a choice to the checkpoint's family or to the device."""

    model: str
    prompt_file: Path
    prompts_are_ids: bool
    sampler: str | None
    knobs: Mapping[str, KnobValue]
    new_tokens: int
    seed: int
    precision: str | None
    attention: str
    engine: str
    batch_size: int
    chat: bool
    trace: bool


@dataclass(frozen=True)
class Output:
    """One prompt's continuation. forwards: of the batch it ran in; positions: token positions computed for this row."""

    prompt_index: int
    text: str | None
    output_ids: tuple[int, ...]
    forwards: int
    positions: int
    committed_at: tuple[int, ...] | None = None
    confidence: tuple[float, ...] | None = None


def generate(request: Request) -> Iterator[Output]:
    """Outputs in the order of the prompts.

    Raises:
        BenchError: the checkpoint, the prompts or the knobs cannot be used, with the place and the remedy.
    """
    import torch

    # Read what is cheap first, so that a typing error does not cost the loading of a model.
    folder = resolve_model(ModelSpec("model", "", request.model, "target"))
    assert folder is not None
    found = checkpoint.inspect(folder)
    family = checkpoint.family_module(found.family)
    sampler = request.sampler or family.SAMPLER
    if registry.load("samplers", sampler).PARADIGM != family.PARADIGM:
        raise BenchError(f"sampler '{sampler}' cannot run a model of family '{found.family}'", f"use {family.SAMPLER}")
    knobs = settled(sampler, request.knobs, request.engine, request.new_tokens)
    codec = find(folder)
    prompts = _prompts(request, codec, folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = request.precision or ("bfloat16" if device == "cuda" else "float32")
    spec = ModelSpec("model", found.family, request.model, family.ROLE)
    engine = registry.load("engines", request.engine)
    model = engine.load(spec, folder, precision=precision, attention=request.attention, device=device)
    for first in range(0, len(prompts), request.batch_size):
        batch = PromptBatch(prompts[first : first + request.batch_size], "")
        made = registry.load("samplers", sampler).generate(
            model, batch, request.new_tokens, knobs, request.seed, None, request.trace
        )
        yield from _outputs(made, batch, codec)


def settled(sampler: str, chosen: Mapping[str, KnobValue], engine: str, new_tokens: int) -> dict[str, KnobValue]:
    """The knobs as they will be run.

    Raises:
        BenchError: a knob that the sampler or its chosen parts lack, or values that do not go together.
    """
    given = tuple((name, (value,)) for name, value in chosen.items())
    known = registry.all_knobs(sampler)
    for name, _ in given:
        if name not in known:
            owners = " or ".join(axes.owners(name))
            raise BenchError(f"sampler '{sampler}' has no knob '{name}'", f"{owners} has; leave it out, or --sampler")
    swept = SamplerAxes(sampler, given)
    for name in axes.unused_knobs(swept):
        # K is harmless beside a rule without a schedule, and the published programs take both.
        if name != "steps":
            parts = ", ".join(f"{part} {chosen.get(part, known[part].default)}" for part in registry.parts(sampler))
            raise BenchError(f"'{name}' does nothing with {parts}", f"{name} belongs to {known[name].owner}")
    knobs = next(axes.combinations(swept))
    module = registry.load("samplers", sampler)
    reason = module.check(knobs, new_tokens)
    if reason is not None:
        raise BenchError(reason, "change --steps, --block_length or --new_tokens so that they divide")
    result: dict[str, KnobValue] = module.resolve(knobs, engine, new_tokens) if hasattr(module, "resolve") else knobs
    return result


def _prompts(request: Request, codec: Codec | None, folder: Path) -> tuple[Prompt, ...]:
    found = []
    settings = PromptSettings("file", None, str(request.prompt_file), chat=request.chat)
    for index, passage in enumerate(load_texts(settings)):
        if passage.ids is not None:
            found.append(Prompt(index, passage.ids))
        elif request.prompts_are_ids:
            raise BenchError(
                f"{request.prompt_file}: prompt {index + 1} has no prompt_ids",
                'write {"prompt_ids": [1, 2, 3]} on each line, or leave --prompt_ids out',
            )
        elif codec is None:
            raise BenchError(f"{folder} has no tokenizer.json", "give ids instead: --prompt_ids")
        else:
            ids = codec.chat(passage.text) if request.chat else codec.encode(passage.text)
            found.append(Prompt(index, tuple(ids), passage.text))
    return tuple(found)


def _outputs(made: Generation, batch: PromptBatch, codec: Codec | None) -> Iterator[Output]:
    for row, prompt in enumerate(batch.prompts):
        ids = made.tokens_BG[row]
        yield Output(
            prompt_index=prompt.index,
            text=codec.decode(ids) if codec else None,
            output_ids=ids,
            forwards=made.forwards,
            positions=made.positions // len(batch.prompts),
            committed_at=made.trace.committed_at_BG[row] if made.trace else None,
            confidence=made.trace.confidence_BG[row] if made.trace else None,
        )
