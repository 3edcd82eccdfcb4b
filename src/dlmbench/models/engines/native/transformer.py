"""One compact transformer for both paradigms: fused kernels, recorded steps, the head only where a commit can happen.

Plain transformers at batch 1 measures how fast Python launches kernels. Here the same lines run LLaMA (causal, with a
key-value cache) and LLaDA (bidirectional, with or without a canvas cache), so that what differs is the architecture:
Q, K and V in one product, gate and up in one, three compiled functions shared by all layers around torch's own
attention and products (`_few_rows` has ours where rows are few), whole steps recorded as CUDA graphs (`_workspace`),
and the head over the chosen positions in pieces, so that the logits of a whole canvas are never held.

Read it from top to bottom: weights, what lies between the products, the model (`_body` is its blocks), decoding.
Shapes: B rows, Q positions of a forward, N canvas, D width, H heads, K key-value heads, d = D / H, h = d / 2,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbench.errors import InvalidLogitsError
from dlmbench.models import checkpoint
from dlmbench.models.attention import enforced
from dlmbench.models.engines.native.cuda_graphs import PlainWorkspace, Workspaces
from dlmbench.types import Architecture, ModelSpec, StepObserver, Workspace

if TYPE_CHECKING:
    import torch

    Mix = Callable[[int, torch.Tensor], torch.Tensor]  # of a layer: Q, K and V side by side to what attention mixes
    Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

LOGITS_BYTES = 2**28  # of one piece of the head's output
MLP_ROWS = 16384  # positions that the feed-forward takes at once: its activations are seven times as wide as a position
CONTEXT_STEP = 256  # under a mask, decode steps whose context ends in the same multiple of it share a record


def load(
    spec: ModelSpec,
    folder: Path | None,
    *,
    precision: str,
    attention: str,
    device: str,
    seed: int = 0,
    compile: bool = True,
    record: bool = True,
) -> NativeModel:
    """Load a checkpoint folder, or random weights of a folder's or a known architecture; see `engines.hf.load`.

    Weights go one by one into their places on the device: the peak is the model and its largest tensor.

    Args:
        compile: fuse small kernels with torch.compile (CUDA only).
        record: play steps back as CUDA graphs (CUDA only).

    Raises:
        BenchError: see `_checkpoint`.
    """
    import torch

    where, dtype = torch.device(device), getattr(torch, precision)
    found = None if folder is None else checkpoint.inspect(folder, spec.family)
    arch = checkpoint.named_architecture(spec.family, spec.source) if found is None else found.architecture
    if found is None or spec.weights == "random":
        weights = checkpoint.random_tensors(arch, where, dtype, seed)
    else:
        weights = checkpoint.tensors(found, where, dtype)
    on_gpu = where.type == "cuda"
    return NativeModel(arch, weights, attention, dtype, where, compile and on_gpu, record and on_gpu)


# ---------------------------------------------------------------- weights


@dataclass
class _Layer:
    """One block's weights; qkv and gate_up are several of the checkpoint's, stacked by rows."""

    norm_D: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    mlp_norm_D: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class _Weights:
    """All weights, each put into its place as it arrives under LLaMA's name."""

    def __init__(
        self, arch: Architecture, weights: Iterable[tuple[str, torch.Tensor]], dtype: Any, device: Any
    ) -> None:
        import torch

        wide, inner, narrow = arch.hidden_size, arch.intermediate_size, arch.kv_heads * arch.head_size
        room = partial(torch.empty, dtype=dtype, device=device)
        self.layers = [
            _Layer(
                norm_D=room(wide),
                qkv=room(wide + 2 * narrow, wide),
                out=room(wide, wide),
                mlp_norm_D=room(wide),
                gate_up=room(2 * inner, wide),
                down=room(wide, inner),
            )
            for _ in range(arch.layers)
        ]
        # Where each of a layer's tensors goes: into which of ours, and from which row on.
        places = {
            "input_layernorm": ("norm_D", 0),
            "self_attn.q_proj": ("qkv", 0),
            "self_attn.k_proj": ("qkv", wide),
            "self_attn.v_proj": ("qkv", wide + narrow),
            "self_attn.o_proj": ("out", 0),
            "post_attention_layernorm": ("mlp_norm_D", 0),
            "mlp.gate_proj": ("gate_up", 0),
            "mlp.up_proj": ("gate_up", inner),
            "mlp.down_proj": ("down", 0),
        }
        alone: dict[str, torch.Tensor] = {}
        for name, tensor in weights:
            path = name.removesuffix(".weight").split(".", 3)  # model.layers.7.mlp.up_proj, or lm_head
            if len(path) == 4:
                whole, first = places[path[3]]
                getattr(self.layers[int(path[2])], whole)[first : first + len(tensor)] = tensor
            else:
                alone[name] = tensor
        self.embedding_VD, self.norm_D = alone["model.embed_tokens.weight"], alone["model.norm.weight"]
        self.head_VD = self.embedding_VD if arch.tied_head else alone["lm_head.weight"]


