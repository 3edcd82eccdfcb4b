"""LLaMA: causal, left to right; the standard transformers layout (meta-llama/Meta-Llama-3-8B)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlmbench.models.config_json import multiple, read_known, refuse, rope_theta, size, token_id, token_ids
from dlmbench.types import Architecture, TensorSpec

PARADIGM = "autoregressive"
SAMPLER = "autoregressive"
ROLE = "baseline"
TITLE = "LLaMA"
# Published checkpoints by hub id, and their architecture in KNOWN.
PUBLISHED = {"meta-llama/Meta-Llama-3-8B": "8b"}

# Configs known by name, for speed studies with random weights (from the model cards of the published checkpoints).
KNOWN = read_known(__file__)


def architecture(config: Mapping[str, Any]) -> Architecture:
    """Read transformers' LLaMA config.json.

    Raises:
        BenchError: a key is missing, or has a value that would need another computation.
    """
    refuse(config, "model_type", ("llama",))
    refuse(config, "hidden_act", ("silu",))
    refuse(config, "attention_bias", (False, None))
    refuse(config, "mlp_bias", (False, None))
    refuse(config, "quantization_config", (None,))
    heads, hidden = size(config, "num_attention_heads"), size(config, "hidden_size")
    kv_heads, vocabulary = size(config, "num_key_value_heads", default=heads), size(config, "vocab_size")
    multiple(config, "hidden_size", "num_attention_heads")
    multiple(config, "num_attention_heads", "num_key_value_heads")
    refuse(config, "head_dim", (hidden // heads, None))
    return Architecture(
        family="llama",
        is_causal=True,
        hidden_size=hidden,
        intermediate_size=size(config, "intermediate_size"),
        layers=size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        vocab_size=vocabulary,
        max_positions=size(config, "max_position_embeddings", default=2048),
        rope_theta=rope_theta(config),
        norm_eps=float(config.get("rms_norm_eps") or 1e-6),
        tied_head=bool(config.get("tie_word_embeddings", False)),
        eos_id=token_id(config, "eos_token_id", vocabulary),
        pad_id=token_id(config, "pad_token_id", vocabulary),
        more_eos_ids=token_ids(config, "eos_token_id", vocabulary)[1:],
    )


def tensors(arch: Architecture) -> Iterator[TensorSpec]:
    """Every tensor of the checkpoint; official names and LLaMA's, which engines use for every family, are the same."""
    dim, kv_dim, intermediate_size = arch.hidden_size, arch.kv_heads * arch.head_size, arch.intermediate_size
    layer = {
        "input_layernorm": (dim,),
        "self_attn.q_proj": (dim, dim),
        "self_attn.k_proj": (kv_dim, dim),
        "self_attn.v_proj": (kv_dim, dim),
        "self_attn.o_proj": (dim, dim),
        "post_attention_layernorm": (dim,),
        "mlp.gate_proj": (intermediate_size, dim),
        "mlp.up_proj": (intermediate_size, dim),
        "mlp.down_proj": (dim, intermediate_size),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (arch.vocab_size, dim)}
    shapes |= {f"model.layers.{i}.{name}": shape for i in range(arch.layers) for name, shape in layer.items()}
    shapes["model.norm"] = (dim,)
    if not arch.tied_head:
        shapes["lm_head"] = (arch.vocab_size, dim)
    for name, shape in shapes.items():
        yield TensorSpec(f"{name}.weight", f"{name}.weight", shape)
