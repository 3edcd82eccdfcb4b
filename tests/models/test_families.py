"""Both families against plain float64 arithmetic written here, from checkpoints in the official layouts."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dlmbench.errors import BenchError
from dlmbench.models.engines import hf
from dlmbench.models.families import llada, llama
from dlmbench.types import ModelSpec
from support.checkpoints import LLADA, LLAMA, write_checkpoint

TOKENS = torch.tensor([[5, 9, 13, 7, 30, 44, 2, 19], [3, 3, 8, 50, 41, 22, 17, 6]])


def plain_logits(weights: dict[str, torch.Tensor], names: dict[str, str], config: dict, causal: bool) -> torch.Tensor:
    """A transformer in a page of float64: RMSNorm, rotate-half RoPE, softmax attention, SwiGLU."""
    w = {role: weights[name].double() for role, name in names.items()}
    heads, kv_heads, layers, eps = config["heads"], config["kv_heads"], config["layers"], 1e-5
    x = w["embed"][TOKENS]
    rows, length, width = x.shape
    d = width // heads

    def norm(h, gain):
        return h / (h.pow(2).mean(-1, keepdim=True) + eps).sqrt() * gain

    angles = torch.arange(length).double()[:, None] * 500000.0 ** (-torch.arange(0, d, 2).double() / d)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)

    def rotate(h):
        first, second = h[..., : d // 2], h[..., d // 2 :]
        return h * cos + torch.cat([-second, first], -1) * sin

    for i in range(layers):
        h = norm(x, w[f"{i}.norm1"])
        q = (h @ w[f"{i}.q"].T).view(rows, length, heads, d).transpose(1, 2)
        k = (h @ w[f"{i}.k"].T).view(rows, length, kv_heads, d).transpose(1, 2).repeat_interleave(heads // kv_heads, 1)
        v = (h @ w[f"{i}.v"].T).view(rows, length, kv_heads, d).transpose(1, 2).repeat_interleave(heads // kv_heads, 1)
        scores = rotate(q) @ rotate(k).transpose(-1, -2) / d**0.5
        if causal:
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        x = x + (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, width) @ w[f"{i}.o"].T
        h = norm(x, w[f"{i}.norm2"])
        x = x + (torch.nn.functional.silu(h @ w[f"{i}.gate"].T) * (h @ w[f"{i}.up"].T)) @ w[f"{i}.down"].T
    return norm(x, w["norm"]) @ w["head"].T


def llada_names(layers: int) -> dict[str, str]:
    names = {"embed": "wte", "norm": "ln_f", "head": "ff_out"}
    block = {"norm1": "attn_norm", "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "attn_out"}
    block |= {"norm2": "ff_norm", "gate": "ff_proj", "up": "up_proj", "down": "ff_out"}
    names |= {f"{i}.{role}": f"blocks.{i}.{name}" for i in range(layers) for role, name in block.items()}
    return {role: f"model.transformer.{name}.weight" for role, name in names.items()}


def llama_names(layers: int) -> dict[str, str]:
    names = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
    block = {f"{x}": f"self_attn.{x}_proj" for x in "qkvo"}
    block |= {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}
    block |= {x: f"mlp.{x}_proj" for x in ("gate", "up", "down")}
    names |= {f"{i}.{role}": f"model.layers.{i}.{name}" for i in range(layers) for role, name in block.items()}
    return {role: f"{name}.weight" for role, name in names.items()}


def load(folder, family, precision="float32", attention="auto"):
    spec = ModelSpec("m", family, str(folder), "target")
    return hf.load(spec, folder, precision=precision, attention=attention, device="cpu")


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(("config", "family", "causal"), [(LLAMA, "llama", True), (LLADA, "llada", False)])
def test_forward_equals_plain_float64_arithmetic(tmp_path, config, family, causal, shards):
    folder = write_checkpoint(tmp_path / family, config, shards=shards, scale=0.2)
    model = load(folder, family)
    files = folder.glob("*.safetensors")
    weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
    sizes = {"heads": 4, "kv_heads": model.architecture.kv_heads, "layers": 2}
    names = llama_names(2) if family == "llama" else llada_names(2)
    expected = plain_logits(weights, names, sizes, causal)
    found = model.logits(model.forward(TOKENS), 0, TOKENS.shape[1]).double()
    assert (found - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("attention", ["auto", "flash", "math"])
def test_first_position_sees_the_last_token_only_when_bidirectional(tmp_path, attention):
    changed = TOKENS.clone()
    changed[:, -1] = 11
    for config, sees in ((LLADA, True), (LLAMA, False)):
        model = load(
            write_checkpoint(tmp_path / config["model_type"], config), config["model_type"], "float32", attention
        )
        first, other = model.forward(TOKENS)[:, 0], model.forward(changed)[:, 0]
        assert bool((first != other).any()) is sees


def test_left_padding_changes_nothing(tmp_path):
    model = load(write_checkpoint(tmp_path / "m", LLADA), "llada")
    padded = torch.cat([torch.full((2, 3), 2), TOKENS], dim=1)
    attend = torch.cat([torch.zeros(2, 3, dtype=torch.long), torch.ones_like(TOKENS)], dim=1)
    difference = model.forward(padded, attend)[:, 3:] - model.forward(TOKENS)
    assert difference.abs().max() < 1e-4


def test_a_later_forward_over_unchanged_tokens_repeats_the_canvas(tmp_path):
    """The cache holds keys at their true positions: nothing changed, so nothing may change."""
    model = load(write_checkpoint(tmp_path / "m", LLADA), "llada")
    attend = torch.ones_like(TOKENS)
    attend[0, :2] = 0
    for mask in (None, attend):
        full, cache = model.forward(TOKENS, mask), model.new_cache(*TOKENS.shape)
        assert torch.equal(model.forward(TOKENS, mask, cache, 0), full)
        for first, last in ((3, 6), (2, 8), (7, 8)):
            later = model.forward(TOKENS[:, first:last], mask, cache, first)
            assert (later - full[:, first:last]).abs().max() < 1e-5


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precisions_stay_close(tmp_path, precision):
    folder = write_checkpoint(tmp_path / "m", LLADA, scale=0.2)
    exact, found = load(folder, "llada").forward(TOKENS), load(folder, "llada", precision).forward(TOKENS)
    assert found.dtype == getattr(torch, precision)
    assert (found.float() - exact).norm() / exact.norm() < 0.03


def test_published_sizes_give_the_published_parameter_counts():
    assert llada.architecture(llada.KNOWN["8b"]).parameters == 8_015_581_184
    assert llama.architecture(llama.KNOWN["8b"]).parameters == 8_030_261_248
    assert len(list(llada.tensors(llada.architecture(llada.KNOWN["8b"])))) == 291


def test_both_spellings_of_the_rotary_base_are_read():
    new = {k: v for k, v in LLAMA.items() if k != "rope_theta"}
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": 500000.0}
    assert llama.architecture(new) == llama.architecture(LLAMA)


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("llada", "alibi", True),
        ("llada", "attention_layer_norm", True),
        ("llada", "block_type", "sequential"),
        ("llada", "input_emb_norm", True),
        ("llada", "scale_logits", True),
        ("llada", "include_bias", True),
        ("llada", "include_qkv_bias", True),
        ("llada", "mask_token_id", None),
        ("llama", "rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
        ("llama", "attention_bias", True),
        ("llama", "hidden_act", "gelu"),
        ("llama", "hidden_size", None),
    ],
)
def test_an_unsupported_config_value_is_named(tmp_path, family, key, value):
    config = dict(LLADA if family == "llada" else LLAMA) | {key: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BenchError, match=key):
        load(tmp_path, family)


def test_a_missing_tensor_is_named(tmp_path):
    name = "model.transformer.blocks.1.ff_out.weight"
    with pytest.raises(BenchError, match=name):
        load(write_checkpoint(tmp_path / "m", LLADA, drop=name), "llada")


def test_a_missing_shard_is_named(tmp_path):
    folder = write_checkpoint(tmp_path / "m", LLADA, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(BenchError, match="model-00002-of-00003"):
        load(folder, "llada")


def test_a_wrong_shape_is_named(tmp_path):
    folder = write_checkpoint(tmp_path / "m", LLAMA)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(31)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BenchError, match=r"model\.norm\.weight.*\(31,\).*\(32,\)"):
        load(folder, "llama")


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(BenchError, match=r"pickled.*pytorch_model\.bin"):
        load(tmp_path, "llama")


def test_a_damaged_file_is_an_error_without_a_traceback(tmp_path):
    folder = write_checkpoint(tmp_path / "m", LLAMA)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BenchError, match="safetensors"):
        load(folder, "llama")


def test_a_kernel_that_cannot_run_here_is_an_error(tmp_path):
    """PyTorch words the same failure differently on a CPU and on CUDA."""
    config = LLAMA
    model = load(write_checkpoint(tmp_path / "one", config), config["model_type"], attention="efficient")
    with pytest.raises(BenchError, match="'efficient' cannot run here"):
        model.forward(TOKENS)
