"""Where a cell's memory goes: weights, cache, logits and their copies, activations; predicted from shapes alone.

Two moments can be the peak: inside a layer (activations of its feed-forward part) and after the head (logits, and the
softmax of the confidence). Weights and cache are there in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlmbench.roofline import operators
from dlmbench.types import Architecture, Cell

# What libraries keep beside the tensors: the intercept of the official code's peak on an H200 (14.97 GiB) less its
# weights; cuBLAS' workspace on that GPU alone is 32 MiB.
WORKSPACE_BYTES = 43_000_000
# The native engine: its head works through positions in pieces of at most so many bytes of logits, of which two are
# there at a time; its feed-forward through so many positions at a time.
CHUNK_BYTES = 2**28
CHUNK_ROWS = 16384
_OFFICIAL_COPIES = 3


@dataclass(frozen=True)
class MemorySplit:
    """Bytes at the peak of one generation. logits and hidden belong to one moment, activations to the other."""

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


def split(cell: Cell, arch: Architecture) -> MemorySplit:
    """The predicted split of one generation of `cell` on its engine (allocated, not reserved, bytes)."""
    e = operators.element_bytes(cell.precision)
    # A rule without a schedule takes an unknown number of forwards, but their shapes are known.
    kinds = operators.forwards_of(cell, total=operators.least_forwards(cell)) or ()
    tokens = max((f.rows * f.queries for f in kinds), default=0)
    cached = max((f.cached for f in kinds), default=0)
    rows = max((f.rows for f in kinds), default=0)
    if cell.sampler == "autoregressive":
        cached = max(cell.prompt_tokens + cell.new_tokens - 1, cell.prompt_tokens)
    return MemorySplit(
        weights=arch.parameters * e,
        cache=int(rows * cached) * operators.cache_bytes_per_token(arch, cell.precision),
        logits=max((_logit_bytes(f, cell, arch) for f in kinds), default=0),
        hidden=tokens * arch.hidden_size * e,
        activations=(_activations(cell, arch, tokens) - _grown_later(cell, arch, tokens)) * e
        + max((_score_bytes(f, cell, arch) for f in kinds), default=0),
    )


def _grown_later(cell: Cell, arch: Architecture, tokens: int) -> int:
    """Elements of a growing cache that are not there yet while a prompt's activations are; `cache` counts them."""
    if cell.sampler != "autoregressive" or cell.engine == "native":
        return 0
    grown = cell.batch_size * max(cell.new_tokens - 1, 0) * 2 * arch.layers * arch.kv_heads * arch.head_size
    return min(grown, _activations(cell, arch, tokens))


def _activations(cell: Cell, arch: Architecture, tokens: int) -> int:
    """Elements alive inside a layer: around the feed-forward, or, where that is done in turns, around attention."""
    d, f = arch.hidden_size, arch.intermediate_size
    if cell.engine == "native":
        return max(9 * d * tokens, d * tokens + (3 * f + 2 * d) * min(tokens, CHUNK_ROWS))
    return tokens * (3 * f + 5 * d)


def _logit_bytes(forward: operators.Forward, cell: Cell, arch: Architecture) -> int:
    e, evaluated = operators.element_bytes(cell.precision), forward.rows * forward.head * arch.vocab_size
    if cell.sampler == "autoregressive":
        return evaluated * (e + 4)  # transformers keeps a float32 copy of the last position
    chosen, c = cell.batch_size * forward.choosing * arch.vocab_size, operators.confidence_bytes(cell)
    copies = chosen * (c if c <= 4 else 2 * c)  # float64 converts its input first
    if float(cell.knob("temperature") or 0) > 0:
        copies = max(copies, chosen * 4 * 8)
    if float(cell.knob("cfg_scale") or 0) > 0:
        copies += chosen * 2 * e
    total = evaluated * e + copies
    if cell.engine == "native":
        return min(evaluated * e, 2 * CHUNK_BYTES)  # read by fused kernels, so that nothing is copied
    # torch's softmax copies what is not contiguous: a block of several rows' canvases, unless it is converted anyway.
    return total + (chosen * e if cell.batch_size > 1 and c == e else 0)


def _score_bytes(forward: operators.Forward, cell: Cell, arch: Architecture) -> int:
    """torch's math kernel holds one layer's scores twice, and its queries, keys and values once, in 32 bits."""
    if cell.attention != "math":
        return 0
    scores = forward.rows * arch.heads * forward.queries * forward.context
    return int(2 * 4 * scores + 4 * 4 * forward.rows * forward.context * arch.hidden_size)


# ---------------------------------------------------------------- the official code's memory law


@dataclass(frozen=True)
class MemoryLaw:
    """Peak = fixed_bytes + position_bytes * B (P + G), and how many copies of the canvas's logits that is.

    is_explained: the copies are the three that the official code makes; anything else is reported, not explained.
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


def official_law(arch: Architecture, precision: str = "bfloat16", copies: float = _OFFICIAL_COPIES) -> MemoryLaw:
    """The law of LLaDA's official sampler at temperature 0: whole-canvas logits `copies` times, one hidden state."""
    e = operators.element_bytes(precision)
    position = e * (copies * arch.vocab_size + arch.hidden_size)
    return MemoryLaw(arch.parameters * e + WORKSPACE_BYTES, position, copies)


def law_of(arch: Architecture, fixed_bytes: float, position_bytes: float, precision: str = "bfloat16") -> MemoryLaw:
    """Read a published or measured law: how many copies of the logits its slope amounts to."""
    e = operators.element_bytes(precision)
    return MemoryLaw(fixed_bytes, position_bytes, (position_bytes / e - arch.hidden_size) / arch.vocab_size)


def fit_law(arch: Architecture, peaks: Sequence[tuple[int, float]], precision: str = "bfloat16") -> MemoryLaw:
    """The least-squares line through (B (P + G), peak bytes) of measured cells.

    Two different positions at least.
    """
    n = len(peaks)
    mean_x, mean_y = sum(x for x, _ in peaks) / n, sum(y for _, y in peaks) / n
    spread = sum((x - mean_x) ** 2 for x, _ in peaks)
    assert spread > 0, "a line needs two different positions"
    slope = sum((x - mean_x) * (y - mean_y) for x, y in peaks) / spread
    return law_of(arch, mean_y - slope * mean_x, slope, precision)
