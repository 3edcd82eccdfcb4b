"""Evidence lower bound of a masked diffusion model, in nats a token of the true continuation; it has no step count.

The estimator of LLaDA (Nie et al. 2025, arXiv 2502.09992, eq. 6): mask x of the T answer tokens at random, charge the
masked ones T / x times their cross entropy, average over 128 draws whose x are spread evenly over 1..T. A bound: the
true log-likelihood under random orders is at least minus this.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlmbench.errors import BenchError
from dlmbench.types import Cell, Prompt, Texts, TextScore

UNIT = "nats/token"
HIGHER_IS_BETTER = False
NEEDS = ("model", "references", "diffusion")
DRAWS = 128


def note(cell: Cell) -> str:
    """What kind of number this is."""
    return f"a bound, Monte Carlo over {DRAWS} draws; the same at every step count"


def masked_counts(length: int, rows: int, first: int) -> list[int]:
    """How many of `length` tokens each of `rows` draws masks: evenly spread from `first` on, wrapped into 1..length.

    Rounds half to even, as the published estimator does. Where `rows` does not divide `length` evenly that favours
    some counts, so rows are chosen to divide it where possible.
    """
    return [(round(first + i * length / rows) - 1) % length + 1 for i in range(rows)]


def score(texts: Texts) -> Iterator[TextScore]:
    """One value a prompt: the estimate in nats over its tokens.

    Raises:
        BenchError: a prompt has no true continuation.
    """
    for prompt in texts.prompts:
        if not prompt.reference_ids:
            raise BenchError("a prompt has no true continuation", "use prompts with references, or drop elbo")
        nats = estimate(texts, prompt)
        yield TextScore(texts.cell.id, "elbo", prompt.index, nats, len(prompt.reference_ids))


def estimate(texts: Texts, prompt: Prompt, draws: int = DRAWS) -> float:
    """The bound for one prompt in nats; draws depend on the cell's seed and the prompt alone."""
    import torch

    model = texts.model
    assert model is not None
    assert prompt.reference_ids
    mask_id = model.architecture.mask_id
    assert mask_id is not None
    truth_T = torch.tensor(prompt.reference_ids, device=model.device)
    prompt_P = torch.tensor(prompt.ids, device=model.device)
    length, rows = len(truth_T), min(texts.rows, draws)
    generator = torch.Generator().manual_seed(texts.cell.seed * 1_000_003 + prompt.index)
    losses: list[float] = []
    with torch.inference_mode():
        while len(losses) < draws:
            first = int(torch.randint(1, length + 1, (1,), generator=generator))
            counts_R = torch.tensor(masked_counts(length, rows, first), device=model.device)
            ranks_RT = torch.rand(rows, length, generator=generator).argsort(1).argsort(1).to(model.device)
            hidden_RT = ranks_RT < counts_R[:, None]
            tokens_RN = torch.cat([prompt_P.expand(rows, -1), truth_T.masked_fill(hidden_RT, mask_id)], dim=1)
            logits_RTV = model.logits(model.forward(tokens_RN), len(prompt_P), tokens_RN.shape[1]).float()
            logits_RTV[..., mask_id] = float("-inf")
            log_p_RT = logits_RTV.log_softmax(-1).gather(-1, truth_T.expand(rows, -1)[..., None])[..., 0]
            losses += (-(log_p_RT * hidden_RT).double().sum(1) * length / counts_R).tolist()
    return sum(losses[:draws]) / draws
