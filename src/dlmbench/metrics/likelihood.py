"""Negative log-likelihood of the true continuation, in nats a token; exp of it is the perplexity.

Autoregressive models: exact, by the chain rule. Diffusion models: the likelihood of the sampler itself at its K,
block length and commit rule (DUEL, arXiv 2603.01367), so it moves with the steps. A causal perplexity of a masked
model would be meaningless (published drafts that computed one got six-digit values) and does not exist here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.types import Cell, KnobValue, Prompt, PromptBatch, Texts, TextScore

UNIT = "nats/token"
HIGHER_IS_BETTER = False
NEEDS = ("model", "references")


def note(cell: Cell) -> str:
    """What kind of likelihood this is for the cell's sampler."""
    if registry.load("samplers", cell.sampler).PARADIGM == "autoregressive":
        return "exact"
    drawn = "one sampled order" if cell.knob("commit") == "random" else "positions by the largest probability"
    return f"sampler likelihood: {drawn}, tokens as drawn at temperature 1"


def score(texts: Texts) -> Iterator[TextScore]:
    """One value a prompt: total nats of its reference, over its tokens.

    Raises:
        BenchError: a prompt has no true continuation, or a random-weights model (its likelihood says nothing).
    """
    cell = texts.cell
    assert texts.model is not None
    if cell.model.weights == "random":
        raise BenchError(f"model '{cell.model.key}' has random weights, so it has no quality", "drop the metric")
    sampler = registry.load("samplers", cell.sampler)
    if any(not p.reference_ids for p in texts.prompts):
        raise BenchError("a prompt has no true continuation", "use prompts with references, or drop likelihood")
    for prompts in _rows(texts):
        if sampler.PARADIGM == "autoregressive":
            log_prob_BG = _exact(texts, prompts)
        else:
            knobs: dict[str, KnobValue] = dict(cell.knobs)
            found = sampler.log_likelihood(texts.model, PromptBatch(prompts, cell.prompts), knobs, cell.seed)
            log_prob_BG = found.log_prob_BG
        for prompt, log_prob_G in zip(prompts, log_prob_BG, strict=True):
            first, last = prompt.scored or (0, len(log_prob_G))
            nats = -math.fsum(log_prob_G[first:last])
            yield TextScore(cell.id, "likelihood", prompt.index, nats, prompt.scored_tokens or last - first)


def _rows(texts: Texts) -> Iterator[tuple[Prompt, ...]]:
    """Prompts in batches of equal shape, for the model sees no padding here."""

    def shape(prompt: Prompt) -> tuple[int, int]:
        return len(prompt.ids), len(prompt.reference_ids or ())

    for _, group in itertools.groupby(sorted(texts.prompts, key=shape), key=shape):
        equal = tuple(group)
        for first in range(0, len(equal), texts.rows):
            yield equal[first : first + texts.rows]


def _exact(texts: Texts, prompts: tuple[Prompt, ...]) -> list[list[float]]:
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
    rows: list[list[float]] = log_p_BG.double().tolist()
    return rows
