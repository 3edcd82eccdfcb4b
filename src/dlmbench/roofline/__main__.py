"""Tables behind docs/roofline.md: `python -m dlmbench.roofline [differences|calibrate|floor|breakeven|hardware]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from dlmbench.errors import BenchError, did_you_mean
from dlmbench.roofline import corrected, memory, models_8b, operators, published
from dlmbench.roofline.break_even import break_even_surface
from dlmbench.roofline.hardware import ROWS, Hardware, find
from dlmbench.roofline.models_8b import LLADA_8B, LLAMA_8B, cell
from dlmbench.types import Architecture, Cell

# ---------------------------------------------------------------- the four errors of the published model


class PublishedError(NamedTuple):
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


def published_errors() -> Iterator[PublishedError]:
    """All four, in the order of docs/roofline.md."""
    rates = published.PUBLISHED_A6000

    # Matrix peak: published units at base clock, against the data sheet.
    peak, a6000 = 2 * rates.macs_per_s / 1e12, find(rates.device)
    dense = published.Rates(rates.device, a6000.bf16_flops / 2, rates.elements_per_s, rates.bytes_per_s)
    first, second = (1e3 * published.llama(LLAMA_8B, r, 2048, 0).total.total_s for r in (rates, dense))
    yield PublishedError("matrix peak", "dense BF16 rate, data sheet", peak, 154.8, "TFLOP/s")
    yield PublishedError("matrix peak", "the same at base clock", peak, peak / 2, "TFLOP/s")
    yield PublishedError("matrix peak", "LLaMA prefill of 2048", first, second, "ms")

    # Growing canvas: the ablation's five block lengths, against the whole canvas at each step.
    whole = published.llada(LLADA_8B, rates, 128, 512, 512, 256).total_s
    for block in (512, 256, 128, 64, 32):
        growing = published.llada(LLADA_8B, rates, 128, 512, block, 256).total_s
        yield PublishedError("block schedule", f"256 steps, 512 tokens, block {block}", growing, whole, "s")

    # The head on every position, as the official sampler evaluates it.
    for length in (256, 640, 2176):
        load = _first_load(cell(LLADA_8B, "hf", (1, 128, length - 128), steps=1), LLADA_8B)
        without = (load.flops - load.head_flops) / 1e12
        yield PublishedError("missing head", f"LLaDA forward over {length}", without, load.flops / 1e12, "TFLOP")

    # The causal mask of LLaMA's prefill, over all query heads and along the context in both products.
    for length in (160, 640, 2048):
        prefill = published.llama(LLAMA_8B, rates, length, 0).prefill
        assert prefill is not None
        counted = 1e3 * prefill.seconds["MHA Attention"]
        exact_s = _first_load(cell(LLAMA_8B, "hf", (1, length, 0)), LLAMA_8B).attention_flops / 2 / rates.macs_per_s
        yield PublishedError("causal mask", f"attention of prefill {length}", counted, 1e3 * exact_s, "ms")


def _first_load(one: Cell, architecture: Architecture) -> operators.Load:
    return operators.load_of((operators.forwards_of(one) or ())[0], one, architecture)


# ---------------------------------------------------------------- the tables


def _table(columns: str, rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    yield f"| {columns} |"
    yield "|" + " --- |" * len(columns.split(" | "))
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def _differences() -> Iterator[str]:
    rows = (
        (d.error, d.quantity, f"{d.published:.4g} {d.unit}", f"{d.right:.4g} {d.unit}", f"{d.ratio:.3f}")
        for d in published_errors()
    )
    return _table("error | quantity | published | right | factor", rows)


def _calibrate() -> Iterator[str]:
    from dlmbench.roofline.calibrate import calibrate

    columns = "engine | cells | groups | matrix | bandwidth | attention | host, ms | fitted | left out, median | 90%"
    rows = []
    for c in (calibrate(cells, name) for name, cells in models_8b.measured().items()):
        e = c.efficiencies
        fitted = [f"{v:.3f}" for v in (e.matrix, e.bandwidth, e.attention)] + [f"{1e3 * e.host_s:.2f}"]
        errors = [f"{v:.1%}" for v in (c.fitted_error, c.median_error, c.p90_error)]
        rows.append((c.label, c.cells, len(c.held_out), *fitted, *errors))
    return _table(columns, rows)


# What an 8192^3 product and a copy reached on the H200 of `models_8b`: a floor closer to it than the data sheet's.
CEILINGS = Hardware("H200, measured ceilings", 799e12, 66.9e12, 4.29e12, 141e9, 50e6, "this project", "2026")


def _floor() -> Iterator[str]:
    yield "A LLaDA step on the H200, ms; the official code's peak by its memory law, GiB."
    yield ""
    official, rows = memory.official_law(LLADA_8B), []
    for row in models_8b.measured()["LLaDA, official code"]:
        c, h200 = row.cell, row.hardware
        b, p, g = c.batch_size, c.prompt_tokens, c.new_tokens
        times = [corrected.floor_s(c, LLADA_8B, h) for h in (h200, CEILINGS)]
        times.append(corrected.predict(c, LLADA_8B, h200).latency_s)
        peak = official.peak(b * (p + g)) / 2**30
        shown = [f"{1e3 * (seconds or 0):.1f}" for seconds in times]
        rows.append((f"{b}, {p}, {g}", *shown, f"{1e3 * row.latency_s:g}", f"{peak:.2f}"))
    columns = "B, P, G | floor, data sheet | floor, measured ceilings | expected, hf engine | official code | its peak"
    yield from _table(columns, rows)
    yield ""
    fixed, slope = official.fixed_bytes / 2**30, official.position_bytes / 1e6
    yield f"Memory law: {fixed:.2f} GiB + {slope:.3f} MB a position, {official}."
    yield f"Its authors' on an A100, 0.970 MB a position: {memory.law_of(LLADA_8B, 16.036e9, 0.970e6)}."


def _breakeven() -> Iterator[str]:
    shapes = [(n // 2, n // 2, b) for n in (128, 512, 1024, 2048) for b in (1, 8, 32)]
    steps = {}
    for device in (find(name) for name in ("A100 80GB SXM", "H100 SXM", "H200")):
        for engine in ("hf", "native"):
            decoding = cell(LLAMA_8B, engine, shapes[0])
            diffusion = cell(LLADA_8B, engine, shapes[0], steps=None, block_length=None)
            points = break_even_surface((decoding, LLAMA_8B), (diffusion, LLADA_8B), device, shapes)
            steps[f"{device.name}, {engine}"] = [f"{point.steps:.0f}" for point in points]
    rows = ((p, b, *column) for (p, _, b), column in zip(shapes, zip(*steps.values(), strict=True), strict=True))
    return _table(" | ".join(["P = G", "B", *steps]), rows)


def _hardware() -> Iterator[str]:
    rows = (
        (
            h.name,
            *(f"{value:g}" for value in (h.bf16_flops / 1e12, h.fp32_flops / 1e12, h.bandwidth / 1e9)),
            *(f"{value:g}" for value in (h.memory_bytes / 1e9, h.cache_bytes / 1e6)),
            f"{h.source}, {h.date}",
        )
        for h in ROWS
    )
    return _table("device | dense BF16, TFLOP/s | FP32, TFLOP/s | GB/s | GB | cache, MB | source", rows)


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "differences": _differences,
    "calibrate": _calibrate,
    "floor": _floor,
    "breakeven": _breakeven,
    "hardware": _hardware,
}


def main(arguments: list[str]) -> int:
    """Write the named table, by default `differences`; returns the exit code."""
    name = arguments[0] if arguments else "differences"
    try:
        if name not in TABLES:
            raise BenchError(f"unknown table '{name}'", did_you_mean(name, TABLES))
        sys.stdout.writelines(f"{line}\n" for line in TABLES[name]())
    except BenchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
