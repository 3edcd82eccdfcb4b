"""Random numbers that depend on (seed, prompt, step, position, index) only, and token draws from them.

A counter-based generator: the coordinates are hashed, so a draw does not depend on batch size, batch composition or
device, and no state is carried between steps. (The logits that a draw meets may: in bfloat16 on a GPU other batch sizes
run other kernels, which round differently.) The mixing function is the finaliser of SplitMix64 (Steele et al. 2014) in
wrapping int64 arithmetic.

Shapes: B rows, Q or w positions, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_GOLDEN = 0x9E3779B97F4A7C15
_GOLDEN_INVERSE = pow(_GOLDEN, -1, 1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_STREAMS = {"token": 1, "order": 2}


def _signed(value: int) -> int:
    """`value` modulo 2^64 as a signed int64."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _mix(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser; int64 has only arithmetic shifts, so the sign bits are masked off."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(_MIX_1)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(_MIX_2)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def uniform(
    seed: int,
    prompt_index_B: torch.Tensor,
    step: int | torch.Tensor,
    positions_Q: torch.Tensor,
    stream: str,
    width: int | None = None,
) -> torch.Tensor:
    """Draws u in (0, 1), float64: u_BQ, or u_BQV with `width` = V draws per position.

    Args:
        seed: of the cell.
        prompt_index_B: each row's index in the prompt set, int64.
        step: the forward within its block, counted from 0; a number, or an int64 tensor of one element on the device.
        positions_Q: positions in the generated span (0..G-1), int64.
        stream: "token" (which token) or "order" (which position); the two are independent.
        width: number of draws per position, for example the vocabulary size.
    """
    import torch

    key = _signed(seed * _GOLDEN + _STREAMS[stream])
    state_B = _mix(prompt_index_B + key)
    state_B = _mix(
        state_B + (step * _signed(_GOLDEN) + 1 if not isinstance(step, int) else _signed(step * _GOLDEN + 1))
    )
    state_BQ = _mix(state_B[:, None] + (positions_Q + 1)[None, :] * _signed(_GOLDEN))
    if width is not None:
        # state + n GOLDEN, written as (state / GOLDEN + n) GOLDEN: Triton would compute n GOLDEN, an index, in 32 bits.
        counter_V = torch.arange(1, width + 1, device=prompt_index_B.device, dtype=torch.int64)
        state_BQ = _mix(((state_BQ * _signed(_GOLDEN_INVERSE))[..., None] + counter_V) * _signed(_GOLDEN))
    # 53 bits, centred in their interval: never 0 and never 1, so that log(-log(u)) is finite.
    return (((state_BQ >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53


def choose_tokens(
    logits_BwV: torch.Tensor,
    temperature: float,
    seed: int,
    prompt_index_B: torch.Tensor,
    step: int | torch.Tensor,
    positions_w: torch.Tensor,
    never: int | None = None,
) -> torch.Tensor:
    """Chosen tokens_Bw: the argmax at temperature 0, else an exact draw from softmax(logits / temperature).

    LLaDA's code draws argmax exp(logit) / (-ln u)^T with u uniform in float64, the Gumbel-max rule; float32 noise would
    bias it (Zheng et al., arXiv 2409.02908). In logarithms, argmax logit - T ln(-ln u), it cannot overflow.

    The other arguments are the coordinates of the draw, see `uniform`. never: a token that is not chosen (the mask).
    """
    import torch

    if never is not None:
        columns_V = torch.arange(logits_BwV.shape[-1], device=logits_BwV.device)
        logits_BwV = logits_BwV.masked_fill(columns_V == never, float("-inf"))
    if temperature == 0:
        return logits_BwV.argmax(-1)
    u_BwV = uniform(seed, prompt_index_B, step, positions_w, "token", logits_BwV.shape[-1])
    return (logits_BwV.double() - temperature * (-u_BwV.log()).log()).argmax(-1)
