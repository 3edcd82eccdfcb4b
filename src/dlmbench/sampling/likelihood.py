"""The likelihood of a given text under a diffusion sampler, through the very loop and rules that generate.

At each step the rule picks positions as it would in generation; their reference tokens are scored and revealed.
"""

from __future__ import annotations

from collections.abc import Mapping

from dlmbench.errors import BenchError
from dlmbench.sampling.denoise import denoise
from dlmbench.types import KnobValue, LanguageModel, Likelihood, PromptBatch


def log_likelihood(
    model: LanguageModel, batch: PromptBatch, knobs: Mapping[str, KnobValue], seed: int = 0
) -> Likelihood:
    """log p of the references under this sampler: DUEL's sampler likelihood (arXiv 2603.01367).

    All reference positions start masked; after each forward the rule commits positions, their reference tokens are
    scored and revealed. Positions are picked by the model's largest probability (temperature 0) and tokens are
    thought of as drawn at temperature 1, so it is exact for rules that do not depend on drawn tokens, and one
    sample of an average over orders for commit random. References must have one length.
    """
    lengths = {len(p.reference_ids or ()) for p in batch.prompts}
    if any(p.reference_ids is None for p in batch.prompts):
        raise BenchError("a likelihood needs the true continuations", "use a prompt source with references")
    assert len(lengths) == 1, "references of one length"
    settled = dict(knobs) | {"temperature": 0.0}
    canvas, work = denoise(model, batch, lengths.pop(), settled, seed, scored=True)
    assert canvas.log_prob_BG is not None
    return Likelihood(log_prob_BG=tuple(map(tuple, canvas.log_prob_BG.tolist())), forwards=work.forwards)
