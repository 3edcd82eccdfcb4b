"""What a commit rule sees of one forward, and the two things rules do with it: rank and commit.

Shapes: B rows, b positions of the current block, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlmbench.samplers._randomness import uniform

if TYPE_CHECKING:
    import torch


def quotas(masks: int, steps: int) -> list[int]:
    """How many of `masks` positions each of `steps` steps commits: equal shares, the first ones take the remainder."""
    base, extra = divmod(masks, steps)
    return [base + (i < extra) for i in range(steps)]


@dataclass
class Decision:
    """Which positions become final now (commit_Bb), and the confidence_Bb that decided it (for the trace)."""

    commit_Bb: torch.Tensor
    confidence_Bb: torch.Tensor


@dataclass
class Step:
    """One forward, seen by a commit rule.

    logits_BbV: of the block's positions. chosen_Bb: the token that each position would take. masked_Bb: positions
    that may still be committed. quota: how many the schedule asks for, None for a rule without a schedule.
    number: of the forward within its block, from 0. ends: tokens that count as improbable when confidence is asked.
    """

    logits_BbV: torch.Tensor
    chosen_Bb: torch.Tensor
    masked_Bb: torch.Tensor
    quota: int | None
    seed: int
    number: int
    prompts_B: torch.Tensor
    positions_b: torch.Tensor
    ends: tuple[int | None, ...] = ()

    def probability(self, dtype: str) -> torch.Tensor:
        """Un-tempered softmax probability_Bb of the chosen token, computed in `dtype` (model | float32 | float64)."""
        import torch

        to = self.logits_BbV.dtype if dtype == "model" else getattr(torch, dtype)
        logits_BbV, ends = self.logits_BbV, [t for t in self.ends if t is not None]
        if ends:
            logits_BbV = logits_BbV.index_fill(-1, torch.tensor(ends, device=logits_BbV.device), float("-inf"))
        return logits_BbV.softmax(-1, dtype=to).gather(-1, self.chosen_Bb[..., None])[..., 0]

    def draw(self) -> torch.Tensor:
        """u_Bb in (0, 1), keyed by seed, prompt, step and position."""
        return uniform(self.seed, self.prompts_B, self.number, self.positions_b, "order")

    def ranked(self, confidence_Bb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sorted confidence_Bb (committed positions last, at -inf) and rank_Bb, 0 for the best; ties go leftmost."""
        open_Bb = confidence_Bb.masked_fill(~self.masked_Bb, float("-inf"))
        sorted_Bb, order_Bb = open_Bb.sort(dim=-1, descending=True, stable=True)
        return sorted_Bb, order_Bb.argsort(dim=-1)

    def commit_best(self, confidence_Bb: torch.Tensor, counts_B: torch.Tensor | int) -> Decision:
        """Commit, in each row, the `counts_B` masked positions of highest confidence."""
        _, rank_Bb = self.ranked(confidence_Bb)
        limit = counts_B if isinstance(counts_B, int) else counts_B[:, None]
        return Decision((rank_Bb < limit) & self.masked_Bb, confidence_Bb)
