"""Evidence lower bound of a masked diffusion model, in nats per token of the true continuation; no step count.

The estimator of LLaDA (Nie et al. 2025, arXiv 2502.09992, eq. 6): mask x of the T answer tokens at random, charge the
masked ones T / x times their cross entropy, average over 128 draws whose x are spread evenly over 1..T. A bound: the
true log-likelihood under random orders is at least minus this. Its Monte Carlo error comes from the spread between
the groups of draws, for draws of one group share their x and are not independent.
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
NEEDS = ("model", "references", "diffusion")


@dataclass(frozen=True)
class ElboSettings:
    """What can be set in the experiment file or by --setting."""

    draws: int = field(default=128, metadata={"help": "masked copies of each text; the authors use 128"})


SETTINGS = ElboSettings


def check(settings: ElboSettings) -> str | None:
    """Why these settings cannot be used, or None."""
    return None if settings.draws >= 1 else "elbo.draws must be 1 or more"


def note(cell: Cell) -> str:
    """What kind of number this is."""
    return "a bound by Monte Carlo; the same at every step count"


def same_value(cell: Cell) -> str:
    """The bound does not depend on steps, blocks and rules: one computation serves all of them."""
    return stable_hash([cell.model.key, cell.prompt_tokens, cell.new_tokens, cell.precision, cell.engine, cell.seed])


class BoundEstimate(NamedTuple):
    """Nats of one text; stderr is the Monte Carlo error, None where a single group of draws was made."""

    nats: float
    stderr: float | None


def masked_counts(length: int, rows: int, first: int) -> list[int]:
    """How many of `length` tokens each of `rows` draws masks: evenly spread from `first` on, wrapped into 1..length.

    Rounds half to even, as the published estimator does, which favours even counts wherever a half occurs (9 of 16
    draws would mask both of two tokens): see `unbiased_rows`.
    """
    return [(round(first + i * length / rows) - 1) % length + 1 for i in range(rows)]


def unbiased_rows(length: int, most: int) -> int:
    """As many draws at once, at most `most`, that no half is rounded: a divisor's or an odd number of them."""
    return most if length % most == 0 else (most - 1) | 1


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value per prompt: the estimate in nats over its tokens."""
    draws = int(texts.request.setting("draws") or 0) if texts.request else ElboSettings().draws
    for prompt in texts.prompts:
        span = span_of(prompt)
        if span is None:
            yield without_reference(texts.cell, "elbo", prompt)
            continue
        found = estimate(texts, prompt, draws)
        yield text_score(texts.cell, "elbo", prompt, span, found.nats, found.stderr, f"{draws} draws")


def estimate(texts: Texts, prompt: Prompt, draws: int = ElboSettings().draws) -> BoundEstimate:
    """The bound for one prompt; draws depend on the cell's seed and the prompt alone.

    Tokens outside the scored span (parts of a character at its ends) are context before it and left out after it.
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
            hidden_RT = ranks_RT < counts_R[:, None]
            tokens_RN = torch.cat([prompt_P.expand(rows, -1), truth_T.masked_fill(hidden_RT, mask_id)], dim=1)
            logits_RTV = model.logits(model.forward(tokens_RN), len(prompt_P), tokens_RN.shape[1]).float()
            logits_RTV[..., mask_id] = float("-inf")
            log_p_RT = logits_RTV.log_softmax(-1).gather(-1, truth_T.expand(rows, -1)[..., None])[..., 0]
            losses_R = -(log_p_RT * hidden_RT).double().sum(1) * length / counts_R
            groups.append(losses_R.tolist()[: draws - len(groups) * rows])
    nats = math.fsum(math.fsum(group) for group in groups) / draws
    whole = [statistics.fmean(group) for group in groups if len(group) == rows]
    return BoundEstimate(nats, statistics.stdev(whole) / math.sqrt(len(whole)) if len(whole) > 1 else None)
