"""Dual cache: the block's first forward caches all keys and values; later ones compute the block alone.

Fast-dLLM (Wu et al. 2025, arXiv 2505.22618): the block's own keys and values are replaced in place, those before and
after it stay as the first forward left them.
"""

from __future__ import annotations

from dlmbench.sampling.cache.prefix import KNOBS, min_forwards

__all__ = ["KNOBS", "USES_KV_CACHE", "min_forwards", "span"]

USES_KV_CACHE = True


def span(first: int, last: int, length: int) -> tuple[int, int]:
    """Positions start..stop that a later forward of the block first..last computes: the block."""
    return first, last
