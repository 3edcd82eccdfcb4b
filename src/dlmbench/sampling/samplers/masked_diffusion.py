"""Masked diffusion, block by block: LLaDA's sampler, with any commit rule and any cache.

Vanilla LLaDA (Nie et al. 2025, arXiv 2502.09992) is commit low_confidence or random with cache none; Fast-dLLM
(Wu et al. 2025, arXiv 2505.22618) adds threshold and factor, prefix and dual. Any pair works.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.sampling.denoise import denoise
from dlmbench.types import (
    ForwardShape,
    Generation,
    KnobValue,
    LanguageModel,
    Likelihood,
    OnStep,
    PromptBatch,
    Trace,
)

PARADIGM = "diffusion"
PARTS = {"commit": "commit", "cache": "cache"}


@dataclass(frozen=True)
class MaskedDiffusionKnobs:
    """Grid axes of the sampler; commit rule and cache add their own."""

    commit: str = field(default="low_confidence", metadata={"help": "which positions become final after a forward"})
    cache: str = field(default="none", metadata={"help": "which positions a forward recomputes"})
    block_length: int | None = field(default=None, metadata={"help": "positions per block; default: all new tokens"})
    temperature: float = field(default=0.0, metadata={"help": "0 for argmax; above 0 draws from softmax(logits / T)"})
    cfg_scale: float = field(default=0.0, metadata={"help": "classifier-free guidance; above 0 doubles the work"})
    logits_eos_inf: bool = field(default=False, metadata={"help": "forbid the end-of-text token"})
    confidence_eos_eot_inf: bool = field(
        default=False, metadata={"help": "commit end-of-text and end-of-turn last (at any temperature)"}
    )
    confidence_dtype: str = field(
        default="auto", metadata={"help": "model, float32 or float64; auto: precision of the published code"}
    )


KNOBS = MaskedDiffusionKnobs


def check(knobs: Mapping[str, KnobValue], new_tokens: int) -> str | None:
    """Why these knobs cannot run with `new_tokens`, or None."""
    rule, cache = registry.load("commit", str(knobs["commit"])), registry.load("cache", str(knobs["cache"]))
    block = new_tokens if knobs["block_length"] is None else int(knobs["block_length"])
    if block < 1:
        return f"block_length ({block}) must be at least 1"
    if new_tokens % block:
        return f"block_length {block} does not divide the {new_tokens} new tokens"
    steps, blocks = knobs.get("steps"), new_tokens // block
    if steps is not None and int(steps) < 1:
        return f"steps ({steps}) must be at least 1"
    if steps is not None and int(steps) % blocks:
        return f"steps ({steps}) is not a multiple of the number of blocks ({blocks})"
    if float(knobs["cfg_scale"] or 0) > 0 and cache.USES_KV_CACHE:
        return f"cfg_scale needs cache none: the {knobs['cache']} cache has no rows for the unconditional half"
    for name in ("cfg_scale", "temperature"):
        if not 0 <= float(knobs[name] or 0) < math.inf:
            return f"{name} must be 0 or more, and finite"
    if knobs["confidence_dtype"] not in ("auto", "model", "float32", "float64"):
        return f"confidence_dtype is model, float32 or float64, not '{knobs['confidence_dtype']}'"
    reason: str | None = rule.check(knobs) if hasattr(rule, "check") else None
    return reason


def resolve(knobs: Mapping[str, KnobValue], engine: str, new_tokens: int) -> dict[str, KnobValue]:
    """Resolve the knobs left open: K, the block length, and the precision of the confidence.

    LLaDA's code takes the softmax in the model's precision, Fast-dLLM's (a KV cache, or a rule without a schedule) in
    float64. An engine may prefer another by its `CONFIDENCE_DTYPE`.
    """
    resolved = dict(knobs)
    if resolved["confidence_dtype"] == "auto":
        rule, cache = registry.load("commit", str(knobs["commit"])), registry.load("cache", str(knobs["cache"]))
        published = "float64" if cache.USES_KV_CACHE or not rule.SCHEDULED else "model"
        resolved["confidence_dtype"] = getattr(registry.load("engines", engine), "CONFIDENCE_DTYPE", None) or published
    resolved["block_length"] = resolved["block_length"] or new_tokens
    if "steps" in resolved:
        resolved["steps"] = resolved["steps"] or new_tokens
    return resolved


def generate(
    model: LanguageModel,
    batch: PromptBatch,
    new_tokens: int,
    knobs: Mapping[str, KnobValue],
    seed: int = 0,
    on_step: OnStep | None = None,
    trace: bool = False,
) -> Generation:
    """Fill a canvas of `new_tokens` masks behind each prompt, with resolved knobs; see `Generator.generate`.

    Raises:
        BenchError: the model has no mask token, or a prompt cannot be run.
        InvalidLogitsError: the model returned NaN or infinity.
    """
    canvas, work = denoise(model, batch, new_tokens, knobs, seed, on_step=on_step, trace=trace)
    assert not bool(canvas.masked_BG.any()), "the loop ended with masks left"
    recorded = None
    if canvas.commit_step_BG is not None and canvas.confidence_BG is not None:
        recorded = Trace(
            committed_at_BG=tuple(map(tuple, canvas.commit_step_BG.tolist())),
            confidence_BG=tuple(map(tuple, canvas.confidence_BG.tolist())),
            block_ends=tuple(work.block_ends),
        )
    return Generation(
        tokens_BG=tuple(map(tuple, canvas.new_BG.tolist())),
        forwards=work.forwards,
        positions=work.positions,
        attention_pairs=work.attention_pairs,
        wasted_positions=work.wasted_positions,
        trace=recorded,
    )


def log_likelihood(
    model: LanguageModel, batch: PromptBatch, knobs: Mapping[str, KnobValue], seed: int = 0
) -> Likelihood:
    """log p of the references under this sampler, in nats: DUEL's sampler likelihood (arXiv 2603.01367).

    All reference positions start masked. After each forward the rule commits positions as in generation; their
    reference tokens are scored and revealed. Positions are ranked by the model's largest probability (temperature 0)
    and tokens count as drawn at temperature 1, so it is exact for rules that do not depend on drawn tokens, and one
    sample of an average over orders for commit random. References must have one length.

    Raises:
        BenchError: a prompt has no reference.
        InvalidLogitsError: the model returned NaN or infinity.
    """
    lengths = {len(p.reference_ids or ()) for p in batch.prompts}
    if any(p.reference_ids is None for p in batch.prompts):
        raise BenchError("a likelihood needs the true continuations", "Use a prompt source with references")
    assert len(lengths) == 1, "references of one length"
    canvas, work = denoise(model, batch, lengths.pop(), dict(knobs) | {"temperature": 0.0}, seed, likelihood=True)
    assert canvas.log_prob_BG is not None
    return Likelihood(log_prob_BG=tuple(map(tuple, canvas.log_prob_BG.tolist())), forwards=work.forwards)


def planned_forwards(
    knobs: Mapping[str, KnobValue], prompt_tokens: int, new_tokens: int, total: float | None = None
) -> tuple[ForwardShape, ...] | None:
    """The forwards over the canvas, with resolved or unresolved knobs.

    total: number of forwards, where a rule without a schedule has run; None with such a rule answers None.
    """
    cache = registry.load("cache", str(knobs.get("cache") or "none"))
    length, block = prompt_tokens + new_tokens, int(knobs.get("block_length") or new_tokens)
    blocks, per_block = new_tokens // block, _steps_per_block(knobs, new_tokens)
    if per_block is None and total is None:
        return None
    forwards: float = per_block if per_block is not None else (total or 0) / blocks
    copies = 2 if float(knobs.get("cfg_scale") or 0) > 0 else 1
    if not cache.USES_KV_CACHE:
        return (ForwardShape(blocks * forwards, length, length, length * length, sampled=block, copies=copies),)
    shapes = [ForwardShape(blocks, length, length, length * length, sampled=block, cached=length, copies=copies)]
    firsts = range(prompt_tokens, prompt_tokens + blocks * block, block)
    later_spans = [cache.span(first, first + block, length) for first in firsts]
    spans = Counter(stop - start for start, stop in later_spans)
    for positions, count in spans.items() if forwards > 1 else ():
        later, pairs = count * (forwards - 1), positions * length
        shapes.append(ForwardShape(later, positions, length, pairs, sampled=block, cached=length, copies=copies))
    return tuple(shapes)


def min_forwards(knobs: Mapping[str, KnobValue], new_tokens: int) -> int:
    """The fewest forwards: exact with a schedule, else what the cache needs in each block."""
    blocks, per_block = new_tokens // int(knobs.get("block_length") or new_tokens), _steps_per_block(knobs, new_tokens)
    return blocks * (_cache_min_forwards(knobs) if per_block is None else per_block)


def _steps_per_block(knobs: Mapping[str, KnobValue], new_tokens: int) -> int | None:
    """Forwards in each block, None where the commit rule has no schedule."""
    if not registry.load("commit", str(knobs.get("commit") or "low_confidence")).SCHEDULED:
        return None
    block = int(knobs.get("block_length") or new_tokens)
    steps = int(knobs.get("steps") or new_tokens) // (new_tokens // block)
    if not registry.load("cache", str(knobs.get("cache") or "none")).USES_KV_CACHE:
        return steps
    return max(min(steps, block), _cache_min_forwards(knobs))  # with a cache, steps that commit nothing are skipped


def _cache_min_forwards(knobs: Mapping[str, KnobValue]) -> int:
    cache = registry.load("cache", str(knobs.get("cache") or "none"))
    return int(cache.min_forwards(knobs)) if hasattr(cache, "min_forwards") else 1
