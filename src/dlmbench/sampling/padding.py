"""Prompts of different lengths in one batch: padded on the left, so that the new tokens of all rows start together."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dlmbench.errors import BenchError
from dlmbench.types import LanguageModel, PromptBatch

if TYPE_CHECKING:
    import torch


def padded(batch: PromptBatch, model: LanguageModel) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(tokens_BP padded on the left, attention_mask_BP: 1 real, 0 padding; None when nothing is padded).

    Raises:
        BenchError: a prompt is empty, or has an id outside the vocabulary or equal to the mask.
    """
    import torch

    architecture = model.architecture
    pad = architecture.pad_id if architecture.pad_id is not None else architecture.eos_id or 0
    for prompt in batch.prompts:
        if not prompt.ids:
            raise BenchError(f"prompt {prompt.index} is empty", "Give it at least one token")
        for token in prompt.ids:
            if not 0 <= token < architecture.vocab_size:
                raise BenchError(
                    f"prompt {prompt.index} has the id {token}, outside the vocabulary of {architecture.vocab_size}",
                    "Check that the ids were made with this model's tokenizer",
                )
            if token == architecture.mask_id:
                raise BenchError(
                    f"prompt {prompt.index} contains the mask id {token}",
                    "A prompt is text; masks stand for tokens still to be generated",
                )
    rows = [torch.tensor(prompt.ids) for prompt in batch.prompts]
    pad_left = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
    tokens_BP = pad_left(rows, padding_value=pad).to(model.device)
    if all(len(row) == tokens_BP.shape[1] for row in rows):
        return tokens_BP, None
    return tokens_BP, pad_left([torch.ones_like(row) for row in rows]).to(model.device)
