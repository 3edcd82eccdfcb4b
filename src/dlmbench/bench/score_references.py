"""The likelihood of continuations in a file under one model, outside any experiment: a check against authors' code."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlmbench import models, registry
from dlmbench.bench.generate import (
    GenerateRequest,
    default_device,
    default_precision,
    resolve_knobs,
    sampler_for,
)
from dlmbench.errors import BenchError
from dlmbench.models.tokenizer import CheckpointTokenizer
from dlmbench.prompts import continuation, load_texts
from dlmbench.scoring.settings import MetricSettings, settle
from dlmbench.types import Cell, ModelSpec, Prompt, PromptSettings, Texts, TextScore

LINE_FORMAT = '{"prompt": "...", "reference": "..."} or {"prompt_ids": [..], "reference_ids": [..]}'


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


def score(request: GenerateRequest, metric: str, settings: MetricSettings, rows: int) -> Iterator[ReferenceScore]:
    """`likelihood` or `elbo` of each line's continuation, in the order of the file.

    Raises:
        BenchError: the checkpoint, the lines, the knobs or the metric cannot be used together.
    """
    (metric_request,) = settle([metric], settings)
    found = models.find(ModelSpec("model", "", request.model, "baseline"))
    sampler = sampler_for(found.spec.family, None)
    module = registry.load("metrics", metric)
    if "diffusion" in module.NEEDS and registry.load("samplers", sampler).PARADIGM != "diffusion":
        raise BenchError(f"{metric}: only a masked diffusion model has it", "use --metric likelihood")
    prompts = list(_read(request.prompt_file, found.tokenizer))
    device = default_device()
    precision = request.precision or default_precision(device)
    model = found.load(engine=request.engine, precision=precision, attention=request.attention, device=device)
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
        (result,) = module.score(texts)
        assert isinstance(result, TextScore)
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


def _read(path: Path, tokenizer: CheckpointTokenizer | None) -> Iterator[Prompt]:
    """Prompt and continuation of each line, encoded separately, as the published code does."""
    for index, passage in enumerate(load_texts(PromptSettings("file", None, str(path)))):
        if passage.ids and passage.reference_ids:
            text = tokenizer.decode(passage.reference_ids) if tokenizer else None
            yield Prompt(index, passage.ids, None, passage.reference_ids, text)
        elif not passage.reference:
            raise BenchError(f"{path}: prompt {index + 1} has no continuation", f"write {LINE_FORMAT} on each line")
        elif tokenizer is None:
            raise BenchError("the checkpoint has no tokenizer.json", "give prompt_ids and reference_ids")
        else:
            reference_ids = continuation(tokenizer.encode, passage.reference)
            prompt_ids = tuple(tokenizer.encode(passage.text))
            yield Prompt(index, prompt_ids, passage.text, reference_ids, passage.reference)
