"""Negative log-likelihood of the true continuation, in nats per token; exp of it is the perplexity.

Autoregressive models: exact, by the chain rule. Diffusion models: the likelihood of the sampler itself at its K,
block length and commit rule (DUEL, arXiv 2603.01367), so it depends on the number of steps. Where the rule
draws positions at random it is an estimate: the mean over several orders, with its Monte Carlo error. A causal
perplexity of a masked model would be meaningless (published drafts that computed one got six-digit values) and is not
offered.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from dlmbench import registry
from dlmbench.scoring.texts import span_of, text_score, without_reference
from dlmbench.types import Cell, Prompt, PromptBatch, Texts, TextScore, Unscored

UNIT = "nats/token"
HIGHER_IS_BETTER = False
NEEDS = ("model", "references")
TITLE = "negative log-likelihood"
PHRASE = "the likelihood of the true text"
RANK = 0
MEASURES = "likelihood"


@dataclass(frozen=True)
class LikelihoodSettings:
    """Settings (experiment file or --setting)."""

    orders: int = field(default=8, metadata={"help": "sampled orders of a commit rule that draws positions"})


SETTINGS = LikelihoodSettings


def check(settings: LikelihoodSettings) -> str | None:
    """Why these settings cannot be used, or None."""
    return None if settings.orders >= 2 else "likelihood.orders must be 2 or more: one order has no error"


def _draws_order(cell: Cell) -> bool:
    """Whether the cell's commit rule draws its positions."""
    commit = cell.knob("commit")
    return commit is not None and getattr(registry.load("commit", str(commit)), "DRAWS_ORDER", False)


def note(cell: Cell) -> str:
    """What kind of likelihood this is for the cell's sampler."""
    if registry.load("samplers", cell.sampler).PARADIGM == "autoregressive":
        return "exact"
    rule = "positions by the largest probability"
    if _draws_order(cell):
        rule = "an estimate: the mean over sampled orders, an upper bound on the negative log-likelihood"
    return f"sampler likelihood: {rule}, tokens as drawn at temperature 1"


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value per prompt: total nats of its reference, over its tokens."""
    cell = texts.cell
    assert texts.model is not None
    for prompt in texts.prompts:
        if span_of(prompt) is None:
            yield without_reference(cell, "likelihood", prompt)
    sampler = registry.load("samplers", cell.sampler)
    orders = int(texts.request.setting("orders") or 0) if texts.request else LikelihoodSettings().orders
    for prompts in _batches(texts):
        if sampler.PARADIGM == "autoregressive":
            passes = [_exact(texts, prompts)]
        else:
            batch = PromptBatch(prompts, cell.prompts)
            # log p of each reference token at the forward that commits it; the first order is the one generation took.
            seeds = range(cell.seed, cell.seed + (orders if _draws_order(cell) else 1))
            passes = [list(sampler.log_likelihood(texts.model, batch, dict(cell.knobs), s).log_prob_BG) for s in seeds]
        for row, prompt in enumerate(prompts):
            span = span_of(prompt)
            assert span is not None
            nats = [-math.fsum(log_prob_BG[row][span.first : span.last]) for log_prob_BG in passes]
            error = statistics.stdev(nats) / math.sqrt(len(nats)) if len(nats) > 1 else None
            remark = f"{len(nats)} sampled orders" if len(nats) > 1 else ""
            yield text_score(cell, "likelihood", prompt, span, statistics.fmean(nats), error, remark)


def _batches(texts: Texts) -> Iterator[tuple[Prompt, ...]]:
    """Prompts with a reference in batches of equal shape, so that no padding is needed."""

    def shape(prompt: Prompt) -> tuple[int, int]:
        return len(prompt.ids), len(prompt.reference_ids or ())

    known = sorted((p for p in texts.prompts if p.reference_ids), key=shape)
    for _, group in itertools.groupby(known, key=shape):
        equal = tuple(group)
        for first in range(0, len(equal), texts.rows):
            yield equal[first : first + texts.rows]


def _exact(texts: Texts, prompts: tuple[Prompt, ...]) -> list[tuple[float, ...]]:
    """log p(x_i | x_<i) of each continuation token: one causal forward over prompt and continuation."""
    import torch

    model = texts.model
    assert model is not None
    tokens_BN = torch.tensor([p.ids + (p.reference_ids or ()) for p in prompts], device=model.device)
    prompt_tokens = len(prompts[0].ids)
    with torch.inference_mode():
        hidden_BND = model.forward(tokens_BN)
        # The logits at a position predict the next one, so those of the last position are not needed.
        logits_BGV = model.logits(hidden_BND, prompt_tokens - 1, tokens_BN.shape[1] - 1).float()
        truth_BG = tokens_BN[:, prompt_tokens:]
        log_p_BG = logits_BGV.log_softmax(-1).gather(-1, truth_BG[..., None])[..., 0]
    return [tuple(row) for row in log_p_BG.double().tolist()]
