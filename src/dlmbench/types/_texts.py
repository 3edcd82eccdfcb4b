"""Prompts, and what samplers make of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """A prompt in one model's ids, its place in the prompt set, and the true continuation where it is known.

    scored: which of the reference tokens a likelihood counts, first to last (exclusive); None for all. scored_tokens:
    how many tokens its nats are divided by, where that is not their own number (tokenizers differ; see prompts).
    """

    index: int
    ids: tuple[int, ...]
    text: str | None = None
    reference_ids: tuple[int, ...] | None = None
    reference_text: str | None = None
    scored: tuple[int, int] | None = None
    scored_tokens: int | None = None


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one batch. Ragged ones are padded on the left by the sampler; `prompt_hash` names the whole set."""

    prompts: tuple[Prompt, ...]
    prompt_hash: str

    @property
    def indices(self) -> tuple[int, ...]:
        """The prompts' places in the set: what random draws are keyed by."""
        return tuple(p.index for p in self.prompts)


@dataclass(frozen=True)
class Trace:
    """What a traced generation saw: rows B, new tokens G.

    committed_at_BG: the forward (counted from 1) at which each position became final; confidence_BG: with what
    confidence. block_ends: for each block, the number of forwards after which it was final.
    """

    committed_at_BG: tuple[tuple[int, ...], ...]
    confidence_BG: tuple[tuple[float, ...], ...]
    block_ends: tuple[int, ...]


@dataclass(frozen=True)
class Generation:
    """What a sampler made of one batch, with the work it took, counted while it ran.

    tokens_BG: the new ids only. positions: token positions computed, over all rows (twice with CFG).
    attention_pairs: query-key pairs. wasted_positions: positions computed for rows that were already done.
    """

    tokens_BG: tuple[tuple[int, ...], ...]
    forwards: int
    positions: int
    attention_pairs: int
    wasted_positions: int = 0
    trace: Trace | None = None

    @property
    def new_tokens(self) -> int:
        """New tokens over all rows."""
        return sum(len(row) for row in self.tokens_BG)


@dataclass(frozen=True)
class Likelihood:
    """log p of each reference token, in nats (rows B, tokens G), and the forwards it took."""

    log_prob_BG: tuple[tuple[float, ...], ...]
    forwards: int


# All prompts of each (model key, prompt tokens, new tokens), in that model's ids.
PromptSets = Mapping[tuple[str, int, int], PromptBatch]


@dataclass(frozen=True)
class StoredGeneration:
    """One generated text, kept so that a metric can be added later without generating again."""

    cell_id: str
    prompt_index: int
    prompt_hash: str
    output_ids: tuple[int, ...]
    text: str | None
    forwards: int
    useful_tokens: int | None
    output_bytes: int | None
