"""The values that a report prints, each with its id."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re

from dlmbench.report.answer import Answer
from dlmbench.report.text import escape


def on_page(text: str) -> list[tuple[str, str]]:
    """(value id, text) of every value on a page."""
    shown = [(i, html.unescape(t)) for i, t in re.findall(r'data-value="([^"]+)">([^<]*)<', text)]
    packed = re.search(r'id="cells-data">([^<]*)<', text)[1]
    cells = json.loads(gzip.decompress(base64.b64decode(packed)))
    # As the script of the page joins them.
    pairs = [(f"{i}.{c['key']}", t) for c in cells["columns"] for i, t in zip(cells["ids"], c["texts"], strict=True)]
    return shown + [(i, t) for i, t in pairs if t]


def in_document(text: str) -> list[tuple[str, str]]:
    """(value id, whatever stands before it in its cell or paragraph) of every value in a document."""
    return [(m[2], m[1]) for m in re.finditer(r"([^|\n]*?)<!-- (\S+) -->", text)]


def assert_one_text_each(page: str, document: str) -> None:
    """No value id has two texts, on the page, in the document, or on both."""
    shown = on_page(page)
    texts = dict(shown)
    assert len(texts) == len(shown)
    written = in_document(document)
    assert {i for i, _ in written} & set(texts)
    cells = set(re.findall(r"(?m)<!-- (\w+)\.latency -->", document))
    for value_id, text in written:
        before = " ".join(text.split())
        expected = escape(texts.setdefault(value_id, before))
        # In a paragraph, more may stand before a value.
        assert before == expected if value_id.partition(".")[0] in cells else before.endswith(expected), value_id


def values_of(answer: Answer) -> dict[str, str]:
    """Value id -> text of everything that is printed of an answer."""
    lines = {
        f"{name}-{i}": text
        for name, texts in (("caveat", answer.caveats), ("note", answer.notes))
        for i, text in enumerate(texts, 1)
    }
    return {"headline": answer.headline, **dict(c for cells in answer.table.texts for c in cells), **lines}
