"""The forwards of a cell, and the FLOPs and bytes of each.

A sampler plans its forwards (`ForwardShape`) and an engine describes how it runs them (`EngineCost`); a test compares
the planned counts with those that the samplers measure.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlmbench import registry
from dlmbench.types import Architecture, Cell, EngineCost, ForwardShape

# Bytes per element of weights and activations.
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_CONFIDENCE_BYTES = {"float32": 4, "float64": 8}


@dataclass(frozen=True, kw_only=True)
class Forward(ForwardShape):
    """Equal forwards of a batch, as an engine runs them.

    rows: sequences, twice the batch with classifier-free guidance. head: positions per row on which the output head is
    evaluated.
    """

    rows: int
    head: int


def confidence_bytes(cell: Cell) -> int:
    """Bytes per element of the softmax in which confidences are computed."""
    return _CONFIDENCE_BYTES.get(str(cell.knob("confidence_dtype")), ELEMENT_BYTES[cell.precision])


def body_weights(arch: Architecture) -> int:
    """Weights of all matrix products but the head: what every computed position is multiplied with."""
    kv = arch.kv_heads * arch.head_size
    d = arch.hidden_size
    return arch.layers * (2 * d * d + 2 * d * kv + 3 * d * arch.intermediate_size)


def cache_bytes_per_token(arch: Architecture, precision: str) -> int:
    """Keys and values of one position in all layers."""
    return 2 * arch.layers * arch.kv_heads * arch.head_size * ELEMENT_BYTES[precision]


def engine_cost(cell: Cell) -> EngineCost | None:
    """How the cell's engine runs a model; None for an engine that does not say (no attribute COST), or is missing."""
    cost: EngineCost | None = registry.attribute("engines", cell.engine, "COST", None)
    return cost


def paradigm_of(cell: Cell) -> str:
    """That of the cell's sampler, empty where it is not installed."""
    return str(registry.attribute("samplers", cell.sampler, "PARADIGM", ""))


def is_decoding(cell: Cell) -> bool:
    """Whether the cell runs the engine's own loop, one token per forward with a KV cache."""
    return paradigm_of(cell) == "autoregressive"


def forwards_of(cell: Cell, total: float | None = None, needed_head_only: bool = False) -> tuple[Forward, ...] | None:
    """The forwards of one generation of `cell`; None where the sampler cannot say how many there will be.

    Args:
        cell: with resolved or unresolved knobs.
        total: number of forwards of a rule without a schedule, where it is known (from a finished run).
        needed_head_only: count the head where a token is chosen, not where the engine evaluates it.
    """
    plan = registry.attribute("samplers", cell.sampler, "planned_forwards", lambda *_: None)
    shapes: tuple[ForwardShape, ...] | None = plan(dict(cell.knobs), cell.prompt_tokens, cell.new_tokens, total)
    if shapes is None:
        return None
    engine = engine_cost(cell) or EngineCost()
    everywhere = engine.head_on_all_positions and not is_decoding(cell) and not needed_head_only
    return tuple(
        Forward(**vars(s), rows=cell.batch_size * s.copies, head=s.positions if everywhere else s.sampled)
        for s in shapes
    )


def min_forwards(cell: Cell) -> int | None:
    """The fewest forwards that `cell` can take; None where its sampler does not say."""
    fewest = registry.attribute("samplers", cell.sampler, "min_forwards", None)
    return None if fewest is None else int(fewest(dict(cell.knobs), cell.new_tokens))


@dataclass(frozen=True)
class Load:
    """FLOPs and bytes of one forward, separately where they meet different limits.

    body_bytes, head_bytes: weights. cached_bytes: keys and values. attention_bytes: these, and what torch's math kernel
    moves for scores. pointwise_bytes: moved by the operators between the matrix products, and to turn logits into
    tokens and confidences.
    """

    body_flops: float
    head_flops: float
    attention_flops: float
    body_bytes: float
    head_bytes: float
    cached_bytes: float
    attention_bytes: float
    pointwise_bytes: float

    @property
    def flops(self) -> float:
        """FLOPs of all matrix products."""
        return self.body_flops + self.head_flops + self.attention_flops

    @property
    def compulsory_bytes(self) -> float:
        """Weights once, and cached keys and values once."""
        return self.body_bytes + self.head_bytes + self.cached_bytes


def load_of(forward: Forward, cell: Cell, arch: Architecture, exact_mask: bool = False) -> Load:
    """The load of one forward; with `exact_mask` only of pairs that the mask allows, whatever the kernel computes."""
    e, d, layers = ELEMENT_BYTES[cell.precision], arch.hidden_size, arch.layers
    tokens = forward.rows * forward.positions
    # torch's math kernel multiplies all pairs and masks afterwards.
    is_plain = cell.attention == "math"
    all_pairs = forward.positions * forward.context
    pairs = forward.rows * (all_pairs if is_plain and not exact_mask else forward.pairs)
    # It also writes, scales, normalises and reads the scores, in 32 bits: four passes over memory.
    score_bytes = 4 * 4.0 * layers * arch.heads * forward.rows * all_pairs if is_plain else 0.0
    cached_bytes = forward.rows * forward.cached * cache_bytes_per_token(arch, cell.precision)
    return Load(
        body_flops=2.0 * tokens * body_weights(arch),
        head_flops=2.0 * forward.rows * forward.head * d * arch.vocab_size,
        attention_flops=4.0 * d * layers * pairs,
        body_bytes=float(e * body_weights(arch)),
        head_bytes=float(e * d * arch.vocab_size) if forward.head else 0.0,
        cached_bytes=cached_bytes,
        attention_bytes=cached_bytes + score_bytes,
        pointwise_bytes=tokens * layers * _pointwise_bytes(cell, arch) + _sampling_bytes(forward, cell, arch),
    )


def _pointwise_bytes(cell: Cell, arch: Architecture) -> float:
    """Bytes per position and layer moved by norms, rotary embedding, residual sums and the gate.

    Plain transformers runs each as a kernel, the norms in 32 bits; a compiled block fuses them.
    """
    e, d, f = ELEMENT_BYTES[cell.precision], arch.hidden_size, arch.intermediate_size
    rotated = d + arch.kv_heads * arch.head_size
    if (engine_cost(cell) or EngineCost()).is_fused:
        return 2 * 4 * e * d + 2 * e * rotated + 3 * e * f
    norm = 28 if e == 4 else 4 * e + 24
    return 2 * norm * d + 10 * e * rotated + 2 * 3 * e * d + (2 + 3) * e * f


def _sampling_bytes(forward: Forward, cell: Cell, arch: Architecture) -> float:
    """Argmax (or a draw in float64, about sixteen passes) and the softmax of the confidence, after any guidance."""
    if is_decoding(cell):
        return 0.0
    e, c = ELEMENT_BYTES[cell.precision], confidence_bytes(cell)
    a_logit = 2 * e + c if c <= 4 else 2 * e + 3 * c
    if float(cell.knob("temperature") or 0) > 0:
        a_logit += 16 * 8
    if float(cell.knob("cfg_scale") or 0) > 0:
        a_logit += 9 * e
    return float(cell.batch_size * forward.sampled * arch.vocab_size * a_logit)
