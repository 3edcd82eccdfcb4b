"""Clocks: CUDA events for GPUs, `perf_counter` for the CPU.

A GPU runs asynchronously, so a host timer that does not wait measures only how fast work was queued. Each clock
therefore splits timing in two: `mark` never waits, and `seconds` may be called only after `synchronize`.
"""

from __future__ import annotations

import time
from typing import Any

from dlmbench.errors import BenchError


class Clock:
    """The host's `perf_counter`: correct for the CPU, where calls return only when their work is done."""

    name = "wall"

    def mark(self) -> object:
        """A point in the device's stream of work; does not wait."""
        return time.perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        """Time between two marks; both must lie before the last `synchronize`."""
        return float(end - start)

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""

    def wall(self) -> float:
        """The host's monotonic clock in seconds."""
        return time.perf_counter()


class CudaClock(Clock):
    """CUDA events on the current stream (the same calls work on ROCm); resolution about 0.5 microseconds."""

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


def clock_for(device_type: str) -> Clock:
    """The right clock for a torch device type.

    Raises:
        BenchError: no clock exists for this device.
    """
    if device_type == "cuda":
        return CudaClock()
    if device_type == "cpu":
        return Clock()
    raise BenchError(f"no clock for device '{device_type}'", "Supported are 'cuda' (NVIDIA and ROCm) and 'cpu'")
