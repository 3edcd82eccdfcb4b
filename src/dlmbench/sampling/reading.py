"""From hidden states to a token and a confidence at each position of a block, piece by piece of the head's output.

Shapes: B rows, Q positions that were computed, b of the block, w of one piece of it, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from dlmbench.sampling.canvas import Canvas
from dlmbench.sampling.choice import choose_tokens
from dlmbench.sampling.step import Piece
from dlmbench.types import KnobValue, LanguageModel

if TYPE_CHECKING:
    import torch


@dataclass
class Seen:
    """What was read at each position; log_prob_Bb of the reference where there is one."""

    chosen_Bb: torch.Tensor
    confidence_Bb: torch.Tensor
    log_prob_Bb: torch.Tensor | None


@dataclass
class Reader:
    """How one generation reads logits: its rule, knobs and seed."""

    model: LanguageModel
    rule: ModuleType
    knobs: Mapping[str, KnobValue]
    seed: int

    def __post_init__(self) -> None:
        self.read: Callable[..., tuple[torch.Tensor, ...]] = self.model.fused(_read)

    def block(self, hidden_BQD: torch.Tensor, canvas: Canvas, block: slice, offset: int) -> Seen:
        """The block's positions, which stand `offset` further on in `hidden_BQD`; notes whether all was finite."""
        import torch

        architecture, knobs, parts = self.model.architecture, self.knobs, []
        ends = (architecture.eos_id, architecture.eot_id) if knobs["confidence_eos_eot_inf"] else ()
        first = block.start
        for logits_BwV in self.model.logits_in_pieces(hidden_BQD, block.start + offset, block.stop + offset):
            last = first + logits_BwV.shape[1]
            reference_Bw = None if canvas.reference_BG is None else canvas.reference_BG[:, first:last]
            found = self.read(
                logits_BwV,
                canvas.prompts_B,
                canvas.number_1,
                torch.arange(first, last, device=logits_BwV.device),
                reference_Bw,
                mask_id=canvas.mask_id,
                banned=architecture.eos_id if knobs["logits_eos_inf"] else None,
                ends=tuple(t for t in ends if t is not None),
                guidance=float(knobs["cfg_scale"] or 0),
                temperature=float(knobs["temperature"] or 0),
                seed=self.seed,
                confidence=self.rule.confidence,
                knobs=knobs,
            )
            parts.append(found)
            first = last
        chosen, confidence, finite, log_prob = zip(*parts, strict=True)
        canvas.healthy &= torch.stack(finite).all()
        scored = canvas.reference_BG is not None
        return Seen(torch.cat(chosen, 1), torch.cat(confidence, 1), torch.cat(log_prob, 1) if scored else None)


def _read(
    logits_BwV: torch.Tensor,
    prompts_B: torch.Tensor,
    number_1: torch.Tensor,
    positions_w: torch.Tensor,
    reference_Bw: torch.Tensor | None,
    *,
    mask_id: int,
    banned: int | None,
    ends: tuple[int, ...],
    guidance: float,
    temperature: float,
    seed: int,
    confidence: Callable[[Piece, Mapping[str, KnobValue]], torch.Tensor],
    knobs: Mapping[str, KnobValue],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """(chosen_Bw, confidence_Bw, all finite, log_prob_Bw). The mask is never chosen, but counts in the confidence, as
    published; in a likelihood it does not, for no text contains it.
    """
    import torch

    columns_V = torch.arange(logits_BwV.shape[-1], device=logits_BwV.device)
    if guidance > 0:
        given, blind = logits_BwV.chunk(2)
        logits_BwV = blind + (guidance + 1) * (given - blind)
    if banned is not None:
        logits_BwV = logits_BwV.masked_fill(columns_V == banned, float("-inf"))
    chosen_Bw = choose_tokens(logits_BwV, temperature, seed, prompts_B, number_1, positions_w, never=mask_id)
    finite = logits_BwV.gather(-1, chosen_Bw[..., None]).isfinite().all()
    confidence_Bw = confidence(Piece(logits_BwV, chosen_Bw, seed, number_1, prompts_B, positions_w, ends), knobs)
    log_prob_Bw = None
    if reference_Bw is not None:
        allowed_BwV = logits_BwV.float().masked_fill(columns_V == mask_id, float("-inf"))
        log_prob_Bw = allowed_BwV.log_softmax(-1).gather(-1, reference_Bw[..., None])[..., 0]
    return chosen_Bw, confidence_Bw, finite, log_prob_Bw
