"""LLaMA: causal, left to right; the standard transformers layout (meta-llama/Meta-Llama-3-8B)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlmbench.models.config_json import read_known, refuse, required, rope_theta, token_id
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
    heads = int(required(config, "num_attention_heads"))
    hidden = int(required(config, "hidden_size"))
    refuse(config, "head_dim", (hidden // heads, None))
    return Architecture(
        family="llama",
        is_causal=True,
        hidden_size=hidden,
        intermediate_size=int(required(config, "intermediate_size")),
        layers=int(required(config, "num_hidden_layers")),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        vocab_size=int(required(config, "vocab_size")),
        max_positions=int(config.get("max_position_embeddings") or 2048),
        rope_theta=rope_theta(config),
        norm_eps=float(config.get("rms_norm_eps") or 1e-6),
        tied_head=bool(config.get("tie_word_embeddings", False)),
        eos_id=token_id(config, "eos_token_id"),
        pad_id=token_id(config, "pad_token_id"),
    )


def tensors(arch: Architecture) -> Iterator[TensorSpec]:
    """Every tensor of the checkpoint; official and LLaMA names are the same here."""
    for name, shape in llama_tensors(arch):
        yield TensorSpec(name, name, shape)


def llama_tensors(arch: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
    """LLaMA's tensor names and shapes: the names that engines use for every family."""
    wide, narrow = arch.hidden_size, arch.kv_heads * arch.head_size
    yield "model.embed_tokens.weight", (arch.vocab_size, wide)
    for i in range(arch.layers):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (wide,)
        yield layer + "self_attn.q_proj.weight", (wide, wide)
        yield layer + "self_attn.k_proj.weight", (narrow, wide)
        yield layer + "self_attn.v_proj.weight", (narrow, wide)
        yield layer + "self_attn.o_proj.weight", (wide, wide)
        yield layer + "post_attention_layernorm.weight", (wide,)
        yield layer + "mlp.gate_proj.weight", (arch.intermediate_size, wide)
        yield layer + "mlp.up_proj.weight", (arch.intermediate_size, wide)
        yield layer + "mlp.down_proj.weight", (wide, arch.intermediate_size)
    yield "model.norm.weight", (wide,)
    if not arch.tied_head:
        yield "lm_head.weight", (arch.vocab_size, wide)
