"""No cache: every forward computes the whole canvas, as the official LLaDA sampler does."""

from __future__ import annotations

from dataclasses import dataclass

KEEPS = False


@dataclass(frozen=True)
class Knobs:
    """No grid axes."""


def span(first: int, last: int, length: int) -> tuple[int, int]:
    """Positions that a forward computes for the block first..last of a canvas of `length`: all of them."""
    return 0, length
