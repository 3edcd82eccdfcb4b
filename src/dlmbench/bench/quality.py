"""The quality pass, over stored texts and references: a metric can be added without generating again.

Cells that generate the same texts are scored once (`Cell.quality_key`). A metric that only reads references is computed
once for all batch sizes: it is teacher-forced, so that no generated token carries a difference on; how little a batch
size changes it is measured in docs/reliability.md. Recorded scores are not computed again. Texts without a score are
stored with the reason. All cells are aggregated with the same bootstrap over prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from dlmbench import registry
from dlmbench.analysis.stats import (
    FloatArray,
    IndexArray,
    bootstrap_indices,
    bootstrap_interval,
    effective_n,
    ratio_of_sums,
)
from dlmbench.bench.worker import Failed, Pool, ScoreTexts
from dlmbench.errors import BenchError
from dlmbench.prompts import source_attribute
from dlmbench.results import Store, read_generations, read_text_results
from dlmbench.types import (
    Cell,
    ConvertedScore,
    MetricRequest,
    Plan,
    Progress,
    PromptSets,
    Score,
    TextResult,
    Texts,
    TextScore,
    Unscored,
    UnscoredText,
    WholeScore,
)

BOOTSTRAP_DRAWS = 2000
METRIC_WORKER = "metric worker"  # the process of metrics that load a model of their own: a judge, an encoder


def inapplicable(metric: str, cell: Cell) -> str | None:
    """Why a metric does not apply to a cell, or None."""
    needs = registry.load("metrics", metric).NEEDS
    if cell.model.weights == "random":
        return "random weights have no quality"
    if "diffusion" in needs and registry.load("samplers", cell.sampler).PARADIGM != "diffusion":
        return "only a masked diffusion model has it"
    if "oracle" in needs and not source_attribute(cell.prompts, "HAS_ORACLE", False):
        return "only the embedded corpus has an oracle"
    return None


# ---------------------------------------------------------------- scoring


def score_run(
    plan: Plan,
    requests: Sequence[MetricRequest],
    store: Store,
    pool: Pool,
    prompts: Callable[[], PromptSets],
    progress: Progress,
) -> None:
    """Score every scored cell of `plan` by every metric that applies, then aggregate.

    `prompts` is called only when something is left to compute. Metrics with a model of their own come last, after the
    run's own models have freed the memory.
    """
    with Pool({METRIC_WORKER}, pool.device) as metric_pool:
        scoring = _Scoring(plan, store, pool, metric_pool, prompts, progress)
        for request in sorted(requests, key=lambda r: "own model" in _needs(r)):
            for cell in plan.scored_cells:
                scoring.score(request, cell)
    # Over all cells on record: the plan may be a part of them.
    store.write_scores(aggregate({r.cell.id: r.cell for r in store.records.results()}, read_text_results(store.folder)))


@dataclass
class _Scoring:
    """The scores that are recorded, and how the others are computed."""

    plan: Plan
    store: Store
    pool: Pool
    metric_pool: Pool
    prompts: Callable[[], PromptSets]
    progress: Progress

    def __post_init__(self) -> None:
        self.model_keys = {cell.model.key for cell in self.plan.scored_cells}
        recorded = read_text_results(self.store.folder)
        self.refused = {r for r in recorded if isinstance(r, Unscored)}
        # A cell that failed as a whole is tried again; one with scores, or with reasons for single texts, is not.
        failed = {_key(r) for r in self.refused if r.prompt_index is None}
        scored = {_key(r) for r in recorded if not isinstance(r, Unscored)}
        self.done = scored | ({_key(r) for r in self.refused} - failed)
        self.generations = {(g.cell_id, g.prompt_index): g for g in read_generations(self.store.folder)}
        self.cell_results = {r.cell.id: r for r in self.store.records.results()}
        # Results of this run by (metric, `same_value` of the cell, judge), for cells that share a metric's value.
        self.shared: dict[tuple[str, str, str | None], list[TextResult]] = {}

    def score(self, request: MetricRequest, cell: Cell) -> None:
        """Record the scores of one cell by one metric, or the reason why there are none."""
        reason = inapplicable(request.name, cell)
        result = self.cell_results.get(cell.id)
        if result is not None and result.status not in (None, "ok"):
            reason = f"the cell was not measured: {result.status} ({result.reason})"
        if reason:
            self._refuse(request, cell, reason)
            return
        if (cell.id, request.name, request.judge) in self.done:
            return
        module = registry.load("metrics", request.name)
        shared_by_batches = cell.id if "generations" in module.NEEDS else cell.shape_key
        value_key = str(module.same_value(cell)) if hasattr(module, "same_value") else shared_by_batches
        key = (request.name, value_key, request.judge)
        if key not in self.shared:
            try:
                self.shared[key] = self._compute(request, cell)
            except BenchError as error:
                self.progress.failed(cell, f"{request.name}: {error}")
                self._refuse(request, cell, str(error))
                return
        self.store.add_text_scores([replace(r, cell_id=cell.id) for r in self.shared[key]])

    def _refuse(self, request: MetricRequest, cell: Cell, reason: str) -> None:
        refusal = Unscored(cell.id, request.name, None, reason, request.judge)
        self.store.add_text_scores([refusal] if refusal not in self.refused else [])

    def _compute(self, request: MetricRequest, cell: Cell) -> list[TextResult]:
        """The metric's results, each with the judge's name, and one for every text.

        Raises:
            BenchError: texts are missing, or the model or the metric failed.
        """
        batch = self.prompts()[cell.model.key, cell.prompt_tokens, cell.new_tokens]
        prompts = batch.prompts
        needs = _needs(request)
        texts = Texts(cell, prompts, request=request)
        if "generations" in needs:
            missing = [p.index for p in prompts if (cell.id, p.index) not in self.generations]
            if missing:
                raise BenchError(
                    f"no stored text for {len(missing)} of {len(prompts)} prompts",
                    "Texts are stored if the experiment names any metric: measure again into a new folder",
                )
            texts = replace(texts, generations=tuple(self.generations[cell.id, p.index] for p in prompts))
            if any(g.prompt_hash != batch.prompt_hash for g in texts.generations):
                raise BenchError(
                    "its stored texts continue other prompts: which prompts are long enough depends on the models",
                    "Measure all models together into a new folder",
                )
        results: list[TextResult] = []
        if not {"model", "own model"} & set(needs):
            results = list(registry.load("metrics", request.name).score(texts))
        else:
            worker = self.pool.worker(cell.model.key)
            if "own model" in needs:
                # The run's models hold the device's memory; a stopped worker starts again at its next request.
                self.pool.stop(self.model_keys)
                worker = self.metric_pool.worker(METRIC_WORKER)
            self.progress.cell(cell, f"scoring {request.name}")
            for reply in worker.ask(ScoreTexts(request.name, texts)):
                if isinstance(reply, Failed):
                    raise BenchError(reply.reason, "The other metrics are still computed")
                results.append(reply)
        results = [replace(r, judge=request.judge) for r in results]
        named = {None if isinstance(r, WholeScore) else r.prompt_index for r in results}
        if None not in named:
            skipped = [p.index for p in prompts if p.index not in named]
            reason = "the metric gave no value"
            results += [Unscored(cell.id, request.name, index, reason, request.judge) for index in skipped]
        return results


def _key(result: TextResult) -> tuple[str, str, str | None]:
    return result.cell_id, result.metric, result.judge


def _needs(request: MetricRequest) -> tuple[str, ...]:
    needs: tuple[str, ...] = registry.load("metrics", request.name).NEEDS
    return needs


# ---------------------------------------------------------------- aggregates


def aggregate(
    cells: Mapping[str, Cell], results: Sequence[TextResult], draws: int = BOOTSTRAP_DRAWS
) -> Iterator[Score]:
    """One Score for each (cell, metric): sum of totals over sum of weights, with a bootstrap over prompts."""
    groups: dict[tuple[str, str], list[TextResult]] = {}
    for result in results:
        if result.cell_id in cells:
            groups.setdefault((result.cell_id, result.metric), []).append(result)
    for (cell_id, metric), every in groups.items():
        if metric not in registry.names("metrics"):
            continue  # its plug-in is no longer installed; the recorded values stay
        # Values of different judges cannot be mixed: the last judge that gave values counts.
        judge = next((r.judge for r in reversed(every) if not isinstance(r, Unscored)), None)
        group = [r for r in every if r.judge == judge]
        whole = next((r for r in group if isinstance(r, WholeScore)), None)
        texts = sorted((r for r in group if isinstance(r, TextScore)), key=lambda r: r.prompt_index)
        if whole is None and not texts:
            continue
        module = registry.load("metrics", metric)
        known = Score(
            cell_id=cell_id,
            metric=metric,
            value=None if whole is None else whole.value,
            low=None,
            high=None,
            stderr=None,
            n=len(texts) if whole is None else whole.n,
            unit=module.UNIT,
            higher_is_better=module.HIGHER_IS_BETTER,
            judge=judge,
            note=_note(module, cells[cell_id], texts or [r for r in group if isinstance(r, WholeScore)]),
            unscored=tuple(
                UnscoredText(r.prompt_index, r.reason)
                for r in group
                if isinstance(r, Unscored) and r.prompt_index is not None
            ),
            self_judged=judge is not None and any(_same_model(judge, c.model.source) for c in cells.values()),
        )
        yield known if whole is not None else _over_texts(known, texts, bootstrap_indices(len(texts), draws, seed=0))


def _over_texts(known: Score, texts: Sequence[TextScore], indices: IndexArray) -> Score:
    """`known` with its value and interval, and both in other units where the texts' sizes are known."""
    totals, weights = _column(texts, "total"), _column(texts, "weight")
    ratios = ratio_of_sums(totals, weights, indices)
    # The spread between texts is unknown where only one of them carries weight.
    has_spread = effective_n(weights) > 1
    low, high = bootstrap_interval(ratios, effective_n(weights)) if has_spread else (None, None)
    errors = [t.stderr for t in texts if t.stderr is not None]
    return replace(
        known,
        value=float(totals.sum() / weights.sum()) if weights.sum() else None,
        low=low,
        high=high,
        stderr=float(np.nanstd(ratios, ddof=1)) if has_spread else None,
        monte_carlo_stderr=math.hypot(*errors) / float(weights.sum()) if len(errors) == len(texts) else None,
        in_other_units=tuple(_readings(texts, totals, indices)) if known.unit == "nats/token" else (),
    )


