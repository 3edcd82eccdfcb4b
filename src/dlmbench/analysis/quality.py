"""Quality: metrics, and the scores of each text looked up for every cell that shares it.

Cells that differ only in batch size share their texts, so quality is scored once per `Cell.quality_key`; here the
scores of any such cell are used for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from dlmbench import registry
from dlmbench.analysis.parity import PerText
from dlmbench.analysis.stats import IndexArray, bootstrap_interval, ratio_of_sums
from dlmbench.types import Cell, Run, Score


@dataclass(frozen=True)
class MetricInfo:
    """A metric's name, unit and direction as its scores give them; the rest are attributes of the plug-in."""

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
        return str(registry.attribute("metrics", self.name, "TITLE", self.name.replace("_", " ")))

    @property
    def phrase(self) -> str:
        """The metric within a sentence."""
        return str(registry.attribute("metrics", self.name, "PHRASE", self.display_name))

    @property
    def title(self) -> str:
        """The metric with its unit and direction, for a table or an axis."""
        return f"{self.display_name} [{self.unit}], {'higher' if self.higher_is_better else 'lower'} is better"

    @property
    def rank(self) -> int:
        """Position in the order of display; the smallest that was scored is the headline metric."""
        return int(registry.attribute("metrics", self.name, "RANK", 1000))

    @property
    def truth_of(self) -> str | None:
        """The metric of generated text for which this one scores the true text: a reference line of no model."""
        truth_of: str | None = registry.attribute("metrics", self.name, "TRUTH_OF", None)
        return truth_of


@cache
def metric_for(measures: str) -> str:
    """The metric that measures "likelihood", "validity" or "repetition"; "" where none is installed."""
    names = [n for n in registry.loadable("metrics") if registry.attribute("metrics", n, "MEASURES", "") == measures]
    return min(names, key=lambda n: registry.attribute("metrics", n, "RANK", 1000), default="")


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
    found = {s.metric: MetricInfo(s.metric, s.unit, s.higher_is_better) for s in run.scores}
    for name in {t.metric for t in run.text_scores} - set(found):
        if name in registry.names("metrics"):  # not aggregated yet
            module = registry.load("metrics", name)
            found[name] = MetricInfo(name, module.UNIT, module.HIGHER_IS_BETTER)
    return tuple(sorted(found.values(), key=lambda m: (m.rank, m.name)))


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
