"""A prompt file outside any experiment: texts generated from it, or the likelihood of its references.

This is how users check a sampler, or a likelihood, against the code of its authors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dlmbench import models, registry
from dlmbench.errors import BenchError, InvalidLogitsError, did_you_mean
from dlmbench.experiment import knobs as axes
from dlmbench.models import FoundModel, LoadedModel
from dlmbench.models import attention as _attention
from dlmbench.models.tokenizer import CheckpointTokenizer
from dlmbench.prompts import continuation, load_texts
from dlmbench.sampling.generator import generator_for
from dlmbench.scoring.settings import MetricSettings, settle
from dlmbench.types import (
    Architecture,
    Cell,
    KnobValue,
    ModelSpec,
    Prompt,
    PromptBatch,
    PromptSettings,
    SamplerAxes,
    Texts,
    TextScore,
)

PRECISIONS = ("float32", "bfloat16", "float16")
# The attention kernels that the engines can enforce; "auto" leaves the choice to torch.
ATTENTION = ("auto", *_attention.KERNELS)

LINE_FORMAT = '{"prompt": "...", "reference": "..."} or {"prompt_ids": [..], "reference_ids": [..]}'


def default_device() -> str:
    """The GPU where there is one, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def default_precision(device: str) -> str:
    """bfloat16 on a GPU, float32 on the CPU."""
    return "bfloat16" if device.startswith("cuda") else "float32"


def check_controls(precision: str | None, attention: str | None) -> None:
    """Refuse an unknown precision or attention kernel; None is left to the default.

    Raises:
        BenchError: the unknown value, with the nearest known one.
    """
    for name, value, known in (("precision", precision, PRECISIONS), ("attention", attention, ATTENTION)):
        if value is not None and value not in known:
            raise BenchError(f"unknown {name} '{value}'", did_you_mean(value, known))


@dataclass(frozen=True)
class GenerateRequest:
    """What to generate; None leaves a choice to the checkpoint's family or to the device."""

    model: str
    prompt_file: Path
    prompts_are_ids: bool = False
    sampler: str | None = None
    knobs: Mapping[str, KnobValue] = field(default_factory=dict)
    new_tokens: int = 1
    seed: int = 0
    precision: str | None = None
    attention: str = "auto"
    engine: str = "hf"
    batch_size: int = 1
    chat: bool = False
    trace: bool = False


@dataclass(frozen=True)
class GeneratedText:
    """One prompt's continuation.

    forwards: of the batch it was generated in. positions: token positions computed for this row.
    """

    prompt_index: int
    text: str | None
    output_ids: tuple[int, ...]
    forwards: int
    positions: int
    committed_at: tuple[int, ...] | None = None
    confidence: tuple[float, ...] | None = None


def generate(request: GenerateRequest) -> Iterator[GeneratedText]:
    """Texts in the order of the prompts.

    Raises:
        BenchError: the checkpoint, the prompts or the knobs cannot be used.
    """
    # Everything cheap is read first, so that a typing error is reported before the model is loaded.
    found = models.find(ModelSpec("model", "", request.model, "target"))
    sampler = sampler_for(found.spec.family, request.sampler)
    knobs = resolve_knobs(sampler, request.knobs, request.engine, request.new_tokens)
    prompts = _prompts(request, found)
    for prompt in prompts:
        _check_length(found, prompt, request.new_tokens)
    model, _, _ = _load(request, found)
    generator = generator_for(model, sampler)
    for first in range(0, len(prompts), request.batch_size):
        batch = PromptBatch(prompts[first : first + request.batch_size], "")
        with _readable_logits():
            # An engine may check its logits in traced generations alone.
            generation = generator.generate(
                batch, request.new_tokens, knobs, request.seed, on_step=lambda _: None, trace=request.trace
            )
        for row, prompt in enumerate(batch.prompts):
            ids, trace = generation.tokens_BG[row], generation.trace
            yield GeneratedText(
                prompt_index=prompt.index,
                text=model.tokenizer.decode(ids) if model.tokenizer else None,
                output_ids=ids,
                forwards=generation.forwards,
                positions=generation.positions // len(batch.prompts),
                committed_at=trace.committed_at_BG[row] if trace else None,
                confidence=trace.confidence_BG[row] if trace else None,
            )


