"""CUDA graph runner: captures each step of a generation once and replays it with a single launch.

A step of a small batch is hundreds of kernels of a few microseconds each; launched one by one, the host is slower than
the device. A graph reads and writes fixed addresses, so a runner keeps its tensors as long as its graphs; the least
recently used runner is dropped when there are too many.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class CudaGraphRunner:
    """Runs each step eagerly once, which also compiles what it needs, then captures it, then replays it by name."""

    def __init__(self, state: Any, pool: Any) -> None:
        self.state = state
        self._pool = pool
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}

    def run(self, name: Hashable, step: Callable[[], None]) -> None:
        """Replay the graph of `name`, or run `step` and capture it."""
        import torch

        if name in self._graphs:
            self._graphs[name].replay()
            return
        step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            step()  # captured, not run
        self._graphs[name] = graph


class CudaGraphRunners:
    """The runners of one model, at most `limit`; their graphs share one memory pool.

    Sharing is safe because graphs are replayed one at a time, and what outlives a step is in the runner's state.
    """

    def __init__(self, limit: int = 8) -> None:
        self._limit = limit
        self._pool: Any = None
        self._runners: OrderedDict[Hashable, CudaGraphRunner] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> CudaGraphRunner:
        """The runner of `key`, or a new one over the state that `make` returns."""
        import torch

        if key not in self._runners:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            while len(self._runners) >= self._limit:
                self._runners.popitem(last=False)
            self._runners[key] = CudaGraphRunner(make(), self._pool)
        self._runners.move_to_end(key)
        return self._runners[key]

    def reset_graphs(self) -> None:
        """Drop all runners and their graphs."""
        self._runners.clear()
        self._pool = None
