"""Text of a report: numbers with their intervals, and Markdown in which no text from a file can become structure.

Names, reasons and generated texts are untrusted: a pipe would break a table, a tag would be markup, a link could be
followed. Templates and tables escape every plain string and leave `Markdown` unchanged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

from dlmbench.analysis.stats import Interval, Summary

# ---------------------------------------------------------------- numbers


def sig(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, in powers of ten only below 1e-4: 0.0123, 1.23, 12,300."""
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0:
        return "0"
    if abs(rounded) < 1e-4:
        return f"{rounded:.{digits - 1}e}"
    return f"{rounded:,.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}"


def seconds(value: float) -> str:
    """A time in ms below one second."""
    return f"{sig(value * 1e3)} ms" if abs(value) < 1 else f"{sig(value)} s"


def gib(size: float) -> str:
    """Bytes in GiB, or MiB below one."""
    return f"{sig(size / 2**30)} GiB" if abs(size) >= 2**30 else f"{sig(size / 2**20)} MiB"


def times(value: float) -> str:
    """A ratio, as a factor."""
    return f"{value:g}x" if value == round(value) else f"{sig(value)}x"


def percent(share: float) -> str:
    """A share; below one percent with a digit more."""
    return f"{share:.0%}" if abs(share) >= 0.0095 or share == 0 else f"{share:.1%}"


def spread(interval: Interval | Summary, unit: str = "") -> str:
    """A value and its 95% interval in brackets; two digits where the interval is wider than a tenth of the value.

    A single repetition or prompt has no interval, which is stated.
    """
    interval = interval.interval if isinstance(interval, Summary) else interval
    value = interval.value
    if not interval.is_known:
        return f"{sig(value)}{unit} (no interval)"
    wide = interval.high - interval.low > 0.1 * abs(value)
    low, middle, high = (sig(v, 2 if wide else 3) for v in (interval.low, value, interval.high))
    return f"{middle}{unit} ({low} to {high})"


def from_to(values: Sequence[float], text: Callable[[float], str] = sig) -> str:
    """One value, or the range of several."""
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low} to {high}"


def listed(items: Iterable[object], last: str = "and") -> str:
    """a, b and c, each once."""
    texts = list(dict.fromkeys(str(i) for i in items))
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {last} {texts[-1]}" if texts else "none"


def plain(value: object) -> str:
    """The value of a setting as text."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def counted(n: int, noun: str) -> str:
    """1 cell, 2 cells."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


# ---------------------------------------------------------------- Markdown


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
