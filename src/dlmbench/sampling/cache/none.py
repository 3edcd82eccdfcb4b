"""No cache: every forward computes the whole canvas, as the official LLaDA sampler does."""

from __future__ import annotations

from dataclasses import dataclass

USES_KV_CACHE = False


@dataclass(frozen=True)
class NoCacheKnobs:
    """No grid axes."""


KNOBS = NoCacheKnobs


def span(first: int, last: int, length: int) -> tuple[int, int]:
    """Positions start..stop that a later forward of the block first..last computes: the canvas of `length`."""
    return 0, length
