"""The transformer of the tiny pair, as pure functions over named weights.

The architecture shared by LLaMA and LLaDA: RMSNorm, rotary attention, SwiGLU, untied head. A block is a function of
tensors alone, so that it is compiled once for all six layers. Weights have LLaDA's names; export.py maps them to
LLaMA's. The tests compare both models with transformers.

Shape legend: B sequences, L positions, D model width, H heads, E width of a head, V rows of the embedding.
"""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dlmbench.tiny.vocabulary import EMBEDDING_SIZE


@dataclass(frozen=True)
class Shape:
    """The sizes that both models of the pair share."""

    layers: int = 6
    width: int = 256
    heads: int = 8
    hidden: int = 512  # intermediate size of the feed-forward
    rows: int = EMBEDDING_SIZE
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5
    longest: int = 512  # positions

    def as_dict(self) -> dict[str, float]:
        """For the training record."""
        return asdict(self)


class Block(NamedTuple):
    """The weights of one layer, by LLaDA's names."""

    attn_norm: Tensor
    q_proj: Tensor
    k_proj: Tensor
    v_proj: Tensor
    attn_out: Tensor
    ff_norm: Tensor
    ff_proj: Tensor
    up_proj: Tensor
    ff_out: Tensor


Weights = dict[str, Tensor]


def block_of(weights: Weights, layer: int) -> Block:
    """The weights of `layer`."""
    return Block(*(weights[f"blocks.{layer}.{name}"] for name in Block._fields))


def initial_weights(shape: Shape, seed: int) -> Weights:
    """Normal with standard deviation 0.02, less for projections into the residual stream.

    Drawn on the CPU, so that they depend on the seed alone.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int, deviation: float = 0.02) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * deviation

    width, hidden, residual = shape.width, shape.hidden, 0.02 / (2 * shape.layers) ** 0.5
    weights = {"wte": normal(shape.rows, width)}
    for layer in range(shape.layers):
        block = Block(
            attn_norm=torch.ones(width),
            q_proj=normal(width, width),
            k_proj=normal(width, width),
            v_proj=normal(width, width),
            attn_out=normal(width, width, residual),
            ff_norm=torch.ones(width),
            ff_proj=normal(hidden, width),
            up_proj=normal(hidden, width),
            ff_out=normal(width, hidden, residual),
        )
        weights |= {f"blocks.{layer}.{name}": tensor for name, tensor in block._asdict().items()}
    return weights | {"ln_f": torch.ones(width), "ff_out": normal(shape.rows, width)}


def rotary_tables(shape: Shape, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (L, E), rotate-half layout, in fp32."""
    head_width = shape.width // shape.heads
    exponents = torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), shape.rope_theta**-exponents)
    angles_LE = torch.cat((angles, angles), dim=-1)
    return angles_LE.cos(), angles_LE.sin()


def _norm(x_BLD: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return F.rms_norm(x_BLD.float(), (x_BLD.shape[-1],), weight.float(), epsilon)


def _linear(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    return F.linear(x.to(dtype), weight.to(dtype))


def _rotate(x_BHLE: Tensor, cos_LE: Tensor, sin_LE: Tensor) -> Tensor:
    first, second = x_BHLE.float().chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return (x_BHLE.float() * cos_LE + rotated * sin_LE).to(x_BHLE.dtype)


def block_forward(
    x_BLD: Tensor,
    block: Block,
    cos_LE: Tensor,
    sin_LE: Tensor,
    heads: int,
    epsilon: float,
    causal: bool,
    dtype: torch.dtype,
) -> Tensor:
    """One layer. The residual stream stays in fp32, the matrix products run in `dtype`."""
    B, L, D = x_BLD.shape
    normed = _norm(x_BLD, block.attn_norm, epsilon)

    def by_head(weight: Tensor) -> Tensor:
        return _linear(normed, weight, dtype).view(B, L, heads, D // heads).transpose(1, 2)

    query, key = _rotate(by_head(block.q_proj), cos_LE, sin_LE), _rotate(by_head(block.k_proj), cos_LE, sin_LE)
    attended = F.scaled_dot_product_attention(query, key, by_head(block.v_proj), is_causal=causal)
    x_BLD = x_BLD + _linear(attended.transpose(1, 2).reshape(B, L, D), block.attn_out, dtype)
    normed = _norm(x_BLD, block.ff_norm, epsilon)
    gated = F.silu(_linear(normed, block.ff_proj, dtype)) * _linear(normed, block.up_proj, dtype)
    return x_BLD + _linear(gated, block.ff_out, dtype)


def head_forward(x_BLD: Tensor, norm: Tensor, head: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
    """Logits (B, L, V) in fp32."""
    return _linear(_norm(x_BLD, norm, epsilon), head, dtype).float()


def weighted_loss(
    x_BLD: Tensor,
    norm: Tensor,
    head: Tensor,
    targets_BL: Tensor,
    weights_BL: Tensor,
    epsilon: float,
    dtype: torch.dtype,
) -> Tensor:
    """Sum of the cross-entropies (nats) times `weights_BL`."""
    logits = head_forward(x_BLD, norm, head, epsilon, dtype)
    losses = F.cross_entropy(logits.flatten(0, 1), targets_BL.flatten(), reduction="none")
    return (losses * weights_BL.flatten()).sum()


class Transformer:
    """The functions above applied to one set of weights; `compiled` uses torch.compile."""

    def __init__(
        self, shape: Shape, weights: Weights, causal: bool, dtype: torch.dtype, compiled: bool = False
    ) -> None:
        self.shape, self.weights, self.causal, self.dtype = shape, weights, causal, dtype
        self._block = torch.compile(block_forward, dynamic=False) if compiled else block_forward
        self._loss = torch.compile(weighted_loss, dynamic=False) if compiled else weighted_loss

    def _body(self, tokens_BL: Tensor) -> Tensor:
        cos_LE, sin_LE = rotary_tables(self.shape, tokens_BL.shape[1], tokens_BL.device)
        x_BLD = F.embedding(tokens_BL, self.weights["wte"]).float()
        for layer in range(self.shape.layers):
            block = block_of(self.weights, layer)
            x_BLD = self._block(
                x_BLD, block, cos_LE, sin_LE, self.shape.heads, self.shape.norm_epsilon, self.causal, self.dtype
            )
        return x_BLD

    def logits(self, tokens_BL: Tensor) -> Tensor:
        """(B, L, V) in fp32; position i predicts word i + 1 if causal, else word i."""
        weights = self.weights
        return head_forward(
            self._body(tokens_BL), weights["ln_f"], weights["ff_out"], self.shape.norm_epsilon, self.dtype
        )

    def loss(self, tokens_BL: Tensor, targets_BL: Tensor, weights_BL: Tensor) -> Tensor:
        """Sum of weighted cross-entropies."""
        weights = self.weights
        return self._loss(
            self._body(tokens_BL),
            weights["ln_f"],
            weights["ff_out"],
            targets_BL,
            weights_BL,
            self.shape.norm_epsilon,
            self.dtype,
        )
