"""The embedded story corpus, held out from training: every word's true probability is known.

Story number i of a seed is the same in every set, and a longer story begins with the shorter one.
"""

from __future__ import annotations

from dlmbench.prompts.passages import Passage
from dlmbench.tiny.story import LONGEST_WINDOW, heldout_stories
from dlmbench.types import PromptSettings

WINDOWS = False
SHUFFLED = False
TAKES_PATH = False
TAKES_CHAT = False
HAS_ORACLE = True
HAS_EOS = False

_STORIES_A_SEED = 1_000_000


def load(settings: PromptSettings, tokens: int) -> list[Passage]:
    """The requested number of stories, of at least `tokens` words."""
    assert settings.count is not None
    length = max(tokens, LONGEST_WINDOW)
    stories = heldout_stories(settings.count, length, first=settings.seed * _STORIES_A_SEED)
    return [Passage(" ".join(words)) for words in stories]
