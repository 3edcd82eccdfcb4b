"""Intervals of task metrics, and of differences to the baseline over the same documents.

A metric is recomputed from its documents by the aggregation that lm-eval names (a mean, or a function of a ratio of
sums). Where this does not reproduce lm-eval's value there is no interval. Answers that are right or wrong have score
intervals (Wilson; Tango for differences), everything else a bootstrap over documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from dlmbench.analysis.proportions import is_binary, paired_difference, proportion
from dlmbench.analysis.stats import FloatArray, bootstrap_indices, bootstrap_interval, effective_n, ratio_of_sums
from dlmbench.tasks.records import TaskDifference, TaskSample, TaskScore, Value

BOOTSTRAP_DRAWS = 2000
_SEED = 0  # the same resamples for all models, settings and metrics over the same documents

# lm-eval's aggregations as functions of sum(total) / sum(weight); a plain number has the weight 1.
_OF_RATIO: dict[str, Callable[[FloatArray], FloatArray]] = {
    "mean": lambda ratio: ratio,
    "perplexity": lambda ratio: np.exp(-ratio),
    "weighted_perplexity": lambda ratio: np.exp(-ratio),
    "bits_per_byte": lambda ratio: -ratio / math.log(2),
}


def with_interval(score: TaskScore, samples: Sequence[TaskSample]) -> TaskScore:
    """The score with its interval over documents, where the metric can be recomputed."""
    documents = _documents(score, samples)
    if not documents:
        return score
    totals, weights = _columns(documents.values())
    if _is_proportion(score, totals, weights):
        ends = proportion(int(totals.sum()), totals.size)
        return replace(score, low=ends.low, high=ends.high)
    low, high = bootstrap_interval(_draws(score, totals, weights), effective_n(weights))
    return replace(score, low=low, high=high) if math.isfinite(low) else score


def differences(
    scores: Sequence[TaskScore], baselines: Mapping[str, str], samples: Mapping[str, Sequence[TaskSample]]
) -> tuple[TaskDifference, ...]:
    """Every score against the same metric of its baseline; `baselines` gives the baseline's id for each run id."""
    known = {(s.run_id, s.task, s.metric, s.filter): s for s in scores}
    found = []
    for score in scores:
        base = known.get((baselines.get(score.run_id, ""), score.task, score.metric, score.filter))
        if base is not None:
            found.append(_difference(score, samples[score.run_id], base, samples[base.run_id]))
    return tuple(d for d in found if d is not None)


def _difference(
    score: TaskScore, samples: Sequence[TaskSample], base: TaskScore, base_samples: Sequence[TaskSample]
) -> TaskDifference | None:
    """score - base over the documents that both share, by their hash; None where no interval can be given."""
    own, other = _documents(score, samples), _documents(base, base_samples)
    common = sorted(own.keys() & other.keys())
    if not common:
        return None
    where = score.run_id, base.run_id, score.task, score.metric, score.filter
    (totals, weights), (base_totals, base_weights) = (_columns(v[key] for key in common) for v in (own, other))
    if _is_proportion(score, totals, weights) and _is_proportion(base, base_totals, base_weights):
        only_own, only_base = int((totals > base_totals).sum()), int((totals < base_totals).sum())
        change = paired_difference(only_own, only_base, len(common))
        return TaskDifference(*where, change.value, change.low, change.high, len(common))
    value = _value(score, totals, weights) - _value(base, base_totals, base_weights)
    draws = _draws(score, totals, weights) - _draws(base, base_totals, base_weights)
    low, high = bootstrap_interval(draws, min(effective_n(weights), effective_n(base_weights)))
    if not math.isfinite(value) or not math.isfinite(low):
        return None
    return TaskDifference(*where, value, low, high, len(common))


def _documents(score: TaskScore, samples: Sequence[TaskSample]) -> dict[tuple[int, str], Value]:
    """The metric's value for each document, by its number and its hash; empty where they do not give the score back."""
    own = [s for s in samples if (s.task, s.filter) == (score.task, score.filter) and score.metric in s.values]
    values = {(s.doc_id, s.doc_hash): s.values[score.metric] for s in sorted(own, key=lambda s: s.doc_id)}
    if not values or score.value is None or score.aggregation not in _OF_RATIO:
        return {}
    value = _value(score, *_columns(values.values()))
    return values if math.isclose(value, score.value, rel_tol=1e-6, abs_tol=1e-9) else {}


def _columns(values: Iterable[Value]) -> tuple[FloatArray, FloatArray]:
    """totals_N and weights_N of documents; a plain number has the weight 1."""
    pairs = np.array([v if isinstance(v, tuple) else (v, 1.0) for v in values], dtype=np.float64)
    return pairs[:, 0], pairs[:, 1]


def _is_proportion(score: TaskScore, totals_N: FloatArray, weights_N: FloatArray) -> bool:
    return score.aggregation == "mean" and is_binary(totals_N, weights_N)


def _value(score: TaskScore, totals_N: FloatArray, weights_N: FloatArray) -> float:
    return float(_OF_RATIO[score.aggregation or ""](np.asarray(totals_N.sum() / weights_N.sum())))


def _draws(score: TaskScore, totals_N: FloatArray, weights_N: FloatArray) -> FloatArray:
    """The metric's bootstrap draws over documents."""
    indices = bootstrap_indices(totals_N.size, BOOTSTRAP_DRAWS, _SEED)
    return _OF_RATIO[score.aggregation or ""](ratio_of_sums(totals_N, weights_N, indices))
