"""Factor: each step commits the longest run of best positions that stays above a bound which rises with its length.

The factor rule of Fast-dLLM (Wu et al. 2025, arXiv 2505.22618): with sorted confidences c_1 >= c_2 >= ..., rank n
needs c_n >= 1 - f / (n + 1); rank 1 is free, for something must be committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dlmbench.sampling.step import Decision, Step, chosen_probability
from dlmbench.types import KnobValue

SCHEDULED = False
confidence = chosen_probability


@dataclass(frozen=True)
class Knobs:
    """Grid axes of the rule."""

    factor: float = field(default=1.0, metadata={"help": "larger commits more positions a forward"})
    factor_quirk: bool = field(
        default=True,
        metadata={"help": "as published: a failure at the last rank only still commits all; false mends it"},
    )


def decide(step: Step, knobs: Mapping[str, KnobValue]) -> Decision:
    """As many of the best masked positions as come before the first failure, at least one.

    With the published quirk a block whose only failing rank is its last masked one is committed whole.
    """
    import torch

    sorted_Bb, _ = step.ranked()
    masks_B = step.masked_Bb.sum(-1)
    rank_b = torch.arange(1, sorted_Bb.shape[-1] + 1, device=sorted_Bb.device, dtype=torch.float64)
    fails_Bb = (sorted_Bb < 1 - float(knobs["factor"] or 0) / (rank_b + 1)) & (rank_b > 1)
    fails_Bb |= rank_b > masks_B[:, None]
    top_B = (~fails_Bb).long().cumprod(-1).sum(-1)
    if knobs["factor_quirk"]:
        top_B = torch.where(top_B == masks_B - 1, masks_B, top_B)
    return step.commit_best(top_B.clamp(min=1))
