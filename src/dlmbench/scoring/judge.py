"""An autoregressive judge: any causal checkpoint of transformers, read by its own tokenizer.

It is not a model of the run, so plain transformers loads it, in the process that scores, and no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.models.loading import find_auxiliary
from dlmbench.models.tokenizer import CheckpointTokenizer
from dlmbench.prompts import continuation
from dlmbench.scoring.texts import sizes
from dlmbench.types import MetricRequest, Texts, TextScore, Unscored

if TYPE_CHECKING:
    import torch

_CAUSAL = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class JudgeSettings:
    """Settings (experiment file, --judge or --setting)."""

    judge: str = field(default="", metadata={"help": "a causal checkpoint: folder, org/name on the hub, embedded:ar"})


def prepare_judge(metric: str, settings: JudgeSettings) -> MetricRequest:
    """Find the judge before anything is measured.

    Raises:
        BenchError: no judge is named, it is not found, or it is not causal.
    """
    if not settings.judge:
        raise BenchError(
            f"{metric} needs a judge",
            "Name a causal model with --judge (a folder, org/name, or embedded:ar), or in the experiment file: "
            f"metrics: [{{{metric}: {{judge: MODEL}}}}]",
        )
    folder, config = find_auxiliary(settings.judge)
    _check_causal(settings.judge, config)
    return MetricRequest(metric, (("judge", settings.judge),), str(folder), settings.judge)


def _check_causal(name: str, config: Mapping[str, Any]) -> None:
    kind = str(config.get("model_type"))
    is_diffusion = kind in registry.names("families") and registry.load("families", kind).PARADIGM == "diffusion"
    classes = config.get("architectures") or []
    if is_diffusion or (classes and not any(str(c).endswith(_CAUSAL) for c in classes)):
        raise BenchError(
            f"{name} ({', '.join(classes) or kind}) cannot judge: a masked model predicts masked positions from both "
            "sides, so it has no probability of a next token",
            "Name a causal model, such as a LLaMA or GPT-2 checkpoint",
        )


class Judge:
    """A loaded judge."""

    def __init__(self, folder: Path, device: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.codec = CheckpointTokenizer(folder)
        dtype: Any = "auto" if device == "cuda" else torch.float32
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
        self.model = self.model.to(device).eval()
        self.device = device
        self.max_tokens: int | None = getattr(self.model.config, "max_position_embeddings", None)

    def _ids(self, before: str, text: str) -> tuple[torch.Tensor, int]:
        """ids_1N of context and text, encoded separately so that no token spans both, and the context's length.

        Raises:
            BenchError: why they cannot be scored.
        """
        import torch

        context, own = self.codec.encode(before), list(continuation(self.codec.encode, text))
        length, reason = len(context) + len(own), ""
        if not own:
            reason = "empty text"
        elif not context:
            reason = "no text comes before it, and the judge has no start token"
        elif self.max_tokens is not None and length > self.max_tokens:
            reason = f"{length} tokens of the judge, which takes {self.max_tokens}"
        if reason:
            raise BenchError(reason, "The text is recorded without a value")
        return torch.tensor([context + own], device=self.device), len(context)

    def nats(self, before: str, text: str) -> tuple[float, int]:
        """-log p(text | before), and the number of the text's tokens; raises BenchError where there is no value."""
        import torch

        ids_1N, first = self._ids(before, text)
        with torch.inference_mode():
            logits_NV: torch.Tensor = self.model(ids_1N, use_cache=False).logits[0, first - 1 : -1].float()
            truth_T = ids_1N[0, first:]
            log_p_T = logits_NV.log_softmax(-1).gather(-1, truth_T[:, None])[:, 0]
        return -float(log_p_T.double().sum()), len(truth_T)

    def features(self, before: str, text: str) -> list[float]:
        """The last hidden state of the text's last token; raises BenchError where there is none."""
        import torch

        ids_1N, _ = self._ids(before, text)
        with torch.inference_mode():
            states = self.model(ids_1N, use_cache=False, output_hidden_states=True).hidden_states
        vector: list[float] = states[-1][0, -1].float().tolist()
        return vector


@lru_cache(maxsize=1)
def _loaded(folder: str, device: str) -> Judge:
    return Judge(Path(folder), device)


def judge_of(texts: Texts) -> Judge:
    """The judge that the request names; loaded once a process."""
    assert texts.request is not None
    assert texts.request.folder is not None
    return _loaded(texts.request.folder, texts.device)


def judge_text(texts: Texts, metric: str, index: int, before: str, text: str) -> TextScore | Unscored:
    """-log p(text | before) under the request's judge, or why there is none; `index` is the prompt's."""
    try:
        nats, tokens = judge_of(texts).nats(before, text)
    except BenchError as error:
        return Unscored(texts.cell.id, metric, index, error.message)
    size_bytes, words = sizes(text)
    return TextScore(texts.cell.id, metric, index, nats, tokens, size_bytes=size_bytes, words=words)
