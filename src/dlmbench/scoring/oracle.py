"""The embedded corpus's exact judge, asked once per text by the metrics that use it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from dlmbench.tiny.oracle import StoryScore, score_story
from dlmbench.tiny.vocabulary import decode
from dlmbench.types import Texts


@lru_cache(maxsize=4096)
def _judge(ids: tuple[int, ...], start: int) -> StoryScore:
    return score_story(decode(ids), start)


def judged(texts: Texts) -> Iterator[tuple[int, StoryScore]]:
    """(prompt index, the oracle's verdict on its generated continuation) for each generation."""
    prompts = {p.index: p.ids for p in texts.prompts}
    for generation in texts.generations:
        prompt = prompts[generation.prompt_index]
        yield generation.prompt_index, _judge(prompt + generation.output_ids, len(prompt))
