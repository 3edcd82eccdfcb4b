"""The four errors of the published model, each with its size, computed at the published shapes."""

from __future__ import annotations

from dataclasses import dataclass

from dlmbench.roofline import operators, published
from dlmbench.roofline.hardware import find
from dlmbench.roofline.shapes import LLADA_8B, LLAMA_8B, cell


@dataclass(frozen=True)
class Difference:
    """One quantity as published and as it should be; ratio is published / right."""

    error: str
    quantity: str
    published: float
    right: float
    unit: str

    @property
    def ratio(self) -> float:
        """How far off, as a factor."""
        return self.published / self.right


_RATES = published.PUBLISHED_A6000


def _peak() -> list[Difference]:
    """Matrix peak: published units at base clock, against the data sheet."""
    a6000 = find("RTX A6000")
    dense = published.Rates(_RATES.device, a6000.bf16_flops / 2, _RATES.elements_per_s, _RATES.bytes_per_s)
    seconds = [published.llama(LLAMA_8B, r, 2048, 0).total.total_s for r in (_RATES, dense)]
    base_clock = _RATES.macs_per_s / 2
    return [
        Difference("matrix peak", "dense BF16 rate, data sheet", 2 * _RATES.macs_per_s / 1e12, 154.8, "TFLOP/s"),
        Difference(
            "matrix peak", "the same at base clock", 2 * _RATES.macs_per_s / 1e12, 2 * base_clock / 1e12, "TFLOP/s"
        ),
        Difference("matrix peak", "LLaMA prefill of 2048", 1e3 * seconds[0], 1e3 * seconds[1], "ms"),
    ]


def _schedule() -> list[Difference]:
    """Growing canvas: the ablation's five block lengths, against the whole canvas at each step."""
    whole = published.llada(LLADA_8B, _RATES, 128, 512, 512, 256).total_s
    return [
        Difference(
            "block schedule",
            f"256 steps, 512 tokens, block {block}",
            published.llada(LLADA_8B, _RATES, 128, 512, block, 256).total_s,
            whole,
            "s",
        )
        for block in (512, 256, 128, 64, 32)
    ]


def _head() -> list[Difference]:
    """The head on every position, as the official sampler evaluates it."""
    found = []
    for length in (256, 640, 2176):
        shape = cell(LLADA_8B, "hf", (1, 128, length - 128), steps=1)
        load = operators.load_of((operators.forwards_of(shape) or ())[0], shape, LLADA_8B)
        without = load.flops - load.head_flops
        found.append(
            Difference("missing head", f"LLaDA forward over {length}", without / 1e12, load.flops / 1e12, "TFLOP")
        )
    return found


def _mask() -> list[Difference]:
    """The causal mask of LLaMA's prefill, over all query heads and along the context in both products."""
    found = []
    for length in (160, 640, 2048):
        prefill = published.llama(LLAMA_8B, _RATES, length, 0).prefill
        assert prefill is not None
        shape = cell(LLAMA_8B, "hf", (1, length, 0))
        load = operators.load_of((operators.forwards_of(shape) or ())[0], shape, LLAMA_8B)
        exact_s = load.attention_flops / 2 / _RATES.macs_per_s
        found.append(
            Difference(
                "causal mask",
                f"attention of prefill {length}",
                1e3 * prefill.seconds["MHA Attention"],
                1e3 * exact_s,
                "ms",
            )
        )
    return found


def differences() -> tuple[Difference, ...]:
    """All four, in the order of docs/roofline.md."""
    return (*_peak(), *_schedule(), *_head(), *_mask())
