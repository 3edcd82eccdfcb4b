"""BERTScore F1 of the generated text against the true continuation, by the package bert-score.

Zhang et al. 2020 (arXiv 1904.09675); no idf weights, no rescaling. The encoder is a folder or a hub id and a
layer; default: roberta-large, layer 17, bert-score's default for English. The package's matching is used unchanged;
encoder and tokenizer are loaded here, because bert-score's loader treats any path that contains "t5" as a T5 model and
fails on tokenizers without a maximum length. An empty text scores 0, as the package defines it.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from dlmbench.errors import BenchError
from dlmbench.models.loading import find_auxiliary
from dlmbench.scoring.texts import NO_REFERENCE
from dlmbench.types import MetricRequest, Texts, TextScore, Unscored

UNIT = "F1"
HIGHER_IS_BETTER = True
ROLE = "quality"
MARGIN = 0.01
NEEDS = ("generations", "references", "own model")
TITLE = "BERTScore"
REPORT_IF_MISSING = True
DEFAULT_MODEL = "FacebookAI/roberta-large"


@dataclass(frozen=True)
class BertscoreSettings:
    """Settings (experiment file or --setting)."""

    model: str = field(default=DEFAULT_MODEL, metadata={"help": "the encoder: a folder, or org/name on the hub"})
    num_layers: int = field(default=0, metadata={"help": "layer to compare; 0: the one bert-score recommends"})


SETTINGS = BertscoreSettings


def prepare(settings: BertscoreSettings) -> MetricRequest:
    """Find package, encoder and layer before anything is measured.

    Raises:
        BenchError: one of them is missing (the hint says how to get it).
    """
    if importlib.util.find_spec("bert_score") is None:
        raise BenchError("bertscore needs the package bert-score", "pip install 'dlmbench[quality]'")
    try:
        folder, config = find_auxiliary(settings.model)
    except BenchError as error:
        raise BenchError(
            f"bertscore needs an encoder: {error.message}",
            f"Download it with `dlmbench download --extra-model-id {settings.model}`, or set bertscore.model to the "
            "folder of a BERT-like model and bertscore.num_layers to a layer",
        ) from None
    layers = settings.num_layers or _recommended_layer(settings.model)
    names = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")
    num_layers = next((int(config[name]) for name in names if name in config), 0)
    if layers is None or not 0 < layers <= num_layers:
        what = "has no layer that bert-score recommends" if layers is None else f"has {num_layers} layers, not {layers}"
        raise BenchError(
            f"bertscore: {settings.model} {what}", f"--setting bertscore.num_layers=N with N from 1 to {num_layers}"
        )
    resolved = (("model", settings.model), ("num_layers", layers))
    return MetricRequest("bertscore", resolved, str(folder), f"{settings.model} layer {layers}")


def _recommended_layer(model: str) -> int | None:
    """The layer that the package's authors recommend, for the models they tried; folders are looked up by name."""
    from bert_score.utils import model2layers

    name = model.rstrip("/")
    layer = model2layers.get(name, model2layers.get(name.rpartition("/")[2]))
    return None if layer is None else int(layer)


class _Encoder:
    """Encoder and tokenizer for bert-score's functions: one layer's hidden states, a finite maximum length."""

    def __init__(self, folder: str, layer: int, device: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        inner: Any = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
        inner = inner.to(device).eval()
        if getattr(inner.config, "is_encoder_decoder", False):
            inner = inner.get_encoder()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        # RoBERTa position ids start at pad_token_id + 1.
        offset = inner.config.pad_token_id + 1 if "roberta" in inner.config.model_type else 0
        positions = getattr(inner.config, "max_position_embeddings", None)
        self.max_tokens = min(self.tokenizer.model_max_length, positions - offset if positions else 1 << 20)
        self.tokenizer.model_max_length = self.max_tokens

        class OneLayer(torch.nn.Module):
            """Returns the hidden states of one layer, where the package takes the last."""

            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, ids: Any, attention_mask: Any, output_hidden_states: bool = False) -> tuple[Any]:
                states = self.inner(ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
                return (states[layer],)

        self.model = OneLayer()
        self.weights: dict[Any, float] = defaultdict(lambda: 1.0)
        self.weights |= {self.tokenizer.cls_token_id: 0.0, self.tokenizer.sep_token_id: 0.0}
        self.device = device

    def f1(self, references: list[str], candidates: list[str]) -> list[float]:
        """F1 of each pair of texts that are not empty."""
        from bert_score.utils import bert_cos_score_idf

        scores = bert_cos_score_idf(
            self.model, references, candidates, self.tokenizer, self.weights, batch_size=16, device=self.device
        )
        values: list[float] = scores[:, 2].tolist()
        return values

    def is_truncated(self, text: str) -> bool:
        """Whether the encoder does not see all of a text."""
        return bool(len(self.tokenizer(text, truncation=False, verbose=False)["input_ids"]) > self.max_tokens)


@lru_cache(maxsize=1)
def _load_encoder(folder: str, layer: int, device: str) -> _Encoder:
    return _Encoder(folder, layer, device)


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value per generation."""
    request, cell = texts.request, texts.cell
    assert request is not None
    assert request.folder is not None
    encoder = _load_encoder(request.folder, int(request.setting("num_layers") or 0), texts.device)
    references = {p.index: (p.reference_text or "").strip() for p in texts.prompts}
    pairs: list[tuple[int, str, str]] = []
    for generation in texts.generations:
        index, reference = generation.prompt_index, references[generation.prompt_index]
        if not reference:
            yield Unscored(cell.id, "bertscore", index, NO_REFERENCE)
        elif generation.text is None:
            yield Unscored(cell.id, "bertscore", index, "no text: the model has no tokenizer")
        elif not generation.text.strip():
            yield TextScore(cell.id, "bertscore", index, 0.0, 1, remark="empty text: counted as 0")
        else:
            pairs.append((index, reference, generation.text.strip()))
    if not pairs:
        return
    values = encoder.f1([r for _, r, _ in pairs], [c for _, _, c in pairs])
    for (index, *texts_of_pair), value in zip(pairs, values, strict=True):
        remark = (
            f"truncated to the encoder's {encoder.max_tokens} tokens"
            if any(map(encoder.is_truncated, texts_of_pair))
            else ""
        )
        yield TextScore(cell.id, "bertscore", index, value, 1, remark=remark)
