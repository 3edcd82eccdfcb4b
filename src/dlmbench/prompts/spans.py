"""The tokenizer interface used for prompts, and spans of text that two models with different tokenizers can both score.

Token boundaries differ between models, so a likelihood per token cannot be compared; the likelihood of the
same text can. The target's tokens decide where that text starts and ends, shrunk to complete characters (a
byte-level token may hold a part of one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlmbench.errors import BenchError
from dlmbench.types import PromptBatch

Encode = Callable[[str], Sequence[int]]
Decode = Callable[[Sequence[int]], str]

BROKEN = "\ufffd"  # what a decoder emits for incomplete UTF-8


@dataclass(frozen=True)
class Tokenizer:
    """A model's own tokenizer as functions: text to ids, ids to text without special tokens.

    chat: encodes a user message with the chat template and generation prompt; None where there is no template.
    """

    encode: Encode
    decode: Decode
    chat: Encode | None = None


BYTES = Tokenizer(
    encode=lambda text: tuple(text.encode()),
    decode=lambda ids: bytes(i for i in ids if i < 256).decode(errors="replace"),
)
"""One id per byte: for models without a tokenizer, such as random weights of a named architecture."""


@dataclass(frozen=True)
class ScoredSpan:
    """A text that target and baseline both score, after the same context.

    first, last: of the target's G reference tokens, those first..last (exclusive) spell `text`, byte for byte.
    prompt_ids, reference_ids: the baseline's ids of `before` and of `text`.
    """

    first: int
    last: int
    before: str
    text: str
    prompt_ids: tuple[int, ...]
    reference_ids: tuple[int, ...]


def continuation(encode: Encode, text: str) -> tuple[int, ...]:
    """Ids of a text that continues another: without the BOS tokens that `encode` prepends."""
    bos_ids, ids = tuple(encode("")), tuple(encode(text))
    return ids[len(bos_ids) :] if bos_ids and ids[: len(bos_ids)] == bos_ids else ids


def whole_characters(ids: Sequence[int], first: int, last: int, decode: Decode) -> tuple[int, int]:
    """Shrink first..last until it starts and ends at character boundaries."""
    while first < last and decode(ids[:first]).endswith(BROKEN):
        first += 1
    while last > first and decode(ids[:last]).endswith(BROKEN):
        last -= 1
    return first, last


def same_bytes(
    target_ids: Sequence[int], prompt_tokens: int, target_decode: Decode, baseline_encode: Encode
) -> ScoredSpan:
    """The text of the target's tokens from `prompt_tokens` on, and the baseline's ids for the same bytes.

    Context and span are encoded separately for the baseline, so that none of its tokens crosses the start of the span:
    this may cost an extra token but never loses a byte.

    target_ids: P = `prompt_tokens` prompt ids and G continuation ids of the target. target_decode: leaves special
    tokens out. What `baseline_encode` puts before any text (as a start token) is kept before the prompt only.

    Raises:
        BenchError: the tokens contain no complete character, or decoding is not prefix-stable.
    """
    first, last = whole_characters(target_ids, prompt_tokens, len(target_ids), target_decode)
    before, whole = target_decode(target_ids[:first]), target_decode(target_ids[:last])
    if not whole.startswith(before):
        raise BenchError(
            "decoding with this tokenizer is not prefix-stable",
            "Load it with clean_up_tokenization_spaces=False",
        )
    text = whole[len(before) :]
    if not text:
        raise BenchError("the reference tokens contain no complete character", "Increase new_tokens")
    return ScoredSpan(
        first=first - prompt_tokens,
        last=last - prompt_tokens,
        before=before,
        text=text,
        prompt_ids=tuple(baseline_encode(before)),
        reference_ids=continuation(baseline_encode, text),
    )


def scored_spans(prompts: PromptBatch, target: Tokenizer, baseline: Tokenizer) -> tuple[ScoredSpan, ...]:
    """`same_bytes` for each prompt, in order.

    Raises:
        BenchError: a prompt has no reference, or see `same_bytes`.
    """
    spans = []
    for prompt in prompts.prompts:
        if prompt.reference_ids is None:
            raise BenchError(
                f"prompt {prompt.index + 1} has no true continuation", "Use a prompt source with references"
            )
        ids = prompt.ids + prompt.reference_ids
        spans.append(same_bytes(ids, len(prompt.ids), target.decode, baseline.encode))
    return tuple(spans)
