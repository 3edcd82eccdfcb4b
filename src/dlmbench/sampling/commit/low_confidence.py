"""Schedule: each step commits its share of positions, those whose chosen token is most probable.

LLaDA's low-confidence remasking (Nie et al. 2025, arXiv 2502.09992): positions of low confidence stay masked. A block
of M masks in K_b steps commits M // K_b positions a step, the first M mod K_b steps one more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dlmbench.sampling.step import Decision, Step, chosen_probability
from dlmbench.types import KnobValue

SCHEDULED = True
# The positions whose token is most certain become final first.
SUREST_FIRST = True
confidence = chosen_probability


@dataclass(frozen=True)
class Knobs:
    """Grid axes of the rule."""

    steps: int | None = field(default=None, metadata={"help": "diffusion steps K in all blocks; default: one a token"})


def decide(step: Step, knobs: Mapping[str, KnobValue]) -> Decision:
    """The `quota` masked positions whose chosen token has the highest probability."""
    assert step.quota is not None
    return step.commit_best(step.quota)
