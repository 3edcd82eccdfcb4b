"""A prompt file of your own: lines, paragraphs, JSONL or JSON, taken in order.

The format follows from the file name or, failing that, from the content:
.json a list of texts, of {"prompt": ...} records or of ShareGPT conversations; .jsonl, .ndjson, or a first line that is
a JSON object: one record a line; otherwise text: paragraphs where blank lines divide it, else one prompt a line.
A record has "prompt" (optional "reference") or "prompt_ids" (optional "reference_ids").
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dlmbench.errors import BenchError
from dlmbench.prompts.passages import Passage, parse_json, read_text, require_characters
from dlmbench.prompts.sources.sharegpt import conversations
from dlmbench.types import PromptSettings

WINDOWS = False
NEEDS_PATH = True
ALL_BY_DEFAULT = True
SHUFFLED = False

_KEYS = ({"prompt"}, {"prompt", "reference"}, {"prompt_ids"}, {"prompt_ids", "reference_ids"})
_RECORD = 'A record is {"prompt": "...", "reference": "..."} or {"prompt_ids": [...], "reference_ids": [...]}'


def load(settings: PromptSettings, tokens: int) -> list[Passage]:
    """The prompts of the file, in its order."""
    assert settings.path is not None
    path = Path(settings.path)
    if path.is_dir():
        raise BenchError(f"{path} is a folder, not a prompt file", "Name one file")
    text = read_text(path)
    if path.suffix == ".json":
        return _json(text, path, chat=settings.chat)
    if path.suffix in (".jsonl", ".ndjson") or _is_object(text.lstrip().partition("\n")[0]):
        lines = enumerate(text.split("\n"), start=1)
        return [
            _record(parse_json(line, path, number, _RECORD), f"{path}: line {number}")
            for number, line in lines
            if line.strip()
        ]
    text = text.strip("\n")
    parts = re.split(r"\n(?:[ \t]*\n)+", text) if re.search(r"\n[ \t]*\n", text) else text.split("\n")
    return [Passage(part.strip()) for part in parts if part.strip()]


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _json(text: str, path: Path, *, chat: bool) -> list[Passage]:
    records = parse_json(text, path)
    if not isinstance(records, list):
        raise BenchError(f"{path} is not a JSON list", _RECORD)
    if any(isinstance(record, dict) and "conversations" in record for record in records):
        return conversations(records, path, chat=chat)
    return [_record(record, f"{path}: record {number}") for number, record in enumerate(records, start=1)]


def _record(record: Any, place: str) -> Passage:
    if isinstance(record, str):
        record = {"prompt": record}
    if not isinstance(record, dict):
        raise BenchError(f"{place} is not a record", _RECORD)
    given = {key for key in record if record[key] is not None}
    if "prompt" not in given and "prompt_ids" not in given:
        raise BenchError(f"{place} has neither 'prompt' nor 'prompt_ids'", _RECORD)
    if given & {"prompt", "reference", "prompt_ids", "reference_ids"} not in _KEYS:
        raise BenchError(f"{place} mixes texts and ids", _RECORD)
    for key in sorted(given & {"prompt", "reference"}):
        if not isinstance(record[key], str):
            raise BenchError(f"{place}: '{key}' is not a text", _RECORD)
        if not record[key].strip():
            raise BenchError(f"{place}: '{key}' is empty", _RECORD)
        require_characters(record[key], place)
    for key in sorted(given & {"prompt_ids", "reference_ids"}):
        ids = record[key]
        if ids == []:
            raise BenchError(f"{place}: '{key}' is empty", _RECORD)
        if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
            raise BenchError(f"{place}: '{key}' is not a list of token ids", _RECORD)
    return Passage(
        text=record.get("prompt") or "",
        reference=record.get("reference"),
        ids=tuple(record["prompt_ids"]) if "prompt_ids" in given else None,
        reference_ids=tuple(record["reference_ids"]) if "reference_ids" in given else None,
    )
