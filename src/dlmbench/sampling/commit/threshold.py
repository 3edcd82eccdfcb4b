"""Threshold: each step commits every position whose token has at least the threshold probability, and the best.

Confidence-aware parallel decoding of Fast-dLLM (Wu et al. 2025, arXiv 2505.22618): a block takes as many forwards as
it needs, so there is no step count to choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dlmbench.sampling.denoise import BlockScores, chosen_probability
from dlmbench.types import KnobValue

if TYPE_CHECKING:
    import torch

SCHEDULED = False
confidence = chosen_probability


@dataclass(frozen=True)
class ThresholdKnobs:
    """Grid axes of the rule."""

    threshold: float = field(default=0.9, metadata={"help": "confidence threshold"})


KNOBS = ThresholdKnobs


def check(knobs: Mapping[str, KnobValue]) -> str | None:
    """Why these knobs cannot run, or None."""
    return None if 0 < float(knobs["threshold"] or 0) <= 1 else "threshold must be more than 0 and at most 1"


def decide(scores: BlockScores, knobs: Mapping[str, KnobValue]) -> torch.Tensor:
    """commit_Bb: the best masked position, and every one with a confidence of at least `threshold`."""
    confident_Bb = scores.masked_Bb & (scores.confidence_Bb >= float(knobs["threshold"] or 0))
    return scores.commit_best(1) | confident_Bb