# ---------------------------------------------------------------- products, and between them three functions to fuse


def _flexible(tensor: torch.Tensor, *dims: int) -> torch.Tensor:
    """`tensor`, whose sizes in `dims` are left open when a function is compiled, so that it serves every shape."""
    import torch

    for dim in dims:
        torch._dynamo.maybe_mark_dynamic(tensor, dim)
    return tensor


def _product(x_TK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
    """x W^T."""
    return x_TK @ weight_NK.T


def _add_product(sum_TN: torch.Tensor, x_TK: torch.Tensor, weight_NK: torch.Tensor) -> None:
    """Add x W^T to `sum_TN` in place."""
    sum_TN.addmm_(x_TK, weight_NK.T)


def _norm(x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm in float32 (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    wide = x_TD.float()
    return weight_D * (wide * (wide.pow(2).mean(-1, keepdim=True) + eps).rsqrt()).to(x_TD.dtype)


def _gated(joint_TF: torch.Tensor) -> torch.Tensor:
    """SiLU of the gate half times the other half (SwiGLU, Shazeer 2020, arXiv 2002.05202)."""
    import torch

    gate, up = joint_TF.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def _rotated(
    joint_BQ: torch.Tensor,
    rotation_Q2h: torch.Tensor,
    heads: tuple[int, int],
    keys: torch.Tensor | None = None,
    values: torch.Tensor | None = None,
    places_Q: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(q_BQHd, k_BQKd, v_BQKd) with rotary positions (Su et al. 2021, arXiv 2104.09864), in float32.

    Halves are paired as in LLaMA's checkpoints. With keys and values_BNKd the new ones are written there, at
    `places_Q`.
    """
    import torch

    many, few = heads
    q, k, v = joint_BQ.unflatten(-1, (many + 2 * few, -1)).split([many, few, few], 2)
    cos, sin = (t[:, None] for t in rotation_Q2h.unbind(1))

    def turned(x_BQHd: torch.Tensor) -> torch.Tensor:
        left, right = x_BQHd.float().chunk(2, -1)
        return torch.cat([left * cos - right * sin, right * cos + left * sin], -1).to(x_BQHd.dtype)

    q, k = turned(q), turned(k)
    if keys is not None and values is not None and places_Q is not None:
        keys.index_copy_(1, places_Q, k)
        values.index_copy_(1, places_Q, v)
        k, v = keys, values
    return q, k, v


# ---------------------------------------------------------------- the model


class CanvasCache:
    """Keys and values_BNKd of every layer over a canvas of fixed length, replaced in place."""

    def __init__(self, model: NativeModel, rows: int, length: int) -> None:
        import torch

        arch = model.architecture
        shape = (arch.layers, 2, rows, length, arch.kv_heads, arch.head_size)
        self.layers = torch.zeros(shape, dtype=model.dtype, device=model.device)


class NativeModel:
    """A `LanguageModel` over plain tensors."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Iterable[tuple[str, torch.Tensor]],
        attention: str,
        dtype: torch.dtype,
        device: torch.device,
        compile: bool,
        record: bool,
    ) -> None:
        import torch

        self.architecture, self.dtype, self._device = architecture, dtype, device
        self._attention, self._compiles, self._records = attention, compile, record
        self._weights = _Weights(architecture, weights, dtype, device)
        self._workspaces = Workspaces()
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}
        self._norm, self._gated, self._rotated = (self.fused(f) for f in (_norm, _gated, _rotated))
        self._product, self._add_product = _product, _add_product
        if compile and dtype.itemsize == 2:
            from dlmbench.models.engines.native.triton_kernels import Products

            ours = Products(architecture.hidden_size, device)
            self._product, self._add_product = ours.product, ours.add_product
        self._heads = (architecture.heads, architecture.kv_heads)
        self._rotation_N2h = torch.empty(0)
        # Half precision on a GPU, where flash attention runs: one token at a time needs a kernel that knows its place.
        fits = device.type == "cuda" and dtype.itemsize == 2 and architecture.head_size in (16, 32, 64, 128, 256)
        self.decodes_by_place = fits and attention in ("auto", "flash")
        if compile:
            # What is compiled for one shape only is compiled for each, and none is given up for having seen too many.
            torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 4096
            torch._dynamo.config.automatic_dynamic_shapes = False

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._device

    def fused(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, compiled; as it is where this engine does not compile."""
        import torch

        if not self._compiles:
            return function
        if function not in self._compiled:
            self._compiled[function] = torch.compile(function)
        return self._compiled[function]

    def workspace(self, key: Hashable, make: Callable[[], Any]) -> Workspace:
        """Kept and recorded on a GPU; made anew where nothing is recorded."""
        return self._workspaces.get(key, make) if self._records else PlainWorkspace(make())

    def forget(self) -> None:
        """Drop every workspace and its records."""
        self._workspaces.clear()

    def new_cache(self, rows: int, length: int) -> CanvasCache:
        """Keys and values of a whole canvas, replaced in place by later forwards."""
        return CanvasCache(self, rows, length)

    def forward(
        self,
        tokens_BQ: torch.Tensor,
        attend_BN: torch.Tensor | None = None,
        cache: CanvasCache | None = None,
        start: int = 0,
    ) -> torch.Tensor:
        """Hidden states_BQD after the final norm; see `LanguageModel.forward`."""
        import torch

        stop, causal = start + tokens_BQ.shape[1], self.architecture.is_causal
        mask_B1QN = None if attend_BN is None else _mask(attend_BN, start, stop, causal)
        rotation = _flexible(self._rotation(stop)[start:stop], 0)
        places_Q = _flexible(torch.arange(start, stop, device=self._device), 0)

        def mix(layer: int, joint_BQ: torch.Tensor) -> torch.Tensor:
            keys, values = (None, None) if cache is None else (_flexible(t, 0, 1) for t in cache.layers[layer])
            q, k, v = self._rotated(joint_BQ, rotation, self._heads, keys, values, places_Q)
            if causal:
                k, v = k[:, :stop], v[:, :stop]
            return self._attend(q, k, v, mask_B1QN, is_causal=causal and mask_B1QN is None)

        with torch.inference_mode(), enforced(self._attention):
            return self._body(tokens_BQ, mix)

    def logits(self, hidden_BQD: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Logits of positions first..last, computed at these alone."""
        import torch

        with torch.inference_mode():
            chosen_BpD = hidden_BQD[:, first:last]
            logits_TV = self._product(chosen_BpD.flatten(0, 1), self._weights.head_VD)
            return logits_TV.view(*chosen_BpD.shape[:2], -1)

    def logits_in_pieces(self, hidden_BQD: torch.Tensor, first: int, last: int) -> Iterator[torch.Tensor]:
        """Equal pieces of at most LOGITS_BYTES, so that one compiled function reads them all."""
        positions = last - first
        bytes_each = hidden_BQD.shape[0] * self.architecture.vocab_size * hidden_BQD.element_size()
        pieces = min(positions, -(-positions * bytes_each // LOGITS_BYTES))
        while positions % pieces:
            pieces += 1
        for start in range(first, last, positions // pieces):
            yield self.logits(hidden_BQD, start, start + positions // pieces)

    def decode(
        self,
        tokens_BP: torch.Tensor,
        attend_BP: torch.Tensor | None,
        new_tokens: int,
        choose: Callable[[torch.Tensor, int], torch.Tensor] | None,
        on_step: StepObserver | None = None,
    ) -> torch.Tensor:
        """tokens_BG: prefill, then one token at a time against the cache; greedy, or as `choose` says."""
        import torch

        with torch.inference_mode():
            self._rotation(tokens_BP.shape[1] + new_tokens)
            shape = (*tokens_BP.shape, new_tokens)
            key = ("decode", shape, attend_BP is None, choose is None)
            workspace = self.workspace(key, lambda: _Decoding(self, shape, attend_BP is not None, choose is None))
            state: _Decoding = workspace.state
            state.lay(tokens_BP, attend_BP)
            for step in range(new_tokens):
                if step == 0:
                    workspace.run("prompt", state.prefill)
                else:
                    context = state.context(tokens_BP.shape[1] + step)
                    workspace.run(context, partial(state.step, context))
                if choose is not None:
                    state.take(choose(state.logits_BV, step))
                if on_step is not None:
                    on_step(step + 1)
            if not bool(state.healthy):
                raise InvalidLogitsError("the model gave NaN or infinite logits")
            return state.tokens_BN[:, tokens_BP.shape[1] :].clone()

    def _body(self, tokens_BQ: torch.Tensor, mix: Mix) -> torch.Tensor:
        """Embedding, all blocks with `mix` as their attention, final norm: hidden_BQD.

        The residual stream is changed in place: a product that adds to what is there needs no further pass over it.
        """
        import torch

        weights, eps, (rows, positions) = self._weights, self.architecture.norm_eps, tokens_BQ.shape
        x_TD = torch.nn.functional.embedding(tokens_BQ, weights.embedding_VD).flatten(0, 1)
        for i, layer in enumerate(weights.layers):
            joint = self._product(self._norm(_flexible(x_TD, 0), layer.norm_D, eps), layer.qkv)
            mixed_BQ = mix(i, _flexible(joint.view(rows, positions, -1), 0, 1))
            self._add_product(x_TD, mixed_BQ.reshape(x_TD.shape), layer.out)
            for part in x_TD.split(MLP_ROWS):
                joint = self._product(self._norm(_flexible(part, 0), layer.mlp_norm_D, eps), layer.gate_up)
                self._add_product(part, self._gated(_flexible(joint, 0)), layer.down)
        hidden_TD: torch.Tensor = self._norm(x_TD, weights.norm_D, eps)
        return hidden_TD.view(rows, positions, -1)

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, is_causal: bool = False
    ) -> torch.Tensor:
        """Mixed_BQHd by torch's scaled dot product attention, under the kernel that is enforced around it."""
        import torch

        shared = q.shape[2] // k.shape[2]
        if shared > 1 and self._attention == "efficient":  # this kernel wants as many keys as queries
            k, v = k.repeat_interleave(shared, 2), v.repeat_interleave(shared, 2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        mixed_BHQd = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1]
        )
        return mixed_BHQd.transpose(1, 2)

    def _rotation(self, positions: int) -> torch.Tensor:
        """Cosine and sine_N2(d/2) of at least so many positions, float32; the table grows with what is asked."""
        import torch

        if positions > self._rotation_N2h.shape[0]:
            self.forget()  # records hold the old table's address
            most, half = max(2 * positions, self.architecture.max_positions), self.architecture.head_size // 2
            exponents_h = torch.arange(half, dtype=torch.float32, device=self._device) / half
            angles_Nh = torch.arange(most, device=self._device)[:, None] / self.architecture.rope_theta**exponents_h
            self._rotation_N2h = torch.stack([angles_Nh.cos(), angles_Nh.sin()], 1)
        return self._rotation_N2h


def _mask(attend_BN: torch.Tensor, start: int, stop: int, causal: bool) -> torch.Tensor:
    """True where a query may look, mask_B1QN: real positions, and in a causal model none to its right.

    A padded query of a causal model looks at itself, for a row without any key has no softmax.
    """
    import torch

    real_B11N = attend_BN.bool()[:, None, None]
    if not causal:
        return real_B11N
    places_N = torch.arange(attend_BN.shape[1], device=attend_BN.device)[:stop]
    left_QN = places_N <= places_N[start:stop, None]
    return real_B11N[..., :stop] & left_QN | (places_N == places_N[start:stop, None])


# ---------------------------------------------------------------- autoregressive decoding


class _Decoding:
    """The state of one autoregressive generation: its tokens, its cache, and where it stands, all on the device."""

    def __init__(self, model: NativeModel, shape: tuple[int, int, int], padding: bool, greedy: bool) -> None:
        import torch

        rows, self.prompt_tokens, new_tokens = shape
        self.model, self.greedy, self.length = model, greedy, self.prompt_tokens + new_tokens
        self.cache = model.new_cache(rows, self.length)
        room = partial(torch.zeros, device=model.device)
        self.tokens_BN = room((rows, self.length), dtype=torch.int64)
        self.attend_BN = room((rows, self.length), dtype=torch.int64) if padding else None
        self.logits_BV = room((rows, model.architecture.vocab_size), dtype=model.dtype)
        self.token_B1 = room((rows, 1), dtype=torch.int64)
        self.place_1 = room(1, dtype=torch.int64)
        self.healthy = room((), dtype=torch.bool)

    def lay(self, tokens_BP: torch.Tensor, attend_BP: torch.Tensor | None) -> None:
        """Start anew with these prompts."""
        self.tokens_BN[:, : self.prompt_tokens] = tokens_BP
        if self.attend_BN is not None and attend_BP is not None:
            self.attend_BN.fill_(1)
            self.attend_BN[:, : self.prompt_tokens] = attend_BP
        self.place_1.fill_(self.prompt_tokens - 1)
        self.healthy.fill_(True)

    def prefill(self) -> None:
        """All prompts at once, and the first token."""
        prompt, attend = self.tokens_BN[:, : self.prompt_tokens], self.attend_BN
        attend_BP = None if attend is None else attend[:, : self.prompt_tokens]
        hidden_BPD = self.model.forward(prompt, attend_BP, self.cache)
        self._finish(hidden_BPD[:, -1:])

    @property
    def _knows_place(self) -> bool:
        return self.model.decodes_by_place and self.attend_BN is None

    def context(self, filled: int) -> int:
        """How many positions of the cache a step takes that has so many filled: one step serves many lengths."""
        return self.length if self._knows_place else min(-(-filled // CONTEXT_STEP) * CONTEXT_STEP, self.length)

    def step(self, context: int) -> None:
        """The token at `place_1` against at most `context` positions of the cache, and the next token."""
        model = self.model
        rotation = model._rotation(self.length).index_select(0, self.place_1)
        attend = (self._by_place if self._knows_place else self._by_mask)(context)

        def mix(layer: int, joint_B1: torch.Tensor) -> torch.Tensor:
            return attend(*model._rotated(joint_B1, rotation, model._heads, *self.cache.layers[layer], self.place_1))

        with enforced(model._attention):
            self._finish(model._body(self.token_B1, mix))

    def _by_mask(self, context: int) -> Attend:
        """Any kernel that takes a mask, over the first `context` positions."""
        import torch

        mask_B11N = (torch.arange(context, device=self.model.device) <= self.place_1)[None, None, None]
        if self.attend_BN is not None:
            mask_B11N = mask_B11N & self.attend_BN.bool()[:, None, None, :context]
        return lambda q, k, v: self.model._attend(q, k[:, :context], v[:, :context], mask_B11N)

    def _by_place(self, _: int) -> Attend:
        """Flash decoding, which reads on the device how far the cache is filled."""
        from dlmbench.models.engines.native import triton_kernels

        return lambda q_B1Hd, k, v: triton_kernels.attend(q_B1Hd[:, 0], k, v, self.place_1)

    def _finish(self, hidden_B1D: torch.Tensor) -> None:
        """Logits of the last position; at temperature 0 also the token."""
        self.logits_BV.copy_(self.model.logits(hidden_B1D, 0, 1)[:, 0])
        self.healthy &= self.logits_BV.isfinite().all()
        self.place_1 += 1
        if self.greedy:
            self.take(self.logits_BV.argmax(-1))

    def take(self, tokens_B: torch.Tensor) -> None:
        """Write the token that comes next."""
        self.token_B1.copy_(tokens_B[:, None])
        self.tokens_BN.index_copy_(1, self.place_1, self.token_B1)
