"""Left to right, one token a forward, with a KV cache: the engine's own decode loop.

Exactly G tokens are generated: the end-of-text token neither stops a measured run nor is it suppressed, because
suppressing it would change the text of one model only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dlmbench.sampling.denoise import padded
from dlmbench.sampling.rng import choose_tokens
from dlmbench.types import ForwardShape, Generation, KnobValue, LanguageModel, OnStep, PromptBatch

if TYPE_CHECKING:
    import torch

PARADIGM = "autoregressive"


@dataclass(frozen=True)
class AutoregressiveKnobs:
    """Grid axes of the sampler."""

    temperature: float = field(default=0.0, metadata={"help": "0 for greedy; above 0 draws from softmax(logits / T)"})


KNOBS = AutoregressiveKnobs


def check(knobs: Mapping[str, KnobValue], new_tokens: int) -> str | None:
    """Why these knobs cannot run, or None."""
    return None if 0 <= float(knobs["temperature"] or 0) < math.inf else "temperature must be 0 or more, and finite"


def generate(
    model: LanguageModel,
    batch: PromptBatch,
    new_tokens: int,
    knobs: Mapping[str, KnobValue],
    seed: int = 0,
    on_step: OnStep | None = None,
    trace: bool = False,
) -> Generation:
    """Continue each prompt by `new_tokens` tokens; `trace` adds nothing, the order being known.

    Work of a row: P + G - 1 token positions; the query at position i has i + 1 keys, (P+G-1)(P+G)/2 pairs in all.
    """
    import torch

    tokens_BP, attention_mask_BP = padded(batch, model)
    prompt_index_B = torch.tensor(batch.indices, device=model.device)
    temperature = float(knobs["temperature"] or 0)

    def choose(logits_BV: torch.Tensor, step: int) -> torch.Tensor:
        position_1 = torch.tensor([step], device=logits_BV.device)
        return choose_tokens(logits_BV[:, None], temperature, seed, prompt_index_B, step, position_1)[:, 0]

    tokens_BG = model.decode(tokens_BP, attention_mask_BP, new_tokens, choose if temperature > 0 else None, on_step)
    rows, prompt_tokens = tokens_BP.shape
    computed = prompt_tokens + new_tokens - 1
    return Generation(
        tokens_BG=tuple(tuple(row) for row in tokens_BG.tolist()),
        forwards=new_tokens,
        positions=rows * computed,
        attention_pairs=rows * computed * (computed + 1) // 2,
    )


def planned_forwards(
    knobs: Mapping[str, KnobValue], prompt_tokens: int, new_tokens: int, total: float | None = None
) -> tuple[ForwardShape, ...]:
    """A prefill over the prompt, which gives the first token, and a decode step for each further one."""
    prefill = ForwardShape(
        1, prompt_tokens, prompt_tokens, prompt_tokens * (prompt_tokens + 1) / 2, sampled=1, cached=prompt_tokens
    )
    steps = new_tokens - 1 if prompt_tokens else new_tokens
    context = prompt_tokens + (steps + 1) / 2
    decode = ForwardShape(steps, 1, context, context, sampled=1, cached=context)
    return tuple(shape for shape in (prefill, decode) if shape.count > 0 and shape.positions > 0)


def min_forwards(knobs: Mapping[str, KnobValue], new_tokens: int) -> int:
    """One forward per token; the prefill gives the first."""
    return max(new_tokens, 1)
