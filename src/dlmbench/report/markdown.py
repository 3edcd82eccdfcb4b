"""Markdown as a type: any other string is escaped, so that text from a file can never become structure.

Names, reasons and generated texts are untrusted: a pipe would break a table, a tag would be markup, a link could be
followed. Templates and tables escape every plain string and leave `Markdown` unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


class Markdown(str):
    """Text that is meant as Markdown."""

    __slots__ = ()


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\s]+")
_SIGNS = re.compile(r"([\\`*\[\]|~$#{}])")
# Inside a word an underscore is only a character; elsewhere it may open or close emphasis.
_UNDERSCORES = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
# What would start a list, a rule or a heading's underline at the beginning of a line.
_BLOCK = re.compile(r"^(\d*)([-+=.)])(?=[\s=-]|$)")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;", "://": "&#58;//", "www.": "www&#46;"}


def escape(text: str) -> Markdown:
    """`text` on one line, without any meaning to a Markdown renderer (CommonMark or GitHub's)."""
    if isinstance(text, Markdown):
        return text
    plain = _CONTROL.sub(" ", text).strip()
    plain = _SIGNS.sub(r"\\\1", plain)
    for sign, entity in _ENTITIES.items():
        plain = re.sub(re.escape(sign), entity, plain, flags=re.IGNORECASE)
    plain = _UNDERSCORES.sub(r"\\_", plain)
    return Markdown(_BLOCK.sub(r"\1\\\2", plain))


def finalize(value: object) -> Markdown:
    """For templates: the value of an expression is escaped unless it is Markdown."""
    return value if isinstance(value, Markdown) else escape(str(value))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], numbers_from: int = 1) -> Markdown:
    """A table; columns from `numbers_from` on are aligned to the right. None is shown as a dash."""
    marks = [":--" if i < numbers_from else "--:" for i in range(len(columns))]
    lines: list[Sequence[str]] = [[escape(c) for c in columns], marks]
    lines += [[finalize("–" if value is None else value) for value in row] for row in rows]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def bullets(items: Sequence[str]) -> Markdown:
    """A list, one line per item."""
    return Markdown("\n".join(f"- {escape(i)}" for i in items))


def quote(text: str) -> Markdown:
    """A block quote, one line per paragraph."""
    return Markdown("\n>\n".join(f"> {escape(paragraph)}" for paragraph in text.split("\n\n")))
