"""ShareGPT-style conversations: the human's first turn is the prompt, the answer its reference.

A JSON file: a list of {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}, ...]}.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from dlmbench.errors import BenchError
from dlmbench.prompts.passages import Passage, parse_json, read_text, require_characters
from dlmbench.types import PromptSettings

WINDOWS = False
NEEDS_PATH = True
SHUFFLED = True

_HUMAN = ("human", "user")
_MODEL = ("gpt", "assistant", "chatgpt", "bard", "bing")


def load(settings: PromptSettings, tokens: int) -> list[Passage]:
    """One passage for each conversation whose first human turn has an answer; others are skipped."""
    assert settings.path is not None
    path = Path(settings.path)
    records = parse_json(read_text(path), path)
    if not isinstance(records, list):
        raise BenchError(f"{path} is not a list of conversations", 'It looks like [{"conversations": [...]}, ...]')
    return conversations(records, path, chat=settings.chat)


def conversations(records: list[Any], path: Path, *, chat: bool) -> list[Passage]:
    """Passages of parsed conversations. Without a chat template a blank line stands between prompt and answer.

    Raises:
        BenchError: a record is not a conversation; it is named by its number, from 1.
    """
    found = []
    for number, record in enumerate(records, start=1):
        turns = record.get("conversations") if isinstance(record, dict) else None
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise BenchError(f"{path}: record {number} has no list 'conversations'", "See docs/experiment_variables.md")
        for asked, answered in itertools.pairwise(turns):
            if asked.get("from") in _HUMAN and answered.get("from") in _MODEL:
                prompt, reference = asked.get("value"), answered.get("value")
                if isinstance(prompt, str) and isinstance(reference, str) and prompt.strip() and reference.strip():
                    require_characters(prompt + reference, f"{path}: record {number}")
                    found.append(Passage(prompt.strip() + ("" if chat else "\n\n"), reference.strip()))
                break
    return found
