"""A clock with preset times, for tests of what is measured and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _FakeMark:
    time_s: float
    order: int


class FakeClock:
    """Preset times: every reading, mark or wall, takes the next of `times`.

    It records the order of calls in `calls` and refuses to compare marks before `synchronize`, so that a forgotten
    `synchronize` fails in a test instead of giving wrong times on a GPU.
    """

    name = "fake"

    def __init__(self, times: Iterable[float]) -> None:
        self._times: Iterator[float] = iter(times)
        self._synchronized_at = -1
        self.calls: list[str] = []

    def _next(self, call: str) -> float:
        self.calls.append(call)
        time_s = next(self._times, None)
        assert time_s is not None, f"FakeClock has no time left for call {len(self.calls)} ({call})"
        return time_s

    def mark(self) -> object:
        """The next preset time."""
        return _FakeMark(self._next("mark"), len(self.calls))

    def seconds(self, start: Any, end: Any) -> float:
        """Time between two marks.

        Raises:
            AssertionError: no `synchronize` since the later mark.
        """
        assert max(start.order, end.order) <= self._synchronized_at, "marks compared before synchronize()"
        return float(end.time_s - start.time_s)

    def synchronize(self) -> None:
        """Marks made so far may be compared from now on."""
        self.calls.append("synchronize")
        self._synchronized_at = len(self.calls)

    def wall(self) -> float:
        """The next preset time."""
        return self._next("wall")
