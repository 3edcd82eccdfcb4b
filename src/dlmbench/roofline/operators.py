"""What a cell makes a device do: its forwards, and the FLOPs and bytes of each, counted exactly.

Forwards follow the samplers (sampling/denoise.py with the cache and commit files, autoregressive.py); a test compares
the counts with those samplers' own. Legend: B rows, P prompt, G new tokens, N = P + G, b block length, K steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from dlmbench import registry
from dlmbench.types import Architecture, Cell

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_CONFIDENCE_BYTES = {"float32": 4, "float64": 8}


@dataclass(frozen=True)
class Forward:
    """`count` forwards of one kind; where they differ only in their context, the mean one, for all costs are linear.

    rows: sequences, twice the batch with classifier-free guidance. queries: positions computed a row. pairs:
    query-key pairs a row that the mask allows. context: keys a query position can see at most. head: positions a row
    on which the output head is evaluated. cached: positions a row whose keys and values are read from or written to a
    cache. choosing: positions a sequence at which a token is chosen from its logits.
    """

    count: float
    rows: int
    queries: int
    context: float
    pairs: float
    head: int
    cached: float
    choosing: int


def element_bytes(precision: str) -> int:
    """Bytes an element of weights and activations."""
    return ELEMENT_BYTES[precision]


def confidence_bytes(cell: Cell) -> int:
    """Bytes an element of the softmax in which confidences are computed."""
    return _CONFIDENCE_BYTES.get(str(cell.knob("confidence_dtype")), element_bytes(cell.precision))


def body_weights(arch: Architecture) -> int:
    """Weights of all matrix products but the head: what every computed position is multiplied with."""
    kv = arch.kv_heads * arch.head_size
    d = arch.hidden_size
    return arch.layers * (2 * d * d + 2 * d * kv + 3 * d * arch.intermediate_size)


def head_weights(arch: Architecture) -> int:
    """Weights of the output head."""
    return arch.hidden_size * arch.vocab_size


def cache_bytes_per_token(arch: Architecture, precision: str) -> int:
    """Keys and values of one position in all layers."""
    return 2 * arch.layers * arch.kv_heads * arch.head_size * element_bytes(precision)


def forwards_of(cell: Cell, total: float | None = None, needed_head_only: bool = False) -> tuple[Forward, ...] | None:
    """The forwards of one generation of `cell`; None where their number is not known ahead.

    Args:
        cell: with settled or unsettled knobs.
        total: number of forwards of a rule without a schedule, where it is known (from a finished run).
        needed_head_only: count the head where a token is chosen, not where the engine evaluates it.
    """
    if registry.load("samplers", cell.sampler).PARADIGM == "autoregressive":
        return tuple(_autoregressive(cell))
    n_blocks, block, scheduled = _blocks(cell)
    if scheduled is None and total is None:
        return None
    per_block = scheduled if scheduled is not None else (total or 0) / n_blocks
    # hf runs the head over all positions it was given, as the official code; an engine of ours over the block alone.
    whole = cell.engine == "hf" and not needed_head_only
    return tuple(_diffusion(cell, n_blocks, block, per_block, whole))


def least_forwards(cell: Cell) -> int:
    """The fewest forwards that `cell` can take: exact with a schedule, one or two a block without."""
    if registry.load("samplers", cell.sampler).PARADIGM == "autoregressive":
        return max(cell.new_tokens, 1)
    n_blocks, _, per_block = _blocks(cell)
    return n_blocks * (_least_per_block(cell) if per_block is None else per_block)


def _cache(cell: Cell) -> ModuleType:
    return registry.load("cache", str(cell.knob("cache") or "none"))


def _least_per_block(cell: Cell) -> int:
    cache = _cache(cell)
    return int(cache.min_forwards(dict(cell.knobs))) if hasattr(cache, "min_forwards") else 1


def _blocks(cell: Cell) -> tuple[int, int, int | None]:
    """Blocks, positions of each, and forwards of each where a schedule fixes them."""
    block = int(cell.knob("block_length") or cell.new_tokens)
    n_blocks = cell.new_tokens // block
    if not registry.load("commit", str(cell.knob("commit") or "low_confidence")).SCHEDULED:
        return n_blocks, block, None
    steps = int(cell.steps or cell.new_tokens) // n_blocks
    if _cache(cell).USES_KV_CACHE:  # with a cache, steps that commit nothing are not run
        return n_blocks, block, max(min(steps, block), _least_per_block(cell))
    return n_blocks, block, steps


def _autoregressive(cell: Cell) -> Iterator[Forward]:
    rows, prompt, new = cell.batch_size, cell.prompt_tokens, cell.new_tokens
    if prompt:
        yield Forward(1, rows, prompt, prompt, prompt * (prompt + 1) / 2, 1, prompt, 1)
    decodes = new - 1 if prompt else new  # the prefill gives the first token
    if decodes > 0:
        context = prompt + (decodes + 1) / 2
        yield Forward(decodes, rows, 1, context, context, 1, context, 1)


def _diffusion(cell: Cell, n_blocks: int, block: int, per_block: float, whole: bool) -> Iterator[Forward]:
    length = cell.sequence_length
    rows = cell.batch_size * (2 if float(cell.knob("cfg_scale") or 0) > 0 else 1)

    def kind(count: float, queries: int, cached: int) -> Forward:
        return Forward(count, rows, queries, length, queries * length, queries if whole else block, cached, block)

    if not _cache(cell).USES_KV_CACHE:
        yield kind(n_blocks * per_block, length, 0)
        return
    yield kind(n_blocks, length, length)
    span = _cache(cell).span
    later: dict[int, int] = {}
    for i in range(n_blocks):
        first = cell.prompt_tokens + i * block
        start, stop = span(first, first + block, length)
        later[stop - start] = later.get(stop - start, 0) + 1
    for queries, blocks in later.items():
        if per_block > 1:
            yield kind(blocks * (per_block - 1), queries, length)


@dataclass(frozen=True)
class Load:
    """FLOPs and bytes of one forward of a kind, apart where they meet different limits.

    body, head, attention in FLOPs; *_bytes what each must move at least. pointwise_bytes: what the operators between
    the matrix products move; choosing_bytes: what it takes to turn logits into tokens and confidences.
    """

    body_flops: float
    head_flops: float
    attention_flops: float
    body_bytes: float
    head_bytes: float
    cached_bytes: float
    pointwise_bytes: float
    choosing_bytes: float
    score_bytes: float

    @property
    def flops(self) -> float:
        """FLOPs of all matrix products."""
        return self.body_flops + self.head_flops + self.attention_flops

    @property
    def compulsory_bytes(self) -> float:
        """Weights once, and cached keys and values once."""
        return self.body_bytes + self.head_bytes + self.cached_bytes


def load_of(forward: Forward, cell: Cell, arch: Architecture, exact_mask: bool = False) -> Load:
    """What one forward of this kind costs.

    Args:
        forward: the kind.
        cell: for its precision, engine, attention kernel and sampler.
        arch: of its model.
        exact_mask: count only pairs that the mask allows, even where the kernel computes all of them.
    """
    e, d, layers = element_bytes(cell.precision), arch.hidden_size, arch.layers
    tokens = forward.rows * forward.queries
    # torch's math kernel multiplies everything and masks afterwards.
    is_plain = cell.attention == "math"
    all_pairs = forward.queries * forward.context
    pairs = forward.rows * (all_pairs if is_plain and not exact_mask else forward.pairs)
    # It also writes, scales, normalises and reads the scores, in 32 bits: four passes, one of them both ways.
    scores = 4 * 4.0 * layers * arch.heads * forward.rows * all_pairs if is_plain else 0.0
    return Load(
        body_flops=2.0 * tokens * body_weights(arch),
        head_flops=2.0 * forward.rows * forward.head * head_weights(arch),
        attention_flops=4.0 * d * layers * pairs,
        body_bytes=float(e * body_weights(arch)),
        head_bytes=float(e * head_weights(arch)) if forward.head else 0.0,
        cached_bytes=forward.rows * forward.cached * cache_bytes_per_token(arch, cell.precision),
        pointwise_bytes=tokens * layers * _pointwise_bytes(cell, arch),
        choosing_bytes=_choosing_bytes(forward, cell, arch),
        score_bytes=scores,
    )


def _pointwise_bytes(cell: Cell, arch: Architecture) -> float:
    """Bytes a position and layer that norms, rotation, residual sums and the gate move, operator by operator.

    Plain transformers runs each as its own kernel, the norms through 32 bits; a compiled block fuses them.
    """
    e, d, f = element_bytes(cell.precision), arch.hidden_size, arch.intermediate_size
    rotated = d + arch.kv_heads * arch.head_size
    if cell.engine == "native":
        return 2 * 4 * e * d + 2 * e * rotated + 3 * e * f
    norm = 28 if e == 4 else 4 * e + 24
    return 2 * norm * d + 10 * e * rotated + 2 * 3 * e * d + (2 + 3) * e * f


def _choosing_bytes(forward: Forward, cell: Cell, arch: Architecture) -> float:
    """Argmax (or a draw in float64, about sixteen passes) and the softmax of the confidence; guidance blends first."""
    if cell.sampler == "autoregressive":
        return 0.0
    e, c = element_bytes(cell.precision), confidence_bytes(cell)
    a_logit = 2 * e + c if c <= 4 else 2 * e + 3 * c
    if float(cell.knob("temperature") or 0) > 0:
        a_logit += 16 * 8
    if float(cell.knob("cfg_scale") or 0) > 0:
        a_logit += 9 * e
    return float(cell.batch_size * forward.choosing * arch.vocab_size * a_logit)
