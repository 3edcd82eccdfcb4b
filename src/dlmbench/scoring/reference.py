"""The reference text that a likelihood is computed of: its tokens, bytes and words, the same for every model.

Nats are counted over the reference's scored tokens. Bytes and words are those of the text these tokens spell, so that
bits per byte and word perplexity compare two models with different tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlmbench.types import Cell, Prompt, TextScore, Unscored

NO_REFERENCE = "the prompt has no true continuation"


@dataclass(frozen=True)
class ReferenceSpan:
    """first..last (exclusive) of the reference's tokens are scored; their nats are divided by `tokens`."""

    first: int
    last: int
    tokens: int
    size_bytes: int | None
    words: int | None


def sizes(text: str | None) -> tuple[int | None, int | None]:
    """UTF-8 bytes and whitespace-separated words (at least one) of a text; None for no text."""
    return (len(text.encode()), max(1, len(text.split()))) if text else (None, None)


def span_of(prompt: Prompt) -> ReferenceSpan | None:
    """The scored span of a prompt's true continuation, None where there is none."""
    if not prompt.reference_ids:
        return None
    first, last = prompt.scored or (0, len(prompt.reference_ids))
    return ReferenceSpan(first, last, prompt.scored_tokens or last - first, *sizes(prompt.reference_text))


def text_score(
    cell: Cell, metric: str, prompt: Prompt, span: ReferenceSpan, nats: float, stderr: float | None, remark: str = ""
) -> TextScore:
    """The score of `nats` over the span, with what other units need."""
    return TextScore(
        cell_id=cell.id,
        metric=metric,
        prompt_index=prompt.index,
        total=nats,
        weight=span.tokens,
        stderr=stderr,
        size_bytes=span.size_bytes,
        words=span.words,
        remark=remark,
    )


def without_reference(cell: Cell, metric: str, prompt: Prompt) -> Unscored:
    """The record of a prompt without a reference."""
    return Unscored(cell.id, metric, prompt.index, NO_REFERENCE)
