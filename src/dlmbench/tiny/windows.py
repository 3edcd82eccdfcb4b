"""Story windows: where each set of them comes from, and that the sets never share a random stream.

A window is the beginning of a story, from its first word, so that the oracle knows everything that its words refer
to. Each set has a purpose ("training", "validation", "heldout") that is part of every random seed in it: a window is
a function of (purpose, index) alone.
"""

import random
from dataclasses import dataclass

from dlmbench.tiny.story import sample_story

LONGEST_WINDOW = 192
"""Words in the longest window that the shipped models were trained on."""


@dataclass(frozen=True)
class Window:
    """A prompt and the continuation that the story really took."""

    prompt: tuple[str, ...]
    continuation: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """Prompt and continuation."""
        return self.prompt + self.continuation


def story_of(purpose: str, index: int, length: int = LONGEST_WINDOW) -> list[str]:
    """The first `length` words of story number `index` of a set."""
    return sample_story(length, random.Random(f"dlmbench tiny corpus, {purpose}, {index}"))


def heldout_windows(count: int, prompt_words: int, continuation_words: int, first: int = 0) -> list[Window]:
    """`count` windows on which no shipped model was trained. A shorter window is the beginning of the longer one of
    the same index."""
    length = prompt_words + continuation_words
    stories = (story_of("heldout", index, length) for index in range(first, first + count))
    return [Window(tuple(words[:prompt_words]), tuple(words[prompt_words:])) for words in stories]
