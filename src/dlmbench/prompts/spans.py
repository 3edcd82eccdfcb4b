"""Tokenizers as prompts need them, and spans of text that two models with different tokenizers can both score.

Tokens of two models do not end at the same places, so a likelihood per token cannot be compared; the likelihood of the
same text can. The target's tokens decide where that text starts and ends, rounded inwards to whole characters (a
byte-level token may hold a part of one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlmbench.errors import BenchError
from dlmbench.types import PromptBatch

Encode = Callable[[str], Sequence[int]]
Decode = Callable[[Sequence[int]], str]

BROKEN = "\ufffd"  # what a decoder writes for bytes that are no whole character


@dataclass(frozen=True)
class Tokenizer:
    """A model's own tokenizer as functions: text to ids, ids to text without special tokens.

    chat: a user's message to the ids of the chat template, ready for the answer; None where there is no template.
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

    @property
    def size_bytes(self) -> int:
        """UTF-8 bytes of the text: the denominator of bits per byte."""
        return len(self.text.encode())


def continuation(encode: Encode, text: str) -> tuple[int, ...]:
    """Ids of a text that continues another: without the ids that `encode` puts before any text."""
    opening, ids = tuple(encode("")), tuple(encode(text))
    return ids[len(opening) :] if opening and ids[: len(opening)] == opening else ids


def whole_characters(ids: Sequence[int], first: int, last: int, decode: Decode) -> tuple[int, int]:
    """The widest first..last within the given one at whose ends the decoded text has whole characters."""
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
    that may cost it a token, never a byte.

    target_ids: P = `prompt_tokens` prompt ids and G continuation ids of the target. target_decode: leaves special
    tokens out. What `baseline_encode` puts before any text (as a start token) is kept before the prompt only.

    Raises:
        BenchError: the tokens hold no whole character, or their text changes with what follows it.
    """
    first, last = whole_characters(target_ids, prompt_tokens, len(target_ids), target_decode)
    before, whole = target_decode(target_ids[:first]), target_decode(target_ids[:last])
    if not whole.startswith(before):
        raise BenchError(
            "this tokenizer's text of a prefix is not a prefix of its text",
            "Load it with clean_up_tokenization_spaces=False",
        )
    text = whole[len(before) :]
    if not text:
        raise BenchError("the scored tokens hold no whole character", "Use more new tokens")
    return ScoredSpan(
        first=first - prompt_tokens,
        last=last - prompt_tokens,
        before=before,
        text=text,
        prompt_ids=tuple(baseline_encode(before)),
        reference_ids=continuation(baseline_encode, text),
    )


def scored_spans(prompts: PromptBatch, target: Tokenizer, baseline: Tokenizer) -> tuple[ScoredSpan, ...]:
    """`same_bytes` of every prompt of the target's set, in its order.

    Raises:
        BenchError: a prompt has no reference, or see `same_bytes`.
    """
    spans = []
    for prompt in prompts.prompts:
        if prompt.reference_ids is None:
            raise BenchError(f"prompt {prompt.index} has no true continuation", "Use a prompt source with references")
        ids = prompt.ids + prompt.reference_ids
        spans.append(same_bytes(ids, len(prompt.ids), target.decode, baseline.encode))
    return tuple(spans)
