"""What a commit rule sees of one forward: pieces of logits to read its confidence from, then the whole block to rank.

Two stages, because the logits of a block may be too large to hold at once: `confidence` reads them piece by piece and
keeps one number a position; `decide` sees those numbers. Neither ever waits for the device.

Shapes: B rows, b positions of the current block, w of one piece of it, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlmbench.sampling.rng import uniform
from dlmbench.types import KnobValue

if TYPE_CHECKING:
    import torch


def quotas(masks: int, steps: int) -> list[int]:
    """How many of `masks` positions each of `steps` steps commits: equal shares, the first ones take the remainder."""
    base, extra = divmod(masks, steps)
    return [base + (i < extra) for i in range(steps)]


@dataclass
class Piece:
    """Logits_BwV of some of the block's positions, and the token that each of them would take (chosen_Bw).

    number_1: of the forward within its block, from 0. ends: tokens that count as improbable when confidence is asked.
    """

    logits_BwV: torch.Tensor
    chosen_Bw: torch.Tensor
    seed: int
    number_1: torch.Tensor
    prompts_B: torch.Tensor
    positions_w: torch.Tensor
    ends: tuple[int, ...] = ()

    def probability(self, dtype: str) -> torch.Tensor:
        """Un-tempered softmax probability_Bw of the chosen token, computed in `dtype` (model | float32 | float64)."""
        import torch

        logits_BwV, to = self.logits_BwV, self.logits_BwV.dtype if dtype == "model" else getattr(torch, dtype)
        for end in self.ends:
            columns_V = torch.arange(logits_BwV.shape[-1], device=logits_BwV.device)
            logits_BwV = logits_BwV.masked_fill(columns_V == end, float("-inf"))
        return logits_BwV.softmax(-1, dtype=to).gather(-1, self.chosen_Bw[..., None])[..., 0]

    def draw(self) -> torch.Tensor:
        """u_Bw in (0, 1), keyed by seed, prompt, step and position."""
        return uniform(self.seed, self.prompts_B, self.number_1, self.positions_w, "order")


def chosen_probability(piece: Piece, knobs: Mapping[str, KnobValue]) -> torch.Tensor:
    """The confidence of most rules: how probable the chosen token is, in the precision that the knobs ask for."""
    return piece.probability(str(knobs["confidence_dtype"]))


@dataclass
class Decision:
    """Which positions become final now (commit_Bb), and the confidence_Bb that decided it (for the trace)."""

    commit_Bb: torch.Tensor
    confidence_Bb: torch.Tensor


@dataclass
class Step:
    """One forward's confidence_Bb, masked_Bb (what may still be committed), and how many the schedule asks for.

    quota: None for a rule without a schedule.
    """

    confidence_Bb: torch.Tensor
    masked_Bb: torch.Tensor
    quota: int | None = None

    def ranked(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Sorted confidence_Bb (committed positions last, at -inf) and rank_Bb, 0 for the best; ties go leftmost.

        A rank is the number of better positions: b x b comparisons are one small kernel, a sort is several slow ones.
        """
        import torch

        open_Bb = self.confidence_Bb.masked_fill(~self.masked_Bb, float("-inf"))
        places_b = torch.arange(open_Bb.shape[-1], device=open_Bb.device)
        other_B1b, own_Bb1 = open_Bb[:, None, :], open_Bb[:, :, None]
        is_left_bb = places_b < places_b[:, None]
        rank_Bb = ((other_B1b > own_Bb1) | ((other_B1b == own_Bb1) & is_left_bb)).sum(-1)
        return torch.zeros_like(open_Bb).scatter(-1, rank_Bb, open_Bb), rank_Bb

    def commit_best(self, counts: torch.Tensor | int) -> Decision:
        """Commit the masked positions of highest confidence: `counts` of them in each row, one number or one a row."""
        _, rank_Bb = self.ranked()
        limit = counts if isinstance(counts, int) else counts[:, None]
        return Decision((rank_Bb < limit) & self.masked_Bb, self.confidence_Bb)


def decided_by(
    confidence_Bb: torch.Tensor,
    masked_Bb: torch.Tensor,
    quota: int | None,
    decide: Callable[[Step, Mapping[str, KnobValue]], Decision],
    knobs: Mapping[str, KnobValue],
) -> tuple[torch.Tensor, torch.Tensor]:
    """A rule's (commit_Bb, confidence_Bb), as one function of tensors that an engine can fuse."""
    decision = decide(Step(confidence_Bb, masked_Bb, quota), knobs)
    return decision.commit_Bb, decision.confidence_Bb
