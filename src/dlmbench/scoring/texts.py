"""The texts that metrics score: true continuations, the same for every model, and generated texts.

Nats of a likelihood are counted over the reference's scored tokens. Bytes and words are those of the text these tokens
spell, so that bits per byte and word perplexity compare two models with different tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from dlmbench.prompts.spans import BROKEN
from dlmbench.tiny.oracle import StoryScore, score_story
from dlmbench.tiny.vocabulary import decode
from dlmbench.types import Cell, Prompt, StoredGeneration, Texts, TextScore, Unscored

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


# ---------------------------------------------------------------- generated texts


def share_of(texts: Texts, metric: str, index: int, part: float, whole: int, reason: str) -> TextScore | Unscored:
    """`part` over `whole` for the prompt of this `index`, or `reason` where the whole is empty."""
    if whole:
        return TextScore(texts.cell.id, metric, index, part, whole)
    return Unscored(texts.cell.id, metric, index, reason)


def ngram_shares(texts: Texts, metric: str, n: int, repeated: bool = False) -> Iterator[TextScore | Unscored]:
    """Distinct n-grams over n-grams, or those `repeated`; a generation shorter than n has none."""
    for generation in texts.generations:
        ids = generation.output_ids
        runs = [ids[i : i + n] for i in range(len(ids) - n + 1)]
        part = len(runs) - len(set(runs)) if repeated else len(set(runs))
        yield share_of(texts, metric, generation.prompt_index, part, len(runs), f"fewer than {n} tokens")


def generated_texts(texts: Texts, metric: str) -> Iterator[tuple[Prompt, StoredGeneration, str] | Unscored]:
    """Each generation with its prompt and its text without a broken last character, or why there is none."""
    prompts = {p.index: p for p in texts.prompts}
    for generation in texts.generations:
        prompt = prompts[generation.prompt_index]
        if prompt.text is None or generation.text is None:
            reason = "no text: the model or its prompts have no tokenizer"
            yield Unscored(texts.cell.id, metric, prompt.index, reason)
        else:
            yield prompt, generation, generation.text.rstrip(BROKEN)  # truncated at G tokens, it may end inside one


@lru_cache(maxsize=4096)
def _story_score(ids: tuple[int, ...], start: int) -> StoryScore:
    return score_story(decode(ids), start)


def oracle_scores(texts: Texts) -> Iterator[tuple[int, StoryScore]]:
    """(prompt index, the oracle's score of its generated continuation) for each generation."""
    prompts = {p.index: p.ids for p in texts.prompts}
    for generation in texts.generations:
        prompt = prompts[generation.prompt_index]
        yield generation.prompt_index, _story_score(prompt + generation.output_ids, len(prompt))
