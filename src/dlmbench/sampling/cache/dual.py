"""Dual cache: the block's first forward keeps all keys and values; later ones compute the block alone.

Fast-dLLM (Wu et al. 2025, arXiv 2505.22618): the block's own keys and values are replaced in place, those before and
behind it stay as its first forward left them.
"""

from __future__ import annotations

from dlmbench.sampling.cache.prefix import Knobs, min_forwards

__all__ = ["KEEPS", "Knobs", "min_forwards", "span"]

KEEPS = True


def span(first: int, last: int, length: int) -> tuple[int, int]:
    """Positions that a later forward computes for the block first..last of a canvas of `length`."""
    return first, last
