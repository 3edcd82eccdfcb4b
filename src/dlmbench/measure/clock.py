"""Clocks: CUDA events, the wall, and a fake one with invented times.

A GPU works behind the program's back, so a host timer that does not wait measures only how fast work was queued. Each
clock therefore splits timing in two: `mark` never waits, and `seconds` may be asked only after `synchronize`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from dlmbench.errors import BenchError


class Clock(Protocol):
    """What the protocol asks of a clock."""

    name: str

    def mark(self) -> object:
        """A point in the device's order of work; does not wait."""

    def seconds(self, start: Any, end: Any) -> float:
        """Time between two marks; both must lie before the last `synchronize`."""

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""

    def wall(self) -> float:
        """The host's monotonic clock in seconds."""


class CudaClock:
    """CUDA events on the current stream (ROCm answers through the same calls); resolution about 0.5 microseconds."""

    name = "cuda"

    def __init__(self) -> None:
        import torch

        self._cuda = torch.cuda

    def mark(self) -> object:
        """An event recorded on the current stream."""
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        """Time between two events."""
        return float(start.elapsed_time(end)) / 1000.0

    def synchronize(self) -> None:
        """Wait for every stream of the device."""
        self._cuda.synchronize()

    def wall(self) -> float:
        """The host's `perf_counter`."""
        return time.perf_counter()


class WallClock:
    """The host's `perf_counter`, right for a device that works while the program waits: the CPU."""

    name = "wall"

    def mark(self) -> object:
        """Now."""
        return time.perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        """Time between two marks."""
        return float(end - start)

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def wall(self) -> float:
        """The host's `perf_counter`."""
        return time.perf_counter()


@dataclass(frozen=True)
class _FakeMark:
    time_s: float
    order: int


class FakeClock:
    """Invented times: every reading, mark or wall, takes the next of `times`.

    It also keeps the order of calls in `calls` and refuses to compare marks that were not waited for, so that a
    forgotten `synchronize` fails in a test and not on a GPU.
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
        """The next invented time."""
        return _FakeMark(self._next("mark"), len(self.calls))

    def seconds(self, start: Any, end: Any) -> float:
        """Time between two marks.

        Raises:
            AssertionError: nothing synchronized since the later mark.
        """
        assert max(start.order, end.order) <= self._synchronized_at, "marks compared before synchronize()"
        return float(end.time_s - start.time_s)

    def synchronize(self) -> None:
        """Marks made so far may be compared from now on."""
        self.calls.append("synchronize")
        self._synchronized_at = len(self.calls)

    def wall(self) -> float:
        """The next invented time."""
        return self._next("wall")


def clock_for(device_type: str) -> Clock:
    """The clock that tells the truth about a torch device type.

    Raises:
        BenchError: a device that works asynchronously and has no clock here.
    """
    if device_type == "cuda":
        return CudaClock()
    if device_type == "cpu":
        return WallClock()
    raise BenchError(f"no clock for device '{device_type}'", "Measured are 'cuda' (NVIDIA and ROCm) and 'cpu'")
