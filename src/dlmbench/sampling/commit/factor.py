"""Factor: each step commits the longest run of best positions above a bound that rises with the run's length.

The factor rule of Fast-dLLM (Wu et al. 2025, arXiv 2505.22618): with sorted confidences c_1 >= c_2 >= ..., rank n
needs c_n >= 1 - f / (n + 1); rank 1 is exempt, because each step has to commit something.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dlmbench.sampling.denoise import BlockScores, chosen_probability
from dlmbench.types import KnobValue

if TYPE_CHECKING:
    import torch

SCHEDULED = False
confidence = chosen_probability


@dataclass(frozen=True)
class FactorKnobs:
    """Grid axes of the rule."""

    factor: float = field(default=1.0, metadata={"help": "larger commits more positions per forward"})
    factor_quirk: bool = field(
        default=True,
        metadata={"help": "as published, a failure at the last rank still commits everything; false: fixed"},
    )


KNOBS = FactorKnobs


def check(knobs: Mapping[str, KnobValue]) -> str | None:
    """Why these knobs cannot run, or None."""
    return None if 0 <= float(knobs["factor"] or 0) < math.inf else "factor must be 0 or more, and finite"


def decide(scores: BlockScores, knobs: Mapping[str, KnobValue]) -> torch.Tensor:
    """commit_Bb: the best masked positions before the first failure, at least one.

    With the published quirk, a block whose only failing rank is its last masked one is committed whole.
    """
    import torch

    sorted_Bb, _ = scores.ranked()
    masks_B = scores.masked_Bb.sum(-1)
    rank_b = torch.arange(1, sorted_Bb.shape[-1] + 1, device=sorted_Bb.device, dtype=torch.float64)
    fails_Bb = (sorted_Bb < 1 - float(knobs["factor"] or 0) / (rank_b + 1)) & (rank_b > 1)
    fails_Bb |= rank_b > masks_B[:, None]
    top_B = (~fails_Bb).long().cumprod(-1).sum(-1)
    if knobs["factor_quirk"]:
        top_B = torch.where(top_B == masks_B - 1, masks_B, top_B)
    return scores.commit_best(top_B.clamp(min=1))
