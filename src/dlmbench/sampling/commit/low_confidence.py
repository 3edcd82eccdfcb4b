"""Schedule: each step commits its quota of positions, those whose chosen token is most probable.

LLaDA's low-confidence remasking (Nie et al. 2025, arXiv 2502.09992): positions of low confidence stay masked. In a
block of M masked positions each of its K_b steps commits M // K_b, and the first M mod K_b steps one more.
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
confidence = chosen_probability


@dataclass(frozen=True)
class ScheduleKnobs:
    """Grid axes of a rule with a schedule."""

    steps: int | None = field(
        default=None, metadata={"help": "total diffusion steps K, over all blocks; default: one per token"}
    )


KNOBS = ScheduleKnobs


def decide(scores: BlockScores, knobs: Mapping[str, KnobValue]) -> torch.Tensor:
    """commit_Bb: the `quota` masked positions of highest confidence."""
    assert scores.quota is not None
    return scores.commit_best(scores.quota)
