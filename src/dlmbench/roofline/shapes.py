"""Cells to compute with when there is no experiment: the two 8B models at any shape."""

from __future__ import annotations

from dlmbench.models.families import llada, llama
from dlmbench.types import Architecture, Cell, KnobValue, ModelSpec

LLAMA_8B = llama.architecture(llama.KNOWN["8b"])
LLADA_8B = llada.architecture(llada.KNOWN["8b"])


def cell(
    architecture: Architecture,
    engine: str,
    shape: tuple[int, int, int],
    attention: str = "flash",
    precision: str = "bfloat16",
    **knobs: KnobValue,
) -> Cell:
    """A cell of an 8B model with random weights at (B, P, G), with the sampler of its family."""
    family = llama if architecture.is_causal else llada
    spec = ModelSpec(architecture.family, architecture.family, "8b", "baseline", weights="random")
    batch, prompt, new = shape
    settled = tuple(sorted(knobs.items()))
    return Cell(spec, engine, family.SAMPLER, settled, batch, prompt, new, precision, attention, 0, "random")
