"""The embedded pair: a story corpus whose truth is known exactly, its oracle, and two models trained on it."""

from pathlib import Path

from dlmbench.tiny.constraint import Constraint
from dlmbench.tiny.oracle import StoryScore, continuation_log_prob, next_word, score_story
from dlmbench.tiny.story import sample_story
from dlmbench.tiny.windows import Window, heldout_windows, story_of

# The sources by which an experiment names the shipped models.
EMBEDDED_MODELS = ("embedded:ar", "embedded:llada")

__all__ = [
    "EMBEDDED_MODELS",
    "Constraint",
    "StoryScore",
    "Window",
    "checkpoint_folder",
    "continuation_log_prob",
    "heldout_windows",
    "next_word",
    "sample_story",
    "score_story",
    "story_of",
]


def checkpoint_folder(paradigm: str) -> Path:
    """The folder of a shipped model, "ar" or "llada", in the official layout of its family."""
    folder = Path(__file__).parent / "checkpoints" / paradigm
    assert (folder / "config.json").is_file(), folder
    return folder
