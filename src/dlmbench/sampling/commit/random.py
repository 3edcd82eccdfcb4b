"""Schedule: each step commits its share of positions, drawn at random.

The order that the training objective of a masked diffusion model assumes: with one position a step its expected
log-likelihood is the ELBO (Nie et al. 2025, arXiv 2502.09992).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dlmbench.sampling.step import Decision, Piece, Step
from dlmbench.types import KnobValue

if TYPE_CHECKING:
    import torch

SCHEDULED = True
# Its likelihood is a mean over drawn orders, an estimate.
DRAWS_ORDER = True


@dataclass(frozen=True)
class Knobs:
    """Grid axes of the rule."""

    steps: int | None = field(default=None, metadata={"help": "diffusion steps K in all blocks; default: one a token"})


def confidence(piece: Piece, knobs: Mapping[str, KnobValue]) -> torch.Tensor:
    """A draw: every position is as good as any other."""
    return piece.draw()


def decide(step: Step, knobs: Mapping[str, KnobValue]) -> Decision:
    """`quota` masked positions, uniformly at random."""
    assert step.quota is not None
    return step.commit_best(step.quota)
