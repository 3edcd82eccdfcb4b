"""Kernels for forwards of few positions, which are bound by reading: decoding, and a block against a dual cache.

Products of few rows read their weights once, and torch's library leaves a tenth to a third of the bandwidth unused
there. These cut the weights so that every multiprocessor reads at all times.

Attention of one new token a row goes against a cache whose filled length is known to the device alone: a recorded step
must not depend on how long the context is by now, and torch's flash kernel takes no mask; told the lengths it leaves
most of the device idle, for it gives each row and key head to one multiprocessor. So `attend` is flash decoding (Dao
et al. 2023, https://crfm.stanford.edu/2023/10/12/flashdecoding.html): several programs share the keys of a row, each
with the online softmax of FlashAttention (arXiv 2205.14135), and a second kernel joins them.

In Triton, so it is imported on a GPU only.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

MOST_ROWS = 32
_TILE, _DEPTH = 64, 128  # a program's outputs, and inputs at a time
_KEYS = 64  # that a program of attention takes at a time
# Attention's programs wanted at once: with fewer, keys are shared out until there are as many.
_PROGRAMS = 100
_MOST_SHARES = 16


class Products:
    """Products of few rows with this kernel, others with torch's; half precision."""

    def __init__(self, most_outputs: int, device: torch.device) -> None:
        """`most_outputs`: of a weight whose product is added to a sum."""
        # Which of the two programs of a tile comes second; all are zero between kernels.
        self._turns_n = torch.zeros(most_outputs // _TILE + 1, dtype=torch.int32, device=device)

    def product(self, x_TK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
        """x W^T, summed in float32: y_TN."""
        if not _serves(len(x_TK), weight_NK):
            return x_TK @ weight_NK.T
        y_TN = torch.empty((len(x_TK), len(weight_NK)), dtype=x_TK.dtype, device=x_TK.device)
        _multiply(x_TK.contiguous(), weight_NK, y_TN)
        return y_TN

    def add_product(self, sum_TN: torch.Tensor, x_TK: torch.Tensor, weight_NK: torch.Tensor) -> None:
        """Add x W^T to `sum_TN` in place; two programs share the inputs of each tile of outputs."""
        if _serves(len(x_TK), weight_NK):
            _multiply(x_TK.contiguous(), weight_NK, sum_TN, self._turns_n)
        else:
            sum_TN.addmm_(x_TK, weight_NK.T)


def _serves(rows: int, weight_NK: torch.Tensor) -> bool:
    outputs, inputs = weight_NK.shape
    return 0 < rows <= MOST_ROWS and outputs % _TILE == 0 and inputs % (2 * _DEPTH) == 0


def _multiply(
    x_TK: torch.Tensor, weight_NK: torch.Tensor, y_TN: torch.Tensor, turns_n: torch.Tensor | None = None
) -> None:
    (outputs, inputs), rows = weight_NK.shape, len(x_TK)
    shares = 1 if turns_n is None else 2
    parts = y_TN if turns_n is None else torch.empty((2, rows, outputs), dtype=torch.float32, device=y_TN.device)
    padded = 16 if rows <= 16 else 32
    stages = _stages(3 + shares, 2 * _DEPTH * (_TILE + padded))
    _tile[(outputs // _TILE, shares)](
        x_TK, weight_NK, y_TN, parts, turns_n, rows, outputs, inputs,
        padded, _TILE, _DEPTH, shares, num_warps=4, num_stages=stages,
    )  # fmt: skip


@cache
def _stages(wanted: int, bytes_each: int) -> int:
    """How many steps ahead a program may read: `wanted`, or what a multiprocessor's shared memory holds."""
    room = getattr(torch.cuda.get_device_properties(), "shared_memory_per_block_optin", 0) or 2**16
    return max(1, min(wanted, room // bytes_each))


def attend(
    q_BHd: torch.Tensor, keys_BNKd: torch.Tensor, values_BNKd: torch.Tensor, place_1: torch.Tensor
) -> torch.Tensor:
    """Mixed_BHd of one query a row over the cache's positions 0..place, the same in every row.

    Query heads i * H/K .. (i + 1) * H/K share key head i. Head width a power of two; contiguous tensors.
    """
    rows, many, width = q_BHd.shape
    length, few = keys_BNKd.shape[1:3]
    shares = 1
    while shares < _MOST_SHARES and rows * few * shares < _PROGRAMS:
        shares *= 2
    mixed_BHd = torch.empty_like(q_BHd)
    room = (rows * few, shares, many // few)
    part = torch.empty((*room, width), dtype=torch.float32, device=q_BHd.device) if shares > 1 else mixed_BHd
    sums = torch.empty((*room, 2), dtype=torch.float32, device=q_BHd.device) if shares > 1 else mixed_BHd
    _mix[(rows * few, shares)](
        q_BHd, keys_BNKd, values_BNKd, mixed_BHd, part, sums, place_1, length, few, width**-0.5,
        many // few, width, shares, _KEYS, max(16, many // few), num_warps=4, num_stages=_stages(3, 4 * _KEYS * width),
    )  # fmt: skip
    if shares > 1:
        _join[(rows * few, many // few)](part, sums, mixed_BHd, many // few, width, shares)
    return mixed_BHd


@triton.jit
def _tile(
    x, weight, y, parts, turns, rows, outputs, inputs,
    ROWS: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """A tile of outputs over one share of the inputs; of two shares the later one adds both to what is in y."""
    tile, share = tl.program_id(0), tl.program_id(1)
    t, n, k = tl.arange(0, ROWS), tile * TILE + tl.arange(0, TILE), tl.arange(0, DEPTH)
    each = inputs // SHARES
    from_x = x + t[None, :] * inputs + share * each + k[:, None]
    from_weight = weight + n[:, None].to(tl.int64) * inputs + share * each + k[None, :]
    is_row = t[None, :] < rows
    total = tl.zeros([TILE, ROWS], tl.float32)
    for at in range(0, each, DEPTH):
        some = tl.load(from_x + at, mask=is_row, other=0.0)
        total = tl.dot(tl.load(from_weight + at, eviction_policy="evict_first"), some, total)
    here = t[None, :] * outputs + n[:, None]
    if SHARES == 1:
        tl.store(y + here, total.to(y.dtype.element_ty), mask=is_row)
    else:
        tl.store(parts + share * rows * outputs + here, total, mask=is_row)
        tl.debug_barrier()
        if tl.atomic_add(turns + tile, 1) == 1:
            other = tl.load(parts + (1 - share) * rows * outputs + here, mask=is_row, cache_modifier=".cg")
            sofar = tl.load(y + here, mask=is_row).to(tl.float32)
            tl.store(y + here, (sofar + (total + other)).to(y.dtype.element_ty), mask=is_row)
            tl.store(turns + tile, 0)


@triton.jit
def _mix(
    q, keys, values, mixed, part, sums, place, length, few, scale,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, SHARES: tl.constexpr, STEP: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """One row's queries of one key head over one share of its keys. PADDED: the group, as wide as a product needs."""
    pair, share = tl.program_id(0), tl.program_id(1)
    used = tl.load(place) + 1
    each = tl.cdiv(tl.cdiv(used, SHARES), STEP) * STEP
    first = share * each
    last = tl.minimum(first + each, used)
    g, d, n = tl.arange(0, PADDED), tl.arange(0, WIDTH), tl.arange(0, STEP)
    is_query = g[:, None] < GROUP
    query = tl.load(q + (pair * GROUP + g[:, None]) * WIDTH + d[None, :], mask=is_query, other=0.0)
    top = tl.full([PADDED], -float("inf"), tl.float32)
    total = tl.zeros([PADDED], tl.float32)
    sofar = tl.zeros([PADDED, WIDTH], tl.float32)
    head = (pair // few).to(tl.int64) * length * few * WIDTH + (pair % few) * WIDTH
    for at in range(first, last, STEP):
        is_key = (at + n) < last
        where = head + (at + n)[:, None].to(tl.int64) * (few * WIDTH) + d[None, :]
        key = tl.load(keys + where, mask=is_key[:, None], other=0.0)
        value = tl.load(values + where, mask=is_key[:, None], other=0.0)
        score = tl.where(is_key[None, :], tl.dot(query, tl.trans(key)) * scale, -float("inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp(score - higher[:, None])
        fade = tl.exp(top - higher)
        total = total * fade + tl.sum(weight, 1)
        sofar = sofar * fade[:, None] + tl.dot(weight.to(value.dtype), value)
        top = higher
    if SHARES == 1:
        out = (sofar / total[:, None]).to(mixed.dtype.element_ty)
        tl.store(mixed + (pair * GROUP + g[:, None]) * WIDTH + d[None, :], out, mask=is_query)
    else:
        into = (pair * SHARES + share) * GROUP + g
        tl.store(part + into[:, None] * WIDTH + d[None, :], sofar, mask=is_query)
        tl.store(sums + into * 2, top, mask=g < GROUP)
        tl.store(sums + into * 2 + 1, total, mask=g < GROUP)


@triton.jit
def _join(part, sums, mixed, GROUP: tl.constexpr, WIDTH: tl.constexpr, SHARES: tl.constexpr):
    """Weigh the shares of one query by their softmax sums; a share without keys has none."""
    pair, g = tl.program_id(0), tl.program_id(1)
    s, d = tl.arange(0, SHARES), tl.arange(0, WIDTH)
    at = (pair * SHARES + s) * GROUP + g
    top, total = tl.load(sums + at * 2), tl.load(sums + at * 2 + 1)
    weight = tl.where(total > 0, tl.exp(top - tl.max(top, 0)), 0.0)
    sofar = tl.load(part + at[:, None] * WIDTH + d[None, :])
    out = tl.sum(sofar * weight[:, None], 0) / tl.sum(weight * total, 0)
    tl.store(mixed + (pair * GROUP + g) * WIDTH + d, out.to(mixed.dtype.element_ty))
