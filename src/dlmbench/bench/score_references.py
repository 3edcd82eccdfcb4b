"""The likelihood of given continuations under one model, outside any experiment: a check against an author's code."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlmbench import registry
from dlmbench.bench import generate
from dlmbench.errors import BenchError
from dlmbench.models import checkpoint
from dlmbench.models.assets import resolve_model
from dlmbench.models.tokenizer import Codec, find
from dlmbench.prompts import Tokenizer, continuation
from dlmbench.scoring.settings import MetricSettings, settle
from dlmbench.types import Cell, ModelSpec, Prompt, Texts, TextScore

WANTED = '{"prompt": "...", "reference": "..."} or {"prompt_ids": [..], "reference_ids": [..]}'


@dataclass(frozen=True)
class GivenScore:
    """One continuation: minus log p in nats, its Monte Carlo error where it is an estimate, and what it is over."""

    prompt_index: int
    metric: str
    nats: float
    stderr: float | None
    tokens: int
    nats_per_token: float
    bits_per_byte: float | None
    note: str


def score(request: generate.Request, metric: str, settings: MetricSettings, rows: int) -> Iterator[GivenScore]:
    """`likelihood` or `elbo` of each line's continuation, in the order of the file.

    Raises:
        BenchError: the checkpoint, the lines, the knobs or the metric cannot be used together.
    """
    import torch

    (asked,) = settle([metric], settings)
    folder = resolve_model(ModelSpec("model", "", request.model, "baseline"))
    assert folder is not None
    found = checkpoint.inspect(folder)
    family = checkpoint.family_module(found.family)
    module = registry.load("metrics", metric)
    if "diffusion" in module.NEEDS and family.PARADIGM != "diffusion":
        raise BenchError(f"{metric}: only a masked diffusion model has it", "use --metric likelihood")
    codec = find(folder)
    prompts = list(_read(request.prompt_file, codec))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = request.precision or ("bfloat16" if device == "cuda" else "float32")
    spec = ModelSpec("model", found.family, request.model, family.ROLE)
    model = registry.load("engines", request.engine).load(
        spec, folder, precision=precision, attention=request.attention, device=device
    )
    for prompt in prompts:
        length = len(prompt.reference_ids or ())
        knobs = generate.settled(family.SAMPLER, request.knobs, request.engine, length)
        cell = Cell(
            *(spec, request.engine, family.SAMPLER, tuple(sorted(knobs.items())), 1, len(prompt.ids), length),
            *(precision, request.attention, request.seed, "given"),
        )
        (result,) = module.score(Texts(cell, (prompt,), (), model, rows=rows, request=asked, device=device))
        assert isinstance(result, TextScore)
        bits = result.total / math.log(2) / result.size_bytes if result.size_bytes else None
        note = "; ".join(part for part in (module.note(cell), result.remark) if part)
        per_token = result.total / result.weight
        yield GivenScore(prompt.index, metric, result.total, result.stderr, length, per_token, bits, note)


def _read(path: Path, codec: Codec | None) -> Iterator[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot read {path}: {error}", f"give --prompt_file a file of lines {WANTED}") from None
    for index, (number, line) in enumerate((n, text) for n, text in enumerate(lines, 1) if text.strip()):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        prompt = _prompt(index, record, codec) if isinstance(record, dict) else None
        if prompt is None:
            raise BenchError(f"{path}:{number} is not a prompt with its continuation", f"write {WANTED} on each line")
        yield prompt


def _prompt(index: int, record: dict[str, object], codec: Codec | None) -> Prompt | None:
    """Prompt and continuation encoded apart, as the published code does; None for a line of another form."""
    before, after = record.get("prompt"), record.get("reference")
    if isinstance(before, str) and isinstance(after, str) and before and after:
        if codec is None:
            raise BenchError("the checkpoint has no tokenizer.json", "give prompt_ids and reference_ids")
        own = Tokenizer(codec.encode, codec.decode)
        return Prompt(index, tuple(own.encode(before)), before, continuation(own.encode, after), after)
    ids, reference = record.get("prompt_ids"), record.get("reference_ids")
    if not isinstance(ids, list) or not isinstance(reference, list) or not ids or not reference:
        return None
    if not all(type(i) is int for i in (*ids, *reference)):
        return None
    return Prompt(index, tuple(ids), None, tuple(reference), codec.decode(reference) if codec else None)
