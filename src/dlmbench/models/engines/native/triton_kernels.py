"""Triton kernels: what lies between the matrix products, products of few rows, and attention of few queries.

A forward of few positions is bound by reading the weights, so nothing else may make memory wait. Its products tile the
weights so that every multiprocessor reads at all times, which torch's library does not where there are few rows; the
gate is applied before gate and up are written. On devices that can (compute capability 9), each kernel is launched
while the one before still runs (programmatic dependent launch): it fetches its first weights into the L2 cache, then
waits for its inputs.

Attention of few queries against a long cache is flash decoding (Dao et al. 2023,
https://crfm.stanford.edu/2023/10/12/flashdecoding.html): several programs split the keys of a row, each with the online
softmax of FlashAttention (arXiv 2205.14135), and a second kernel combines them. The queries may be one per row (a
captured step must not depend on how far the cache is filled, so the device knows that alone) or a block of them, of
which torch's kernel fills a quarter of its tiles.

Imports triton, so import this module on a GPU only.

Shapes: B batch, Q queries of a row, T rows of a product, K its inputs, N its outputs; in attention H heads, K key-value
heads, N cache length, d head size.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

MAX_ROWS = 32  # of the products here; torch's are faster beyond
_BLOCK_N, _BLOCK_K = 64, 128  # of the GEMM: a program's outputs, and inputs per iteration
_GATED_BLOCK_K = 64  # of the one that reads gate and up
_PREFETCHED = 512  # inputs whose weights a program fetches while it waits
_BLOCK_KEYS = 64  # of flash decoding: keys per iteration
# Flash decoding splits the keys until there are this many programs, or this many splits.
_TARGET_PROGRAMS = 100
_MAX_SPLITS = 16


class TritonOperators:
    """The functions of `transformer.TorchOperators` as Triton kernels; products of many rows by torch."""

    def __init__(self, max_outputs: int, device: torch.device) -> None:
        """`max_outputs`: the most rows of a weight passed to `linear_add_`."""
        # One per tile of outputs: how many of its two programs are done. All are zero between kernels.
        self._locks_n = torch.zeros(max_outputs // _BLOCK_N + 1, dtype=torch.int32, device=device)

    def linear(self, x_TK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
        """x W^T, accumulated in float32: y_TN."""
        if not _is_supported(x_TK, weight_NK):
            return x_TK @ weight_NK.T
        y_TN = torch.empty((len(x_TK), len(weight_NK)), dtype=x_TK.dtype, device=x_TK.device)
        _launch_skinny_gemm(x_TK.contiguous(), weight_NK, y_TN)
        return y_TN

    def linear_add_(self, out_TN: torch.Tensor, x_TK: torch.Tensor, weight_NK: torch.Tensor) -> None:
        """Add x W^T to `out_TN` in place; split-K, two programs per tile of outputs."""
        if _is_supported(x_TK, weight_NK):
            _launch_skinny_gemm(x_TK.contiguous(), weight_NK, out_TN, self._locks_n)
        else:
            out_TN.addmm_(x_TK, weight_NK.T)

    def linear_silu_and_mul(self, x_TK: torch.Tensor, gate_up_NK: torch.Tensor) -> torch.Tensor:
        """silu(x G^T) * x U^T, where `gate_up_NK` stacks G and U."""
        n_outputs, n_inputs = len(gate_up_NK) // 2, gate_up_NK.shape[1]
        y_TN = torch.empty((len(x_TK), n_outputs), dtype=x_TK.dtype, device=x_TK.device)
        if _is_supported(x_TK, gate_up_NK) and n_outputs % _BLOCK_N == 0:
            rows = len(x_TK)
            padded = 16 if rows <= 16 else 32
            num_stages = _num_stages(4, 2 * _GATED_BLOCK_K * (2 * _BLOCK_N + padded))
            _gated_gemm_kernel[(n_outputs // _BLOCK_N,)](
                x_TK, gate_up_NK, y_TN, rows, n_outputs, n_inputs, padded, _BLOCK_N, _GATED_BLOCK_K, _PREFETCHED,
                _pdl(), num_warps=4, num_stages=num_stages, **_launch_options(),
            )  # fmt: skip
        else:
            gate_up_TF = x_TK @ gate_up_NK.T
            block = 1024
            _silu_and_mul_kernel[(len(x_TK), triton.cdiv(n_outputs, block))](
                gate_up_TF, y_TN, n_outputs, block, _pdl(), **_launch_options()
            )
        return y_TN

    def rms_norm(self, x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
        """RMSNorm in float32."""
        y_TD, dim = torch.empty_like(x_TD), x_TD.shape[1]
        block = triton.next_power_of_2(dim)
        _rms_norm_kernel[(len(x_TD),)](
            x_TD, weight_D, y_TD, dim, eps, block, _pdl(), num_warps=4 if block <= 4096 else 8, **_launch_options()
        )
        return y_TD

    def split_and_rotate(
        self,
        qkv_BQ: torch.Tensor,
        freqs_cis_Q2h: torch.Tensor,
        heads: tuple[int, int],
        k_cache_BNKd: torch.Tensor | None = None,
        v_cache_BNKd: torch.Tensor | None = None,
        input_pos_Q: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(q_BQHd, k, v) with rotary positions; see `TorchOperators`."""
        (rows, queries, width), (n_heads, n_kv_heads) = qkv_BQ.shape, heads
        head_dim = width // (n_heads + 2 * n_kv_heads)

        def empty(length: int, n: int) -> torch.Tensor:
            return torch.empty((rows, length, n, head_dim), dtype=qkv_BQ.dtype, device=qkv_BQ.device)

        q_BQHd = empty(queries, n_heads)
        k = empty(queries, n_kv_heads) if k_cache_BNKd is None else k_cache_BNKd
        v = empty(queries, n_kv_heads) if v_cache_BNKd is None else v_cache_BNKd
        block_heads = 16
        _rotary_kernel[(rows * queries, triton.cdiv(n_heads + 2 * n_kv_heads, block_heads))](
            qkv_BQ, freqs_cis_Q2h, input_pos_Q, q_BQHd, k, v, queries, k.shape[1], n_heads, n_kv_heads, head_dim // 2,
            triton.next_power_of_2(head_dim // 2), block_heads, input_pos_Q is not None, _pdl(), **_launch_options(),
        )  # fmt: skip
        return q_BQHd, k, v


def _is_supported(x_TK: torch.Tensor, weight_NK: torch.Tensor) -> bool:
    n_outputs, n_inputs = weight_NK.shape
    is_half = x_TK.dtype.itemsize == 2
    return is_half and 0 < len(x_TK) <= MAX_ROWS and n_outputs % _BLOCK_N == 0 and n_inputs % (2 * _PREFETCHED) == 0


def _launch_skinny_gemm(
    x_TK: torch.Tensor, weight_NK: torch.Tensor, y_TN: torch.Tensor, locks_n: torch.Tensor | None = None
) -> None:
    (n_outputs, n_inputs), rows = weight_NK.shape, len(x_TK)
    num_splits = 1 if locks_n is None else 2
    partial = y_TN if locks_n is None else torch.empty((2, rows, n_outputs), dtype=torch.float32, device=y_TN.device)
    padded = 16 if rows <= 16 else 32
    num_stages = _num_stages(3 + num_splits, 2 * _BLOCK_K * (_BLOCK_N + padded))
    _skinny_gemm_kernel[(n_outputs // _BLOCK_N, num_splits)](
        x_TK, weight_NK, y_TN, partial, locks_n, rows, n_outputs, n_inputs, padded, _BLOCK_N, _BLOCK_K, num_splits,
        _PREFETCHED, _pdl(), num_warps=4, num_stages=num_stages, **_launch_options(),
    )  # fmt: skip


@cache
def _num_stages(wanted: int, bytes_each: int) -> int:
    """Stages of a kernel's software pipeline: `wanted`, or as many as a multiprocessor's shared memory holds."""
    shared_bytes = getattr(torch.cuda.get_device_properties(), "shared_memory_per_block_optin", 0) or 2**16
    return max(1, min(wanted, shared_bytes // bytes_each))


@cache
def _pdl() -> bool:
    """Whether the device knows programmatic dependent launch."""
    return torch.version.hip is None and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)


def _launch_options() -> dict[str, bool]:
    return {"launch_pdl": True} if _pdl() else {}


def flash_decode(
    q_BQHd: torch.Tensor, k_cache_BNKd: torch.Tensor, v_cache_BNKd: torch.Tensor, last_key_1: torch.Tensor
) -> torch.Tensor:
    """Output_BQHd of few queries per row over the cache's positions 0..last_key, the same for all of them.

    Query heads i * H/K .. (i + 1) * H/K share key head i. Head size a power of two; contiguous tensors.
    """
    rows, n_queries, n_heads, head_dim = q_BQHd.shape
    length, n_kv_heads = k_cache_BNKd.shape[1:3]
    group = n_heads // n_kv_heads
    n_tile = n_queries * group  # all queries of a row and key head
    num_splits = 1
    while num_splits < _MAX_SPLITS and rows * n_kv_heads * num_splits < _TARGET_PROGRAMS:
        num_splits *= 2
    out_BQHd = torch.empty_like(q_BQHd)
    split_shape = (rows * n_kv_heads, num_splits, n_tile)
    split_acc = (
        torch.empty((*split_shape, head_dim), dtype=torch.float32, device=q_BQHd.device) if num_splits > 1 else out_BQHd
    )
    split_sums = (
        torch.empty((*split_shape, 2), dtype=torch.float32, device=q_BQHd.device) if num_splits > 1 else out_BQHd
    )
    _flash_decode_kernel[(rows * n_kv_heads, num_splits)](
        q_BQHd, k_cache_BNKd, v_cache_BNKd, out_BQHd, split_acc, split_sums, last_key_1, n_queries, length, n_kv_heads,
        head_dim**-0.5 * 1.4426950408889634, group, head_dim, num_splits, _BLOCK_KEYS,
        max(16, triton.next_power_of_2(n_tile)), _pdl(),
        num_warps=4, num_stages=_num_stages(3, 4 * _BLOCK_KEYS * head_dim), **_launch_options(),
    )  # fmt: skip
    if num_splits > 1:
        _flash_decode_combine_kernel[(rows * n_kv_heads, n_tile)](
            split_acc, split_sums, out_BQHd, n_queries, n_kv_heads, group, head_dim, num_splits, _pdl(),
            **_launch_options(),
        )  # fmt: skip
    return out_BQHd


# ---------------------------------------------------------------- kernels


@triton.jit
def _wait_for_inputs(PDL: tl.constexpr):
    """Let the next kernel start, then wait until the one before is done: before reading what others wrote."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def _prefetch_rows(weight, n, n_inputs, first, BLOCK_N: tl.constexpr, PREFETCHED: tl.constexpr, PDL: tl.constexpr):
    """Fetch columns first.. of the weight's rows `n` into the L2 cache, a cache line of 64 numbers at a time."""
    if PDL:
        line = tl.arange(0, PREFETCHED // 64) * 64
        lines = weight + n[:, None].to(tl.int64) * n_inputs + first + line[None, :]
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [lines.to(tl.uint64, bitcast=True)],
            dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit
def _rms_norm_kernel(x, weight, y, dim, eps, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """A row."""
    d = tl.arange(0, BLOCK)
    w = tl.load(weight + d, mask=d < dim, other=0.0).to(tl.float32)
    row = tl.program_id(0).to(tl.int64) * dim + d
    _wait_for_inputs(PDL)
    x_row = tl.load(x + row, mask=d < dim, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x_row * x_row, 0) / dim + eps)
    tl.store(y + row, (x_row * scale * w).to(y.dtype.element_ty), mask=d < dim)


@triton.jit
def _silu_and_mul_kernel(gate_up, y, n_outputs, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """Some outputs of a row."""
    t, n = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    _wait_for_inputs(PDL)
    gate = tl.load(gate_up + t * 2 * n_outputs + n, mask=n < n_outputs).to(tl.float32)
    up = tl.load(gate_up + (t * 2 + 1) * n_outputs + n, mask=n < n_outputs).to(tl.float32)
    tl.store(y + t * n_outputs + n, (gate / (1 + tl.exp(-gate)) * up).to(y.dtype.element_ty), mask=n < n_outputs)


@triton.jit
def _rotary_kernel(
    qkv, freqs_cis, input_pos, q, k, v, n_queries, length, n_heads, n_kv_heads, half,
    BLOCK_HALF: tl.constexpr, BLOCK_HEADS: tl.constexpr, HAS_CACHE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Some heads of a position: rotate queries and keys; keys and values go to their position in the cache."""
    t, head = tl.program_id(0), tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)[:, None]
    i = tl.arange(0, BLOCK_HALF)[None, :]
    batch, query = (t // n_queries).to(tl.int64), t % n_queries
    _wait_for_inputs(PDL)
    position = query
    if HAS_CACHE:
        position = tl.load(input_pos + query).to(tl.int32)
    dim, is_half = 2 * half, i < half
    is_head = (head < n_heads + 2 * n_kv_heads) & is_half
    source = qkv + t.to(tl.int64) * (n_heads + 2 * n_kv_heads) * dim + head * dim + i
    left = tl.load(source, mask=is_head, other=0.0).to(tl.float32)
    right = tl.load(source + half, mask=is_head, other=0.0).to(tl.float32)
    cos = tl.load(freqs_cis + query * 2 * half + i, mask=is_half, other=0.0)
    sin = tl.load(freqs_cis + (query * 2 + 1) * half + i, mask=is_half, other=0.0)
    rotated_left = (left * cos - right * sin).to(q.dtype.element_ty)
    rotated_right = (right * cos + left * sin).to(q.dtype.element_ty)
    is_query, is_value = head < n_heads, head >= n_heads + n_kv_heads
    to_q = q + t.to(tl.int64) * n_heads * dim + head * dim + i
    tl.store(to_q, rotated_left, mask=is_head & is_query)
    tl.store(to_q + half, rotated_right, mask=is_head & is_query)
    row = (batch * length + position) * n_kv_heads * dim
    is_key = (head >= n_heads) & (head < n_heads + n_kv_heads) & is_half
    to_k = k + row + (head - n_heads) * dim + i
    tl.store(to_k, rotated_left, mask=is_key)
    tl.store(to_k + half, rotated_right, mask=is_key)
    to_v = v + row + (head - n_heads - n_kv_heads) * dim + i
    tl.store(to_v, left.to(v.dtype.element_ty), mask=is_head & is_value)
    tl.store(to_v + half, right.to(v.dtype.element_ty), mask=is_head & is_value)


@triton.jit
def _skinny_gemm_kernel(
    x, weight, y, partial, locks, rows, n_outputs, n_inputs,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, NUM_SPLITS: tl.constexpr,
    PREFETCHED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A tile of outputs over one split of the inputs; of two splits, the later one adds both to y."""
    tile, split = tl.program_id(0), tl.program_id(1)
    t, n, k = tl.arange(0, BLOCK_T), tile * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    split_inputs = n_inputs // NUM_SPLITS
    _prefetch_rows(weight, n, n_inputs, split * split_inputs, BLOCK_N, PREFETCHED, PDL)
    _wait_for_inputs(PDL)
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
def _gated_gemm_kernel(
    x, weight, y, rows, n_outputs, n_inputs,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PREFETCHED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A tile of silu(gate) * up, both rounded as if they had been written."""
    tile = tl.program_id(0)
    t, n, k = tl.arange(0, BLOCK_T), tile * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    _prefetch_rows(weight, n, n_inputs, 0, BLOCK_N, PREFETCHED, PDL)
    _prefetch_rows(weight, n + n_outputs, n_inputs, 0, BLOCK_N, PREFETCHED, PDL)
    _wait_for_inputs(PDL)
    x_ptrs = x + t[None, :] * n_inputs + k[:, None]
    gate_ptrs = weight + n[:, None].to(tl.int64) * n_inputs + k[None, :]
    up_ptrs = weight + (n + n_outputs)[:, None].to(tl.int64) * n_inputs + k[None, :]
    is_row = t[None, :] < rows
    gate = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
    up = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
    for start in range(0, n_inputs, BLOCK_K):
        x_block = tl.load(x_ptrs + start, mask=is_row, other=0.0)
        gate = tl.dot(tl.load(gate_ptrs + start, eviction_policy="evict_first"), x_block, gate)
        up = tl.dot(tl.load(up_ptrs + start, eviction_policy="evict_first"), x_block, up)
    gate, up = gate.to(y.dtype.element_ty).to(tl.float32), up.to(y.dtype.element_ty).to(tl.float32)
    offsets = t[None, :] * n_outputs + n[:, None]
    tl.store(y + offsets, (gate / (1 + tl.exp(-gate)) * up).to(y.dtype.element_ty), mask=is_row)


@triton.jit
def _flash_decode_kernel(
    q, k_cache, v_cache, out, split_acc, split_sums, last_key, n_queries, length, n_kv_heads, scale,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, NUM_SPLITS: tl.constexpr, BLOCK_KEYS: tl.constexpr,
    BLOCK_TILE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A row's queries of one key head over one split of its keys. BLOCK_TILE: how many, padded; scale: in base 2."""
    pair, split = tl.program_id(0), tl.program_id(1)  # pair: row and key head
    _wait_for_inputs(PDL)
    n_keys = (tl.load(last_key) + 1).to(tl.int32)
    split_keys = tl.cdiv(tl.cdiv(n_keys, NUM_SPLITS), BLOCK_KEYS) * BLOCK_KEYS
    first = split * split_keys
    last = tl.minimum(first + split_keys, n_keys)
    g, d, n = tl.arange(0, BLOCK_TILE), tl.arange(0, HEAD_DIM), tl.arange(0, BLOCK_KEYS)
    is_query = g < n_queries * GROUP
    batch, kv_head = pair // n_kv_heads, pair % n_kv_heads
    query_rows = ((batch * n_queries + g // GROUP) * n_kv_heads + kv_head) * GROUP + g % GROUP
    query_offsets = query_rows[:, None] * HEAD_DIM + d[None, :]
    query = tl.load(q + query_offsets, mask=is_query[:, None], other=0.0)
    m = tl.full([BLOCK_TILE], -float("inf"), tl.float32)
    exp_sum = tl.zeros([BLOCK_TILE], tl.float32)
    acc = tl.zeros([BLOCK_TILE, HEAD_DIM], tl.float32)
    head = batch.to(tl.int64) * length * n_kv_heads * HEAD_DIM + kv_head * HEAD_DIM
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
def _flash_decode_combine_kernel(
    split_acc, split_sums, out, n_queries, n_kv_heads,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, NUM_SPLITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Weigh the splits of one query by their softmax sums; a split without keys has weight 0."""
    pair, g = tl.program_id(0), tl.program_id(1)
    s, d = tl.arange(0, NUM_SPLITS), tl.arange(0, HEAD_DIM)
    _wait_for_inputs(PDL)
    index = (pair * NUM_SPLITS + s) * n_queries * GROUP + g
    m, exp_sum = tl.load(split_sums + index * 2), tl.load(split_sums + index * 2 + 1)
    weight = tl.where(exp_sum > 0, tl.exp2(m - tl.max(m, 0)), 0.0)
    acc = tl.load(split_acc + index[:, None] * HEAD_DIM + d[None, :])
    combined = tl.sum(acc * weight[:, None], 0) / tl.sum(weight * exp_sum, 0)
    query_row = ((pair // n_kv_heads * n_queries + g // GROUP) * n_kv_heads + pair % n_kv_heads) * GROUP + g % GROUP
    tl.store(out + query_row * HEAD_DIM + d, combined.to(out.dtype.element_ty))
