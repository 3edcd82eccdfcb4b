"""The interval of S_parity: where other samples of the prompts would have found it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dlmbench.analysis.parity import PerText, common_prompts, parity_draws
from dlmbench.analysis.stats import CONFIDENCE, bootstrap_indices
from dlmbench.analysis.study import Curve, MetricParity, Study


@dataclass(frozen=True)
class ParitySpread:
    """The 95% interval of S_parity over resamples of the prompts, in steps of the grid.

    low, high: None where that end lies beyond the largest step count measured. share_reached: of the resamples in
    which parity was found at all.
    """

    low: int | None
    high: int | None
    share_reached: float


def spread_of(
    texts: Mapping[tuple[str, str], PerText], study: Study, curve: Curve, shown: MetricParity
) -> ParitySpread | None:
    """The spread of one curve's parity by one metric; None without the scores text by text."""
    name = shown.metric.name
    base = texts.get((curve.quality_baseline.cell.quality_key, name)) if curve.quality_baseline else None
    keys = {p.cell.steps: (p.cell.quality_key, name) for p in curve.points}
    known = {k: texts[key] for k, key in keys.items() if k is not None and key in texts}
    shared = common_prompts([base, *known.values()]) if base is not None and known else ()
    if base is None or not shared:
        return None
    steps_D = parity_draws(
        shown.parity,
        {k: t.only(shared) for k, t in known.items()},
        base.only(shared),
        higher_is_better=shown.metric.higher_is_better,
        # The study's own resamples: the same prompts, draws and seed.
        indices=bootstrap_indices(len(shared), study.draws, study.seed),
    )
    ranked_D = np.sort(np.where(steps_D > 0, steps_D, np.inf))
    ends = (float(ranked_D[round(q * (len(ranked_D) - 1))]) for q in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    low, high = (int(k) if np.isfinite(k) else None for k in ends)
    return ParitySpread(low, high, float((steps_D > 0).mean()))
