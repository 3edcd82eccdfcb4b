"""Workspaces: the tensors of one kind of generation, and its steps recorded as CUDA graphs.

A step of a small batch is hundreds of kernels of a few microseconds each; launched one by one, the host is slower than
the device. A recorded step is launched once. What a record reads and writes keeps its address, so the tensors live as
long as their records; the least used workspace is dropped when there are too many.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class PlainWorkspace:
    """Made for one generation; steps are carried out as they come."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def run(self, name: Hashable, step: Callable[[], None]) -> None:
        """Carry out `step`."""
        step()


class RecordedWorkspace:
    """Each step is carried out once, which also compiles what it needs, then recorded, then played again by name."""

    def __init__(self, state: Any, pool: Any) -> None:
        self.state = state
        self._pool = pool
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}

    def run(self, name: Hashable, step: Callable[[], None]) -> None:
        """Play the record of `name`, or carry out `step` and record it."""
        import torch

        if name in self._graphs:
            self._graphs[name].replay()
            return
        step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            step()  # recorded, not carried out
        self._graphs[name] = graph


class Workspaces:
    """The recorded workspaces of one model, at most `limit`; their records share one pool of memory.

    Sharing is safe because records are played one at a time, and what outlives a step lies in the workspace's state.
    """

    def __init__(self, limit: int = 8) -> None:
        self._limit = limit
        self._pool: Any = None
        self._kept: OrderedDict[Hashable, RecordedWorkspace] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> RecordedWorkspace:
        """The workspace kept under `key`, or a new one around what `make` returns."""
        import torch

        if key not in self._kept:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            while len(self._kept) >= self._limit:
                self._kept.popitem(last=False)
            self._kept[key] = RecordedWorkspace(make(), self._pool)
        self._kept.move_to_end(key)
        return self._kept[key]

    def clear(self) -> None:
        """Drop all workspaces and their records."""
        self._kept.clear()
        self._pool = None
