"""Quality: metrics, and the scores of each text looked up for every cell that shares it.

Cells that differ only in batch size share their texts, so quality is scored once per `Cell.quality_key`; here the
scores of any such cell are used for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dlmbench.analysis.parity import PerText
from dlmbench.analysis.stats import IndexArray, bootstrap_interval, ratio_of_sums
from dlmbench.types import Cell, Run, Score


@dataclass(frozen=True)
class MetricInfo:
    """A metric's name, unit and direction."""

    name: str
    unit: str
    higher_is_better: bool

    @property
    def log_scale(self) -> bool:
        """Whether this is a likelihood in nats, where a margin is a factor of perplexity."""
        return self.unit.startswith("nats")

    @property
    def display_name(self) -> str:
        """The metric's display name: a likelihood scored in nats is a negative logarithm."""
        return _DISPLAY_NAMES.get(self.name, self.name.replace("_", " "))

    @property
    def title(self) -> str:
        """The metric with its unit and direction, for a table or an axis."""
        return f"{self.display_name} [{self.unit}], {'higher' if self.higher_is_better else 'lower'} is better"


# Scores of the true text, which belong to no model, and the metric of generated text that each is the reference of.
TRUTHS = {"oracle_truth": "oracle_log_prob", "judge_truth": "judge_likelihood"}
_DISPLAY_NAMES = {
    "likelihood": "negative log-likelihood",
    "oracle_log_prob": "negative oracle log-prob",
    "repetition": "repeated 4-grams",
}
# Also the order of display. A score's own unit and direction win over these.
KNOWN = (
    MetricInfo("likelihood", "nats/token", False),
    MetricInfo("oracle_validity", "share", True),
    MetricInfo("oracle_log_prob", "nats/token", False),
    MetricInfo("oracle_truth", "nats/token", False),
    MetricInfo("judge_likelihood", "nats/token", False),
    MetricInfo("judge_truth", "nats/token", False),
    MetricInfo("unigram_entropy", "entropy, nats", True),
    MetricInfo("repetition", "share", False),
    MetricInfo("distinct_1", "share", True),
    MetricInfo("distinct_2", "share", True),
    MetricInfo("distinct_3", "share", True),
)


@dataclass(frozen=True)
class Quality:
    """A metric of one cell in the metric's unit, with the interval of a bootstrap over prompts; n texts with weight.

    low, high: None for a single text, which has no interval.
    """

    metric: MetricInfo
    value: float
    low: float | None
    high: float | None
    n: int

    @property
    def oriented(self) -> float:
        """The value turned so that higher is better."""
        return self.value if self.metric.higher_is_better else -self.value


def metrics_of(run: Run) -> tuple[MetricInfo, ...]:
    """The metrics that `run` has scores of and whose direction is known, in order of display."""
    stated = {s.metric: MetricInfo(s.metric, s.unit, s.higher_is_better) for s in run.scores}
    known = {m.name: m for m in KNOWN} | stated
    present = {t.metric for t in run.text_scores} | set(stated)
    order = [m.name for m in KNOWN]
    ranked = sorted(present & set(known), key=lambda n: (order.index(n) if n in order else len(order), n))
    return tuple(known[name] for name in ranked)


def all_cells(run: Run) -> tuple[Cell, ...]:
    """Planned and measured cells, each once, in the order of the plan."""
    unique = {c.id: c for c in (*run.cells, *(r.cell for r in run.results))}
    return tuple(unique.values())


def scores_by_text(run: Run) -> Mapping[tuple[str, str], PerText]:
    """(quality key, metric) -> scores text by text, prompts in ascending order."""
    keys = {c.id: c.quality_key for c in all_cells(run)}
    found: dict[tuple[str, str], dict[int, tuple[float, float]]] = {}
    for t in run.text_scores:
        if t.cell_id in keys:
            found.setdefault((keys[t.cell_id], t.metric), {}).setdefault(t.prompt_index, (t.total, t.weight))
    texts = {}
    for key, rows in found.items():
        prompts = sorted(rows)
        pairs = np.array([rows[p] for p in prompts], dtype=np.float64)
        texts[key] = PerText(tuple(prompts), pairs[:, 0], pairs[:, 1])
    return texts


def whole_scores(run: Run) -> Mapping[tuple[str, str], Score]:
    """(quality key, metric) -> aggregated score, for metrics that only exist over all texts."""
    keys = {c.id: c.quality_key for c in all_cells(run)}
    return {(keys[s.cell_id], s.metric): s for s in run.scores if s.cell_id in keys and s.value is not None}


def quality_of(metric: MetricInfo, texts: PerText, indices: IndexArray) -> Quality | None:
    """The aggregate of `texts` with its interval over the resamples `indices_DN`; None where the weights sum to 0."""
    if np.isnan(texts.value):
        return None
    if texts.n < 2:
        return Quality(metric, texts.value, None, None, texts.n)
    low, high = bootstrap_interval(ratio_of_sums(texts.totals, texts.weights, indices), texts.n)
    return Quality(metric, texts.value, low, high, texts.n)