def beyond_context(architecture: Architecture, tokens: int) -> str:
    """Why a checkpoint cannot be run at a sequence length, "" if it can."""
    known = architecture.max_positions
    return "" if tokens <= known else f"{tokens} tokens are more than the {known} positions that the checkpoint knows"


def cells_beyond_context(cells: Sequence[Cell], known: Mapping[str, Architecture]) -> dict[str, str]:
    """By id, why cells cannot be run at their length; random weights can be at any. known: architectures by model."""
    trained = [c for c in cells if c.model.weights != "random" and c.model.key in known]
    found = {c.id: beyond_context(known[c.model.key], c.sequence_length) for c in trained}
    return {cell_id: why for cell_id, why in found.items() if why}


def _check_length(model: FoundModel, prompt: Prompt, new_tokens: int) -> None:
    if reason := beyond_context(model.architecture, len(prompt.ids) + new_tokens):
        raise BenchError(
            f"prompt {prompt.index + 1} with its {new_tokens} new tokens: {reason}",
            "Shorten the prompt, or the text that follows it",
        )


@contextmanager
def _readable_logits() -> Iterator[None]:
    """Logits that are NaN or infinite, as an error of the checkpoint."""
    try:
        yield
    except InvalidLogitsError as error:
        raise BenchError(str(error), "Its weights are damaged, or overflow: try --precision float32") from None


def _load(request: GenerateRequest, found: FoundModel) -> tuple[LoadedModel, str, str]:
    """The model with its device and precision."""
    device = default_device()
    precision = request.precision or default_precision(device)
    model = found.load(engine=request.engine, precision=precision, attention=request.attention, device=device)
    return model, device, precision


def sampler_for(family: str, sampler: str | None) -> str:
    """The sampler asked for, or the family's default.

    Raises:
        BenchError: a sampler of the other paradigm.
    """
    module = registry.load("families", family)
    sampler = sampler or str(module.SAMPLER)
    if registry.load("samplers", sampler).PARADIGM != module.PARADIGM:
        raise BenchError(f"sampler '{sampler}' cannot run a model of family '{family}'", f"Use {module.SAMPLER}")
    return sampler


def resolve_knobs(sampler: str, chosen: Mapping[str, KnobValue], engine: str, new_tokens: int) -> dict[str, KnobValue]:
    """All knobs of a sampler: the chosen ones, and defaults for the others.

    Raises:
        BenchError: a knob that the sampler or its parts lack, or values that do not go together.
    """
    known = registry.all_knobs(sampler)
    for name, value in chosen.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise BenchError(f"{name}: {value} is not a number", "Give a finite number")
        if name not in known:
            owners = " or ".join(axes.owners(name))
            raise BenchError(
                f"sampler '{sampler}' has no knob '{name}'",
                f"It belongs to {owners}: leave it out, or choose another --sampler",
            )
    swept = SamplerAxes(sampler, tuple((name, (value,)) for name, value in chosen.items()))
    for name in axes.unused_knobs(swept):
        # K is harmless with a rule that has no schedule, and the published programs accept both.
        if name != "steps":
            parts = ", ".join(f"{part} {chosen.get(part, known[part].default)}" for part in registry.parts(sampler))
            raise BenchError(f"'{name}' has no effect with {parts}", f"It belongs to {known[name].owner}")
    knobs = next(axes.combinations(swept))
    module = registry.load("samplers", sampler)
    reason = module.check(knobs, new_tokens)
    if reason is not None:
        raise BenchError(reason, "Change one of the values named")
    result: dict[str, KnobValue] = module.resolve(knobs, engine, new_tokens) if hasattr(module, "resolve") else knobs
    return result


