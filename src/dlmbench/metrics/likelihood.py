"""Negative log-likelihood of the true continuation, in nats a token; exp of it is the perplexity.

Autoregressive models: exact, by the chain rule. Diffusion models: the likelihood of the sampler itself at its K,
block length and commit rule (DUEL, arXiv 2603.01367), so it moves with the steps. A causal perplexity of a masked
model would be meaningless (published drafts that computed one got six-digit values) and does not exist here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.types import Cell, KnobValue, Prompt, PromptBatch, Texts, TextScore

if TYPE_CHECKING:
    import torch

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
    for first in range(0, len(texts.prompts), texts.rows):
        prompts = texts.prompts[first : first + texts.rows]
        if any(not p.reference_ids for p in prompts):
            raise BenchError(
                "a prompt has no true continuation", "use a prompt source with references, or drop likelihood"
            )
        if sampler.PARADIGM == "autoregressive":
            nats_B = _exact(texts, prompts)
        else:
            knobs: dict[str, KnobValue] = dict(cell.knobs)
            found = sampler.log_likelihood(texts.model, PromptBatch(prompts, cell.prompts), knobs, cell.seed)
            nats_B = [-sum(row) for row in found.log_prob_BG]
        for prompt, nats in zip(prompts, nats_B, strict=True):
            assert prompt.reference_ids is not None
            yield TextScore(cell.id, "likelihood", prompt.index, nats, len(prompt.reference_ids))


def _exact(texts: Texts, prompts: tuple[Prompt, ...]) -> list[float]:
    """-sum log p(x_i | x_<i) over each continuation: one causal forward over prompt and continuation, rows equal."""
    import torch

    model = texts.model
    assert model is not None
    rows = [list(p.ids) + list(p.reference_ids or ()) for p in prompts]
    prompt_tokens = len(prompts[0].ids)
    assert all(len(r) == len(rows[0]) for r in rows)
    assert all(len(p.ids) == prompt_tokens for p in prompts)
    tokens_BN = torch.tensor(rows, device=model.device)
    with torch.inference_mode():
        hidden_BND = model.forward(tokens_BN)
        # The logits at a position predict the next one, so those of the last position are not needed.
        logits_BGV = model.logits(hidden_BND, prompt_tokens - 1, tokens_BN.shape[1] - 1).float()
        truth_BG = tokens_BN[:, prompt_tokens:]
        log_p_BG: torch.Tensor = logits_BGV.log_softmax(-1).gather(-1, truth_BG[..., None])[..., 0]
    nats: list[float] = (-log_p_BG.double().sum(-1)).tolist()
    return nats
