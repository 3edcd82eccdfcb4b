"""The published roofline of LLaMA-3-8B and LLaDA-8B on an RTX A6000, digit for digit.

It reproduces the published numbers, including their four errors (docs/roofline.md); `corrected` is the model that
predicts measurements. Every operator is charged alone, max(work / rate, bytes / bandwidth), and times add: no
overlap, no launch cost, no efficiency. Matrix products count multiply-accumulates (2 FLOPs), all else one operation per
output element.

Legend: q new tokens a sequence, c keys they see, b sequences, T = q b rows of a matrix product, e bytes an element.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from dlmbench.errors import BenchError
from dlmbench.roofline.hardware import Hardware
from dlmbench.types import Architecture

ELEMENT_BYTES = 2
Part = Literal["FFN Linear Layers", "MHA Linear Layers", "MHA Attention", "Nonlinear Ops", "Classifier"]
PARTS: tuple[Part, ...] = ("FFN Linear Layers", "MHA Linear Layers", "MHA Attention", "Nonlinear Ops", "Classifier")
_LINEAR: tuple[Part, ...] = ("FFN Linear Layers", "MHA Linear Layers", "Classifier")


@dataclass(frozen=True)
class Rates:
    """Rates of a device: multiply-accumulates, element operations and bytes per second."""

    device: str
    macs_per_s: float
    elements_per_s: float
    bytes_per_s: float


_SM, _BASE_HZ = 84, 1.41e9
# Counted from units at base clock as published: 4 tensor cores of 256 multiply-accumulates is twice the dense rate.
PUBLISHED_A6000 = Rates("RTX A6000", _SM * 4 * 256 * _BASE_HZ, _SM * 128 * _BASE_HZ, 768e9)


def rates_of(hardware: Hardware) -> Rates:
    """The published count for the A6000; for other devices the data sheet's rates, two FLOPs an operation."""
    if hardware.name == PUBLISHED_A6000.device:
        return PUBLISHED_A6000
    return Rates(hardware.name, hardware.bf16_flops / 2, hardware.fp32_flops / 2, hardware.bandwidth)


class Operator(NamedTuple):
    """`copies` equal operators: each does `work` (MACs, or elements where not a matrix product) and moves `moved`."""

    part: Part
    copies: int
    work: int
    moved: int
    is_matrix: bool

    @property
    def flops(self) -> int:
        """FLOPs of all of them."""
        return self.copies * self.work * (2 if self.is_matrix else 1)

    def sides(self, rates: Rates) -> tuple[float, float]:
        """Seconds that one of them needs for its work, and for its bytes."""
        rate = rates.macs_per_s if self.is_matrix else rates.elements_per_s
        return self.work / rate, self.moved / rates.bytes_per_s

    def seconds(self, rates: Rates) -> float:
        """Time of all of them, one after another."""
        return self.copies * max(self.sides(rates))


