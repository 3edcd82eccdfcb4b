"""A slow, literal sampler, written from the description of the published ones, for tests only.

One prompt at a time, Python lists and loops, no shared code with the package; `logits(tokens)` is the model over a
whole canvas. Caches follow their definition: positions that a forward does not compute keep the keys and values
they had (`PlainModel.kept`).

Each decision is reported with its margin, the probability by which it was made: two correct samplers may differ where
a margin is within rounding.
"""

from __future__ import annotations

import math

import torch


def schedule(masks: int, steps: int) -> list[int]:
    counts = [masks // steps] * steps
    for i in range(masks % steps):
        counts[i] += 1
    return counts


def pick(confidence: dict[int, float], count: int) -> tuple[list[int], float]:
    """The `count` positions of highest confidence, leftmost first among equals, and their lead over the next one."""
    order = sorted(confidence, key=lambda position: (-confidence[position], position))
    if not 0 < count < len(order):
        return order[:count], math.inf
    return order[:count], confidence[order[count - 1]] - confidence[order[count]]


def threshold_rule(confidence: dict[int, float], tau: float) -> tuple[list[int], float]:
    best, lead = pick(confidence, 1)
    others = {p: c for p, c in confidence.items() if p not in best}
    margins = [abs(c - tau) for c in others.values()]
    if confidence[best[0]] < tau:  # else whichever is second, and as good, is committed as well
        margins.append(lead)
    return best + [p for p, c in others.items() if c >= tau], min(margins, default=math.inf)


def factor_rule(confidence: dict[int, float], factor: float, quirk: bool) -> tuple[list[int], float]:
    order, margin = pick(confidence, len(confidence))
    top = 0
    for n, position in enumerate(order, 1):
        limit = 1 - factor / (n + 1)
        if n > 1:
            margin = min(margin, abs(confidence[position] - limit))
        if n > 1 and confidence[position] < limit:
            break
        top = n
    if quirk and top == len(order) - 1 and top > 0:
        top = len(order)
    committed, lead = pick(confidence, max(top, 1))
    return committed, min(margin, lead)


def run(
    model,
    prompt: list[int],
    new_tokens: int,
    *,
    mask: int,
    block: int,
    commit: str,
    steps: int | None = None,
    threshold: float = 0.9,
    factor: float = 1.0,
    quirk: bool = True,
    cache: str = "none",
    published_loop: bool = True,
    cfg: float = 0.0,
    eos: int | None = None,
    eot: int | None = None,
    forbid_eos: bool = False,
    eos_last: bool = False,
    confidence_dtype: torch.dtype = torch.float32,
    reference: list[int] | None = None,
    pad: list[int] | None = None,
):
    """(tokens, forwards of each block, token positions, log p of the reference, smallest margin) of one prompt."""
    pad = pad or []
    canvas = list(pad) + list(prompt) + [mask] * new_tokens
    start_of_new, length = len(pad) + len(prompt), len(pad) + len(prompt) + new_tokens
    attend = [0] * len(pad) + [1] * (length - len(pad))
    blocks, forwards, positions, log_p, margin = new_tokens // block, [], 0, 0.0, math.inf
    for index in range(blocks):
        lo = start_of_new + index * block
        hi = lo + block
        counts = schedule(block, steps // blocks) if commit == "low_confidence" else None
        done = 0
        while True:
            first = done == 0
            if first or cache == "none":
                span = range(length)
            else:
                span = range(lo, length) if cache == "prefix" else range(lo, hi)
            logits = model.logits(
                canvas, attend, span, keep=first and cache != "none", stale=cache != "none" and not first
            )
            positions += len(span)
            if cfg > 0:
                masked_prompt = [mask] * start_of_new + canvas[start_of_new:]
                unconditional = model.logits(masked_prompt, attend, range(length))
                positions += length
                logits = {p: unconditional[p] + (cfg + 1) * (logits[p] - unconditional[p]) for p in logits}
            done += 1
            confidence, chosen, lead = {}, {}, {}
            for p in range(lo, hi):
                if canvas[p] != mask:
                    continue
                row = logits[p].clone()
                if forbid_eos:
                    row[eos] = -math.inf
                allowed = row.clone()
                allowed[mask] = -math.inf
                chosen[p] = int(allowed.argmax())
                best, second = allowed.double().softmax(-1).topk(2).values.tolist()
                lead[p] = best - second
                if eos_last:
                    if eos in allowed.topk(2).indices:  # which of the two it is decides the confidence too
                        margin = min(margin, lead[p])
                    row[eos] = -math.inf
                    if eot is not None:
                        row[eot] = -math.inf
                confidence[p] = float(row.to(confidence_dtype).softmax(-1)[chosen[p]])
            if not confidence:
                now, by = [], math.inf
            elif commit == "low_confidence":
                now, by = pick(confidence, counts[done - 1] if done <= len(counts) else 0)
            elif commit == "threshold":
                now, by = threshold_rule(confidence, threshold)
            else:
                now, by = factor_rule(confidence, factor, quirk)
            margin = min(margin, by, *(lead[p] for p in now if reference is None))
            for p in now:
                if reference is not None:
                    row = logits[p].clone()
                    row[mask] = -math.inf
                    if forbid_eos:
                        row[eos] = -math.inf
                    log_p += float(row.double().log_softmax(-1)[reference[p - start_of_new]])
                    canvas[p] = reference[p - start_of_new]
                else:
                    canvas[p] = chosen[p]
            full = all(canvas[p] != mask for p in range(lo, hi))
            if counts is not None and cache == "none":
                if done == len(counts):
                    break
            elif full and done >= (2 if cache != "none" and published_loop else 1):
                break
        forwards.append(done)
    return canvas[start_of_new:], forwards, positions, log_p, margin


class PlainModel:
    """A two-layer bidirectional transformer in plain arithmetic that can keep stale keys and values.

    `weights` are those of a checkpoint under LLaMA's names; float32 like the engines under test.
    """

    def __init__(self, weights: dict[str, torch.Tensor], heads: int, kv_heads: int, layers: int, theta: float) -> None:
        self.w, self.heads, self.kv_heads, self.layers, self.theta = weights, heads, kv_heads, layers, theta
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def logits(self, canvas, attend, span, keep: bool = False, stale: bool = False) -> dict[int, torch.Tensor]:
        """Logits of the positions in `span`; with `stale` the other positions' keys and values are the kept ones."""
        where = torch.tensor(list(span))
        hidden = self.w["model.embed_tokens.weight"][torch.tensor(canvas)[where]]
        d = hidden.shape[-1] // self.heads
        angles = where.float()[:, None] * self.theta ** (-torch.arange(0, d, 2).float() / d)
        cos, sin = angles.cos().repeat(1, 2)[:, None], angles.sin().repeat(1, 2)[:, None]

        def norm(h, name):
            return h / (h.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * self.w[name]

        def rotate(h):
            return h * cos + torch.cat([-h[..., d // 2 :], h[..., : d // 2]], -1) * sin

        blocked = torch.tensor(attend) == 0
        fresh = []
        for i in range(self.layers):
            layer = f"model.layers.{i}."
            h = norm(hidden, layer + "input_layernorm.weight")
            q = rotate((h @ self.w[layer + "self_attn.q_proj.weight"].T).view(-1, self.heads, d))
            k = rotate((h @ self.w[layer + "self_attn.k_proj.weight"].T).view(-1, self.kv_heads, d))
            v = (h @ self.w[layer + "self_attn.v_proj.weight"].T).view(-1, self.kv_heads, d)
            if stale:
                keys, values = self.kept[i][0].clone(), self.kept[i][1].clone()
                keys[where], values[where] = k, v
                k, v = keys, values
            fresh.append((k, v))
            group = self.heads // self.kv_heads
            scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(group, 1)) / d**0.5
            scores = scores.masked_fill(blocked[None, None], -torch.inf).softmax(-1)
            mixed = torch.einsum("hqk,khd->qhd", scores, v.repeat_interleave(group, 1)).reshape(len(where), -1)
            hidden = hidden + mixed @ self.w[layer + "self_attn.o_proj.weight"].T
            h = norm(hidden, layer + "post_attention_layernorm.weight")
            gate = torch.nn.functional.silu(h @ self.w[layer + "mlp.gate_proj.weight"].T)
            hidden = (
                hidden
                + (gate * (h @ self.w[layer + "mlp.up_proj.weight"].T)) @ self.w[layer + "mlp.down_proj.weight"].T
            )
        if keep or stale:
            self.kept = fresh
        out = norm(hidden, "model.norm.weight") @ self.w["lm_head.weight"].T
        return {int(p): out[i] for i, p in enumerate(where)}
