"""Predicted memory: the official law, and how the split follows engine, precision, cache and kernel."""

import json
from pathlib import Path

import numpy as np
import pytest

from dlmbench import registry
from dlmbench.models.engines.native import transformer
from dlmbench.roofline import memory
from dlmbench.roofline.models_8b import LLADA_8B, LLAMA_8B, cell

GIB = 2**30
# (B, P + G): peak GiB allocated by LLaDA's official code, bf16, on an H200.
OFFICIAL_PEAKS = {(1, 128): 15.06, (1, 512): 15.33, (1, 2048): 16.43, (8, 1024): 20.82, (64, 1024): 61.78}


def test_the_law_of_the_official_code():
    law = memory.official_law(LLADA_8B)
    assert law.position_bytes == 3 * 252_928 + 8_192
    assert round(law.fixed_bytes / GIB, 2) == 14.97
    for (batch, length), peak in OFFICIAL_PEAKS.items():
        assert law.peak(batch * length) / GIB == pytest.approx(peak, abs=0.011)


def test_a_measured_law_is_read_as_copies_of_the_logits():
    slope, intercept = np.polyfit([b * n for b, n in OFFICIAL_PEAKS], [p * GIB for p in OFFICIAL_PEAKS.values()], 1)
    fitted = memory.law_of(LLADA_8B, intercept, slope)
    assert fitted.copies == pytest.approx(3, abs=0.01)
    assert fitted.is_explained
    authors = memory.law_of(LLADA_8B, 16.036e9, 0.970e6)
    assert authors.copies == pytest.approx(3.8, abs=0.01)
    assert not authors.is_explained
    assert "3.80" in str(authors)
    assert "unexplained" in str(authors)


def test_weights_and_caches():
    ar = memory.split(cell(LLAMA_8B, "hf", (4, 512, 128)), LLAMA_8B)
    assert ar.weights == 16_060_522_496
    assert ar.cache == 4 * (512 + 128 - 1) * 131_072
    knobs = {"block_length": 32, "steps": 128}
    dual = memory.split(cell(LLADA_8B, "hf", (4, 512, 128), cache="dual", **knobs), LLADA_8B)
    assert (dual.weights, dual.cache) == (16_031_162_368, 4 * 640 * 524_288)
    assert memory.split(cell(LLADA_8B, "hf", (4, 512, 128), **knobs), LLADA_8B).cache == 0


def test_logits_by_engine_and_precision():
    def logits(engine="hf", precision="bfloat16", **knobs):
        x = cell(LLADA_8B, engine, (2, 64, 64), precision=precision, steps=4, **knobs)
        return memory.split(x, LLADA_8B).logits / (126_464 * 2)

    # The whole canvas of 128 in bf16, and the softmax of the 64 new positions in bf16 (of a copy, for two rows' blocks
    # are not contiguous), float32, float64 (converted).
    assert logits(confidence_dtype="model") == 128 * 2 + 64 * 2 + 64 * 2
    assert logits(confidence_dtype="float32") == 128 * 2 + 64 * 4
    assert logits(confidence_dtype="float64") == 128 * 2 + 64 * 16
    assert logits(precision="float32", confidence_dtype="model") == 128 * 4 + 64 * 4 + 64 * 4
    assert logits(temperature=1.0, confidence_dtype="model") == 128 * 2 + 64 * 32 + 64 * 2
    assert logits(cfg_scale=1.0, confidence_dtype="model") == 256 * 2 + 64 * 2 + 64 * 4 + 64 * 2
    assert logits(engine="native", confidence_dtype="float32") < logits(confidence_dtype="float32")


def test_the_two_moments_are_not_added():
    split = memory.MemorySplit(weights=100, cache=10, logits=5, hidden=1, activations=7, workspace=0)
    assert split.total == 117


def test_native_peak_at_a_large_batch():
    """1.50 GiB over the weights were measured on an H200, at 32 rows of 512."""
    split = memory.split(cell(LLADA_8B, "native", (32, 256, 256), steps=4, confidence_dtype="float32"), LLADA_8B)
    assert split.total / GIB == pytest.approx(14.93 + 1.50, abs=0.1)


def test_the_math_kernel_holds_scores():
    flash, math = (
        memory.split(cell(LLADA_8B, "hf", (4, 512, 512), attention=a, steps=4), LLADA_8B) for a in ("flash", "math")
    )
    assert math.activations - flash.activations == 4 * (2 * 4 * 32 * 1024**2 + 4 * 4 * 1024 * 4096)


def _measured():
    """The rows of the engines' benchmark on an H200, each with the cell that was run."""
    found = json.loads((Path(__file__).parents[2] / "docs/study/engines-h200/engines.json").read_text())
    for row in (r for r in found["rows"] if r["attention"] == "flash" and r["peak_over_weights_gib"] is not None):
        shape = (row["batch"], row["prompt"], row["new"])
        if row["what"] in ("prefill", "decode"):
            yield row, LLAMA_8B, cell(LLAMA_8B, row["engine"], shape)
            continue
        whole = row["what"] == "step"
        knobs = {"cache": "none" if whole else row["what"], "block_length": row["new"] if whole else 32}
        published = "model" if knobs["cache"] == "none" else "float64"
        dtype = "float32" if row["engine"] == "native" else published
        steps = row["forwards"] if whole else row["new"] // 8
        yield row, LLADA_8B, cell(LLADA_8B, row["engine"], shape, steps=steps, confidence_dtype=dtype, **knobs)


def test_the_peaks_of_both_engines_on_an_h200():
    rows = list(_measured())
    assert {r["engine"] for r, _, _ in rows} == {"hf", "native"}
    for row, arch, run in rows:
        split = memory.split(run, arch)
        # Weights and workspace were there before the peak was reset.
        predicted = (split.total - split.weights - memory.WORKSPACE_BYTES) / GIB
        assert predicted == pytest.approx(row["peak_over_weights_gib"], rel=0.15, abs=0.12), run.label


def test_the_native_engine_uses_the_chunk_sizes_of_its_cost():
    cost = registry.load("engines", "native").COST
    assert (cost.logits_chunk_bytes, cost.mlp_chunk_rows) == (transformer.LOGITS_BYTES, transformer.MLP_ROWS)
