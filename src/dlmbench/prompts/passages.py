"""Passages as prompt sources give them, reading of text files, and the identity of a prompt set."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.types import PromptSettings


@dataclass(frozen=True)
class Passage:
    """A text to prompt with, or ids instead. `reference` is its continuation where the source has a separate one."""

    text: str = ""
    reference: str | None = None
    ids: tuple[int, ...] | None = None
    reference_ids: tuple[int, ...] | None = None


def source_attribute(identity: str, attribute: str, default: Any) -> Any:
    """An attribute of the source that made the prompt set of this `identity`; `default` where it is not installed."""
    return registry.attribute("prompts", identity.partition(" ")[0], attribute, default)


def load_texts(settings: PromptSettings, tokens: int = 0) -> list[Passage]:
    """All passages of a source; sources that generate text make it at least `tokens` tokens long.

    Raises:
        BenchError: the source cannot be read, or is empty.
    """
    found: list[Passage] = registry.load("prompts", settings.source).load(settings, tokens)
    if not found:
        raise BenchError(
            f"prompt source {settings.source} has no text{f' in {settings.path}' if settings.path else ''}",
            "Name another file, or another source",
        )
    return found


def identity(settings: PromptSettings) -> str:
    """A string that identifies the prompt set: source, number, seed, and the content (not the name) of a local file.

    Raises:
        BenchError: the file is not there or cannot be read.
    """
    number = "all" if settings.count is None and settings.limit is None else str(settings.count or settings.limit)
    content = f" content={_content_hash(Path(settings.path))}" if settings.path is not None else ""
    return f"{settings.source} n={number} seed={settings.seed}{' chat' if settings.chat else ''}{content}"


def recorded_settings(settings: PromptSettings, recorded: str) -> PromptSettings:
    """The settings of the prompt set that was recorded as this `identity`: `settings`, but for the number of prompts.

    Raises:
        BenchError: `settings` give other prompts, as a file does that has changed since.
    """
    number = recorded.partition(" n=")[2].partition(" ")[0]
    count = int(number) if number.isdecimal() else None
    found = replace(settings, count=None, limit=count) if settings.count is None else replace(settings, count=count)
    if (now := identity(found)) != recorded:
        raise BenchError(
            f"the prompts have changed since the texts were generated ({recorded} on record, {now} now)",
            "Put the recorded prompts back, or measure again into a new folder",
        )
    return found


def _content_hash(path: Path) -> str:
    require_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
        try:
            with file.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)
        except OSError as error:
            raise BenchError(f"cannot read {file}: {error.strerror}", "Name a readable file") from None
    return digest.hexdigest()[:12]


def require_file(path: Path) -> None:
    """Raise BenchError when there is nothing at `path`."""
    if not path.exists():
        raise BenchError(f"no prompt file at {path}", "Check --prompt-file, or path under prompts")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, line ends as \\n.

    Raises:
        BenchError: no such file, unreadable, binary, or nothing but blanks.
    """
    require_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}", "Name a readable text file") from None
    if b"\0" in data:
        raise BenchError(f"{path} is not a text file", "Prompts are text, JSONL or JSON in UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BenchError(f"{path}: line {line} is not UTF-8", "Convert the file to UTF-8") from None
    if not text.strip():
        raise BenchError(f"{path} is empty", "Add at least one prompt")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def require_characters(text: str, place: str) -> None:
    """Raise BenchError where a text has half of a surrogate pair, as a broken JSON escape leaves it."""
    if half := next((sign for sign in text if "\ud800" <= sign <= "\udfff"), None):
        raise BenchError(
            f"{place}: \\u{ord(half):x} is half of a surrogate pair and no character", "Correct or remove that text"
        )


def parse_json(text: str, path: Path, first_line: int = 1, hint: str = "Fix the file") -> Any:
    """The JSON of a file, or of its part that begins at `first_line`.

    Raises:
        BenchError: it is not JSON, with the line.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise BenchError(f"{path}: line {first_line}: the JSON is nested too deeply", hint) from None
    except json.JSONDecodeError as error:
        raise BenchError(f"{path}: line {first_line + error.lineno - 1} is not JSON: {error.msg}", hint) from None
    except ValueError:  # Python reads no integer of thousands of digits
        raise BenchError(f"{path}: line {first_line}: a number has too many digits", hint) from None
