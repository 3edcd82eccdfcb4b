"""Schedule: each step commits its quota of positions, drawn at random.

The order that the training objective of a masked diffusion model assumes: with one position a step its expected
log-likelihood is the ELBO (Nie et al. 2025, arXiv 2502.09992).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dlmbench.sampling.commit.low_confidence import KNOBS, decide
from dlmbench.sampling.denoise import LogitsChunk
from dlmbench.types import KnobValue

if TYPE_CHECKING:
    import torch

__all__ = ["DRAWS_ORDER", "KNOBS", "SCHEDULED", "confidence", "decide"]

SCHEDULED = True
DRAWS_ORDER = True


def confidence(chunk: LogitsChunk, knobs: Mapping[str, KnobValue]) -> torch.Tensor:
    """A uniform draw per position, so that the best ranks are a random subset."""
    return chunk.draw()
