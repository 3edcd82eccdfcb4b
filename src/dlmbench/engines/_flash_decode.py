"""FlashAttention for one new token a row, against a cache whose filled length is known to the device alone.

A recorded step must not depend on how long the context is by now, and torch's flash kernel takes no mask; told the
lengths it leaves most of the device idle, for it gives each row and key head to one multiprocessor. So this is flash
decoding (Dao et al. 2023, https://crfm.stanford.edu/2023/10/12/flashdecoding.html) in Triton: several programs share
the keys of a row, each with the online softmax of FlashAttention (arXiv 2205.14135), and a second kernel joins them.

Needs Triton, so it is imported on a GPU only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# Programs wanted at once: with fewer, keys are shared out until there are as many.
_PROGRAMS = 100
_MOST_SHARES = 16


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
        many // few, width, shares, 64, max(16, many // few), num_warps=4, num_stages=3,
    )  # fmt: skip
    if shares > 1:
        _join[(rows * few, many // few)](part, sums, mixed_BHd, many // few, width, shares)
    return mixed_BHd


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
