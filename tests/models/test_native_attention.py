"""The native engine's attention in Triton's interpreter, and where it is used; `tests/gpu` runs the compiled kernel."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from dlmbench.models.engines.native import transformer  # noqa: E402
from dlmbench.types import ModelSpec  # noqa: E402

# In a process of its own: triton reads the variable when a kernel is defined.
ATTENTION = """
import torch
from dlmbench.models.engines.native import triton_kernels

triton_kernels._num_stages = lambda wanted, bytes_each: 1  # there is no device to ask
rows, queries, heads, kv_heads, last_key = {}
q = torch.randn(rows, queries, heads, 16)
k, v = (torch.randn(rows, 100, kv_heads, 16) for _ in range(2))
found = triton_kernels.flash_decode(torch.tensor([last_key]), q, k, v)
q, k, v = (t.double().transpose(1, 2) for t in (q, k[:, : last_key + 1], v[:, : last_key + 1]))
exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2)
print(((found - exact).norm() / exact.norm()).item())
"""


@pytest.mark.parametrize(
    "shape", [(1, 1, 8, 2, 0), (2, 1, 8, 2, 99), (1, 32, 2, 2, 99), (2, 32, 2, 1, 80), (3, 7, 4, 2, 80)]
)
def test_flash_decoding_is_attention(shape):
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", ATTENTION.format(shape)],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 1e-5


@pytest.mark.parametrize(("block", "is_used"), [(16, True), (128, False)])
def test_a_block_against_a_whole_cache_takes_flash_decoding(block, is_used):
    spec = ModelSpec("m", "llada", "tiny", "target", weights="random")
    model = transformer.load(spec, None, precision="float32", attention="math", device="cpu")
    tokens = torch.randint(5, 200, (2, 160))
    cache = model.new_cache(2, 160)
    model.forward(tokens, cache=cache)
    exact, calls = model.forward(tokens[:, 20 : 20 + block], cache=cache, start=20), []

    def attend(last_key, q, k, v):
        calls.append(int(last_key))
        return model.sdpa(q, k[:, : calls[-1] + 1], v[:, : calls[-1] + 1], None)

    model.flash_decode = attend
    found = model.forward(tokens[:, 20 : 20 + block], cache=cache, start=20)
    assert torch.equal(found, exact)
    assert calls == [159] * (model.architecture.layers if is_used else 0)
