"""From logits to a chosen token: argmax, or an exact draw by the Gumbel-max rule in float64.

The published code draws argmax exp(logit) / (-ln u)^T with u uniform in float64, which is an exact draw from
softmax(logit / T); float32 noise would bend it (Zheng et al., arXiv 2409.02908). The same in logarithms is
argmax logit - T ln(-ln u), which cannot overflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlmbench.samplers._randomness import uniform

if TYPE_CHECKING:
    import torch


def choose_tokens(
    logits_BQV: torch.Tensor,
    temperature: float,
    seed: int,
    prompts_B: torch.Tensor,
    step: int,
    positions_Q: torch.Tensor,
) -> torch.Tensor:
    """Chosen tokens_BQ: the argmax at temperature 0, else a draw from softmax(logits / temperature)."""
    if temperature == 0:
        return logits_BQV.argmax(-1)
    u_BQV = uniform(seed, prompts_B, step, positions_Q, "token", logits_BQV.shape[-1])
    return (logits_BQV.double() - temperature * (-u_BQV.log()).log()).argmax(-1)