def _prompts(request: GenerateRequest, model: FoundModel) -> tuple[Prompt, ...]:
    prompts = []
    settings = PromptSettings("file", None, str(request.prompt_file), chat=request.chat)
    for index, passage in enumerate(load_texts(settings)):
        if passage.ids is not None:
            prompts.append(Prompt(index, passage.ids))
        elif request.prompts_are_ids:
            raise BenchError(
                f"{request.prompt_file}: prompt {index + 1} has no prompt_ids",
                'Write {"prompt_ids": [1, 2, 3]} on each line, or leave --prompt-ids out',
            )
        elif model.tokenizer is None:
            raise BenchError(f"{model.folder} has no tokenizer.json", "Give ids instead: --prompt-ids")
        else:
            encode = model.tokenizer.chat if request.chat else model.tokenizer.encode
            prompts.append(Prompt(index, tuple(encode(passage.text)), passage.text))
    return tuple(prompts)


# ---------------------------------------------------------------- likelihood of references


@dataclass(frozen=True)
class ReferenceScore:
    """One continuation: minus log p in nats over `tokens`. stderr: its Monte Carlo error, where it is an estimate."""

    prompt_index: int
    metric: str
    nats: float
    stderr: float | None
    tokens: int
    nats_per_token: float
    bits_per_byte: float | None
    note: str


def score_references(
    request: GenerateRequest, metric: str, settings: MetricSettings, rows: int
) -> Iterator[ReferenceScore]:
    """`likelihood` or `elbo` of each line's continuation, in the order of the file.

    Raises:
        BenchError: the checkpoint, the lines, the knobs or the metric cannot be used together.
    """
    (metric_request,) = settle([metric], settings)
    found = models.find(ModelSpec("model", "", request.model, "baseline"))
    sampler = sampler_for(found.spec.family, None)
    module = registry.load("metrics", metric)
    if "diffusion" in module.NEEDS and registry.load("samplers", sampler).PARADIGM != "diffusion":
        raise BenchError(f"{metric}: only a masked diffusion model has it", "Use --metric likelihood")
    prompts = list(_references(request.prompt_file, found.tokenizer))
    for prompt in prompts:
        _check_length(found, prompt, len(prompt.reference_ids or ()))
    model, device, precision = _load(request, found)
    for prompt in prompts:
        length = len(prompt.reference_ids or ())
        cell = Cell(
            model=found.spec,
            engine=request.engine,
            sampler=sampler,
            knobs=tuple(sorted(resolve_knobs(sampler, request.knobs, request.engine, length).items())),
            batch_size=1,
            prompt_tokens=len(prompt.ids),
            new_tokens=length,
            precision=precision,
            attention=request.attention,
            seed=request.seed,
            prompts="file",
        )
        texts = Texts(cell, (prompt,), (), model.language_model, rows=rows, request=metric_request, device=device)
        with _readable_logits():
            (result,) = module.score(texts)
            assert isinstance(result, TextScore)
            if not math.isfinite(result.total):
                raise InvalidLogitsError("the model returned NaN or infinite logits")
        yield ReferenceScore(
            prompt_index=prompt.index,
            metric=metric,
            nats=result.total,
            stderr=result.stderr,
            tokens=length,
            nats_per_token=result.total / result.weight,
            bits_per_byte=result.total / math.log(2) / result.size_bytes if result.size_bytes else None,
            note="; ".join(part for part in (module.note(cell), result.remark) if part),
        )


def _references(path: Path, tokenizer: CheckpointTokenizer | None) -> Iterator[Prompt]:
    """Prompt and continuation of each line, encoded separately, as the published code does."""
    for index, passage in enumerate(load_texts(PromptSettings("file", None, str(path)))):
        if passage.ids and passage.reference_ids:
            text = tokenizer.decode(passage.reference_ids) if tokenizer else None
            yield Prompt(index, passage.ids, None, passage.reference_ids, text)
        elif not passage.reference:
            raise BenchError(f"{path}: prompt {index + 1} has no continuation", f"Write {LINE_FORMAT} on each line")
        elif tokenizer is None:
            raise BenchError("the checkpoint has no tokenizer.json", "Give prompt_ids and reference_ids")
        else:
            reference_ids = continuation(tokenizer.encode, passage.reference)
            prompt_ids = tuple(tokenizer.encode(passage.text))
            yield Prompt(index, prompt_ids, passage.text, reference_ids, passage.reference)
