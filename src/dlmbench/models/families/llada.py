"""LLaDA: masked diffusion, bidirectional; the official layout (GSAI-ML/LLaDA-8B-Base, -Instruct, LLaDA-1.5).

Large Language Diffusion with mAsking, Nie et al. 2025 (arXiv 2502.09992). The body is LLaMA's with bidirectional
attention, so its tensors are read under LLaMA's names and no remote code is ever run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlmbench.models.config_json import multiple, read_known, refuse, required, rope_theta, size, token_id, token_ids
from dlmbench.models.families import llama
from dlmbench.types import Architecture, TensorSpec

PARADIGM = "diffusion"
SAMPLER = "masked_diffusion"
ROLE = "target"
TITLE = "LLaDA"
# Published checkpoints by hub id, and their architecture in KNOWN.
PUBLISHED = {"GSAI-ML/LLaDA-8B-Base": "8b"}

_EOT_ID = 126348  # <|eot_id|> of the published tokenizer; config.json does not name it

KNOWN = read_known(__file__)

_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("llada",),
    "block_type": ("llama",),
    "layer_norm_type": ("rms",),
    "activation_type": ("silu",),
    "rope": (True,),
    "rope_full_precision": (True,),
    "alibi": (False, None),
    "attention_layer_norm": (False, None),
    "include_bias": (False, None),
    "include_qkv_bias": (False, None),
    "bias_for_layer_norm": (False, None),
    "input_emb_norm": (False, None),
    "scale_logits": (False, None),
    "multi_query_attention": (None, False),
    "block_group_size": (1, None),
    "quantization_config": (None,),
}


def architecture(config: Mapping[str, Any]) -> Architecture:
    """Read the official config.json.

    Raises:
        BenchError: a key is missing, or has a value that this layout does not support (named).
    """
    for key, supported in _SUPPORTED.items():
        refuse(config, key, supported)
    heads, hidden = size(config, "n_heads"), size(config, "d_model")
    vocabulary = size(config, "embedding_size", "vocab_size")
    multiple(config, "d_model", "n_heads")
    multiple(config, "n_heads", "n_kv_heads")
    required(config, "mask_token_id")
    eot_id = token_id(config, "eot_token_id", vocabulary)
    return Architecture(
        family="llada",
        is_causal=False,
        hidden_size=hidden,
        intermediate_size=size(config, "mlp_hidden_size", default=size(config, "mlp_ratio", default=4) * hidden),
        layers=size(config, "n_layers"),
        heads=heads,
        kv_heads=size(config, "n_kv_heads", default=heads),
        vocab_size=vocabulary,
        max_positions=size(config, "max_sequence_length", default=4096),
        rope_theta=rope_theta(config),
        norm_eps=float(config.get("rms_norm_eps") or 1e-5),
        tied_head=bool(config.get("weight_tying", False)),
        mask_id=token_id(config, "mask_token_id", vocabulary),
        eos_id=token_id(config, "eos_token_id", vocabulary),
        eot_id=eot_id if eot_id is not None else (_EOT_ID if vocabulary > _EOT_ID else None),
        pad_id=token_id(config, "pad_token_id", vocabulary),
        more_eos_ids=token_ids(config, "eos_token_id", vocabulary)[1:],
    )


# The official names of LLaMA's tensors, inside a block and outside. Outside `ff_out` is the head.
_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}
_OUTSIDE = {"model.embed_tokens": "wte", "model.norm": "ln_f", "lm_head": "ff_out"}


def tensors(arch: Architecture) -> Iterator[TensorSpec]:
    """Every tensor under its official name, LLaMA's name for it, and its shape."""
    for tensor in llama.tensors(arch):
        path = tensor.llama.removesuffix(".weight").split(".", 3)  # model.layers.7.mlp.up_proj, or lm_head
        official = f"blocks.{path[2]}.{_BLOCK[path[3]]}" if len(path) == 4 else _OUTSIDE[".".join(path)]
        yield TensorSpec(f"model.transformer.{official}.weight", tensor.llama, tensor.shape)
