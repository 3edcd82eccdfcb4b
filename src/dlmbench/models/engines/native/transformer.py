"""One compact transformer for both paradigms: fused kernels, CUDA graphs, the head only where a commit can happen.

Plain transformers at batch 1 measures how fast Python launches kernels. Here the same code runs LLaMA (causal, with a
KV cache) and LLaDA (bidirectional, with or without a cache over the canvas), so that what differs is the architecture.
Q, K and V are one matrix product, gate and up another. Three compiled functions, shared by all layers, run between
torch's own attention and matrix products (`triton_kernels` replaces these where there are few rows or queries). Whole
steps are captured as CUDA graphs (`cuda_graphs`). The head runs over the requested positions in chunks, so that the
logits of a whole canvas are never materialised.

From top to bottom: weights, the functions between the products, the model (`run_blocks` is its blocks), decoding.
Shapes: B rows, P prompt, G new tokens, Q positions of a forward, T = B Q, N canvas, D hidden size, H heads, K key-value
heads, d = D / H, h = d / 2, F = 2 x intermediate size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbench.errors import InvalidLogitsError
from dlmbench.models import checkpoint
from dlmbench.models.attention import enforced
from dlmbench.models.engines.native.cuda_graphs import CudaGraphRunners
from dlmbench.types import Architecture, EagerRunner, GraphRunner, ModelSpec, OnStep

if TYPE_CHECKING:
    import torch

    LayerAttention = Callable[[int, torch.Tensor], torch.Tensor]  # (layer, qkv) -> attention output
    DecodeAttention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # (q, k, v) -> output
    FlashDecode = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # with last_key

LOGITS_BYTES = 2**28  # of one chunk of the head's output
COMPILED_WIDTH = 1024  # hidden size from which compiling, up to a minute before the first token, can pay
MLP_ROWS = 16384  # positions per pass of the feed-forward, whose activations are seven times as wide as a position
MAX_QUERIES = 64  # of a row and key head, against a cache: with more, torch's attention is faster than ours
CONTEXT_BUCKET = 256  # with a mask, decode steps whose context rounds up to the same multiple share a graph


def load(
    spec: ModelSpec,
    folder: Path | None,
    *,
    precision: str,
    attention: str,
    device: str,
    seed: int = 0,
    compile: bool | None = None,
    cuda_graphs: bool = True,
) -> Transformer:
    """Load a checkpoint folder, or random weights of a folder's or a known architecture; see `models.engines`.

    Weights are copied one by one into place on the device: the peak is the model and its largest tensor.

    Args:
        compile: fuse small kernels with torch.compile (CUDA only); None for models that are large enough to gain by it.
        cuda_graphs: capture and replay steps (CUDA only).
    """
    import torch

    where, dtype = torch.device(device), getattr(torch, precision)
    architecture, weights = checkpoint.load_weights(spec, folder, where, dtype, seed)
    on_gpu = where.type == "cuda"
    if compile is None:
        compile = architecture.hidden_size >= COMPILED_WIDTH
    return Transformer(architecture, weights, attention, dtype, where, compile and on_gpu, cuda_graphs and on_gpu)


# ---------------------------------------------------------------- weights


@dataclass
class TransformerBlock:
    """One block's weights; qkv_proj and gate_up_proj stack the checkpoint's by rows."""

    input_layernorm_D: torch.Tensor
    qkv_proj: torch.Tensor
    o_proj: torch.Tensor
    post_attention_layernorm_D: torch.Tensor
    gate_up_proj: torch.Tensor
    down_proj: torch.Tensor


class TransformerWeights:
    """All weights, each copied into place as it arrives under LLaMA's name."""

    def __init__(
        self, arch: Architecture, weights: Iterable[tuple[str, torch.Tensor]], dtype: Any, device: Any
    ) -> None:
        import torch

        dim, intermediate_size, kv_dim = arch.hidden_size, arch.intermediate_size, arch.kv_heads * arch.head_size
        empty = partial(torch.empty, dtype=dtype, device=device)
        self.layers = [
            TransformerBlock(
                input_layernorm_D=empty(dim),
                qkv_proj=empty(dim + 2 * kv_dim, dim),
                o_proj=empty(dim, dim),
                post_attention_layernorm_D=empty(dim),
                gate_up_proj=empty(2 * intermediate_size, dim),
                down_proj=empty(dim, intermediate_size),
            )
            for _ in range(arch.layers)
        ]
        # The checkpoint's name of a layer's tensor: our tensor, and the first row that it fills there.
        targets = {
            "input_layernorm": ("input_layernorm_D", 0),
            "self_attn.q_proj": ("qkv_proj", 0),
            "self_attn.k_proj": ("qkv_proj", dim),
            "self_attn.v_proj": ("qkv_proj", dim + kv_dim),
            "self_attn.o_proj": ("o_proj", 0),
            "post_attention_layernorm": ("post_attention_layernorm_D", 0),
            "mlp.gate_proj": ("gate_up_proj", 0),
            "mlp.up_proj": ("gate_up_proj", intermediate_size),
            "mlp.down_proj": ("down_proj", 0),
        }
        others: dict[str, torch.Tensor] = {}
        for name, tensor in weights:
            path = name.removesuffix(".weight").split(".", 3)  # model.layers.7.mlp.up_proj, or lm_head
            if len(path) == 4:
                target, first = targets[path[3]]
                getattr(self.layers[int(path[2])], target)[first : first + len(tensor)] = tensor
            else:
                others[name] = tensor
        self.embed_tokens_VD, self.norm_D = others["model.embed_tokens.weight"], others["model.norm.weight"]
        self.lm_head_VD = self.embed_tokens_VD if arch.tied_head else others["lm_head.weight"]


