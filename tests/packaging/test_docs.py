"""The docs: every link and path in them exists, the generated page is current, and they stay short."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADDING, RELIABILITY = ROOT / "docs/adding.md", ROOT / "docs/reliability.md"
GUIDES = sorted({*(ROOT / "docs").glob("*.md")} - {RELIABILITY})
BACKGROUND = [*sorted((ROOT / "docs/decisions").glob("*.md")), ROOT / "docs/study/README.md"]
PAPER = ROOT / "docs/study/paper.md"
DOCS = [*GUIDES, RELIABILITY, *BACKGROUND, PAPER]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
PAGES += [*sorted((ROOT / "docs-vibe").glob("*.md")), *sorted((ROOT / ".clinerules").glob("*.md"))]
PATH = re.compile(r"(?<![\w./-])(?:src|tests|docs|docs-vibe|config|benchmarks|scripts|jobs)/[\w./-]*\w")
LINK = re.compile(r"\]\(([^)\s]+)\)")
GENERATED = re.compile(r"<!-- (\w+)(?::begin)? -->.*?<!-- (?:/\1|\1:end) -->", re.DOTALL)
MOST_WORDS = {"docs/": 6_700, "docs/reliability.md": 1_500, "docs/decisions/ and docs/study/": 1_500, "README.md": 750}
MOST_WORDS["docs/study/paper.md"] = 1_000
MOST_WORDS_OF_A_SENTENCE = 32


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(document):
    targets = [t.partition("#")[0] for t in LINK.findall(document.read_text()) if "://" not in t]
    assert [t for t in targets if t and not (document.parent / t).exists()] == []


@pytest.mark.parametrize("document", PAGES, ids=name)
def test_every_link_into_a_page_finds_its_heading(document):
    wrong = []
    for page, anchor in re.findall(r"\]\(((?:[\w./-]+\.md)?)#([^)\s]+)\)", document.read_text()):
        text = (document.parent / page if page else document).read_text()
        headings = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"(?m)^#+ (.*)$", text)}
        wrong += [f"{page}#{anchor}"] if anchor not in headings else []
    assert wrong == []


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


def words(document: Path) -> list[str]:
    """Words as `wc -w` counts them, tables and code included, without parts that a command writes."""
    return GENERATED.sub("", document.read_text(encoding="utf-8")).split()


def test_the_docs_are_short():
    parts = dict(zip(MOST_WORDS, (GUIDES, [RELIABILITY], BACKGROUND, [ROOT / "README.md"], [PAPER]), strict=True))
    counted = {part: sum(len(words(document)) for document in documents) for part, documents in parts.items()}
    assert {part: n for part, n in counted.items() if n > MOST_WORDS[part]} == {}
    assert len(words(RELIABILITY)) < len(RELIABILITY.read_text(encoding="utf-8").split()) / 2  # The markers were found.


@pytest.mark.parametrize("document", [p for p in PAGES if p.parent.name != "docs-vibe"], ids=name)
def test_no_sentence_is_long(document):
    text = re.sub(r"(?s)```.*?```", "\n\n", GENERATED.sub("\n\n", document.read_text(encoding="utf-8")))
    prose = [line for line in text.splitlines() if not line.startswith(("|", "#", "<", "    "))]
    blocks = re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.) ", "\n".join(prose))
    sentences = [s for block in blocks for s in re.split(r"(?<=[.:;!?])\s+", block)]
    assert [s for s in sentences if len(s.split()) > MOST_WORDS_OF_A_SENTENCE] == []
