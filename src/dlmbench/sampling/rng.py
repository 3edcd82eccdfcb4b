"""Random numbers that depend on (seed, prompt, step, position, index) and on nothing else.

A counter-based generator: the coordinates are hashed, so batch mates, batch size and device never change a row, and
nothing has to be carried between steps. The mixing function is the finaliser of SplitMix64 (Steele et al. 2014),
computed in wrapping int64 arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_GOLDEN = 0x9E3779B97F4A7C15
_PER_GOLDEN = pow(_GOLDEN, -1, 1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_STREAMS = {"token": 1, "order": 2}


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _mix(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser; int64 has only arithmetic shifts, so the sign bits are masked away."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(_MIX_1)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(_MIX_2)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def uniform(
    seed: int,
    prompts_B: torch.Tensor,
    step: int | torch.Tensor,
    positions_Q: torch.Tensor,
    stream: str,
    width: int | None = None,
) -> torch.Tensor:
    """Draws u in (0, 1), float64: u_BQ, or u_BQW when `width` asks for W draws at each position.

    Args:
        seed: of the cell.
        prompts_B: each row's place in the prompt set, int64.
        step: the forward within its block, counted from 0; a number, or an int64 tensor of one on the device.
        positions_Q: places in the generated span (0..G-1), int64.
        stream: "token" (which token) or "order" (which position); the two are independent.
        width: number of draws at each position, as many as the vocabulary has entries.
    """
    import torch

    key = _signed(seed * _GOLDEN + _STREAMS[stream])
    state_B = _mix(prompts_B + key)
    state_B = _mix(
        state_B + (step * _signed(_GOLDEN) + 1 if not isinstance(step, int) else _signed(step * _GOLDEN + 1))
    )
    state_BQ = _mix(state_B[:, None] + (positions_Q + 1)[None, :] * _signed(_GOLDEN))
    if width is not None:
        # state + n GOLDEN is (state / GOLDEN + n) GOLDEN; n GOLDEN, an index to Triton, would have 32 bits.
        counter_W = torch.arange(1, width + 1, device=prompts_B.device, dtype=torch.int64)
        state_BQ = _mix(((state_BQ * _signed(_PER_GOLDEN))[..., None] + counter_W) * _signed(_GOLDEN))
    # 53 bits, centred in their interval: never 0 and never 1, so that log(-log(u)) is finite.
    return (((state_BQ >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53