# ---------------------------------------------------------------- matrix products, and three functions to compile


def mark_dynamic(tensor: torch.Tensor, *dims: int) -> torch.Tensor:
    """`tensor`, with its sizes in `dims` left open in compiled functions, so that one compilation serves all shapes."""
    import torch

    for dim in dims:
        torch._dynamo.maybe_mark_dynamic(tensor, dim)
    return tensor


def linear(x_TK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
    """x W^T."""
    return x_TK @ weight_NK.T


def linear_add_(out_TN: torch.Tensor, x_TK: torch.Tensor, weight_NK: torch.Tensor) -> None:
    """Add x W^T to `out_TN` in place."""
    out_TN.addmm_(x_TK, weight_NK.T)


def rms_norm(x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm in float32 (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    x_float_TD = x_TD.float()
    return weight_D * (x_float_TD * (x_float_TD.pow(2).mean(-1, keepdim=True) + eps).rsqrt()).to(x_TD.dtype)


def silu_and_mul(gate_up_TF: torch.Tensor) -> torch.Tensor:
    """SiLU of the gate half times the up half (SwiGLU, Shazeer 2020, arXiv 2002.05202)."""
    import torch

    gate, up = gate_up_TF.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def split_and_rotate(
    qkv_BQ: torch.Tensor,
    freqs_cis_Q2h: torch.Tensor,
    heads: tuple[int, int],
    k_cache_BNKd: torch.Tensor | None = None,
    v_cache_BNKd: torch.Tensor | None = None,
    input_pos_Q: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(q_BQHd, k_BQKd, v_BQKd) with rotary positions (Su et al. 2021, arXiv 2104.09864), in float32.

    Halves are paired as in LLaMA's checkpoints. With a cache, k and v are written there at `input_pos_Q`, and the
    whole cache is returned in their place.
    """
    import torch

    n_heads, n_kv_heads = heads
    q, k, v = qkv_BQ.unflatten(-1, (n_heads + 2 * n_kv_heads, -1)).split([n_heads, n_kv_heads, n_kv_heads], 2)
    cos, sin = (t[:, None] for t in freqs_cis_Q2h.unbind(1))

    def apply_rotary_emb(x_BQHd: torch.Tensor) -> torch.Tensor:
        left, right = x_BQHd.float().chunk(2, -1)
        return torch.cat([left * cos - right * sin, right * cos + left * sin], -1).to(x_BQHd.dtype)

    q, k = apply_rotary_emb(q), apply_rotary_emb(k)
    if k_cache_BNKd is not None and v_cache_BNKd is not None and input_pos_Q is not None:
        k_cache_BNKd.index_copy_(1, input_pos_Q, k)
        v_cache_BNKd.index_copy_(1, input_pos_Q, v)
        k, v = k_cache_BNKd, v_cache_BNKd
    return q, k, v


# ---------------------------------------------------------------- the model


class Transformer:
    """A `LanguageModel` over plain tensors."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Iterable[tuple[str, torch.Tensor]],
        attention: str,
        dtype: torch.dtype,
        device: torch.device,
        compile: bool,
        cuda_graphs: bool,
    ) -> None:
        import torch

        self.architecture, self.dtype, self.device = architecture, dtype, device
        self.attention, self._compile, self._cuda_graphs = attention, compile, cuda_graphs
        self.heads = (architecture.heads, architecture.kv_heads)
        self._weights = TransformerWeights(architecture, weights, dtype, device)
        self._runners = CudaGraphRunners()
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}
        self._mark_dynamic = mark_dynamic if compile else lambda tensor, *_: tensor  # dynamo takes seconds to import
        self._rms_norm, self._silu_and_mul, self.split_and_rotate = (
            self.maybe_compile(f) for f in (rms_norm, silu_and_mul, split_and_rotate)
        )
        self._linear, self._linear_add_ = linear, linear_add_
        if compile and dtype.itemsize == 2:
            from dlmbench.models.engines.native.triton_kernels import SkinnyGemm

            skinny_gemm = SkinnyGemm(architecture.hidden_size, device)
            self._linear, self._linear_add_ = skinny_gemm.linear, skinny_gemm.linear_add_
        self._freqs_cis_N2h = torch.empty(0)
        # Half precision on a GPU, unless another kernel is enforced; its head sizes are powers of two.
        supported = device.type == "cuda" and dtype.itemsize == 2 and architecture.head_size in (16, 32, 64, 128, 256)
        self._has_flash_decoding = supported and attention in ("auto", "flash")
        if compile:
            # Functions of static shape are compiled once per shape: never fall back to eager after too many of them.
            torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 4096
            torch._dynamo.config.automatic_dynamic_shapes = False

    def maybe_compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, compiled; unchanged where this engine does not compile."""
        import torch

        if not self._compile:
            return function
        if function not in self._compiled:
            self._compiled[function] = torch.compile(function)
        return self._compiled[function]

    def graph_runner(self, key: Hashable, make: Callable[[], Any]) -> GraphRunner:
        """Kept, with captured graphs, on a GPU; a new eager one where nothing is captured."""
        return self._runners.get(key, make) if self._cuda_graphs else EagerRunner(make())

    def reset_graphs(self) -> None:
        """Drop all runners and their graphs."""
        self._runners.reset_graphs()

    def new_cache(self, rows: int, length: int) -> torch.Tensor:
        """Keys and values_BNKd of every layer over a canvas of fixed length, replaced in place by later forwards."""
        import torch

        arch = self.architecture
        shape = (arch.layers, 2, rows, length, arch.kv_heads, arch.head_size)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def forward(
        self,
        tokens_BQ: torch.Tensor,
        attention_mask_BN: torch.Tensor | None = None,
        cache: torch.Tensor | None = None,
        start: int = 0,
    ) -> torch.Tensor:
        """Hidden states_BQD after the final norm; see `LanguageModel.forward`."""
        import torch

        stop, causal = start + tokens_BQ.shape[1], self.architecture.is_causal
        mask_B1QN = None if attention_mask_BN is None else _sdpa_mask(attention_mask_BN, start, stop, causal)
        freqs_cis_Q2h = self._mark_dynamic(self.freqs_cis(stop)[start:stop], 0)
        input_pos_Q = self._mark_dynamic(torch.arange(start, stop, device=self.device), 0)
        few_queries = (stop - start) * self.heads[0] // self.heads[1] <= MAX_QUERIES
        attend: DecodeAttention | None = None
        if cache is not None and few_queries and not causal and mask_B1QN is None and self.flash_decode is not None:
            attend = partial(self.flash_decode, torch.full((1,), cache.shape[3] - 1, device=self.device))

        def attention(layer: int, qkv_BQ: torch.Tensor) -> torch.Tensor:
            k_cache, v_cache = (None, None) if cache is None else (self._mark_dynamic(t, 0, 1) for t in cache[layer])
            q, k, v = self.split_and_rotate(qkv_BQ, freqs_cis_Q2h, self.heads, k_cache, v_cache, input_pos_Q)
            if attend is not None:
                return attend(q, k, v)
            if causal:
                k, v = k[:, :stop], v[:, :stop]
            return self.sdpa(q, k, v, mask_B1QN, is_causal=causal and mask_B1QN is None)

        with torch.inference_mode(), enforced(self.attention):
            return self.run_blocks(tokens_BQ, attention)

    def logits(self, hidden_BQD: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Logits of positions first..last; the head runs over these alone."""
        import torch

        with torch.inference_mode():
            span_BQD = hidden_BQD[:, first:last]
            logits_TV = self._linear(span_BQD.flatten(0, 1), self._weights.lm_head_VD)
            return logits_TV.view(*span_BQD.shape[:2], -1)

    def logits_chunks(self, hidden_BQD: torch.Tensor, first: int, last: int) -> Iterator[torch.Tensor]:
        """Equal chunks of at most LOGITS_BYTES, so that one compiled function serves them all."""
        positions = last - first
        bytes_each = hidden_BQD.shape[0] * self.architecture.vocab_size * hidden_BQD.element_size()
        chunks = min(positions, -(-positions * bytes_each // LOGITS_BYTES))
        while positions % chunks:
            chunks += 1
        for start in range(first, last, positions // chunks):
            yield self.logits(hidden_BQD, start, start + positions // chunks)

    def decode(
        self,
        tokens_BP: torch.Tensor,
        attention_mask_BP: torch.Tensor | None,
        new_tokens: int,
        choose: Callable[[torch.Tensor, int], torch.Tensor] | None,
        on_step: OnStep | None = None,
    ) -> torch.Tensor:
        """tokens_BG: prefill, then one token at a time against the cache; greedy, or chosen by `choose`."""
        import torch

        with torch.inference_mode():
            self.freqs_cis(tokens_BP.shape[1] + new_tokens)
            shape, padding, greedy = (*tokens_BP.shape, new_tokens), attention_mask_BP is not None, choose is None
            key = ("decode", shape, not padding, greedy)
            runner = self.graph_runner(key, lambda: DecodeState(self, shape, padding, greedy))
            state: DecodeState = runner.state
            state.reset(tokens_BP, attention_mask_BP)
            for step in range(new_tokens):
                if step == 0:
                    runner.run("prefill", state.prefill)
                else:
                    context = state.context_bucket(tokens_BP.shape[1] + step)
                    runner.run(context, partial(state.decode_one_token, context))
                if choose is not None:
                    state.append(choose(state.logits_BV, step))
                if on_step is not None:
                    on_step(step + 1)
            if not bool(state.all_finite):
                raise InvalidLogitsError("the model returned NaN or infinite logits")
            return state.tokens_BN[:, tokens_BP.shape[1] :].clone()

    def run_blocks(self, tokens_BQ: torch.Tensor, attention: LayerAttention) -> torch.Tensor:
        """Embedding, all blocks with `attention`, final norm: hidden_BQD.

        The residual stream is updated in place: a product that accumulates into it saves a pass over memory.
        """
        import torch

        weights, eps, mark = self._weights, self.architecture.norm_eps, self._mark_dynamic
        rows, positions = tokens_BQ.shape
        x_TD = torch.nn.functional.embedding(tokens_BQ, weights.embed_tokens_VD).flatten(0, 1)
        for i, layer in enumerate(weights.layers):
            # `out` is qkv, then gate and up: under one name, so that the former is freed before the latter is used.
            out = self._linear(self._rms_norm(mark(x_TD, 0), layer.input_layernorm_D, eps), layer.qkv_proj)
            y_BQHd = attention(i, mark(out.view(rows, positions, -1), 0, 1))
            self._linear_add_(x_TD, y_BQHd.reshape(x_TD.shape), layer.o_proj)
            for chunk in x_TD.split(MLP_ROWS):
                norm_D = layer.post_attention_layernorm_D
                out = self._linear(self._rms_norm(mark(chunk, 0), norm_D, eps), layer.gate_up_proj)
                self._linear_add_(chunk, self._silu_and_mul(mark(out, 0)), layer.down_proj)
        hidden_TD: torch.Tensor = self._rms_norm(x_TD, weights.norm_D, eps)
        return hidden_TD.view(rows, positions, -1)

    def sdpa(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, is_causal: bool = False
    ) -> torch.Tensor:
        """Output_BQHd of torch's scaled dot product attention, under the kernel enforced by the caller."""
        import torch

        group = q.shape[2] // k.shape[2]
        if group > 1 and self.attention == "efficient":  # this kernel needs as many key heads as query heads
            k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        y_BHQd = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1]
        )
        return y_BHQd.transpose(1, 2)

    @cached_property
    def flash_decode(self) -> FlashDecode | None:
        """Attention of few queries against a cache; imports triton."""
        if not self._has_flash_decoding:
            return None
        from dlmbench.models.engines.native.triton_kernels import flash_decode

        return flash_decode

    def freqs_cis(self, positions: int) -> torch.Tensor:
        """Cosine and sine_N2h of at least `positions` positions, float32; the table grows on demand."""
        import torch

        if positions > self._freqs_cis_N2h.shape[0]:
            self.reset_graphs()  # graphs hold the old table's address
            length, half = max(2 * positions, self.architecture.max_positions), self.architecture.head_size // 2
            exponents_h = torch.arange(half, dtype=torch.float32, device=self.device) / half
            angles_Nh = torch.arange(length, device=self.device)[:, None] / self.architecture.rope_theta**exponents_h
            self._freqs_cis_N2h = torch.stack([angles_Nh.cos(), angles_Nh.sin()], 1)
        return self._freqs_cis_N2h


def _sdpa_mask(attention_mask_BN: torch.Tensor, start: int, stop: int, causal: bool) -> torch.Tensor:
    """mask_B1QN, True where a query may attend: real positions, and in a causal model none to its right.

    A padded query of a causal model attends to itself, because the softmax of a row without any key is undefined.
    """
    import torch

    real_B11N = attention_mask_BN.bool()[:, None, None]
    if not causal:
        return real_B11N
    positions_N = torch.arange(attention_mask_BN.shape[1], device=attention_mask_BN.device)[:stop]
    causal_QN = positions_N <= positions_N[start:stop, None]
    return real_B11N[..., :stop] & causal_QN | (positions_N == positions_N[start:stop, None])


# ---------------------------------------------------------------- autoregressive decoding


class DecodeState:
    """One autoregressive generation: its tokens, its cache and its position, all on the device."""

    def __init__(self, model: Transformer, shape: tuple[int, int, int], padding: bool, greedy: bool) -> None:
        import torch

        rows, self.prompt_tokens, new_tokens = shape
        self.model, self.greedy, self.length = model, greedy, self.prompt_tokens + new_tokens
        self.flash_decode = None if padding else model.flash_decode
        self.cache = model.new_cache(rows, self.length)
        zeros = partial(torch.zeros, device=model.device)
        self.tokens_BN = zeros((rows, self.length), dtype=torch.int64)
        self.attention_mask_BN = zeros((rows, self.length), dtype=torch.int64) if padding else None
        self.logits_BV = zeros((rows, model.architecture.vocab_size), dtype=model.dtype)
        self.last_token_B1 = zeros((rows, 1), dtype=torch.int64)
        self.input_pos_1 = zeros(1, dtype=torch.int64)
        self.all_finite = zeros((), dtype=torch.bool)

    def reset(self, tokens_BP: torch.Tensor, attention_mask_BP: torch.Tensor | None) -> None:
        """Start again with these prompts."""
        self.tokens_BN[:, : self.prompt_tokens] = tokens_BP
        if self.attention_mask_BN is not None and attention_mask_BP is not None:
            self.attention_mask_BN.fill_(1)
            self.attention_mask_BN[:, : self.prompt_tokens] = attention_mask_BP
        self.input_pos_1.fill_(self.prompt_tokens - 1)
        self.all_finite.fill_(True)

    def prefill(self) -> None:
        """All prompt tokens in one forward, and the first new token."""
        mask = self.attention_mask_BN
        attention_mask_BP = None if mask is None else mask[:, : self.prompt_tokens]
        hidden_BPD = self.model.forward(self.tokens_BN[:, : self.prompt_tokens], attention_mask_BP, self.cache)
        self._finish(hidden_BPD[:, -1:])

    def context_bucket(self, filled: int) -> int:
        """Positions of the cache that a step may read when `filled` are in use: one graph serves the whole bucket."""
        if self.flash_decode is not None:
            return self.length
        return min(-(-filled // CONTEXT_BUCKET) * CONTEXT_BUCKET, self.length)

    def decode_one_token(self, context: int) -> None:
        """Forward of the last token at `input_pos_1`, against at most `context` positions of the cache."""
        model = self.model
        freqs_cis = model.freqs_cis(self.length).index_select(0, self.input_pos_1)
        if self.flash_decode is None:
            attend = self._masked_attention(context)
        else:  # reads on the device how far the cache is filled
            attend = partial(self.flash_decode, self.input_pos_1)

        def attention(layer: int, qkv_B1: torch.Tensor) -> torch.Tensor:
            k_cache, v_cache = self.cache[layer]
            return attend(*model.split_and_rotate(qkv_B1, freqs_cis, model.heads, k_cache, v_cache, self.input_pos_1))

        with enforced(model.attention):
            self._finish(model.run_blocks(self.last_token_B1, attention))

    def _masked_attention(self, context: int) -> DecodeAttention:
        """Any kernel that takes a mask, over the first `context` positions."""
        import torch

        mask_B11N = (torch.arange(context, device=self.model.device) <= self.input_pos_1)[None, None, None]
        if self.attention_mask_BN is not None:
            mask_B11N = mask_B11N & self.attention_mask_BN.bool()[:, None, None, :context]
        return lambda q, k, v: self.model.sdpa(q, k[:, :context], v[:, :context], mask_B11N)

    def _finish(self, hidden_B1D: torch.Tensor) -> None:
        """Logits of the last position; when greedy also the token."""
        self.logits_BV.copy_(self.model.logits(hidden_B1D, 0, 1)[:, 0])
        self.all_finite &= self.logits_BV.isfinite().all()
        self.input_pos_1 += 1
        if self.greedy:
            self.append(self.logits_BV.argmax(-1))

    def append(self, tokens_B: torch.Tensor) -> None:
        """Write the next token of each row."""
        self.last_token_B1.copy_(tokens_B[:, None])
        self.tokens_BN.index_copy_(1, self.input_pos_1, self.last_token_B1)
