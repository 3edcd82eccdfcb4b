"""The 8B pair that both rooflines are about, cells of it at any shape, and latencies of it measured on one H200.

The latencies are of this project: bfloat16, random weights, torch 2.11, transformers 5.17, medians of whole
generations. The hf engine's default efficiencies come from them and can be fitted again with one command; a study
calibrates with cells of its own. The native engine's defaults come from one (docs/study/h200-native).
"""

from __future__ import annotations

import csv
from pathlib import Path

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
    sorted_knobs = tuple(sorted(knobs.items()))
    return Cell(spec, engine, sampler, sorted_knobs, batch, prompt, new, precision, attention, 0, "random")


def measured() -> dict[str, list[MeasuredCell]]:
    """What measured_8b.csv holds, by label; its milliseconds are per forward of LLaDA and per token of LLaMA.

    LLaDA's official code evaluates the head on the whole canvas; in plain transformers it is on the output positions
    and nothing is fused, as in the engine native_plain. LLaMA's are whole generations by transformers' generate with
    its growing cache, and prefills alone (one token). The number of tokens of the former was not recorded; 128 is the
    number at which the times without prefill agree over the batch sizes.
    """
    found: dict[str, list[MeasuredCell]] = {}
    with Path(__file__).with_name("measured_8b.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            architecture = {"llama": LLAMA_8B, "llada": LLADA_8B}[row["family"]]
            shape = int(row["batch_size"]), int(row["prompt_tokens"]), int(row["new_tokens"])
            if architecture.is_causal:
                one, forwards = cell(architecture, row["engine"], shape), shape[2]
            else:
                one, forwards = cell(architecture, row["engine"], shape, steps=1), 1
            seconds = float(row["milliseconds"]) * forwards / 1e3
            found.setdefault(row["label"], []).append(MeasuredCell(one, architecture, find(DEVICE), seconds))
    return found
