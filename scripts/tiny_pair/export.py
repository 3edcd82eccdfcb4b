"""Write trained weights as checkpoint folders: transformers' LLaMA layout and the official LLaDA layout."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from dlmbench.tiny.vocabulary import (
    END_OF_TEXT,
    END_OF_TEXT_ID,
    MASK_TOKEN_ID,
    START_OF_TEXT,
    START_OF_TEXT_ID,
    TOKEN_IDS,
)
from tiny_pair.model import Block, Shape, Transformer, Weights

_LLAMA_BLOCK = Block(
    attn_norm="input_layernorm",
    q_proj="self_attn.q_proj",
    k_proj="self_attn.k_proj",
    v_proj="self_attn.v_proj",
    attn_out="self_attn.o_proj",
    ff_norm="post_attention_layernorm",
    ff_proj="mlp.gate_proj",
    up_proj="mlp.up_proj",
    ff_out="mlp.down_proj",
)
_LLAMA_OTHERS = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}


def llama_name(name: str) -> str:
    """The name of a tensor in transformers' LLaMA."""
    if name in _LLAMA_OTHERS:
        return f"{_LLAMA_OTHERS[name]}.weight"
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{getattr(_LLAMA_BLOCK, part)}.weight"


def llada_name(name: str) -> str:
    """The name of a tensor in LLaDA."""
    return f"model.transformer.{name}.weight"


def llama_config(shape: Shape) -> dict[str, Any]:
    """config.json of the AR model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.rows,
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.width // shape.heads,
        "hidden_act": "silu",
        "max_position_embeddings": shape.longest,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_theta,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": START_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "pad_token_id": END_OF_TEXT_ID,
        "torch_dtype": "bfloat16",
    }


def llada_config(shape: Shape) -> dict[str, Any]:
    """config.json of the LLaDA model, with the keys of the official one."""
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": shape.width,
        "embedding_dropout": 0.0,
        "embedding_size": shape.rows,
        "vocab_size": shape.rows,
        "eos_token_id": END_OF_TEXT_ID,
        "pad_token_id": END_OF_TEXT_ID,
        "mask_token_id": MASK_TOKEN_ID,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_cutoff_factor": None,
        "init_device": "meta",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "max_sequence_length": shape.longest,
        "mlp_hidden_size": shape.hidden,
        "mlp_ratio": 4,
        "multi_query_attention": None,
        "n_heads": shape.heads,
        "n_kv_heads": shape.heads,
        "n_layers": shape.layers,
        "precision": "amp_bf16",
        "residual_dropout": 0.0,
        "rms_norm_eps": shape.norm_epsilon,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": shape.rope_theta,
        "scale_logits": False,
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "weight_tying": False,
    }


def build_tokenizer() -> Tokenizer:
    """Lower-case words and punctuation marks to ids; an unknown word is an error."""
    tokenizer = Tokenizer(models.WordLevel(TOKEN_IDS, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    tokenizer.add_special_tokens([START_OF_TEXT, END_OF_TEXT])
    return tokenizer


_TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": START_OF_TEXT,
    "eos_token": END_OF_TEXT,
    "pad_token": END_OF_TEXT,
    "padding_side": "left",
    "add_bos_token": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": Shape.longest,
}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def export(paradigm: str, shape: Shape, weights: Weights, folder: Path) -> None:
    """Write config, tokenizer and bf16 weights to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", llama_config(shape) if paradigm == "ar" else llada_config(shape))
    _write_json(folder / "tokenizer_config.json", _TOKENIZER_CONFIG)
    build_tokenizer().save(str(folder / "tokenizer.json"))
    name_of = llama_name if paradigm == "ar" else llada_name
    tensors = {name_of(name): tensor.detach().bfloat16().cpu().contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load_exported(paradigm: str, shape: Shape, folder: Path, device: torch.device) -> Weights:
    """The weights in a checkpoint folder, in fp32, under our names."""
    from safetensors.torch import load_file

    names = ["wte", "ln_f", "ff_out", *(f"blocks.{n}.{part}" for n in range(shape.layers) for part in Block._fields)]
    name_of = llama_name if paradigm == "ar" else llada_name
    tensors = load_file(folder / "model.safetensors", device=str(device))
    return {name: tensors[name_of(name)].float() for name in names}


@torch.no_grad()
def difference_from_transformers(paradigm: str, shape: Shape, weights: Weights, tokens_BL: Tensor) -> float:
    """Largest difference between our logits and those of transformers' LLaMA (bidirectional for LLaDA), in fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{key: value for key, value in llama_config(shape).items() if key != "torch_dtype"})
    config.is_causal = paradigm == "ar"
    config._attn_implementation = "sdpa"
    theirs = LlamaForCausalLM(config).eval()
    theirs.load_state_dict({llama_name(name): tensor.float().cpu() for name, tensor in weights.items()})
    ours = Transformer(shape, {name: tensor.cpu() for name, tensor in weights.items()}, paradigm == "ar", torch.float32)
    tokens_BL = tokens_BL.cpu()
    return (theirs(input_ids=tokens_BL, use_cache=False).logits - ours.logits(tokens_BL)).abs().max().item()
