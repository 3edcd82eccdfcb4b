"""What several metrics read from generated texts: n-grams, text without broken characters, the oracle's score."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from dlmbench.tiny.oracle import StoryScore, score_story
from dlmbench.tiny.vocabulary import decode
from dlmbench.types import Prompt, StoredGeneration, Texts, TextScore, Unscored

# What a decoder writes for bytes that are no whole character: a text cut at G tokens may end in the middle of one.
BROKEN = "\ufffd"


def ngrams(ids: tuple[int, ...], n: int) -> list[tuple[int, ...]]:
    """All runs of n ids, in order."""
    return [ids[i : i + n] for i in range(len(ids) - n + 1)]


def distinct(texts: Texts, n: int) -> Iterator[TextScore | Unscored]:
    """Distinct n-grams over n-grams; a generation shorter than n has none."""
    for generation in texts.generations:
        runs = ngrams(generation.output_ids, n)
        if runs:
            yield TextScore(texts.cell.id, f"distinct_{n}", generation.prompt_index, len(set(runs)), len(runs))
        else:
            yield Unscored(texts.cell.id, f"distinct_{n}", generation.prompt_index, f"fewer than {n} tokens")


def generated_texts(texts: Texts, metric: str) -> Iterator[tuple[Prompt, StoredGeneration, str] | Unscored]:
    """Each generation with its prompt and its text without a broken last character, or why there is none."""
    prompts = {p.index: p for p in texts.prompts}
    for generation in texts.generations:
        prompt = prompts[generation.prompt_index]
        if prompt.text is None or generation.text is None:
            reason = "no text: the model or its prompts come without a tokenizer"
            yield Unscored(texts.cell.id, metric, prompt.index, reason)
        else:
            yield prompt, generation, generation.text.rstrip(BROKEN)


@lru_cache(maxsize=4096)
def _story_score(ids: tuple[int, ...], start: int) -> StoryScore:
    return score_story(decode(ids), start)


def oracle_scores(texts: Texts) -> Iterator[tuple[int, StoryScore]]:
    """(prompt index, the oracle's score of its generated continuation) for each generation."""
    prompts = {p.index: p.ids for p in texts.prompts}
    for generation in texts.generations:
        prompt = prompts[generation.prompt_index]
        yield generation.prompt_index, _story_score(prompt + generation.output_ids, len(prompt))
