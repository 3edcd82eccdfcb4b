"""The docs: every link and path in them exists, the generated page is current, and they stay short."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADDING = ROOT / "docs/adding.md"
DOCS = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/decisions").glob("*.md"))]
DOCS += [ROOT / "docs/study/README.md"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
PAGES += [*sorted((ROOT / "docs-vibe").glob("*.md")), *sorted((ROOT / ".clinerules").glob("*.md"))]
PATH = re.compile(r"(?<![\w./-])(?:src|tests|docs|docs-vibe|config|benchmarks|scripts|jobs)/[\w./-]*\w")
LINK = re.compile(r"\]\(([^)\s]+)\)")
MOST_WORDS = 10_000


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(document):
    targets = [t.partition("#")[0] for t in LINK.findall(document.read_text()) if "://" not in t]
    assert [t for t in targets if t and not (document.parent / t).exists()] == []


@pytest.mark.parametrize("document", PAGES, ids=name)
def test_every_path_exists(document):
    missing = {p for p in PATH.findall(LINK.sub("", document.read_text())) if not (ROOT / p).exists()}
    if document == ADDING:  # It names files that its reader writes, in folders that exist.
        missing = {p for p in missing if not ((ROOT / p).parent.is_dir() and p.endswith(".py"))}
    assert missing == set()


def test_the_performance_page_is_made_from_its_template():
    script, data = ROOT / "benchmarks/engines.py", ROOT / "docs/study/engines-h200/engines.json"
    made = subprocess.run([sys.executable, script, "--page", data], capture_output=True, text=True, check=True)
    assert made.stdout == (ROOT / "docs/performance.md").read_text()


def test_all_docs_together_are_short():
    """Words as `wc -w` counts them, tables and code included."""
    assert sum(len(document.read_text(encoding="utf-8").split()) for document in DOCS) <= MOST_WORDS
