"""The likelihood of a given text under a diffusion sampler, through the very loop and rules that generate.

At each step the rule picks positions as it would in generation; their reference tokens are scored and revealed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dlmbench.errors import BenchError
from dlmbench.samplers._canvas import Canvas
from dlmbench.samplers._denoise import denoise
from dlmbench.samplers._step import Decision, Step
from dlmbench.types import KnobValue, LanguageModel, Likelihood, PromptBatch

if TYPE_CHECKING:
    import torch


def log_likelihood(
    model: LanguageModel, batch: PromptBatch, knobs: Mapping[str, KnobValue], seed: int = 0
) -> Likelihood:
    """log p of the references under this sampler: DUEL's sampler likelihood (arXiv 2603.01367).

    All reference positions start masked; after each forward the rule commits positions, their reference tokens are
    scored and revealed. Positions are picked by the model's largest probability (temperature 0) and tokens are
    thought of as drawn at temperature 1, so it is exact for rules that do not depend on drawn tokens, and one
    sample of an average over orders for commit random. References must have one length.
    """
    import torch

    if any(p.reference_ids is None for p in batch.prompts):
        raise BenchError("a likelihood needs the true continuations", "use a prompt source with references")
    reference_BG = torch.tensor([p.reference_ids for p in batch.prompts], device=model.device)
    canvas = Canvas.blank(model, batch, reference_BG.shape[1])
    log_prob_BG = torch.zeros(reference_BG.shape, dtype=torch.float64, device=model.device)

    def reveal(step: Step, decision: Decision, block: slice) -> torch.Tensor:
        truth_Bb = reference_BG[:, block]
        allowed_BbV = step.logits_BbV.float()
        allowed_BbV[..., canvas.mask_id] = float("-inf")
        log_p_Bb = allowed_BbV.log_softmax(-1).gather(-1, truth_Bb[..., None])[..., 0]
        log_prob_BG[:, block] += log_p_Bb.double().masked_fill(~decision.commit_Bb, 0.0)
        return truth_Bb

    denoise(model, canvas, batch, dict(knobs) | {"temperature": 0.0}, seed, reveal)
    return Likelihood(log_prob_BG=tuple(map(tuple, log_prob_BG.tolist())), forwards=canvas.work.forwards)
