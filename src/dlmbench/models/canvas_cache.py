"""Keys and values of a whole canvas for transformers' Llama, replaced in place at the positions of each forward.

One cache serves both schemes of Fast-dLLM: a forward over positions first..last writes their keys and values and
attends to all N. Over first..N it is the prefix cache, over the block alone the dual cache. Keys are stored after
rotation, at the true positions that the engine passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.cache_utils import Cache, DynamicLayer

if TYPE_CHECKING:
    import torch


class CanvasCache(Cache):  # type: ignore[misc]
    """transformers' Cache protocol over tensors_BHNd of fixed length; a forward over all of it starts anew."""

    def __init__(self, layers: int, length: int) -> None:
        super().__init__(layers=[DynamicLayer() for _ in range(layers)])
        self._keys: list[torch.Tensor | None] = [None] * layers
        self._values: list[torch.Tensor | None] = [None] * layers
        self._start = self._stop = 0
        self._length = length

    def place(self, start: int, positions: int) -> None:
        """Say where the next forward's positions stand."""
        self._start, self._stop = start, start + positions

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the forward's keys and values, return those of the whole canvas."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        if self._stop - self._start == self._length:
            self._keys[layer_idx], self._values[layer_idx] = key_states, value_states
            return key_states, value_states
        assert keys is not None, "the first forward of a cache covers the whole canvas"
        assert values is not None
        keys[:, :, self._start : self._stop] = key_states
        values[:, :, self._start : self._stop] = value_states
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions before the forward."""
        return self._start

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Every query sees the whole canvas."""
        return self._length, 0