def _readings(texts: Sequence[TextScore], totals: FloatArray, indices: IndexArray) -> Iterator[ConvertedScore]:
    """Nats of the same spans as perplexity per token, perplexity per word, and bits per byte."""
    columns = (("perplexity/token", "weight", np.exp), ("perplexity/word", "words", np.exp))
    for unit, column, shown in (*columns, ("bits/byte", "size_bytes", lambda nats: nats / math.log(2))):
        if any(getattr(t, column) is None for t in texts):
            continue
        weights = _column(texts, column)
        with np.errstate(over="ignore"):  # an infinite perplexity is stored as unknown
            value = float(shown(totals.sum() / weights.sum()))
            draws = shown(ratio_of_sums(totals, weights, indices))
        n = effective_n(weights)
        low, high = bootstrap_interval(draws, n) if n > 1 else (None, None)
        yield ConvertedScore(unit, value, low, high)


def _column(texts: Sequence[TextScore], name: str) -> FloatArray:
    return np.array([getattr(t, name) for t in texts], dtype=np.float64)


def _note(module: ModuleType, cell: Cell, texts: Sequence[TextScore | WholeScore]) -> str:
    """What kind of number this is, then each remark on its texts, with the number of texts that share it."""
    parts = [module.note(cell)] if hasattr(module, "note") else []
    for remark, count in Counter(t.remark for t in texts if t.remark).items():
        parts.append(remark if count == len(texts) else f"{count} of {len(texts)} texts: {remark}")
    return "; ".join(parts)


def _same_model(judge: str, source: str) -> bool:
    """Whether a judge is a model of the run, by its name or by its folder."""
    return judge == source or (Path(judge).is_dir() and Path(judge).resolve() == Path(source).resolve())