@dataclass(frozen=True)
class Cost:
    """Seconds, FLOPs and bytes by part; the attention part's softmax counts as a nonlinear operation."""

    seconds: dict[Part, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    flops: dict[Part, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    bytes: dict[Part, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            {p: self.seconds[p] + other.seconds[p] for p in PARTS},
            {p: self.flops[p] + other.flops[p] for p in PARTS},
            {p: self.bytes[p] + other.bytes[p] for p in PARTS},
        )

    @property
    def total_s(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())

    def intensity(self, *parts: Part) -> float:
        """FLOPs per byte over `parts`, by default over all of them."""
        chosen = parts or PARTS
        return sum(self.flops[p] for p in chosen) / sum(self.bytes[p] for p in chosen)

    @property
    def linear_intensity(self) -> float:
        """FLOPs per byte of all products with weights."""
        return self.intensity(*_LINEAR)


def _triangle(n: int) -> int:
    return n * (n - 1) // 2


def _attention(arch: Architecture, q: int, c: int, b: int, is_masked: bool) -> Iterator[Operator]:
    """Per KV head and sequence; the mask's hole is counted once for a group's heads, in PV over the head's width."""
    count, width = arch.layers * arch.kv_heads * b, arch.head_size
    rows = arch.heads // arch.kv_heads * q
    moved = ELEMENT_BYTES * width * (rows + c)
    hole_qk = width * _triangle(min(rows, c)) if is_masked else 0
    hole_pv = c * _triangle(min(rows, width)) if is_masked else 0
    hole_softmax = _triangle(min(rows, c)) if is_masked else 0
    yield Operator("MHA Attention", count, width * rows * c - hole_qk, moved, True)
    yield Operator("MHA Attention", count, width * rows * c - hole_pv, moved, True)
    yield Operator("Nonlinear Ops", count, rows * c - hole_softmax, 0, False)


def _fixed(arch: Architecture, q: int, b: int, has_head: bool) -> Iterator[Operator]:
    """All that does not depend on the context."""
    d, f, kv, tokens, e = arch.hidden_size, arch.intermediate_size, arch.kv_heads * arch.head_size, q * b, ELEMENT_BYTES

    def product(part: Part, count: int, n: int, m: int, rows: int) -> Operator:
        return Operator(part, count, n * m * rows, e * (n * m + n * rows + m * rows), True)

    def pointwise(count: int, cells: int, elements: int) -> Operator:
        return Operator("Nonlinear Ops", count, cells, e * elements, False)

    layers = arch.layers
    yield product("FFN Linear Layers", 3 * layers, d, f, tokens)
    yield product("MHA Linear Layers", 2 * layers, d, d, tokens)
    yield product("MHA Linear Layers", 2 * layers, d, kv, tokens)
    yield pointwise(layers, d * tokens, 2 * d * tokens)  # RoPE of Q
    yield pointwise(layers, kv * tokens, 2 * kv * tokens)  # RoPE of K
    yield pointwise(2 * layers + 1, d * tokens, 2 * d * tokens + 2 * d)  # two norms a layer and the last one
    yield pointwise(2 * layers, d * tokens, 3 * d * tokens)  # residual additions
    yield pointwise(layers, f * tokens, 2 * f * tokens)  # SiLU
    yield pointwise(layers, f * tokens, 3 * f * tokens)  # gate times up
    if has_head:
        yield product("Classifier", 1, d, arch.vocab_size, b)  # one token a sequence


def _cost(operators: Iterable[Operator], rates: Rates, times: int = 1) -> Cost:
    cost = Cost()
    for o in operators:
        cost.seconds[o.part] += times * o.seconds(rates)
        cost.flops[o.part] += times * o.flops
        cost.bytes[o.part] += times * o.copies * o.moved
    return cost


def _decode_attention(arch: Architecture, first: int, last: int, b: int, rates: Rates) -> Cost:
    """One pass of one token for each context first..last, added up without visiting all of them.

    Work and bytes grow linearly with the context, so a stretch in which each operator stays on the same side of its
    roofline is the mean of its two ends times its length; a stretch that crosses a ridge is halved.
    """
    ends = [tuple(_attention(arch, 1, c, b, False)) for c in (first, last)]
    bound = [[o.sides(rates)[0] > o.sides(rates)[1] for o in end] for end in ends]
    if bound[0] != bound[1] and last - first > 1:
        middle = (first + last) // 2
        halves = (first, middle), (middle + 1, last)
        return sum((_decode_attention(arch, lo, hi, b, rates) for lo, hi in halves), Cost())
    count, both = last - first + 1, _cost(ends[0] + ends[1], rates)
    return Cost(
        {p: both.seconds[p] * count / 2 for p in PARTS},
        {p: both.flops[p] * count // 2 for p in PARTS},
        {p: both.bytes[p] * count // 2 for p in PARTS},
    )


@dataclass(frozen=True)
class LlamaAnalysis:
    """Cost of LLaMA's two phases; None for one whose length is 0."""

    prefill: Cost | None
    decode: Cost | None

    @property
    def total(self) -> Cost:
        """Both phases."""
        return sum((c for c in (self.prefill, self.decode) if c), Cost())


def llama(arch: Architecture, rates: Rates, prompt: int, generation: int, batch: int = 1) -> LlamaAnalysis:
    """One masked pass over the prompt, then `generation` passes of one token that see prompt + 1, prompt + 2, ...

    Raises:
        BenchError: a negative length, both lengths zero, no sequence.
    """
    _require_at_least(0, input_prompt_length=prompt, sequence_length=generation)
    _require_at_least(1, batch_size=batch)
    if prompt == generation == 0:
        raise BenchError(
            "input_prompt_length and sequence_length are both 0: nothing to compute", "Give one of them a value above 0"
        )
    prefill = decode = None
    if prompt:
        prefill = _cost((*_fixed(arch, prompt, batch, True), *_attention(arch, prompt, prompt, batch, True)), rates)
    if generation:
        decode = _cost(_fixed(arch, 1, batch, True), rates, generation) + _decode_attention(
            arch, prompt + 1, prompt + generation, batch, rates
        )
    return LlamaAnalysis(prefill, decode)


@dataclass(frozen=True)
class Block:
    """One block of LLaDA's schedule: `steps` passes over `length` positions (prompt and all blocks so far)."""

    length: int
    steps: int
    step_s: float
    flops: int
    bytes: int


@dataclass(frozen=True)
class LladaAnalysis:
    """Blocks in order; their passes added up before anything is rounded."""

    prompt: int
    generation: int
    block_length: int
    steps: int
    blocks: tuple[Block, ...]

    @property
    def total_s(self) -> float:
        """Seconds of the whole generation."""
        return sum(b.steps * b.step_s for b in self.blocks)

    @property
    def intensity(self) -> float:
        """FLOPs a byte of the whole generation."""
        return sum(b.steps * b.flops for b in self.blocks) / sum(b.steps * b.bytes for b in self.blocks)


def llada(
    arch: Architecture, rates: Rates, prompt: int, generation: int, block_length: int, steps: int, batch: int = 1
) -> LladaAnalysis:
    """Block i costs its share of the steps, each an unmasked pass over the prompt and i blocks, without a head.

    Raises:
        BenchError: a value below its least, or blocks that do not divide the generation or share the steps equally.
    """
    _require_at_least(0, input_prompt_length=prompt)
    _require_at_least(1, sequence_length=generation, block_length=block_length, steps=steps, batch_size=batch)
    if generation % block_length:
        raise BenchError(
            f"block_length {block_length} does not divide sequence_length {generation}",
            "Blocks are of equal length; take a divisor",
        )
    count = generation // block_length
    if steps % count:
        raise BenchError(
            f"steps ({steps}) is not a multiple of the number of blocks ({count})",
            f"Take a multiple of {count} (sequence_length / block_length)",
        )
    blocks = []
    for i in range(1, count + 1):
        length = prompt + i * block_length
        step = _cost((*_fixed(arch, length, batch, False), *_attention(arch, length, length, batch, False)), rates)
        flops, moved = sum(step.flops.values()), sum(step.bytes.values())
        blocks.append(Block(length, steps // count, step.total_s, flops, moved))
    return LladaAnalysis(prompt, generation, block_length, steps, tuple(blocks))


def _require_at_least(least: int, **options: int) -> None:
    """Raise BenchError for the first of the options below its least value."""
    for name, value in options.items():
        if value < least:
            raise BenchError(
                f"{name} is {value}, but must be {least} or more", f"Give --{name} a value of at least {least}"
            )


# ---------------------------------------------------------------- the printed form


def llama_text(analysis: LlamaAnalysis) -> str:
    """The published listing of a LLaMA run, without a final line break."""
    total = analysis.total
    lines = ["--- Total Runtime Breakdown ---", f"Total Runtime: {total.total_s:.6f} s"]
    for part in PARTS:
        share = 100 * total.seconds[part] / total.total_s
        lines.append(f"  - {part}: {total.seconds[part]:.6f} s ({share:.2f}%)")
    for title, cost in (("Prefill (Prompt)", analysis.prefill), ("Decode (Generation)", analysis.decode)):
        if cost is None:
            continue
        lines += [
            "",
            f"--- {title} Phase Analysis ---",
            f"Total: {cost.total_s:.6f} s",
            f"Linear AI: {cost.linear_intensity:.4f}",
            f"Attention AI: {cost.intensity('MHA Attention'):.4f}",
            f"Aggregate AI: {cost.intensity():.4f}",
        ]
    return "\n".join(lines)


def llada_text(analysis: LladaAnalysis) -> str:
    """The published listing of a LLaDA run, without a final line break."""
    count = len(analysis.blocks)
    lines = [
        "=" * 50,
        "LLaDA Theoretical Performance Analysis",
        "=" * 50,
        f"Mode: {'Semi-Autoregressive' if count > 1 else 'Non-Semi-Autoregressive'}",
        f"Prompt: {analysis.prompt}, Generation: {analysis.generation}, Total Steps: {analysis.steps}",
        f"Blocks: {count}, Block Length: {analysis.block_length}, Steps per Block: {analysis.steps // count}",
        "",
        "--- Block-by-Block Analysis ---",
    ]
    for i, block in enumerate(analysis.blocks, 1):
        lines.append(f"Block {i}: SeqLen={block.length}, Time/Step={1e3 * block.step_s:.4f} ms, Steps={block.steps}")
    lines += [
        "",
        "-" * 50,
        "--- Total Generation Analysis ---",
        f"Total Estimated Runtime: {1e3 * analysis.total_s:.4f} ms",
        f"Final Aggregate Arithmetic Intensity (AI): {analysis.intensity:.4f}",
    ]
    return "\n".join(lines)
