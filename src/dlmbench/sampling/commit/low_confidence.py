"""Schedule: each step commits its quota of positions, those whose chosen token is most probable.

LLaDA's low-confidence remasking (Nie et al. 2025, arXiv 2502.09992): positions of low confidence stay masked. A block
of M masks in K_b steps commits M // K_b positions a step, the first M mod K_b steps one more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dlmbench.sampling.denoise import BlockScores, chosen_probability
from dlmbench.types import KnobValue

if TYPE_CHECKING:
    import torch

SCHEDULED = True
# The positions whose token is most certain become final first.
SUREST_FIRST = True
confidence = chosen_probability


@dataclass(frozen=True)
class ScheduleKnobs:
    """Grid axes of a rule with a schedule."""

    steps: int | None = field(
        default=None, metadata={"help": "diffusion steps K in all blocks; default: one per token"}
    )


KNOBS = ScheduleKnobs


def decide(scores: BlockScores, knobs: Mapping[str, KnobValue]) -> torch.Tensor:
    """commit_Bb: the `quota` masked positions of highest confidence."""
    assert scores.quota is not None
    return scores.commit_best(scores.quota)
