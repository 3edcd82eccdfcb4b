"""What plug-ins tell the cost model: a sampler its forwards, an engine how it runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ForwardShape:
    """`count` equal forwards of one sequence, as a sampler plans them.

    Forwards that differ in their context only are described by the mean context, since every cost is linear in it.

    positions: token positions computed. context: keys that a position sees at most. pairs: query-key pairs that the
    mask allows. sampled: positions at which a token is chosen from its logits. cached: positions whose keys and
    values are read from or written to a cache. copies: rows per sequence, 2 with classifier-free guidance.
    """

    count: float
    positions: int
    context: float
    pairs: float
    sampled: int
    cached: float = 0
    copies: int = 1


@dataclass(frozen=True)
class Efficiencies:
    """Shares of the data sheet's rates that an engine reaches, and the host's time to launch one forward.

    matrix, attention: of the matrix rate. bandwidth: of the memory's. host_s: seconds per forward; the host runs ahead
    of the device, so a forward takes the longer of the two, not their sum.
    """

    matrix: float
    bandwidth: float
    attention: float
    host_s: float


@dataclass(frozen=True)
class EngineCost:
    """How an engine runs a model, as far as time and memory depend on it; the attribute COST of an engine plug-in.

    head_on_all_positions: a bidirectional forward evaluates the output head at every position, not only where tokens
    are chosen. is_fused: the pointwise operators between matrix products are fused. has_static_cache: the KV cache of
    a decode loop is allocated at once. logits_chunk_bytes, mlp_chunk_rows: the head and the feed-forward process so
    much at a time; None for everything at once.
    efficiencies: by paradigm; without them a calibration is needed for times. measured_on: what they were measured on.
    caveat: what a reader should know of times predicted with them.
    """

    head_on_all_positions: bool = False
    is_fused: bool = False
    has_static_cache: bool = False
    logits_chunk_bytes: int | None = None
    mlp_chunk_rows: int | None = None
    efficiencies: Mapping[str, Efficiencies] = field(default_factory=dict)
    measured_on: str = ""
    caveat: str = ""
