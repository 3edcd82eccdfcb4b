"""The 8B pair that both rooflines are about, cells of it at any shape, and latencies of it measured on one H200.

The latencies are of this project: bfloat16, random weights, torch 2.11, transformers 5.17, medians of whole
generations. The hf engine's default efficiencies come from them and can be fitted again with one command; a study
calibrates with cells of its own. The native engine's defaults come from one (docs/study/h200-native).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dlmbench import registry
from dlmbench.models.families import llada, llama
from dlmbench.roofline.corrected import MeasuredCell
from dlmbench.roofline.hardware import find
from dlmbench.types import Architecture, Cell, KnobValue, ModelSpec

LLAMA_8B = llama.architecture(llama.KNOWN["8b"])
LLADA_8B = llada.architecture(llada.KNOWN["8b"])
DEVICE = "H200"


def cell(
    architecture: Architecture,
    engine: str,
    shape: tuple[int, int, int],
    attention: str = "flash",
    precision: str = "bfloat16",
    **knobs: KnobValue,
) -> Cell:
    """A cell with random weights at (B, P, G), with the sampler of the architecture's family."""
    spec = ModelSpec(architecture.family, architecture.family, "8b", "baseline", weights="random")
    sampler = registry.load("families", architecture.family).SAMPLER
    batch, prompt, new = shape
    settled = tuple(sorted(knobs.items()))
    return Cell(spec, engine, sampler, settled, batch, prompt, new, precision, attention, 0, "random")


# ---------------------------------------------------------------- measured on one H200


# (B, P, G): milliseconds per step. LLaDA's own code evaluates the head on the whole canvas.
_OFFICIAL = {
    (1, 64, 64): 20.1,
    (1, 256, 256): 21.1,
    (1, 512, 512): 35.0,
    (1, 1024, 1024): 69.2,
    (8, 256, 256): 133.0,
    (8, 512, 512): 266.0,
    (32, 256, 256): 526.0,
    (32, 512, 512): 1072.0,
    (64, 512, 512): 2134.0,
}
# Plain transformers with the head on the output positions.
_TRANSFORMERS = {
    (1, 64, 64): 13.1,
    (1, 256, 256): 18.7,
    (1, 512, 512): 32.2,
    (1, 1024, 1024): 63.4,
    (8, 256, 256): 120.0,
    (8, 512, 512): 251.2,
    (32, 256, 256): 491.0,
}
# transformers' generate with its growing cache, prefill included: milliseconds per token. The number of tokens was not
# recorded; 128 is the number at which the times without prefill agree over the batch sizes.
_GENERATE = {(1, 64, 128): 14.6, (8, 512, 128): 15.9, (32, 512, 128): 18.3}
_PREFILL = {(1, 128, 1): 14.9, (1, 512, 1): 18.9, (1, 2048, 1): 59.9, (8, 512, 1): 117.0}


def _steps(table: dict[tuple[int, int, int], float], engine: str) -> Iterator[MeasuredCell]:
    for shape, ms in table.items():
        one_step = cell(LLADA_8B, engine, shape, steps=1)
        yield MeasuredCell(one_step, LLADA_8B, find(DEVICE), ms / 1e3)


def official() -> tuple[MeasuredCell, ...]:
    """LLaDA's published code."""
    return tuple(_steps(_OFFICIAL, "hf"))


def plain_transformers() -> tuple[MeasuredCell, ...]:
    """LLaDA in plain transformers, head on the outputs: nothing fused, as in the engine native_plain."""
    return tuple(_steps(_TRANSFORMERS, "native_plain"))


def generate() -> tuple[MeasuredCell, ...]:
    """LLaMA by transformers' generate: whole generations, and prefills alone."""
    table = {shape: ms * shape[2] for shape, ms in (_GENERATE | _PREFILL).items()}
    return tuple(
        MeasuredCell(cell(LLAMA_8B, "hf", shape), LLAMA_8B, find(DEVICE), ms / 1e3) for shape, ms in table.items()
    )


TABLES: dict[str, Callable[[], tuple[MeasuredCell, ...]]] = {
    "LLaDA, official code": official,
    "LLaDA, plain transformers": plain_transformers,
    "LLaMA, transformers generate": generate,
}
