"""The shipped pair: official layouts, one tokenizer, and weights that really know the corpus."""

from __future__ import annotations

import json
import math

import pytest

from dlmbench.tiny import checkpoint_folder, heldout_stories, story_of
from dlmbench.tiny.vocabulary import EMBEDDING_SIZE, END_OF_TEXT_ID, MASK_TOKEN_ID, TOKENS, encode

LLAMA_OF_LLADA = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


def config(paradigm: str) -> dict[str, object]:
    return json.loads((checkpoint_folder(paradigm) / "config.json").read_text())


def tensors(paradigm: str):
    from safetensors.torch import load_file

    return load_file(checkpoint_folder(paradigm) / "model.safetensors")


def test_llada_has_the_official_layout() -> None:
    keys = config("llada")
    assert (keys["model_type"], keys["architectures"]) == ("llada", ["LLaDAModelLM"])
    assert keys["vocab_size"] == keys["embedding_size"] == EMBEDDING_SIZE
    assert len(TOKENS) <= keys["mask_token_id"] == MASK_TOKEN_ID < EMBEDDING_SIZE
    assert keys["eos_token_id"] == keys["pad_token_id"] == END_OF_TEXT_ID
    found = tensors("llada")
    expected = {f"model.transformer.{name}.weight" for name in ("wte", "ln_f", "ff_out")}
    expected |= {f"model.transformer.blocks.{n}.{part}.weight" for n in range(6) for part in LLAMA_OF_LLADA}
    assert set(found) == expected
    assert {str(tensor.dtype) for tensor in found.values()} == {"torch.bfloat16"}


def test_both_models_have_the_same_architecture() -> None:
    ar, llada = config("ar"), config("llada")
    pairs = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "mlp_hidden_size",
        "vocab_size": "embedding_size",
        "rope_theta": "rope_theta",
        "rms_norm_eps": "rms_norm_eps",
        "tie_word_embeddings": "weight_tying",
    }
    assert {ours: ar[ours] for ours in pairs} == {ours: llada[theirs] for ours, theirs in pairs.items()}
    sizes = [sum(tensor.numel() for tensor in tensors(paradigm).values()) for paradigm in ("ar", "llada")]
    assert sizes[0] == sizes[1] == 4_132_096


@pytest.mark.parametrize("paradigm", ["ar", "llada"])
def test_the_tokenizer_loads_and_round_trips(paradigm: str) -> None:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    for kind in (AutoTokenizer, PreTrainedTokenizerFast):
        tokenizer = kind.from_pretrained(checkpoint_folder(paradigm))
        assert len(tokenizer) == len(TOKENS)
        assert tokenizer.mask_token is None
        assert tokenizer.pad_token_id == tokenizer.eos_token_id == END_OF_TEXT_ID
        assert tokenizer.padding_side == "left"
        for index in range(5):
            words = story_of("tokenizer test", index)
            ids = tokenizer(" ".join(words)).input_ids
            assert ids == encode(words)
            assert tokenizer.decode(ids) == " ".join(words)
        assert tokenizer("Once upon a time, Anna.").input_ids == encode(["once", "upon", "a", "time", ",", "anna", "."])
        assert tokenizer.decode([END_OF_TEXT_ID]) == "<|endoftext|>"


@pytest.fixture(scope="module")
def windows():
    import torch

    return torch.tensor([encode(words) for words in heldout_stories(16, 128)])


def test_the_ar_model_loads_in_transformers_and_knows_the_corpus(windows) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint_folder("ar"), dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(windows).logits[:, 63:-1]
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 64:].flatten()).item()
    recorded = json.loads((checkpoint_folder("ar") / "training.json").read_text())["evaluation"]["exact"]["nats"]
    assert nll == pytest.approx(recorded, abs=0.15)  # 16 windows against 256
    assert logits.softmax(-1)[..., len(TOKENS) :].max() < 0.01


def test_the_llada_weights_fill_a_bidirectional_llama_and_know_the_corpus(windows) -> None:
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    llama = AutoConfig.from_pretrained(checkpoint_folder("ar"))
    llama.is_causal = False
    model = LlamaForCausalLM(llama).eval()
    renamed = {}
    for name, tensor in tensors("llada").items():
        parts = name.removeprefix("model.transformer.").removesuffix(".weight").split(".")
        outside = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
        inside = f"model.layers.{parts[1]}.{LLAMA_OF_LLADA[parts[2]]}" if parts[0] == "blocks" else outside[parts[0]]
        renamed[f"{inside}.weight"] = tensor.float()
    model.load_state_dict(renamed)
    masked = windows.clone()
    hidden = torch.zeros_like(windows, dtype=torch.bool)
    hidden[:, 66::4] = True  # a quarter of the continuation
    masked[hidden] = MASK_TOKEN_ID
    with torch.no_grad():
        logits = model(masked, use_cache=False).logits
        last_changed = masked.clone()
        last_changed[:, -1] = encode(["."])[0]
        assert not torch.allclose(model(last_changed, use_cache=False).logits[:, 0], logits[:, 0]), "causal"
    nll = torch.nn.functional.cross_entropy(logits[hidden], windows[hidden]).item()
    assert nll < 0.9
    assert math.isfinite(nll)


def test_the_model_cards_show_the_recorded_numbers() -> None:
    records = {name: json.loads((checkpoint_folder(name) / "training.json").read_text()) for name in ("ar", "llada")}
    cards = {name: (checkpoint_folder(name) / "README.md").read_text() for name in records}
    assert f"| this model, exact | {records['ar']['evaluation']['exact']['nats']:.3f} |" in cards["ar"]
    for evaluation in (records["llada"]["evaluation"], records["llada"]["without_low_noise_first"]["evaluation"]):
        for order in ("random", "confidence"):
            cells = " | ".join(f"{result['nats']:.3f}" for result in evaluation[order].values())
            assert f"| {order} | {cells} |" in cards["llada"]
