"""Prefix cache: the block's first forward caches keys and values; later ones compute from the block to the end.

Fast-dLLM (Wu et al. 2025, arXiv 2505.22618). The tokens before the block are final, so their keys and values are
nearly right (they saw masks where the block now has tokens); everything from the block on is computed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dlmbench.types import KnobValue

USES_KV_CACHE = True


@dataclass(frozen=True)
class FastDllmCacheKnobs:
    """Grid axes of the prefix and the dual cache."""

    published_loop: bool = field(
        default=True,
        metadata={"help": "as published, at least two forwards per block; false: stop a block once it is complete"},
    )


KNOBS = FastDllmCacheKnobs


def min_forwards(knobs: Mapping[str, KnobValue]) -> int:
    """Forwards of each block at least: the published loop runs a second one even after the first filled the block."""
    return 1 if knobs.get("published_loop") is False else 2


def span(first: int, last: int, length: int) -> tuple[int, int]:
    """Positions start..stop that a later forward of the block first..last computes: from the block to the end."""
    return first, length
