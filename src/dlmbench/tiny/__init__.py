"""The embedded pair: a story corpus with exactly known probabilities, its oracle, and two models trained on it."""

from pathlib import Path

from dlmbench.tiny.oracle import StoryScore, next_word, score_story
from dlmbench.tiny.state import Constraint
from dlmbench.tiny.story import heldout_stories, sample_story, story_of

# The sources by which an experiment names the shipped models.
EMBEDDED_MODELS = ("embedded:ar", "embedded:llada")


def checkpoint_folder(paradigm: str) -> Path:
    """The folder of an embedded model, "ar" or "llada", in the official layout of its family."""
    folder = Path(__file__).parent / "checkpoints" / paradigm
    assert (folder / "config.json").is_file(), folder
    return folder
