"""The piece of text that a likelihood is of: its tokens, its bytes and its words, the same for every model.

Nats are counted over the reference's scored tokens. Bytes and words are those of the text these tokens spell, so that
bits per byte and word perplexity compare two models whatever their tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlmbench.types import Cell, Prompt, TextScore, Unscored

NO_REFERENCE = "the prompt has no true continuation"


@dataclass(frozen=True)
class Span:
    """first..last (exclusive) of the reference's tokens are scored; their nats are divided by `tokens`."""

    first: int
    last: int
    tokens: int
    size_bytes: int | None
    words: int | None


def sizes(text: str | None) -> tuple[int | None, int | None]:
    """UTF-8 bytes and words (as whitespace divides them, at least one) of a text; unknown for no text."""
    return (len(text.encode()), max(1, len(text.split()))) if text else (None, None)


def span_of(prompt: Prompt) -> Span | None:
    """The scored span of a prompt's true continuation, None where there is none."""
    if not prompt.reference_ids:
        return None
    first, last = prompt.scored or (0, len(prompt.reference_ids))
    return Span(first, last, prompt.scored_tokens or last - first, *sizes(prompt.reference_text))


def text_score(
    cell: Cell, metric: str, prompt: Prompt, span: Span, nats: float, stderr: float | None, remark: str = ""
) -> TextScore:
    """`nats` over the span, ready to be given in any unit."""
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
    """The record of a prompt whose continuation is not known."""
    return Unscored(cell.id, metric, prompt.index, NO_REFERENCE)
