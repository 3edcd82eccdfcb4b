"""Wikitext-103, validation split: encyclopedia articles, the default corpus.

Pointer Sentinel Mixture Models, Merity et al. 2016 (arXiv 1609.07843); the data set Salesforce/wikitext on the hub.
`path` may name a local copy instead: a text file in the data set's line format, a parquet or Arrow file, or a folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

from dlmbench.errors import BenchError
from dlmbench.models import hub
from dlmbench.prompts.passages import Passage, read_text, require_file
from dlmbench.types import PromptSettings

WINDOWS = True
SHUFFLED = True

DATASET = hub.Repository("Salesforce/wikitext", "dataset", ("wikitext-103-v1/validation*.parquet",))

# " = Title = " opens an article; " = = Section = = " does not.
_TITLE = re.compile(r"^ ?= (?!=)(.*[^= ]) = *$")


def load(settings: PromptSettings, tokens: int) -> list[Passage]:
    """One passage per article."""
    return [Passage(text) for text in articles(_lines(_file(settings)))]


def _file(settings: PromptSettings) -> Path:
    if settings.path is not None:
        path = Path(settings.path)
        require_file(path)
        return path if path.is_file() else _in_folder(path)
    for folder in (hub.cached(DATASET), *hub.prepared_datasets(DATASET.name)):
        if folder is not None and (found := _tables(folder)):
            return found[0]
    return _in_folder(hub.fetch(DATASET))


def _tables(folder: Path) -> list[Path]:
    """Validation files below a folder, those of the right configuration first."""
    found = [p for p in folder.rglob("*") if re.search(r"valid.*\.(parquet|arrow|txt|tokens)$", p.name)]
    return sorted(found, key=lambda p: ("wikitext-103-v1" not in p.as_posix(), p.as_posix()))


def _in_folder(folder: Path) -> Path:
    found = _tables(folder)
    if not found:
        raise BenchError(
            f"no validation file of {DATASET.name} in {folder}",
            f"Expected *valid*.parquet, .arrow or .txt; `{hub.DOWNLOAD}` fetches it",
        )
    return found[0]


def _lines(path: Path) -> Iterable[str]:
    if path.suffix not in (".parquet", ".arrow"):
        return read_text(path).split("\n")
    try:
        if path.suffix == ".parquet":
            import pandas as pd

            return cast("list[str]", pd.read_parquet(path, columns=["text"])["text"].tolist())
        from datasets import Dataset

        return cast("list[str]", list(Dataset.from_file(str(path))["text"]))
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise BenchError(
            f"{path} is not a table with a column 'text' ({type(error).__name__})",
            f"`{hub.DOWNLOAD}` fetches it again",
        ) from None


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Articles joined from the data set's lines: one paragraph per line, titles between blank lines."""
    kept: list[str] = []
    after_blank = True
    for raw in lines:
        line = raw.strip()
        if after_blank and _TITLE.match(raw.rstrip("\n")) and kept:
            yield "\n".join(kept)
            kept = []
        if line:
            kept.append(line)
        after_blank = not line
    if kept:
        yield "\n".join(kept)
