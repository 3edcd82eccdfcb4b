"""Negative evidence lower bound (ELBO) of a masked diffusion model, in nats per token of the true continuation.

The estimator of LLaDA (Nie et al. 2025, arXiv 2502.09992, eq. 6): mask x of the T answer tokens at random, weight the
cross-entropy of the masked tokens by T / x, average over `draws` draws (default 128) whose x are spread evenly over
1..T. It does not depend on the step count. The log-likelihood under random orders is at least minus this value. The
Monte Carlo error comes from the spread between groups of draws, because the draws of a group share one offset of x.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from dlmbench.scoring.texts import span_of, text_score, without_reference
from dlmbench.types import Cell, Prompt, Texts, TextScore, Unscored, stable_hash

UNIT = "nats/token"
HIGHER_IS_BETTER = False
ROLE = "quality"
MARGIN = 0.1
MARGINS = (0.2,)
NEEDS = ("model", "references", "diffusion")


@dataclass(frozen=True)
class ElboSettings:
    """Settings (experiment file or --setting)."""

    draws: int = field(default=128, metadata={"help": "masked copies of each text; the authors use 128"})


SETTINGS = ElboSettings


def check(settings: ElboSettings) -> str | None:
    """Why these settings cannot be used, or None."""
    return None if settings.draws >= 1 else "elbo.draws must be 1 or more"


def note(cell: Cell) -> str:
    """The caveat shown with the value."""
    return "Monte Carlo estimate of a bound; does not depend on the step count"


def same_value(cell: Cell) -> str:
    """Equal for cells that share the value: it does not depend on steps, blocks or rules, so it is computed once."""
    return stable_hash([cell.model.key, cell.prompt_tokens, cell.new_tokens, cell.precision, cell.engine, cell.seed])


class BoundEstimate(NamedTuple):
    """Nats of one text; stderr is the Monte Carlo error, None for a single group."""

    nats: float
    stderr: float | None


def masked_counts(length: int, rows: int, first: int) -> list[int]:
    """How many of `length` tokens each of `rows` draws masks: evenly spread from `first` on, wrapped into 1..length.

    Rounds half to even, as the published estimator does, which favours even counts wherever a half occurs (9 of 16
    draws would mask both of two tokens): see `unbiased_rows`.
    """
    return [(round(first + i * length / rows) - 1) % length + 1 for i in range(rows)]


def unbiased_rows(length: int, max_rows: int) -> int:
    """Draws per batch for which no half is rounded: `max_rows` if it divides `length`, else an odd number."""
    return max_rows if length % max_rows == 0 else (max_rows - 1) | 1


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value per prompt: the estimate in nats over its tokens."""
    draws = int(texts.request.setting("draws") or 0) if texts.request else ElboSettings().draws
    for prompt in texts.prompts:
        span = span_of(prompt)
        if span is None:
            yield without_reference(texts.cell, "elbo", prompt)
            continue
        bound = estimate(texts, prompt, draws)
        yield text_score(texts.cell, "elbo", prompt, span, bound.nats, bound.stderr, f"{draws} draws")


def estimate(texts: Texts, prompt: Prompt, draws: int = ElboSettings().draws) -> BoundEstimate:
    """The bound for one prompt; draws depend on the cell's seed and the prompt alone.

    Tokens outside the scored span (parts of a character at its ends) belong to the context if before it, and are
    dropped if after it.
    """
    import torch

    model, span = texts.model, span_of(prompt)
    assert model is not None
    assert span is not None
    assert prompt.reference_ids
    mask_id = model.architecture.mask_id
    assert mask_id is not None
    truth_T = torch.tensor(prompt.reference_ids[span.first : span.last], device=model.device)
    prompt_P = torch.tensor(prompt.ids + prompt.reference_ids[: span.first], device=model.device)
    length = len(truth_T)
    rows = unbiased_rows(length, min(texts.rows, draws))
    generator = torch.Generator().manual_seed(texts.cell.seed * 1_000_003 + prompt.index)
    groups: list[list[float]] = []
    with torch.inference_mode():
        while len(groups) * rows < draws:
            first = int(torch.randint(1, length + 1, (1,), generator=generator))
            counts_R = torch.tensor(masked_counts(length, rows, first), device=model.device)
            ranks_RT = torch.rand(rows, length, generator=generator).argsort(1).argsort(1).to(model.device)
            masked_RT = ranks_RT < counts_R[:, None]
            tokens_RN = torch.cat([prompt_P.expand(rows, -1), truth_T.masked_fill(masked_RT, mask_id)], dim=1)
            logits_RTV = model.logits(model.forward(tokens_RN), len(prompt_P), tokens_RN.shape[1]).float()
            logits_RTV[..., mask_id] = float("-inf")
            log_p_RT = logits_RTV.log_softmax(-1).gather(-1, truth_T.expand(rows, -1)[..., None])[..., 0]
            losses_R = -(log_p_RT * masked_RT).double().sum(1) * length / counts_R
            groups.append(losses_R.tolist()[: draws - len(groups) * rows])
    nats = math.fsum(math.fsum(group) for group in groups) / draws
    full_groups = [statistics.fmean(group) for group in groups if len(group) == rows]
    return BoundEstimate(
        nats, statistics.stdev(full_groups) / math.sqrt(len(full_groups)) if len(full_groups) > 1 else None
    )
