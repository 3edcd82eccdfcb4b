"""Plain transformers: one LlamaForCausalLM runs every family, causal with a KV cache or bidirectional.

The out-of-the-box baseline. The head runs over the whole canvas at every step, as in the official LLaDA
code, and the autoregressive loop is transformers' own `generate`.

Shapes: B rows, P prompt, G new tokens, N canvas, Q positions of a forward, D hidden size, H heads, d head size,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbench.errors import InvalidLogitsError
from dlmbench.models import checkpoint
from dlmbench.models.attention import enforced
from dlmbench.types import Architecture, EagerRunner, Efficiencies, EngineCost, GraphRunner, ModelSpec, OnStep

if TYPE_CHECKING:
    import torch

# Efficiencies by `python -m dlmbench.roofline calibrate`, which prints their errors on cells left out.
COST = EngineCost(
    head_on_all_positions=True,
    efficiencies={
        "diffusion": Efficiencies(0.632, 0.583, 0.456, 13.1e-3),
        "autoregressive": Efficiencies(0.597, 0.576, 0.440, 14.8e-3),
    },
    measured_on="one H200, bfloat16, flash attention",
    caveat="where launch overhead dominates (decoding, short cells) a later run on an H200 took up to 2.3 times as "
    "long (docs/roofline.md)",
)
# Confidences in the precision of the published code, see `samplers.masked_diffusion.resolve`.
CONFIDENCE_DTYPE = None


def load(
    spec: ModelSpec, folder: Path | None, *, precision: str, attention: str, device: str, seed: int = 0
) -> HFModel:
    """Load a checkpoint folder, or random weights of a folder's or a known architecture; see `models.engines`."""
    import torch

    where, dtype = torch.device(device), getattr(torch, precision)
    architecture, weights = checkpoint.load_weights(spec, folder, where, dtype, seed)
    return HFModel(architecture, weights, attention, dtype, where)


