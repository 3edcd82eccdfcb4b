# ruff: noqa
# mypy: ignore-errors
"""A stream-K product with the bulk tensor copy engine, to compare with torch's library."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

# By rows: tile of rows, of outputs, of inputs, warps, stages, programs.
CONFIGS = {
    64: ((64, 128, 64, 4, 5, 132), (64, 128, 128, 4, 3, 132), (64, 128, 64, 4, 3, 264), (64, 256, 64, 8, 4, 132)),
    128: ((128, 128, 64, 8, 5, 132), (128, 128, 128, 8, 3, 132), (128, 128, 64, 4, 3, 264), (128, 256, 64, 8, 4, 132)),
    256: ((128, 256, 64, 8, 4, 132), (256, 128, 64, 8, 4, 132), (128, 128, 64, 4, 3, 264), (128, 128, 64, 8, 5, 132)),
    512: ((128, 256, 64, 8, 4, 132), (256, 128, 64, 8, 4, 132)),
    1024: ((128, 256, 64, 8, 4, 132), (256, 128, 64, 8, 4, 132)),
}
_STATE: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}


def stream_k(
    x: torch.Tensor, w: torch.Tensor, BT: int, BN: int, BK: int, warps: int, stages: int, programs: int
) -> torch.Tensor:
    rows, K = x.shape
    N = w.shape[0]
    y = torch.empty((rows, N), dtype=x.dtype, device=x.device)
    key = programs * BT * BN
    if key not in _STATE:
        _STATE[key] = (
            torch.empty(2 * programs * BT * BN, dtype=torch.float32, device=x.device),
            torch.zeros(65536, dtype=torch.int32, device=x.device),
        )
    partial, locks = _STATE[key]
    _stream_k_kernel[(programs,)](
        TensorDescriptor.from_tensor(x, [BT, BK]), TensorDescriptor.from_tensor(w, [BN, BK]), y, partial, locks,
        rows, N, K // BK, programs, BT, BN, BK, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return y


@triton.jit
def _stream_k_kernel(
    x_desc, w_desc, y, partial, locks, rows, n_outputs, iters, programs,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """All iterations of all tiles in equal shares; of the programs that share a tile, the last one adds up."""
    pid = tl.program_id(0)
    tiles_t = tl.cdiv(rows, BLOCK_T)
    total = tiles_t * tl.cdiv(n_outputs, BLOCK_N) * iters
    start = pid * total // programs
    stop = (pid + 1) * total // programs
    t, n = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_N)
    flat = t[:, None] * BLOCK_N + n[None, :]
    while start < stop:
        tile = start // iters
        k0 = start % iters
        k1 = tl.minimum(k0 + stop - start, iters)
        row, col = tile % tiles_t * BLOCK_T, tile // tiles_t * BLOCK_N
        acc = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
        for k in range(k0, k1):
            acc = tl.dot(x_desc.load([row, k * BLOCK_K]), w_desc.load([col, k * BLOCK_K]).T, acc)
        y_ptrs = y + (row + t)[:, None].to(tl.int64) * n_outputs + (col + n)[None, :]
        is_row = (row + t)[:, None] < rows
        if k1 - k0 == iters:
            tl.store(y_ptrs, acc.to(y.dtype.element_ty), mask=is_row)
        else:
            first = ((tile * iters + 1) * programs - 1) // total
            last = ((tile + 1) * iters * programs - 1) // total
            slot = 2 * pid + (pid == first).to(tl.int32)
            tl.store(partial + slot * BLOCK_T * BLOCK_N + flat, acc)
            tl.debug_barrier()
            if tl.atomic_add(locks + tile, 1) == last - first:
                whole = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
                for p in range(first, last + 1):
                    other = 2 * p + (p == first).to(tl.int32)
                    whole += tl.load(partial + other * BLOCK_T * BLOCK_N + flat, cache_modifier=".cg")
                tl.store(y_ptrs, whole.to(y.dtype.element_ty), mask=is_row)
                tl.store(locks + tile, 0)
        start += k1 - k0
