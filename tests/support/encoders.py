"""Tiny random encoders with a tokenizer, written as the hubs hold them, for BERTScore."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

WORDS = ("anna", "ben", "walks", "to", "the", "lake", "mill", "and", "is", "glad", ".", "##s", "red", "kite")


def write_bert(folder: Path, extra_words: tuple[str, ...] = (), positions: int = 40) -> Path:
    """A BERT of three layers over a WordPiece vocabulary; its tokenizer states no longest text, as some do not."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys((*WORDS, *extra_words))]
    tokenizer = Tokenizer(models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=positions,
        initializer_range=0.5,
    )
    BertModel(config).eval().save_pretrained(folder)
    return folder


def write_roberta(folder: Path, positions: int = 24) -> Path:
    """A RoBERTa of two layers over bytes: its positions are counted from the padding id on."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {n: i for i, n in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    special = {
        "bos": "<s>",
        "cls": "<s>",
        "eos": "</s>",
        "sep": "</s>",
        "pad": "<pad>",
        "unk": "<unk>",
        "mask": "<mask>",
    }
    named = {f"{k}_token": v for k, v in special.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    torch.manual_seed(2)
    config = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=positions,
        pad_token_id=1,
        initializer_range=0.5,
    )
    RobertaModel(config).eval().save_pretrained(folder)
    return folder
