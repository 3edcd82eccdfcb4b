"""Where a cell's memory goes: weights, cache, logits and their copies, activations; predicted from shapes alone.

Two moments can be the peak: inside a layer (activations of its feed-forward part) and after the head (logits, and the
softmax of the confidence). Weights and cache are there in both.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlmbench.roofline import operators
from dlmbench.types import Architecture, Cell, EngineCost

# Library overhead: the intercept of the official code's peak on an H200 (14.97 GiB) less its
# weights; cuBLAS' workspace on that GPU alone is 32 MiB.
WORKSPACE_BYTES = 43_000_000
_OFFICIAL_COPIES = 3


@dataclass(frozen=True)
class MemorySplit:
    """Bytes at the peak of one generation: logits and hidden at one moment, activations at the other."""

    weights: int
    cache: int
    logits: int
    hidden: int
    activations: int
    workspace: int = WORKSPACE_BYTES

    @property
    def total(self) -> int:
        """The larger of the two moments."""
        return self.weights + self.cache + max(self.logits + self.hidden, self.activations) + self.workspace


def split(cell: Cell, arch: Architecture) -> MemorySplit | None:
    """The predicted split of one generation of `cell` on its engine (allocated, not reserved, bytes).

    None where sampler or engine provide no plan (no `planned_forwards`, no COST).
    """
    engine, fewest = operators.engine_cost(cell), operators.min_forwards(cell)
    # A rule without a schedule takes an unknown number of forwards, but their shapes are known.
    kinds = operators.forwards_of(cell, total=fewest)
    if engine is None or kinds is None:
        return None
    e = operators.ELEMENT_BYTES[cell.precision]
    tokens = max((f.rows * f.positions for f in kinds), default=0)
    cached = max((f.cached for f in kinds), default=0)
    rows = max((f.rows for f in kinds), default=0)
    has_growing_cache = operators.is_decoding(cell) and cached > 0
    if has_growing_cache:
        cached = max(cell.prompt_tokens + cell.new_tokens - 1, cell.prompt_tokens)
    activations = _activations(arch, tokens, engine)
    if has_growing_cache and not engine.has_static_cache:
        # The part of the cache that grows later does not exist yet while the prompt's activations do.
        grown = cell.batch_size * max(cell.new_tokens - 1, 0) * 2 * arch.layers * arch.kv_heads * arch.head_size
        activations -= min(grown, activations)
    return MemorySplit(
        weights=arch.parameters * e,
        cache=int(rows * cached) * operators.cache_bytes_per_token(arch, cell.precision),
        logits=max((_logit_bytes(f, cell, arch, engine) for f in kinds), default=0),
        hidden=tokens * arch.hidden_size * e,
        activations=activations * e + max((_score_bytes(f, cell, arch) for f in kinds), default=0),
    )


def _activations(arch: Architecture, tokens: int, engine: EngineCost) -> int:
    """Elements alive inside a layer: around the feed-forward, or, where that is chunked, around attention."""
    d, f = arch.hidden_size, arch.intermediate_size
    if engine.mlp_chunk_rows is not None:
        return max(9 * d * tokens, d * tokens + (3 * f + 2 * d) * min(tokens, engine.mlp_chunk_rows))
    return tokens * (3 * f + 5 * d)


def _logit_bytes(forward: operators.Forward, cell: Cell, arch: Architecture, engine: EngineCost) -> int:
    e, evaluated = operators.ELEMENT_BYTES[cell.precision], forward.rows * forward.head * arch.vocab_size
    if operators.is_decoding(cell):
        return evaluated * (e + 4)  # transformers keeps a float32 copy of the last position
    if engine.logits_chunk_bytes is not None:
        # Two chunks exist at a time; fused kernels read them, so nothing is copied.
        return min(evaluated * e, 2 * engine.logits_chunk_bytes)
    sampled, c = cell.batch_size * forward.sampled * arch.vocab_size, operators.confidence_bytes(cell)
    copies = sampled * (c if c <= 4 else 2 * c)  # float64 converts its input first
    if float(cell.knob("temperature") or 0) > 0:
        copies = max(copies, sampled * 4 * 8)
    if float(cell.knob("cfg_scale") or 0) > 0:
        copies += sampled * 2 * e
    # torch's softmax copies what is not contiguous: a block of several rows' canvases, unless it is converted anyway.
    return evaluated * e + copies + (sampled * e if cell.batch_size > 1 and c == e else 0)


def _score_bytes(forward: operators.Forward, cell: Cell, arch: Architecture) -> int:
    """torch's math kernel holds one layer's scores twice, and its queries, keys and values once, in 32 bits."""
    if cell.attention != "math":
        return 0
    scores = forward.rows * arch.heads * forward.positions * forward.context
    return int(2 * 4 * scores + 4 * 4 * forward.rows * forward.context * arch.hidden_size)


# ---------------------------------------------------------------- the official code's memory law


@dataclass(frozen=True)
class MemoryLaw:
    """Peak = fixed_bytes + position_bytes * B (P + G), and how many copies of the canvas's logits that amounts to.

    is_explained: the copies are the three that the official code makes.
    """

    fixed_bytes: float
    position_bytes: float
    copies: float

    @property
    def is_explained(self) -> bool:
        """Within 2% of the three copies (logits, their softmax, and a working copy) that the code's text shows."""
        return abs(self.copies / _OFFICIAL_COPIES - 1) < 0.02

    def peak(self, positions: int) -> float:
        """Bytes at B (P + G) = `positions`."""
        return self.fixed_bytes + self.position_bytes * positions

    def __str__(self) -> str:
        text = f"{self.copies:.2f} copies of the logits and one hidden state a position"
        return text if self.is_explained else f"{text}: unexplained, the code makes {_OFFICIAL_COPIES}"


def official_law(arch: Architecture) -> MemoryLaw:
    """The law of LLaDA's official sampler at temperature 0, bfloat16: whole-canvas logits thrice, one hidden state."""
    position_bytes = 2 * (_OFFICIAL_COPIES * arch.vocab_size + arch.hidden_size)
    return law_of(arch, arch.parameters * 2 + WORKSPACE_BYTES, position_bytes)


def law_of(arch: Architecture, fixed_bytes: float, position_bytes: float) -> MemoryLaw:
    """Read a published or measured law in bfloat16: how many copies of the logits its slope amounts to."""
    return MemoryLaw(fixed_bytes, position_bytes, (position_bytes / 2 - arch.hidden_size) / arch.vocab_size)
