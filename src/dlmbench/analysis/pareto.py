"""The Pareto front of latency and quality: the points that nothing else beats in both, and how certain that is.

A point just off the front by noise, or on it by luck, looks like any other. So times and quality are resampled
together, texts for all points at once (they are paired), and each point gets the share of draws in which it is on the
front.
Shape legend: N points, D draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlmbench.analysis.parity import PerText
from dlmbench.analysis.stats import FloatArray, IndexArray, median_draws, ratio_of_sums, stretch

CONFIDENT = 0.95


@dataclass(frozen=True)
class Contender:
    """A cell that was timed and scored: its repetitions_R and its texts."""

    cell_id: str
    latency_s: FloatArray
    texts: PerText


@dataclass(frozen=True)
class FrontPoint:
    """A cell's place. is_on_front: by the values measured; probability: that it is there.

    dominated_by: the cell that is faster and better than this one with 95% confidence or more; None where no cell is.
    """

    cell_id: str
    is_on_front: bool
    probability: float
    dominated_by: str | None

    @property
    def verdict(self) -> str:
        """On the front, off it, or undecided at 95%."""
        if self.probability >= CONFIDENT:
            return "on the front"
        return "off the front" if self.probability <= 1 - CONFIDENT else "undecided"


@dataclass(frozen=True)
class Front:
    """The front among the cells of one batch size and one pair of lengths, by one metric over n shared prompts."""

    metric: str
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    points: tuple[FrontPoint, ...]
    n: int

    def of(self, cell_id: str) -> FrontPoint | None:
        """The place of one cell."""
        return next((p for p in self.points if p.cell_id == cell_id), None)


def on_front(latency_N: FloatArray, quality_N: FloatArray) -> NDArray[np.bool_]:
    """front_N: True where no other point is at least as fast and at least as good, and better in one of the two.

    quality_N is oriented: higher is better. A point whose latency or quality is not a number is never on the front, and
    beats nothing.
    """
    known_N = np.isfinite(latency_N) & np.isfinite(quality_N)
    beaten_N1 = _beats(latency_N[:, None], quality_N[:, None]).any(axis=0)
    return np.asarray(known_N & ~np.ravel(beaten_N1))


def _beats(latency_ND: FloatArray, quality_ND: FloatArray) -> NDArray[np.bool_]:
    """beats_NMD: whether point N is at least as fast and as good as M in each draw, and better in one of the two."""
    faster = latency_ND[:, None] <= latency_ND[None]
    better = quality_ND[:, None] >= quality_ND[None]
    strict = (latency_ND[:, None] < latency_ND[None]) | (quality_ND[:, None] > quality_ND[None])
    return np.asarray(faster & better & strict)


def front_places(
    contenders: Sequence[Contender], higher_is_better: bool, indices: IndexArray, seed: int = 0
) -> tuple[FrontPoint, ...]:
    """The place of each contender; their texts are of the same prompts, which indices_DN resample.

    The spread of a cell timed once is unknown: its value is used without any. A single text says nothing about quality
    in general, so every probability is then a half.
    """
    if not contenders:
        return ()
    shared = contenders[0].texts.prompt_indices
    assert all(c.texts.prompt_indices == shared for c in contenders), "a front needs the same prompts in the same order"
    sign, draws = 1.0 if higher_is_better else -1.0, len(indices)
    latency_N = np.array([np.median(c.latency_s) for c in contenders])
    quality_N = np.array([sign * c.texts.value for c in contenders])
    latency_ND = np.stack([median_draws(c.latency_s, draws, (seed, 4, i)) for i, c in enumerate(contenders)])
    latency_ND = np.where(np.isnan(latency_ND), latency_N[:, None], latency_ND)
    quality_ND = sign * np.stack([ratio_of_sums(c.texts.totals, c.texts.weights, indices) for c in contenders])
    # Resamples of few texts spread too little: stretched to the width that their interval has.
    quality_ND = quality_N[:, None] + (quality_ND - quality_N[:, None]) * stretch(min(c.texts.n for c in contenders))
    beats = _beats(latency_ND, quality_ND)
    front_N = on_front(latency_N, quality_N)
    probability_N = (~beats.any(axis=0) & np.isfinite(quality_ND)).mean(axis=1)
    share_NM = beats.mean(axis=2)
    if min(c.texts.n for c in contenders) < 2:
        probability_N, share_NM = np.full_like(probability_N, 0.5), np.zeros_like(share_NM)
    places = []
    for i, contender in enumerate(contenders):
        strongest = int(np.argmax(share_NM[:, i]))
        by = contenders[strongest].cell_id if share_NM[strongest, i] >= CONFIDENT else None
        places.append(FrontPoint(contender.cell_id, bool(front_N[i]), float(probability_N[i]), by))
    return tuple(places)
