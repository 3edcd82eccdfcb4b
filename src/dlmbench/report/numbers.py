"""Numbers as text: three significant digits, with a unit, and the interval in brackets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dlmbench.analysis.stats import Interval, Summary


def sig(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, in powers of ten only below 1e-4: 0.0123, 1.23, 12,300."""
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0:
        return "0"
    if abs(rounded) < 1e-4:
        return f"{rounded:.{digits - 1}e}"
    return f"{rounded:,.{max(0, digits - 1 - _exponent(rounded))}f}"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


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
