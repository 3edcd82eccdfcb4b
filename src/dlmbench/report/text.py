"""Text of a report: numbers with their intervals, and templates in which no text from a file can become structure.

Names, reasons and generated texts are untrusted: a pipe would break a table, a tag would be markup, a link could be
followed. Templates escape every plain string and leave `Markup` unchanged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dlmbench.analysis.stats import Interval

TEMPLATES = Path(__file__).parent / "templates"

# ---------------------------------------------------------------- numbers


def sig(value: float) -> str:
    """`value` with three significant digits, in powers of ten only below 1e-4: 0.0123, 1.23, 12,300."""
    rounded = float(f"{value:.3g}")
    if rounded == 0:
        return "0"
    if abs(rounded) < 1e-4:
        return f"{rounded:.2e}"
    return f"{rounded:,.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def seconds(value: float) -> str:
    """A time in ms below one second."""
    return f"{sig(value * 1e3)} ms" if abs(value) < 1 else f"{sig(value)} s"


def gib(size: float) -> str:
    """Bytes in GiB, or MiB below one."""
    return f"{sig(size / 2**30)} GiB" if abs(size) >= 2**30 else f"{sig(size / 2**20)} MiB"


def percent(share: float) -> str:
    """A share; below one percent with a digit more."""
    return f"{share:.0%}" if abs(share) >= 0.0095 or share == 0 else f"{share:.1%}"


def decimals(interval: Interval) -> int:
    """Decimals for one digit of the interval's width, two where those are at most 35 (Particle Data Group's rule).

    Two to four digits of the value; three where there is no interval.
    """
    if not math.isfinite(interval.value):
        return 0
    size = math.floor(math.log10(abs(interval.value))) if interval.value else 0
    width = interval.high - interval.low
    if not 0 < width < math.inf:  # also where an end is unknown
        return 2 - size
    first = math.floor(math.log10(width))
    return max(1 - size, min(1 - first if width <= 3.5 * 10.0**first else -first, 3 - size))


def rounded(interval: Interval) -> str:
    """The value of an interval, as precise as it is known: every number of a report that has an interval."""
    digits = decimals(interval)
    return f"{round(interval.value, digits):,.{max(0, digits)}f}" if math.isfinite(interval.value) else "not finite"


def spread(interval: Interval, unit: str = "") -> str:
    """A value and its 95% interval in brackets, all as precise as the interval allows; "no interval" without one."""
    if not interval.is_known:
        return f"{rounded(interval)}{unit} (no interval)"
    digits = decimals(interval)
    low, high = (f"{round(end, digits):,.{max(0, digits)}f}" for end in (interval.low, interval.high))
    return f"{rounded(interval)}{unit} ({low} to {high})"


def from_to(values: Sequence[float], text: Callable[[float], str] = sig) -> str:
    """One value, or the range of several."""
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low} to {high}"


def listed(items: Iterable[object]) -> str:
    """a, b and c, each once."""
    texts = list(dict.fromkeys(str(i) for i in items))
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else "none"


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


# ---------------------------------------------------------------- templates

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\s]+")
_SIGNS = re.compile(r"([\\`*\[\]|~$#{}])")
# Inside a word an underscore is only a character; elsewhere it may open or close emphasis.
_UNDERSCORES = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
# What would start a list, a rule or a heading's underline at the beginning of a line.
_BLOCK = re.compile(r"^(\d*)([-+=.)])(?=[\s=-]|$)")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;", "://": "&#58;//", "www.": "www&#46;"}


def escape(value: object) -> Markup:
    """`value` as text on one line, without any meaning to a Markdown renderer (CommonMark or GitHub's)."""
    if isinstance(value, Markup):
        return value
    plain = _CONTROL.sub(" ", str(value)).strip()
    plain = _SIGNS.sub(r"\\\1", plain)
    for sign, entity in _ENTITIES.items():
        plain = re.sub(re.escape(sign), entity, plain, flags=re.IGNORECASE)
    plain = _UNDERSCORES.sub(r"\\_", plain)
    return Markup(_BLOCK.sub(r"\1\\\2", plain))


def without_folders(path: str) -> str:
    """The last part of an absolute path: its folders tell who ran it where, and a report is passed on."""
    return PurePath(path).name if path.startswith(("/", "~")) else path


def value_id(*parts: object) -> str:
    """The id of a value: the parts joined by dots, in an alphabet that means nothing in HTML and Markdown."""
    return re.sub(r"[^a-z0-9_.]+", "-", ".".join(map(str, parts)).lower())


def templates(finalize: Callable[[object], object] | None = None) -> Environment:
    """The templates of this package; whatever they print is escaped by `finalize`, or for HTML, unless it is Markup."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["without_folders"] = without_folders
    return environment
