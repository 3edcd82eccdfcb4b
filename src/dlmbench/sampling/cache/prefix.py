"""Prefix cache: the block's first forward keeps keys and values; later ones compute from the block to the canvas' end.

Fast-dLLM (Wu et al. 2025, arXiv 2505.22618). What stands before the block is final, so its keys and values are
nearly right (they saw masks where the block now has tokens); what follows is computed anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dlmbench.types import KnobValue

KEEPS = True


@dataclass(frozen=True)
class Knobs:
    """Grid axes of the cache."""

    published_loop: bool = field(
        default=True,
        metadata={"help": "as published: at least two forwards a block; false leaves a block that is complete"},
    )


def span(first: int, last: int, length: int) -> tuple[int, int]:
    """Positions that a later forward computes for the block first..last of a canvas of `length`."""
    return first, length


def min_forwards(knobs: Mapping[str, KnobValue]) -> int:
    """Forwards that a block takes at least: two in the published loop."""
    return 1 if knobs.get("published_loop") is False else 2
