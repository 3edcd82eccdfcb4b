"""Tables behind docs/roofline.md: `python -m dlmbench.roofline [differences|calibrate|floor|breakeven|hardware]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from dlmbench.errors import BenchError, did_you_mean
from dlmbench.roofline import corrected, memory
from dlmbench.roofline.hardware import ROWS, Hardware, find
from dlmbench.roofline.shapes import LLADA_8B, LLAMA_8B, cell
from dlmbench.roofline.surface import break_even_surface


def _differences() -> Iterator[str]:
    from dlmbench.roofline.differences import differences

    yield "| error | quantity | published | right | factor |"
    yield "| --- | --- | --- | --- | --- |"
    for d in differences():
        yield f"| {d.error} | {d.quantity} | {d.published:.4g} {d.unit} | {d.right:.4g} {d.unit} | {d.ratio:.3f} |"


def _calibrate() -> Iterator[str]:
    from dlmbench.roofline import measured
    from dlmbench.roofline.calibrate import calibrate

    yield "| engine | cells | groups | matrix | bandwidth | attention | host, ms | fitted | left out, median | 90% |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, rows in measured.TABLES.items():
        c = calibrate(rows(), name)
        e = c.efficiencies
        assert c.median_error is not None
        assert c.p90_error is not None
        yield (
            f"| {name} | {c.cells} | {len(c.held_out)} | {e.matrix:.3f} | {e.bandwidth:.3f} | {e.attention:.3f} "
            f"| {1e3 * e.host_s:.2f} | {c.fitted_error:.1%} | {c.median_error:.1%} | {c.p90_error:.1%} |"
        )


# What an 8192^3 product and a copy reached on the H200 of `measured`: a floor closer to it than the data sheet's.
CEILINGS = Hardware("H200, measured ceilings", 799e12, 66.9e12, 4.29e12, 141e9, 50e6, "this project", "2026")


def _floor() -> Iterator[str]:
    from dlmbench.roofline import measured

    yield "A LLaDA step on the H200, ms; the official code's peak by its memory law, GiB."
    yield ""
    yield "| B, P, G | floor, data sheet | floor, measured ceilings | expected, hf engine | official code | its peak |"
    yield "| --- | --- | --- | --- | --- | --- |"
    official = memory.official_law(LLADA_8B)
    for row in measured.official():
        c, h200 = row.cell, row.hardware
        b, p, g = c.batch_size, c.prompt_tokens, c.new_tokens
        floors = [1e3 * corrected.floor_s(c, LLADA_8B, h) for h in (h200, CEILINGS)]
        expected = 1e3 * (corrected.predict(c, LLADA_8B, h200).latency_s or 0)
        peak = official.peak(b * (p + g)) / 2**30
        times = f"{floors[0]:.1f} | {floors[1]:.1f} | {expected:.1f} | {1e3 * row.latency_s:g}"
        yield f"| {b}, {p}, {g} | {times} | {peak:.2f} |"
    yield ""
    fixed, slope = official.fixed_bytes / 2**30, official.position_bytes / 1e6
    yield f"Memory law: {fixed:.2f} GiB + {slope:.3f} MB a position, {official}."
    yield f"Its authors' on an A100, 0.970 MB a position: {memory.law_of(LLADA_8B, 16.036e9, 0.970e6)}."


def _breakeven() -> Iterator[str]:
    shapes = [(n // 2, n // 2, b) for n in (128, 512, 1024, 2048) for b in (1, 8, 32)]
    devices = [find(name) for name in ("A100 80GB SXM", "H100 SXM", "H200")]
    yield "| P = G | B | " + " | ".join(f"{d.name}, {e}" for d in devices for e in ("hf", "native")) + " |"
    yield "| --- | --- |" + " --- |" * (2 * len(devices))
    columns = []
    for device in devices:
        for engine in ("hf", "native"):
            decoding = cell(LLAMA_8B, engine, shapes[0])
            diffusion = cell(LLADA_8B, engine, shapes[0], steps=None, block_length=None)
            columns.append(break_even_surface((decoding, LLAMA_8B), (diffusion, LLADA_8B), device, shapes))
    for i, (p, _, b) in enumerate(shapes):
        yield f"| {p} | {b} | " + " | ".join(f"{column[i].steps:.0f}" for column in columns) + " |"


def _hardware() -> Iterator[str]:
    yield "| device | dense BF16, TFLOP/s | FP32, TFLOP/s | GB/s | GB | cache, MB | source |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for h in ROWS:
        yield (
            f"| {h.name} | {h.bf16_flops / 1e12:g} | {h.fp32_flops / 1e12:g} | {h.bandwidth / 1e9:g} "
            f"| {h.memory_bytes / 1e9:g} | {h.cache_bytes / 1e6:g} | {h.source}, {h.date} |"
        )


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "differences": _differences,
    "calibrate": _calibrate,
    "floor": _floor,
    "breakeven": _breakeven,
    "hardware": _hardware,
}


def main(arguments: list[str]) -> int:
    """Write the named table (`differences` when none is named); returns the exit code."""
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
