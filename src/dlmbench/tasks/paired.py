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
    values = _values(score, samples)
    if not _is_reproduced(score, values):
        return score
    totals, weights = _columns(values.values())
    if _is_proportion(score, totals, weights):
        ends = proportion(int(totals.sum()), totals.size)
        return replace(score, low=ends.low, high=ends.high)
    _, draws, n = _resample(score, list(values.values()))
    low, high = bootstrap_interval(draws, n)
    return replace(score, low=low, high=high) if math.isfinite(low) else score


def differences(
    scores: Sequence[TaskScore], baselines: Mapping[str, str], samples: Mapping[str, Sequence[TaskSample]]
) -> tuple[TaskDifference, ...]:
    """Every score against the same metric of its baseline; `baselines` gives the baseline's id for each run id."""
    known = {(s.run_id, s.task, s.metric, s.filter): s for s in scores}
    found = []
    for score in scores:
        base_id = baselines.get(score.run_id, "")
        base = known.get((base_id, score.task, score.metric, score.filter))
        if base is not None:
            found.append(_difference(score, samples[score.run_id], base, samples[base_id]))
    return tuple(d for d in found if d is not None)


def _difference(
    score: TaskScore, samples: Sequence[TaskSample], base: TaskScore, base_samples: Sequence[TaskSample]
) -> TaskDifference | None:
    """score - base over the documents that both share, by their hash; None where no interval can be given."""
    own, other = _values(score, samples), _values(base, base_samples)
    common = sorted(own.keys() & other.keys())
    # Checked on all documents of each, because lm-eval's value is made of all of them.
    if not common or not _is_reproduced(score, own) or not _is_reproduced(base, other):
        return None
    where = score.run_id, base.run_id, score.task, score.metric, score.filter
    (totals, weights), (base_totals, base_weights) = (_columns(v[key] for key in common) for v in (own, other))
    if _is_proportion(score, totals, weights) and _is_proportion(base, base_totals, base_weights):
        only_own, only_base = int((totals > base_totals).sum()), int((totals < base_totals).sum())
        change = paired_difference(only_own, only_base, len(common))
        return TaskDifference(*where, change.value, change.low, change.high, len(common))
    value, draws, n = _resample(score, [own[key] for key in common])
    base_value, base_draws, base_n = _resample(base, [other[key] for key in common])
    low, high = bootstrap_interval(draws - base_draws, min(n, base_n))
    if not math.isfinite(value - base_value) or not math.isfinite(low):
        return None
    return TaskDifference(*where, value - base_value, low, high, len(common))


def _values(score: TaskScore, samples: Sequence[TaskSample]) -> dict[tuple[int, str], Value]:
    """The metric's value for each document, by its number and its hash, in order."""
    own = [s for s in samples if (s.task, s.filter) == (score.task, score.filter) and score.metric in s.values]
    return {(s.doc_id, s.doc_hash): s.values[score.metric] for s in sorted(own, key=lambda s: s.doc_id)}


def _columns(values: Iterable[Value]) -> tuple[FloatArray, FloatArray]:
    """totals_N and weights_N of documents; a plain number has the weight 1."""
    pairs = np.array([v if isinstance(v, tuple) else (v, 1.0) for v in values], dtype=np.float64)
    return pairs[:, 0], pairs[:, 1]


def _is_proportion(score: TaskScore, totals_N: FloatArray, weights_N: FloatArray) -> bool:
    return score.aggregation == "mean" and is_binary(totals_N, weights_N)


def _is_reproduced(score: TaskScore, values: Mapping[tuple[int, str], Value]) -> bool:
    """Whether the documents give lm-eval's value back."""
    if not values or score.value is None or score.aggregation not in _OF_RATIO:
        return False
    value, _, _ = _resample(score, list(values.values()))
    return math.isclose(value, score.value, rel_tol=1e-6, abs_tol=1e-9)


def _resample(score: TaskScore, values: Sequence[Value]) -> tuple[float, FloatArray, int]:
    """The metric's value, its bootstrap draws, and the number of documents that carry weight."""
    assert score.aggregation is not None
    aggregate = _OF_RATIO[score.aggregation]
    totals, weights = _columns(values)
    draws = aggregate(ratio_of_sums(totals, weights, bootstrap_indices(len(values), BOOTSTRAP_DRAWS, _SEED)))
    return float(aggregate(np.asarray(totals.sum() / weights.sum()))), draws, effective_n(weights)
