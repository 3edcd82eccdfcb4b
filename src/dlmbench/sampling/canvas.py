"""The canvas a diffusion sampler works on: prompt and new tokens side by side, what is still masked, what was noted.

All that changes from step to step lies in tensors that are written in place, and nothing of it is read by the host, so
that an engine may record a step once and play the record again.

Shapes: B rows, P prompt (left-padded to the longest), G new tokens, N = P + G.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dlmbench.errors import BenchError
from dlmbench.types import LanguageModel, PromptBatch

if TYPE_CHECKING:
    import torch


@dataclass
class Work:
    """Counts made while a generation runs (see `Generation`)."""

    forwards: int = 0
    positions: int = 0
    attention_pairs: int = 0
    wasted_positions: int = 0
    block_ends: list[int] = field(default_factory=list)


@dataclass
class Canvas:
    """The state of one generation; the loop in `_denoise` is the only one to change it.

    number_1 counts forwards within the block, forwards_1 those of the whole generation. healthy turns False when a
    chosen logit is not finite. blind_BN is CFG's unconditional half. reference_BG is there when a likelihood is
    computed, when_BG and confidence_BG when the order of commitment is traced, cache when keys and values are kept.
    """

    tokens_BN: torch.Tensor
    masked_BG: torch.Tensor
    attend_BN: torch.Tensor | None
    prompts_B: torch.Tensor
    number_1: torch.Tensor
    forwards_1: torch.Tensor
    healthy: torch.Tensor
    prompt_tokens: int
    mask_id: int
    cache: Any = None
    blind_BN: torch.Tensor | None = None
    reference_BG: torch.Tensor | None = None
    log_prob_BG: torch.Tensor | None = None
    when_BG: torch.Tensor | None = None
    confidence_BG: torch.Tensor | None = None

    @classmethod
    def blank(
        cls,
        model: LanguageModel,
        shape: tuple[int, int, int],
        *,
        padding: bool,
        keeps: bool,
        guided: bool,
        scored: bool,
        traced: bool,
    ) -> Canvas:
        """Room for (B, P, G), with what a generation of this kind needs beside its tokens."""
        import torch

        mask_id, (rows, prompt_tokens, new_tokens) = model.architecture.mask_id, shape
        if mask_id is None:
            raise BenchError(
                f"a model of family '{model.architecture.family}' has no mask token, so it cannot be run by diffusion",
                "use the autoregressive sampler, or a masked-diffusion checkpoint",
            )

        def room(*size: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
            return torch.zeros(size, dtype=dtype, device=model.device)

        length = prompt_tokens + new_tokens
        return cls(
            tokens_BN=room(rows, length),
            masked_BG=room(rows, new_tokens, dtype=torch.bool),
            attend_BN=room(rows, length) if padding else None,
            prompts_B=room(rows),
            number_1=room(1),
            forwards_1=room(1),
            healthy=room(dtype=torch.bool),
            prompt_tokens=prompt_tokens,
            mask_id=mask_id,
            cache=model.new_cache(rows, length) if keeps else None,
            blind_BN=room(rows, length) if guided else None,
            reference_BG=room(rows, new_tokens) if scored else None,
            log_prob_BG=room(rows, new_tokens, dtype=torch.float64) if scored else None,
            when_BG=room(rows, new_tokens) if traced else None,
            confidence_BG=room(rows, new_tokens, dtype=torch.float64) if traced else None,
        )

    def lay(self, tokens_BP: torch.Tensor, attend_BP: torch.Tensor | None, batch: PromptBatch) -> None:
        """Start anew: [prompt | G masks] for each row; a padding mask is extended by ones over G."""
        import torch

        self.tokens_BN[:, : self.prompt_tokens] = tokens_BP
        self.new_BG.fill_(self.mask_id)
        self.masked_BG.fill_(True)
        self.healthy.fill_(True)
        if self.attend_BN is not None and attend_BP is not None:
            self.attend_BN.fill_(1)
            self.attend_BN[:, : self.prompt_tokens] = attend_BP
        if self.blind_BN is not None:
            # CFG's unconditional rows see blanks where the prompt and its padding were.
            self.blind_BN.fill_(self.mask_id)
        if self.reference_BG is not None:
            self.reference_BG.copy_(torch.tensor([p.reference_ids for p in batch.prompts]))
        self.prompts_B.copy_(torch.tensor(batch.indices))
        for counted in (self.forwards_1, self.log_prob_BG, self.when_BG, self.confidence_BG):
            if counted is not None:
                counted.zero_()

    @property
    def length(self) -> int:
        """N, prompt and new tokens together."""
        return self.tokens_BN.shape[1]

    @property
    def new_BG(self) -> torch.Tensor:
        """A view of the generated span."""
        return self.tokens_BN[:, self.prompt_tokens :]
