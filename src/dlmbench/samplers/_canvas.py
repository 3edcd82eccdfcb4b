"""The canvas a diffusion sampler works on: prompt and new tokens side by side, what is still masked, work done.

Shapes: B rows, P prompt (left-padded to the longest), G new tokens, N = P + G.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dlmbench.errors import BenchError
from dlmbench.types import LanguageModel, PromptBatch

if TYPE_CHECKING:
    import torch


def padded(batch: PromptBatch, model: LanguageModel) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Prompts as tokens_BP, padded on the left, with attend_BP (1 real, 0 padding; None when nothing is padded).

    Raises:
        BenchError: a prompt is empty, or has an id outside the vocabulary or equal to the mask.
    """
    import torch

    architecture = model.architecture
    longest = max(len(p.ids) for p in batch.prompts)
    pad = architecture.pad_id if architecture.pad_id is not None else architecture.eos_id or 0
    rows, attend = [], []
    for prompt in batch.prompts:
        if not prompt.ids:
            raise BenchError(f"prompt {prompt.index} is empty", "give it at least one token")
        for token in prompt.ids:
            if not 0 <= token < architecture.vocab_size:
                raise BenchError(
                    f"prompt {prompt.index} has the id {token}, outside the vocabulary of {architecture.vocab_size}",
                    "check that the ids were made with this model's tokenizer",
                )
            if token == architecture.mask_id:
                raise BenchError(
                    f"prompt {prompt.index} contains the mask id {token}",
                    "prompts are text; masks mark what is to come",
                )
        gap = longest - len(prompt.ids)
        rows.append([pad] * gap + list(prompt.ids))
        attend.append([0] * gap + [1] * len(prompt.ids))
    tokens_BP = torch.tensor(rows, device=model.device)
    if all(len(p.ids) == longest for p in batch.prompts):
        return tokens_BP, None
    return tokens_BP, torch.tensor(attend, device=model.device)


@dataclass
class Work:
    """Counts made while a generation runs (see `Generation`)."""

    forwards: int = 0
    positions: int = 0
    attention_pairs: int = 0
    wasted_positions: int = 0


@dataclass
class Canvas:
    """The state of one generation; the loop of `masked_diffusion` is the only one to change it."""

    tokens_BN: torch.Tensor
    masked_BG: torch.Tensor
    attend_BN: torch.Tensor | None
    prompt_tokens: int
    mask_id: int
    work: Work = field(default_factory=Work)

    @classmethod
    def blank(cls, model: LanguageModel, batch: PromptBatch, new_tokens: int) -> Canvas:
        """[prompt | G masks] for each row; a padding mask is extended by ones over G."""
        import torch

        mask_id = model.architecture.mask_id
        if mask_id is None:
            raise BenchError(
                f"a model of family '{model.architecture.family}' has no mask token, so it cannot be run by diffusion",
                "use the autoregressive sampler, or a masked-diffusion checkpoint",
            )
        tokens_BP, attend_BP = padded(batch, model)
        rows = tokens_BP.shape[0]
        blank_BG = torch.full((rows, new_tokens), mask_id, device=model.device)
        attend_BN = None if attend_BP is None else torch.cat([attend_BP, torch.ones_like(blank_BG)], dim=1)
        return cls(
            tokens_BN=torch.cat([tokens_BP, blank_BG], dim=1),
            masked_BG=torch.ones_like(blank_BG, dtype=torch.bool),
            attend_BN=attend_BN,
            prompt_tokens=tokens_BP.shape[1],
            mask_id=mask_id,
        )

    @property
    def length(self) -> int:
        """N, prompt and new tokens together."""
        return self.tokens_BN.shape[1]

    @property
    def new_BG(self) -> torch.Tensor:
        """A view of the generated span."""
        return self.tokens_BN[:, self.prompt_tokens :]

    def without_prompt(self) -> torch.Tensor:
        """tokens_BN with every originally unmasked position masked, padding included: CFG's unconditional rows."""
        import torch

        prompt_BP = torch.full_like(self.tokens_BN[:, : self.prompt_tokens], self.mask_id)
        return torch.cat([prompt_BP, self.new_BG], dim=1)
