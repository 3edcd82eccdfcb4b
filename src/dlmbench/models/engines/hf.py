"""Plain transformers: one Llama implementation runs every family, causal with a KV cache or bidirectional.

The "vanilla" engine: what a user gets from the library as it is. The head runs over the whole canvas at every step,
as the official LLaDA code does, and the autoregressive loop is transformers' own `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbench.errors import InvalidLogitsError
from dlmbench.models import checkpoint
from dlmbench.models.attention import enforced
from dlmbench.models.engines.native.cuda_graphs import PlainWorkspace
from dlmbench.types import Architecture, Efficiencies, EngineCost, ModelSpec, StepObserver, Workspace

if TYPE_CHECKING:
    import torch

# Efficiencies by `python -m dlmbench.roofline calibrate`, which prints their errors on cells left out.
COST = EngineCost(
    head_on_all_positions=True,
    efficiencies={
        "diffusion": Efficiencies(0.596, 0.699, 0.466, 13.1e-3),
        "autoregressive": Efficiencies(0.568, 0.665, 0.444, 14.8e-3),
    },
    measured_on="one H200, bfloat16, flash attention",
    caveat="where the host's launching decides (decoding, short cells) a later run on an H200 took up to 2.3 times as "
    "long (docs/roofline.md)",
)


def load(
    spec: ModelSpec, folder: Path | None, *, precision: str, attention: str, device: str, seed: int = 0
) -> HFModel:
    """Load a checkpoint folder, or random weights of a folder's or a known architecture.

    Args:
        spec: the model; `weights: random` takes only the architecture.
        folder: of the checkpoint; None when `spec.source` names a known architecture.
        precision: of weights and arithmetic.
        attention: kernel enforced in every forward, `auto` leaves the choice to torch.
        device: "cuda" or "cpu".
        seed: of random weights.

    Raises:
        BenchError: see `_checkpoint`.
    """
    import torch

    where, dtype = torch.device(device), getattr(torch, precision)
    if folder is None:
        arch = checkpoint.named_architecture(spec.family, spec.source)
        return HFModel(arch, checkpoint.random_tensors(arch, where, dtype, seed), attention, dtype, where)
    found = checkpoint.inspect(folder, spec.family)
    if spec.weights == "random":
        weights = checkpoint.random_tensors(found.architecture, where, dtype, seed)
    else:
        weights = checkpoint.tensors(found, where, dtype)
    return HFModel(found.architecture, weights, attention, dtype, where)


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
        self._device = device
        self._attention = attention
        self._llama = _assemble(architecture, weights, dtype, device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._device

    def forward(
        self,
        tokens_BQ: torch.Tensor,
        attend_BN: torch.Tensor | None = None,
        cache: Any = None,
        start: int = 0,
    ) -> torch.Tensor:
        """Hidden states_BQD after the final norm; see `LanguageModel.forward`."""
        import torch

        if cache is not None:
            cache.place(start, tokens_BQ.shape[1])
        positions_Q = torch.arange(start, start + tokens_BQ.shape[1], device=self._device)
        with torch.inference_mode(), enforced(self._attention):
            hidden_BQD: torch.Tensor = self._llama.model(
                input_ids=tokens_BQ,
                attention_mask=attend_BN,
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

    def logits_in_pieces(self, hidden_BQD: torch.Tensor, first: int, last: int) -> Iterator[torch.Tensor]:
        """One piece: what the head gave for the whole canvas is there anyway."""
        yield self.logits(hidden_BQD, first, last)

    def new_cache(self, rows: int, length: int) -> Any:
        """Keys and values of a whole canvas, replaced in place by later forwards."""
        from dlmbench.models.canvas_cache import CanvasCache

        return CanvasCache(self.architecture.layers, length)

    def workspace(self, key: Hashable, make: Callable[[], Any]) -> Workspace:
        """Made anew for each generation: nothing is recorded."""
        return PlainWorkspace(make())

    def fused(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` as it is: nothing is compiled."""
        return function

    def forget(self) -> None:
        """Nothing is kept."""

    def decode(
        self,
        tokens_BP: torch.Tensor,
        attend_BP: torch.Tensor | None,
        new_tokens: int,
        choose: Callable[[torch.Tensor, int], torch.Tensor] | None,
        on_step: StepObserver | None = None,
    ) -> torch.Tensor:
        """tokens_BG by transformers' `generate`: greedy, or as `choose` says; exactly `new_tokens` a row."""
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        prompt_tokens = tokens_BP.shape[1]
        processors = LogitsProcessorList([_Chooser(choose, prompt_tokens)] if choose else [])
        watcher = _Watcher(on_step) if on_step else None
        if watcher:
            processors.insert(0, watcher.see_logits)
        with torch.inference_mode(), enforced(self._attention):
            output_BN: torch.Tensor = self._llama.generate(
                tokens_BP,
                attention_mask=torch.ones_like(tokens_BP) if attend_BP is None else attend_BP,
                max_new_tokens=new_tokens,
                do_sample=False,
                logits_processor=processors,
                stopping_criteria=StoppingCriteriaList([watcher.see_token] if watcher else []),
            )
        if watcher:
            watcher.check()
        return output_BN[:, prompt_tokens:]


def _assemble(
    arch: Architecture, weights: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype, device: torch.device
) -> Any:
    """LlamaForCausalLM with `weights` put in as they come: the model never exists twice."""
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
    # transformers >= 5.17: mask and attention flag both follow the config; setting the layers' flag alone would not do.
    config.is_causal = arch.is_causal
    with torch.device("meta"):
        llama = LlamaForCausalLM(config)
    modules = dict(llama.named_modules())
    for name, tensor in weights:
        owner, _, leaf = name.rpartition(".")
        setattr(modules[owner], leaf, torch.nn.Parameter(tensor, requires_grad=False))
    if arch.tied_head:
        llama.lm_head.weight = llama.model.embed_tokens.weight
    with torch.device(device):  # its buffers are computed, not loaded
        llama.model.rotary_emb = LlamaRotaryEmbedding(config)
    assert not any(p.is_meta for p in llama.parameters()), "a weight was not filled"
    # Exactly G tokens: the end of text neither stops a run nor is suppressed (a fresh GenerationConfig would not do).
    llama.generation_config.eos_token_id = None
    llama.generation_config.pad_token_id = arch.pad_id if arch.pad_id is not None else 0
    return llama.eval()


class _Chooser:
    """A logits processor that leaves one token standing, so that `generate`'s argmax takes the drawn one."""

    def __init__(self, choose: Callable[[torch.Tensor, int], torch.Tensor], prompt_tokens: int) -> None:
        self.choose, self.prompt_tokens = choose, prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens_B = self.choose(scores, input_ids.shape[1] - self.prompt_tokens)
        return scores.new_full(scores.shape, float("-inf")).scatter(1, tokens_B[:, None], 0.0)


class _Watcher:
    """Traced passes only: reports each token, and notes whether all logits were finite."""

    def __init__(self, on_step: StepObserver) -> None:
        self.on_step, self.forwards = on_step, 0
        self.healthy: torch.Tensor | bool = True

    def see_logits(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.healthy = self.healthy & scores.isfinite().all()
        return scores

    def see_token(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        import torch

        self.forwards += 1
        self.on_step(self.forwards)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def check(self) -> None:
        """Raise InvalidLogitsError if any logit was NaN or infinite."""
        if not bool(self.healthy):
            raise InvalidLogitsError("the model gave NaN or infinite logits")
