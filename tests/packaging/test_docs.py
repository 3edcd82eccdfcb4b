"""The docs: every link and path in them exists, and they stay short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = [
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/decisions").glob("*.md")),
    ROOT / "docs/study/README.md",
]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
PAGES += [*sorted((ROOT / "docs-vibe").glob("*.md")), *sorted((ROOT / ".clinerules").glob("*.md"))]
FOLDERS = "src|tests|docs|docs-vibe|config|benchmarks|scripts|jobs"
PATH = re.compile(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*\w/?")
LINK = re.compile(r"\]\(([^)\s]+)\)")
MOST_WORDS = 10_000


@pytest.mark.parametrize("document", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document):
    targets = [t.partition("#")[0] for t in LINK.findall(document.read_text()) if "://" not in t]
    assert [t for t in targets if t and not (document.parent / t).exists()] == []


@pytest.mark.parametrize("document", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_path_exists(document):
    # A page on adding plug-ins names the files that its reader is to write.
    text = document.read_text()
    to_write = set(re.findall(r"[Ss]ave this as `([^`]+)`", text))
    paths = set(PATH.findall(LINK.sub("", text))) - to_write
    assert {p for p in paths if not (ROOT / p).exists()} == set()


def words(text: str) -> int:
    """Words of a page: what has a letter in it, so no numbers or rules of a table."""
    return sum(any(c.isalpha() for c in token) for token in text.split())


def test_all_docs_together_are_short():
    assert sum(words(document.read_text()) for document in DOCS) <= MOST_WORDS