class HFModel:
    """A `LanguageModel` over transformers' LlamaForCausalLM."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Iterable[tuple[str, torch.Tensor]],
        attention: str,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.architecture = architecture
        self.device = device
        self._attention = attention
        self._llama = _build_llama(architecture, weights, dtype, device)

    def forward(
        self,
        tokens_BQ: torch.Tensor,
        attention_mask_BN: torch.Tensor | None = None,
        cache: Any = None,
        start: int = 0,
    ) -> torch.Tensor:
        """Hidden states_BQD after the final norm; see `LanguageModel.forward`."""
        import torch

        if cache is not None:
            cache.set_span(start, tokens_BQ.shape[1])
        positions_Q = torch.arange(start, start + tokens_BQ.shape[1], device=self.device)
        with torch.inference_mode(), enforced(self._attention):
            hidden_BQD: torch.Tensor = self._llama.model(
                input_ids=tokens_BQ,
                attention_mask=attention_mask_BN,
                position_ids=positions_Q[None],
                past_key_values=cache,
                use_cache=False,
            ).last_hidden_state
        return hidden_BQD

    def logits(self, hidden_BQD: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Logits of positions first..last; the head runs over all of `hidden_BQD`, as in the official code."""
        import torch

        with torch.inference_mode():
            logits_BQV: torch.Tensor = self._llama.lm_head(hidden_BQD)
        return logits_BQV[:, first:last]

    def logits_chunks(self, hidden_BQD: torch.Tensor, first: int, last: int) -> Iterator[torch.Tensor]:
        """One chunk: the head runs over the whole canvas anyway."""
        yield self.logits(hidden_BQD, first, last)

    def new_cache(self, rows: int, length: int) -> Any:
        """A KV cache over a whole canvas, updated in place by later forwards."""
        return _canvas_cache_class()(self.architecture.layers, length)

    def graph_runner(self, key: Hashable, make: Callable[[], Any]) -> GraphRunner:
        """A new eager runner for each generation; this engine captures no graphs."""
        return EagerRunner(make())

    def maybe_compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` unchanged: nothing is compiled."""
        return function

    def reset_graphs(self) -> None:
        """No-op: this engine has no graphs."""

    def decode(
        self,
        tokens_BP: torch.Tensor,
        attention_mask_BP: torch.Tensor | None,
        new_tokens: int,
        choose: Callable[[torch.Tensor, int], torch.Tensor] | None,
        on_step: OnStep | None = None,
    ) -> torch.Tensor:
        """tokens_BG by transformers' `generate`: greedy, or using `choose`; exactly `new_tokens` per row."""
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        prompt_tokens = tokens_BP.shape[1]
        processors = LogitsProcessorList()
        if choose is not None:

            def leave_chosen(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
                """Only the chosen token, so that `generate`'s argmax takes it."""
                tokens_B = choose(scores, input_ids.shape[1] - prompt_tokens)
                return scores.new_full(scores.shape, float("-inf")).scatter(1, tokens_B[:, None], 0.0)

            processors.append(leave_chosen)
        tracer = _StepTracer(on_step) if on_step else None
        if tracer:
            processors.insert(0, tracer.process_logits)
        with torch.inference_mode(), enforced(self._attention):
            output_BN: torch.Tensor = self._llama.generate(
                tokens_BP,
                attention_mask=torch.ones_like(tokens_BP) if attention_mask_BP is None else attention_mask_BP,
                max_new_tokens=new_tokens,
                do_sample=False,
                logits_processor=processors,
                stopping_criteria=StoppingCriteriaList([tracer.stopping_criterion] if tracer else []),
            )
        if tracer and not bool(tracer.all_finite):
            raise InvalidLogitsError("the model returned NaN or infinite logits")
        return output_BN[:, prompt_tokens:]


def _build_llama(
    arch: Architecture, weights: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype, device: torch.device
) -> Any:
    """LlamaForCausalLM, built on the meta device and filled tensor by tensor: at no time two copies are in memory."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        vocab_size=arch.vocab_size,
        hidden_size=arch.hidden_size,
        intermediate_size=arch.intermediate_size,
        num_hidden_layers=arch.layers,
        num_attention_heads=arch.heads,
        num_key_value_heads=arch.kv_heads,
        max_position_embeddings=arch.max_positions,
        rms_norm_eps=arch.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": arch.rope_theta},
        tie_word_embeddings=arch.tied_head,
        attn_implementation="sdpa",
        dtype=dtype,
        pad_token_id=arch.pad_id,
    )
    # transformers >= 5.17: both the mask and the attention layers follow the config; setting the layers' flag alone
    # is not enough.
    config.is_causal = arch.is_causal
    with torch.device("meta"):
        llama = LlamaForCausalLM(config)
    modules = dict(llama.named_modules())
    for name, tensor in weights:
        module_name, _, attribute = name.rpartition(".")
        setattr(modules[module_name], attribute, torch.nn.Parameter(tensor, requires_grad=False))
    if arch.tied_head:
        llama.lm_head.weight = llama.model.embed_tokens.weight
    with torch.device(device):  # its buffers are computed, not loaded
        llama.model.rotary_emb = LlamaRotaryEmbedding(config)
    assert not any(p.is_meta for p in llama.parameters()), "a weight was not loaded"
    # Exactly G tokens: EOS neither stops generation nor is suppressed (passing a fresh GenerationConfig to
    # `generate` would not do it).
    llama.generation_config.eos_token_id = None
    llama.generation_config.pad_token_id = arch.pad_id if arch.pad_id is not None else 0
    return llama.eval()


@cache
def _canvas_cache_class() -> type:
    """The cache class, created lazily: its base is in transformers, which planning and listing do not import."""
    from transformers.cache_utils import Cache, DynamicLayer

    class CanvasCache(Cache):  # type: ignore[misc]
        """Keys and values_BHNd of a whole canvas, updated in place at the positions of each forward.

        It serves both schemes of Fast-dLLM: a forward over start..stop writes its keys and values and attends to all N
        positions. Over the block to the end it is the prefix cache, over the block alone the dual cache. Keys are
        stored after rotation, at the true positions that the engine passes. A forward over all N positions replaces
        the whole cache.
        """

        def __init__(self, layers: int, length: int) -> None:
            super().__init__(layers=[DynamicLayer() for _ in range(layers)])
            self._kv: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * layers
            self._start = self._stop = 0
            self._length = length

        def set_span(self, start: int, positions: int) -> None:
            """Set the positions of the next forward."""
            self._start, self._stop = start, start + positions

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            """Write the forward's keys and values; return those of the whole canvas."""
            cached = self._kv[layer_idx]
            if self._stop - self._start == self._length:
                cached = self._kv[layer_idx] = (key_states, value_states)
            else:
                assert cached is not None, "the first forward of a cache covers the whole canvas"
                cached[0][:, :, self._start : self._stop] = key_states
                cached[1][:, :, self._start : self._stop] = value_states
            return cached

        def get_seq_length(self, layer_idx: int = 0) -> int:
            """Positions before the forward."""
            return self._start

        def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
            """Every query sees the whole canvas."""
            return self._length, 0

    return CanvasCache


class _StepTracer:
    """Traced passes only: calls `on_step` after each token, and records whether all logits were finite."""

    def __init__(self, on_step: OnStep) -> None:
        self.on_step, self.forwards = on_step, 0
        self.all_finite: torch.Tensor | bool = True

    def process_logits(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.all_finite = self.all_finite & scores.isfinite().all()
        return scores

    def stopping_criterion(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self.forwards += 1
        self.on_step(self.forwards)
        return input_ids.new_zeros(len(input_ids)).bool()
