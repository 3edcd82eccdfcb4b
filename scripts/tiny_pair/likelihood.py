"""Likelihoods of held-out continuations, in nats: exact for the AR model; ELBO and sampler likelihood for LLaDA.

Independent of the benchmark's own implementation on purpose, so that the two can be compared.
Shape legend: B windows, L positions, N continuation positions, V rows of the embedding.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dlmbench.tiny.vocabulary import MASK_TOKEN_ID
from tiny_pair.model import Transformer

_BATCH = 512
_ELBO_BATCH = 16


def _token_losses(logits_BLV: Tensor, targets_BL: Tensor) -> Tensor:
    return F.cross_entropy(logits_BLV.transpose(1, 2), targets_BL, reduction="none")


@torch.no_grad()
def autoregressive_losses(model: Transformer, tokens_BL: Tensor, prompt: int) -> Tensor:
    """-log p of every continuation word given all words before it: (B, N)."""
    losses = [_token_losses(model.logits(part[:, :-1]), part[:, 1:]) for part in tokens_BL.split(_BATCH)]
    return torch.cat(losses)[:, prompt - 1 :]


@torch.no_grad()
def elbo_losses(model: Transformer, tokens_BL: Tensor, prompt: int, draws: int, seed: int) -> Tensor:
    """LLaDA's bound on -log p of the continuation: estimates (B, draws) whose mean is the bound.

    A draw masks x ~ U{1..N} positions and weights the summed cross-entropy by N / x. As in LLaDA's code the x of a
    batch of draws are evenly spaced from a random start: x_i = ((round(k + i N / batch) - 1) mod N) + 1. The batch
    must divide N: halves round to even, so with N = 64 and 128 in a batch even x are three times as frequent as odd
    ones, and the bound is 0.015 nats a word too high.
    """
    generator = torch.Generator(tokens_BL.device).manual_seed(seed)
    count, length = tokens_BL.shape
    answer, device = length - prompt, tokens_BL.device
    assert answer % _ELBO_BATCH == 0
    assert draws % _ELBO_BATCH == 0
    start = torch.randint(1, answer + 1, (count, draws // _ELBO_BATCH, 1), generator=generator, device=device)
    spaced = torch.arange(0, answer, answer // _ELBO_BATCH, device=device)
    masked_counts = ((start + spaced - 1) % answer + 1).flatten()
    window = torch.arange(count, device=device).repeat_interleave(draws)
    estimates = []
    for part, masked_count in zip(window.split(_BATCH), masked_counts.split(_BATCH), strict=True):
        tokens = tokens_BL[part]
        ranks = torch.rand(len(part), answer, generator=generator, device=device).argsort(1).argsort(1)
        masked = F.pad(ranks < masked_count[:, None], (prompt, 0), value=False)
        losses = _token_losses(model.logits(tokens.masked_fill(masked, MASK_TOKEN_ID)), tokens)
        estimates.append((losses * masked).sum(1) * answer / masked_count)
    return torch.cat(estimates).view(count, draws)


def _schedule(answer: int, block: int, steps: int) -> Iterator[tuple[int, int]]:
    """(end of the block, words to commit) of every step: evenly distributed within a block, larger numbers first."""
    blocks = answer // block
    steps_per_block = steps // blocks
    assert blocks * block == answer
    assert steps_per_block * blocks == steps
    for index in range(blocks):
        for step in range(steps_per_block):
            yield (index + 1) * block, block // steps_per_block + (step < block % steps_per_block)


@torch.no_grad()
def sampler_losses(
    model: Transformer,
    tokens_BL: Tensor,
    prompt: int,
    steps: int,
    block: int | None = None,
    random_seed: int | None = None,
) -> Tensor:
    """-log p of the reference continuation under the K-step sampler, per word (B, N).

    Every step commits the masked positions whose largest probability is largest (or, with `random_seed`, random ones)
    and reveals the reference there: the likelihood under the sampler that chooses positions in this way and draws words
    at temperature 1.
    """
    count, length = tokens_BL.shape
    answer, device = length - prompt, tokens_BL.device
    current = tokens_BL.clone()
    current[:, prompt:] = MASK_TOKEN_ID
    losses = torch.zeros(count, answer, device=device)
    masked = torch.ones(count, answer, dtype=torch.bool, device=device)
    reference = tokens_BL[:, prompt:]
    if random_seed is not None:
        generator = torch.Generator(device).manual_seed(random_seed)
        priority = torch.rand(count, answer, generator=generator, device=device)
    for block_end, commit in _schedule(answer, block or answer, steps):
        log_probs = model.logits(current)[:, prompt:].log_softmax(-1)
        if random_seed is None:
            priority = log_probs.amax(-1)
        allowed = masked.clone()
        allowed[:, block_end:] = False
        chosen = priority.masked_fill(~allowed, -torch.inf).topk(commit, 1).indices
        reference_losses = -log_probs.gather(2, reference[..., None])[..., 0]
        losses.scatter_(1, chosen, reference_losses.gather(1, chosen))
        current.scatter_(1, chosen + prompt, reference.gather(1, chosen))
        masked.scatter_(1, chosen, False)
    assert not masked.any()
    return losses
