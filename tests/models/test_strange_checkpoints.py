"""Checkpoints as people publish them: several ends of text, quantized, with an impossible config or a bad template."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from dlmbench.errors import BenchError
from dlmbench.models import checkpoint
from dlmbench.models.tokenizer import CheckpointTokenizer
from dlmbench.prompts import continuation
from support.checkpoints import LLADA, LLAMA, write_checkpoint
from support.program import fails


def tokenizer(folder, single="<s> $A", template=None):
    vocab = {t: i for i, t in enumerate(["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | ({"chat_template": template} if template else {}))
    )
    return CheckpointTokenizer(folder)


def test_every_end_of_text_of_both_configs_counts(tmp_path):
    folder = write_checkpoint(tmp_path / "m", LLAMA | {"eos_token_id": [5, 2]})
    assert checkpoint.inspect(folder).eos_ids == (5, 2)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 9]}))
    assert checkpoint.inspect(folder).eos_ids == (5, 2, 9)


def test_what_a_tokenizer_adds_behind_a_text_is_left_out(tmp_path):
    plain, ended = tokenizer(tmp_path / "a"), tokenizer(tmp_path / "b", "<s> $A </s>")
    for text in ("", "ab", "<s>x"):
        assert ended.encode(text) == plain.encode(text)
    assert ended.encode("")[:] == [0]
    assert len(continuation(ended.encode, "cd")) == 2


@pytest.mark.parametrize("file", ["../other/model.safetensors", "/etc/passwd", "a/../../b.safetensors"])
def test_shards_outside_the_checkpoint_are_refused(tmp_path, file):
    folder = write_checkpoint(tmp_path / "m", LLAMA)
    index = {"weight_map": {"model.norm.weight": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BenchError, match="outside the checkpoint"):
        checkpoint.weight_map(folder)


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight_scale", "model.layers.0.mlp.up_proj.bias"])
def test_tensors_that_would_be_ignored_are_refused(tmp_path, name):
    folder = write_checkpoint(tmp_path / "m", LLAMA)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"model.rotary_emb.inv_freq": torch.ones(2)}, folder / "model.safetensors")
    arch = checkpoint.inspect(folder)
    assert len(list(checkpoint.tensors(folder, arch, torch.device("cpu"), torch.float32))) == len(weights)
    save_file(weights | {name: torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(BenchError, match=name):
        list(checkpoint.tensors(folder, arch, torch.device("cpu"), torch.float32))


def test_integer_weights_are_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "m", LLAMA)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["lm_head.weight"].to(torch.int8)}, folder / "model.safetensors")
    with pytest.raises(BenchError, match=r"lm_head\.weight' has dtype torch\.int8"):
        list(checkpoint.tensors(folder, checkpoint.inspect(folder), torch.device("cpu"), torch.float32))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (LLADA | {"mask_token_id": 99999}, "mask_token_id = 99999"),
        (LLAMA | {"eos_token_id": [2, 61]}, "eos_token_id = 61"),
        (LLAMA | {"num_attention_heads": 5}, "hidden_size = 32 is not a multiple of num_attention_heads = 5"),
        (LLAMA | {"num_key_value_heads": 3}, "num_attention_heads = 4 is not a multiple of num_key_value_heads"),
        (LLAMA | {"num_hidden_layers": -2}, "num_hidden_layers = -2"),
        (LLADA | {"n_heads": "4"}, "n_heads = '4'"),
    ],
)
def test_an_impossible_config_is_refused_by_its_key(tmp_path, config, says):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BenchError) as found:
        checkpoint.inspect(tmp_path)
    assert says in found.value.message


def test_json_nested_too_deeply_is_damaged(tmp_path):
    (tmp_path / "config.json").write_text("[" * 200_000)
    with pytest.raises(BenchError, match="damaged"):
        checkpoint.inspect(tmp_path)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('System role required') }}", "System role required"),
        ([{"name": "rag", "template": "x"}, {"name": "tool_use", "template": "x"}], "no default"),
    ],
)
def test_a_template_that_refuses_says_so_in_one_line(tmp_path, template, says):
    with pytest.raises(BenchError, match="chat template") as found:
        tokenizer(tmp_path, template=template).chat("hello")
    assert says in found.value.message


def test_logits_that_are_no_numbers_end_generate_and_likelihood(tmp_path, capsys):
    folder = write_checkpoint(tmp_path / "m", LLAMA)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][5] = float("nan")
    save_file(weights, folder / "model.safetensors")
    lines = tmp_path / "p.jsonl"
    lines.write_text('{"prompt_ids": [3, 4], "reference_ids": [6, 7]}\n')
    given = ("--model", folder, "--prompt-file", lines, "-q")
    for engine in ("hf", "native_plain"):
        fails(capsys, "generate", *given, "--new-tokens", 2, "--engine", engine, says="NaN or infinite logits")
    fails(capsys, "likelihood", *given, says="NaN or infinite logits")
    fails(capsys, "generate", *given, "--new-tokens", 255, says="257 tokens ... 256 positions")
