"""Task metrics from their documents: intervals, and differences to the baseline over the same documents.

A metric is recomputed from the documents by the rule that lm-eval names (a mean, or a ratio of sums and what is made
of it), so that it can be resampled. Where that does not give lm-eval's own value back there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from dlmbench.analysis.stats import FloatArray, bootstrap_indices, bootstrap_interval, effective_n, ratio_of_sums
from dlmbench.tasks.records import Difference, TaskSample, TaskScore, Value

DRAWS = 2000
_SEED = 0  # one resampling for all models, settings and metrics over the same documents

# What lm-eval's aggregations make of sum(total) / sum(weight); a plain number has the weight 1.
_OF_RATIO: dict[str, Callable[[FloatArray], FloatArray]] = {
    "mean": lambda ratio: ratio,
    "perplexity": lambda ratio: np.exp(-ratio),
    "weighted_perplexity": lambda ratio: np.exp(-ratio),
    "bits_per_byte": lambda ratio: -ratio / math.log(2),
}


def with_interval(score: TaskScore, samples: Sequence[TaskSample]) -> TaskScore:
    """The score with its bootstrap interval over documents, where the metric can be recomputed."""
    values = [s.values[score.metric] for s in _of(score, samples)]
    draws = _resampled(score, values)
    if draws is None:
        return score
    low, high = bootstrap_interval(draws, effective_n(_sums(values)[1]))
    return replace(score, low=low, high=high) if math.isfinite(low) else score


def difference(
    score: TaskScore, samples: Sequence[TaskSample], base: TaskScore, base_samples: Sequence[TaskSample]
) -> Difference | None:
    """score - base over the documents that both have, by their hash; None where there is no interval to give."""
    mine = {(s.doc_id, s.doc_hash): s.values[score.metric] for s in _of(score, samples)}
    theirs = {(s.doc_id, s.doc_hash): s.values[base.metric] for s in _of(base, base_samples)}
    common = sorted(mine.keys() & theirs.keys())
    # Checked on all documents of either, for only those are what lm-eval's value is made of.
    if not common or _resampled(score, list(mine.values())) is None or _resampled(base, list(theirs.values())) is None:
        return None
    ours, bases = ([values[key] for key in common] for values in (mine, theirs))
    here, there = _draws(score, ours), _draws(base, bases)
    low, high = bootstrap_interval(here - there, min(effective_n(_sums(v)[1]) for v in (ours, bases)))
    value = float(_point(score, ours) - _point(base, bases))
    if not math.isfinite(value) or not math.isfinite(low):
        return None
    return Difference(score.run_id, base.run_id, score.task, score.metric, score.filter, value, low, high, len(common))


def differences(
    scores: Sequence[TaskScore], baselines: Mapping[str, str], samples: Mapping[str, Sequence[TaskSample]]
) -> tuple[Difference, ...]:
    """Every score against the same metric of its baseline; `baselines` names it for each run."""
    known = {(s.run_id, s.task, s.metric, s.filter): s for s in scores}
    found = []
    for score in scores:
        base_id = baselines.get(score.run_id)
        base = known.get((base_id, score.task, score.metric, score.filter)) if base_id else None
        if base is not None and base_id is not None:
            made = difference(score, samples[score.run_id], base, samples[base_id])
            found += [made] if made else []
    return tuple(found)


def _of(score: TaskScore, samples: Sequence[TaskSample]) -> list[TaskSample]:
    own = [s for s in samples if (s.task, s.filter) == (score.task, score.filter) and score.metric in s.values]
    return sorted(own, key=lambda s: s.doc_id)


def _resampled(score: TaskScore, values: Sequence[Value]) -> FloatArray | None:
    if not values or score.value is None or score.aggregation not in _OF_RATIO:
        return None
    same = math.isclose(float(_point(score, values)), score.value, rel_tol=1e-6, abs_tol=1e-9)
    return _draws(score, values) if same else None


def _sums(values: Sequence[Value]) -> tuple[FloatArray, FloatArray]:
    pairs = [v if isinstance(v, tuple) else (v, 1.0) for v in values]
    totals, weights = np.array(pairs, dtype=np.float64).T
    return totals, weights


def _point(score: TaskScore, values: Sequence[Value]) -> FloatArray:
    totals, weights = _sums(values)
    assert score.aggregation is not None
    return _OF_RATIO[score.aggregation](np.asarray(totals.sum() / weights.sum()))


def _draws(score: TaskScore, values: Sequence[Value]) -> FloatArray:
    totals, weights = _sums(values)
    assert score.aggregation is not None
    indices = bootstrap_indices(len(values), DRAWS, _SEED)
    return _OF_RATIO[score.aggregation](ratio_of_sums(totals, weights, indices))
