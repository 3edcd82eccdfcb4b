"""Threshold: each step commits every position whose chosen token is probable enough, and always the best one.

Confidence-aware parallel decoding of Fast-dLLM (Wu et al. 2025, arXiv 2505.22618): a block takes as many forwards as
it needs, so there is no step count to choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dlmbench.sampling.step import Decision, Step, chosen_probability
from dlmbench.types import KnobValue

SCHEDULED = False
confidence = chosen_probability


@dataclass(frozen=True)
class Knobs:
    """Grid axes of the rule."""

    threshold: float = field(default=0.9, metadata={"help": "commit every position at least this probable"})


def decide(step: Step, knobs: Mapping[str, KnobValue]) -> Decision:
    """The best masked position, and every one with a probability of at least `threshold`."""
    best = step.commit_best(1)
    sure_Bb = step.masked_Bb & (step.confidence_Bb >= float(knobs["threshold"] or 0))
    return Decision(best.commit_Bb | sure_Bb, step.confidence_Bb)
