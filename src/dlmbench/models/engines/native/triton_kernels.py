"""Triton kernels for forwards of few positions, which are bound by reading memory: skinny GEMM and flash decoding.

A product of few rows reads its weights once, and torch's library leaves a tenth to a third of the bandwidth unused
there. The skinny GEMM tiles the weights so that every multiprocessor reads at all times.

In decoding, one query per row attends to a cache whose filled length only the device knows, because a captured step
must not depend on how long the context is by now. Torch's flash kernel takes no mask; its variable-length form leaves
most of the device idle, since it gives each row and key head to one multiprocessor. So `flash_decode` is flash decoding
(Dao et al. 2023, https://crfm.stanford.edu/2023/10/12/flashdecoding.html): several programs split the keys of a row,
each with the online softmax of FlashAttention (arXiv 2205.14135), and a second kernel combines them. A block of queries
takes it too: they fill a quarter of the tile of torch's kernel.

Imports triton, so import this module on a GPU only.

Shapes: B batch, T rows of a product, K its inputs, N its outputs; in attention Q queries of a row, H heads, K key-value
heads, N cache length, d head size.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

MAX_ROWS = 32
_BLOCK_N, _BLOCK_K = 64, 128  # of the GEMM: a program's outputs, and inputs per iteration
_BLOCK_KEYS = 64  # of flash decoding: keys per iteration
# Flash decoding splits the keys until there are this many programs, or this many splits.
_TARGET_PROGRAMS = 100
_MAX_SPLITS = 16
_LOG2_E = 1.4426950408889634  # scores are scaled by it, for exp2 in place of exp


class SkinnyGemm:
    """x W^T by our kernel where x has few rows, by torch's otherwise; half precision."""

    def __init__(self, max_outputs: int, device: torch.device) -> None:
        """`max_outputs`: the most rows of a weight passed to `linear_add_`."""
        # One per tile of outputs: how many of its two programs are done. All are zero between kernels.
        self._locks_n = torch.zeros(max_outputs // _BLOCK_N + 1, dtype=torch.int32, device=device)

    def linear(self, x_TK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
        """x W^T, accumulated in float32: y_TN."""
        if not _is_supported(len(x_TK), weight_NK):
            return x_TK @ weight_NK.T
        y_TN = torch.empty((len(x_TK), len(weight_NK)), dtype=x_TK.dtype, device=x_TK.device)
        _launch_skinny_gemm(x_TK.contiguous(), weight_NK, y_TN)
        return y_TN

    def linear_add_(self, out_TN: torch.Tensor, x_TK: torch.Tensor, weight_NK: torch.Tensor) -> None:
        """Add x W^T to `out_TN` in place; split-K, two programs per tile of outputs."""
        if _is_supported(len(x_TK), weight_NK):
            _launch_skinny_gemm(x_TK.contiguous(), weight_NK, out_TN, self._locks_n)
        else:
            out_TN.addmm_(x_TK, weight_NK.T)


def _is_supported(rows: int, weight_NK: torch.Tensor) -> bool:
    n_outputs, n_inputs = weight_NK.shape
    return 0 < rows <= MAX_ROWS and n_outputs % _BLOCK_N == 0 and n_inputs % (2 * _BLOCK_K) == 0


def _launch_skinny_gemm(
    x_TK: torch.Tensor, weight_NK: torch.Tensor, y_TN: torch.Tensor, locks_n: torch.Tensor | None = None
) -> None:
    (n_outputs, n_inputs), rows = weight_NK.shape, len(x_TK)
    num_splits = 1 if locks_n is None else 2
    partial = y_TN if locks_n is None else torch.empty((2, rows, n_outputs), dtype=torch.float32, device=y_TN.device)
    padded = 16 if rows <= 16 else 32
    num_stages = _num_stages(3 + num_splits, 2 * _BLOCK_K * (_BLOCK_N + padded))
    _skinny_gemm_kernel[(n_outputs // _BLOCK_N, num_splits)](
        x_TK, weight_NK, y_TN, partial, locks_n, rows, n_outputs, n_inputs,
        padded, _BLOCK_N, _BLOCK_K, num_splits, num_warps=4, num_stages=num_stages,
    )  # fmt: skip


@cache
def _num_stages(wanted: int, bytes_each: int) -> int:
    """Stages of a kernel's software pipeline: `wanted`, or as many as a multiprocessor's shared memory holds."""
    shared_bytes = getattr(torch.cuda.get_device_properties(), "shared_memory_per_block_optin", 0) or 2**16
    return max(1, min(wanted, shared_bytes // bytes_each))


def flash_decode(
    last_key_1: torch.Tensor, q_BQHd: torch.Tensor, k_cache_BNKd: torch.Tensor, v_cache_BNKd: torch.Tensor
) -> torch.Tensor:
    """Output_BQHd of a few queries per row over the cache's positions 0..last_key.

    Query heads i * H/K .. (i + 1) * H/K share key head i. Head size a power of two; contiguous tensors.
    """
    rows, n_queries, n_heads, head_dim = q_BQHd.shape
    length, n_kv_heads = k_cache_BNKd.shape[1:3]
    group = n_heads // n_kv_heads
    num_splits = 1
    while num_splits < _MAX_SPLITS and rows * n_kv_heads * num_splits < _TARGET_PROGRAMS:
        num_splits *= 2
    out_BQHd = torch.empty_like(q_BQHd)
    split_acc = split_sums = out_BQHd
    if num_splits > 1:
        split_shape = (rows * n_kv_heads, num_splits, n_queries * group)
        split_acc = torch.empty((*split_shape, head_dim), dtype=torch.float32, device=q_BQHd.device)
        split_sums = torch.empty((*split_shape, 2), dtype=torch.float32, device=q_BQHd.device)
    # Tensor cores take 16 rows at least; padding 32 to the 64 of a warp group's instruction is faster than not to.
    block_queries = 16 if n_queries * group <= 16 else max(64, triton.next_power_of_2(n_queries * group))
    _flash_decode_kernel[(rows * n_kv_heads, num_splits)](
        q_BQHd, k_cache_BNKd, v_cache_BNKd, out_BQHd, split_acc, split_sums, last_key_1, n_queries, length, n_kv_heads,
        head_dim**-0.5 * _LOG2_E, group, head_dim, num_splits, _BLOCK_KEYS, block_queries,
        num_warps=4, num_stages=_num_stages(3, 4 * _BLOCK_KEYS * head_dim),
    )  # fmt: skip
    if num_splits > 1:
        _flash_decode_combine_kernel[(rows * n_kv_heads, n_queries * group)](
            split_acc, split_sums, out_BQHd, n_queries, n_kv_heads, group, head_dim, num_splits
        )
    return out_BQHd


@triton.jit
def _skinny_gemm_kernel(
    x, weight, y, partial, locks, rows, n_outputs, n_inputs,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, NUM_SPLITS: tl.constexpr,
):  # fmt: skip
    """A tile of outputs over one split of the inputs; of two splits, the later one adds both to y."""
    tile, split = tl.program_id(0), tl.program_id(1)
    t, n, k = tl.arange(0, BLOCK_T), tile * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    split_inputs = n_inputs // NUM_SPLITS
    x_ptrs = x + t[None, :] * n_inputs + split * split_inputs + k[:, None]
    weight_ptrs = weight + n[:, None].to(tl.int64) * n_inputs + split * split_inputs + k[None, :]
    is_row = t[None, :] < rows
    acc = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
    for start in range(0, split_inputs, BLOCK_K):
        x_block = tl.load(x_ptrs + start, mask=is_row, other=0.0)
        acc = tl.dot(tl.load(weight_ptrs + start, eviction_policy="evict_first"), x_block, acc)
    offsets = t[None, :] * n_outputs + n[:, None]
    if NUM_SPLITS == 1:
        tl.store(y + offsets, acc.to(y.dtype.element_ty), mask=is_row)
    else:
        tl.store(partial + split * rows * n_outputs + offsets, acc, mask=is_row)
        tl.debug_barrier()
        if tl.atomic_add(locks + tile, 1) == 1:
            other = tl.load(partial + (1 - split) * rows * n_outputs + offsets, mask=is_row, cache_modifier=".cg")
            y_before = tl.load(y + offsets, mask=is_row).to(tl.float32)
            tl.store(y + offsets, (y_before + (acc + other)).to(y.dtype.element_ty), mask=is_row)
            tl.store(locks + tile, 0)


@triton.jit
def _flash_decode_kernel(
    q, k_cache, v_cache, out, split_acc, split_sums, last_key, n_queries, length, n_kv_heads, scale,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, NUM_SPLITS: tl.constexpr, BLOCK_KEYS: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
):  # fmt: skip
    """A row's queries of one key head, padded to BLOCK_QUERIES, over one split of its keys."""
    pair, split = tl.program_id(0), tl.program_id(1)  # pair: row and key head
    n_keys = (tl.load(last_key) + 1).to(tl.int32)
    split_keys = tl.cdiv(tl.cdiv(n_keys, NUM_SPLITS), BLOCK_KEYS) * BLOCK_KEYS
    first = split * split_keys
    last = tl.minimum(first + split_keys, n_keys)
    g, d, n = tl.arange(0, BLOCK_QUERIES), tl.arange(0, HEAD_DIM), tl.arange(0, BLOCK_KEYS)
    is_query = g < n_queries * GROUP
    query_offsets = _query_rows(pair, g, n_queries, n_kv_heads, GROUP)[:, None] * HEAD_DIM + d[None, :]
    query = tl.load(q + query_offsets, mask=is_query[:, None], other=0.0)
    m = tl.full([BLOCK_QUERIES], -float("inf"), tl.float32)
    exp_sum = tl.zeros([BLOCK_QUERIES], tl.float32)
    acc = tl.zeros([BLOCK_QUERIES, HEAD_DIM], tl.float32)
    head = (pair // n_kv_heads).to(tl.int64) * length * n_kv_heads * HEAD_DIM + (pair % n_kv_heads) * HEAD_DIM
    for start in range(first, last, BLOCK_KEYS):
        is_key = (start + n) < last
        offsets = head + (start + n)[:, None].to(tl.int64) * (n_kv_heads * HEAD_DIM) + d[None, :]
        key = tl.load(k_cache + offsets, mask=is_key[:, None], other=0.0)
        value = tl.load(v_cache + offsets, mask=is_key[:, None], other=0.0)
        score = tl.where(is_key[None, :], tl.dot(query, tl.trans(key)) * scale, -float("inf"))
        m_new = tl.maximum(m, tl.max(score, 1))
        p = tl.exp2(score - m_new[:, None])
        alpha = tl.exp2(m - m_new)
        exp_sum = exp_sum * alpha + tl.sum(p, 1)
        acc = tl.dot(p.to(value.dtype), value, acc * alpha[:, None])
        m = m_new
    if NUM_SPLITS == 1:
        tl.store(out + query_offsets, (acc / exp_sum[:, None]).to(out.dtype.element_ty), mask=is_query[:, None])
    else:
        index = (pair * NUM_SPLITS + split) * n_queries * GROUP + g
        tl.store(split_acc + index[:, None] * HEAD_DIM + d[None, :], acc, mask=is_query[:, None])
        tl.store(split_sums + index * 2, m, mask=is_query)
        tl.store(split_sums + index * 2 + 1, exp_sum, mask=is_query)


@triton.jit
def _query_rows(pair, g, n_queries, n_kv_heads, GROUP: tl.constexpr):
    """Where query g of a row and key head stands in q_BQHd, in units of d."""
    position = pair // n_kv_heads * n_queries + g // GROUP
    return (position * n_kv_heads + pair % n_kv_heads) * GROUP + g % GROUP


@triton.jit
def _flash_decode_combine_kernel(
    split_acc, split_sums, out, n_queries, n_kv_heads,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, NUM_SPLITS: tl.constexpr,
):  # fmt: skip
    """Weigh the splits of one query by their softmax sums; a split without keys has weight 0."""
    pair, g = tl.program_id(0), tl.program_id(1)
    s, d = tl.arange(0, NUM_SPLITS), tl.arange(0, HEAD_DIM)
    index = (pair * NUM_SPLITS + s) * n_queries * GROUP + g
    m, exp_sum = tl.load(split_sums + index * 2), tl.load(split_sums + index * 2 + 1)
    weight = tl.where(exp_sum > 0, tl.exp2(m - tl.max(m, 0)), 0.0)
    acc = tl.load(split_acc + index[:, None] * HEAD_DIM + d[None, :])
    combined = tl.sum(acc * weight[:, None], 0) / tl.sum(weight * exp_sum, 0)
    tl.store(out + _query_rows(pair, g, n_queries, n_kv_heads, GROUP) * HEAD_DIM + d, combined.to(out.dtype.element_ty))
