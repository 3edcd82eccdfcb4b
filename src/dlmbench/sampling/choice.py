"""From logits to a chosen token: argmax, or an exact draw by the Gumbel-max rule in float64.

The published code draws argmax exp(logit) / (-ln u)^T with u uniform in float64, which is an exact draw from
softmax(logit / T); float32 noise would bend it (Zheng et al., arXiv 2409.02908). The same in logarithms is
argmax logit - T ln(-ln u), which cannot overflow.

Shapes: B rows, w positions of a piece of the block, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlmbench.sampling.rng import uniform

if TYPE_CHECKING:
    import torch


def choose_tokens(
    logits_BwV: torch.Tensor,
    temperature: float,
    seed: int,
    prompts_B: torch.Tensor,
    step: int | torch.Tensor,
    positions_w: torch.Tensor,
    never: int | None = None,
) -> torch.Tensor:
    """Chosen tokens_Bw: the argmax at temperature 0, else a draw from softmax(logits / temperature).

    The token `never` is not chosen.
    """
    import torch

    if never is not None:
        columns_V = torch.arange(logits_BwV.shape[-1], device=logits_BwV.device)
        logits_BwV = logits_BwV.masked_fill(columns_V == never, float("-inf"))
    if temperature == 0:
        return logits_BwV.argmax(-1)
    u_BwV = uniform(seed, prompts_B, step, positions_w, "token", logits_BwV.shape[-1])
    return (logits_BwV.double() - temperature * (-u_BwV.log()).log()).argmax(-1)
