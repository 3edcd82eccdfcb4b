"""The likelihood of continuations in a file under one model, outside any experiment: a check against authors' code."""

from __future__ import annotations

import json
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
from dlmbench.prompts import Tokenizer, continuation
from dlmbench.scoring.request import MetricSettings, settle
from dlmbench.types import Cell, ModelSpec, Prompt, Texts, TextScore

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
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot read {path}: {error}", f"give --prompt_file a file of lines {LINE_FORMAT}") from None
    for index, (number, line) in enumerate((n, text) for n, text in enumerate(lines, 1) if text.strip()):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        prompt = _prompt(index, record, tokenizer) if isinstance(record, dict) else None
        if prompt is None:
            raise BenchError(
                f"{path}:{number} is not a prompt with its continuation", f"write {LINE_FORMAT} on each line"
            )
        yield prompt


def _prompt(index: int, record: dict[str, object], tokenizer: CheckpointTokenizer | None) -> Prompt | None:
    """Prompt and continuation encoded separately, as the published code does; None for a line of another format."""
    before, after = record.get("prompt"), record.get("reference")
    if isinstance(before, str) and isinstance(after, str) and before and after:
        if tokenizer is None:
            raise BenchError("the checkpoint has no tokenizer.json", "give prompt_ids and reference_ids")
        own = Tokenizer(tokenizer.encode, tokenizer.decode)
        return Prompt(index, tuple(own.encode(before)), before, continuation(own.encode, after), after)
    ids, reference = record.get("prompt_ids"), record.get("reference_ids")
    if not isinstance(ids, list) or not isinstance(reference, list) or not ids or not reference:
        return None
    if not all(type(i) is int for i in (*ids, *reference)):
        return None
    return Prompt(index, tuple(ids), None, tuple(reference), tokenizer.decode(reference) if tokenizer else None)
