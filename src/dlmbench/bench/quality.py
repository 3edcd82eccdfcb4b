"""The quality pass, over stored texts and references: a metric can be added without generating again.

Every metric is asked once per group of cells with equal texts; what is on record is not computed again. Values of
single texts are kept, those without one are kept with the reason, and all are aggregated with one bootstrap over
prompts that all cells share.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
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
from dlmbench.bench.worker import Failed, Measure, Pool
from dlmbench.errors import BenchError
from dlmbench.results import Store, read_text_results
from dlmbench.types import (
    Cell,
    MetricRequest,
    MissingText,
    Plan,
    Progress,
    Prompt,
    PromptSets,
    Reading,
    Score,
    StoredGeneration,
    TextResult,
    Texts,
    TextScore,
    Unscored,
    WholeScore,
)

DRAWS = 2000
# The process of metrics that load a model of their own: a judge, an encoder.
AIDE = "metric's own model"


def inapplicable(metric: str, cell: Cell) -> str | None:
    """Why a metric says nothing of a cell, or None."""
    needs = registry.load("metrics", metric).NEEDS
    if cell.model.weights == "random":
        return "random weights have no quality"
    if "diffusion" in needs and registry.load("samplers", cell.sampler).PARADIGM != "diffusion":
        return "only a masked diffusion model has it"
    if "tiny corpus" in needs and not cell.prompts.startswith("tiny"):
        return "only the embedded corpus has an oracle"
    return None


# ---------------------------------------------------------------- scoring


def score_run(
    plan: Plan,
    requests: Sequence[MetricRequest],
    store: Store,
    pool: Callable[[], Pool],
    prompts: Callable[[], PromptSets],
    progress: Progress,
) -> None:
    """Score every scored cell of `plan` with every metric that applies, then aggregate.

    `pool` and `prompts` are asked for only when something is left to compute. Metrics with a model of their own come
    last, when the models of the run have made room.
    """
    cells = {cell.id: cell for cell in plan.scored_cells}
    on_record = read_text_results(store.folder)
    refused = {r for r in on_record if isinstance(r, Unscored)}
    # A cell that came to nothing as a whole is tried again, one that has values or reasons text by text is not.
    scored = {_key(r) for r in on_record if not isinstance(r, Unscored)}
    done = scored | ({_key(r) for r in refused} - {_key(r) for r in refused if r.prompt_index is None})
    written = {(g.cell_id, g.prompt_index): g for g in store.generations()}
    ended = {r.cell.id: r for r in store.results()}
    with ExitStack() as stack:
        aide: Pool | None = None
        shared: dict[tuple[str, str, str | None], list[TextResult]] = {}
        for request in sorted(requests, key=lambda r: "own model" in _needs(r)):
            module = registry.load("metrics", request.name)
            for cell in cells.values():
                result = ended.get(cell.id)
                failed = result is not None and result.status not in (None, "ok")
                reason = inapplicable(request.name, cell)
                if failed and result is not None:
                    reason = f"the cell was not measured: {result.status} ({result.reason})"
                missing = Unscored(cell.id, request.name, None, reason, request.judge) if reason else None
                if missing is not None:
                    store.add_text_scores([missing] if missing not in refused else [])
                    continue
                if (cell.id, request.name, request.judge) in done:
                    continue
                if same := shared.get((request.name, _same_value(module, cell), request.judge)):
                    store.add_text_scores([replace(r, cell_id=cell.id) for r in same])
                    continue
                wanted = prompts()[cell.model.key, cell.prompt_tokens, cell.new_tokens].prompts
                helper = pool
                if "own model" in _needs(request):
                    if aide is None:
                        _make_room(pool(), cells)
                        aide = stack.enter_context(Pool({AIDE: None}, pool().device))
                    helper = lambda aide=aide: aide  # type: ignore[misc] # noqa: E731
                if {"model", "own model"} & set(_needs(request)):
                    progress.cell(cell, f"scoring {request.name}")
                try:
                    texts = _texts(cell, wanted, written, module, request)
                    found = _complete(_scores(module, texts, helper), texts, request)
                    store.add_text_scores(found)
                    shared[request.name, _same_value(module, cell), request.judge] = found
                except BenchError as error:
                    progress.failed(cell, f"{request.name}: {error}")
                    failure = Unscored(cell.id, request.name, None, str(error), request.judge)
                    store.add_text_scores([failure] if failure not in refused else [])
    store.write_scores(aggregate(cells, read_text_results(store.folder)))


def _key(result: TextResult) -> tuple[str, str, str | None]:
    return result.cell_id, result.metric, result.judge


def _needs(request: MetricRequest) -> tuple[str, ...]:
    needs: tuple[str, ...] = registry.load("metrics", request.name).NEEDS
    return needs


def _same_value(module: ModuleType, cell: Cell) -> str:
    """Equal for cells of which the metric says the same, as one that does not depend on the sampler does."""
    return str(module.same_value(cell)) if hasattr(module, "same_value") else cell.id


def _make_room(pool: Pool, cells: Mapping[str, Cell]) -> None:
    """End the models' processes, which hold the device's memory; they start again when they are asked again."""
    for key in {cell.model.key for cell in cells.values()}:
        pool.worker(key).stop()


def _texts(
    cell: Cell,
    prompts: tuple[Prompt, ...],
    written: dict[tuple[str, int], StoredGeneration],
    module: ModuleType,
    request: MetricRequest,
) -> Texts:
    generations: tuple[StoredGeneration, ...] = ()
    if "generations" in module.NEEDS:
        missing = [p.index for p in prompts if (cell.id, p.index) not in written]
        if missing:
            raise BenchError(
                f"the run kept no text of {len(missing)} of its {len(prompts)} prompts",
                "texts are kept where the experiment names any metric: measure again into a new folder",
            )
        generations = tuple(written[cell.id, p.index] for p in prompts)
    return Texts(cell, prompts, generations, request=request)


def _scores(module: ModuleType, texts: Texts, pool: Callable[[], Pool]) -> list[TextResult]:
    """What the metric says of one cell, in the process of the model that it needs.

    Raises:
        BenchError: the model or the metric failed.
    """
    request = texts.request
    assert request is not None
    key = AIDE if "own model" in module.NEEDS else texts.cell.model.key
    if not {"model", "own model"} & set(module.NEEDS):
        return list(module.score(texts))
    found: list[TextResult] = []
    for reply in pool().worker(key).ask(Measure(request.name, texts)):
        if isinstance(reply, Failed):
            raise BenchError(reply.reason, "the other metrics go on")
        assert isinstance(reply, TextScore | Unscored | WholeScore)
        found.append(reply)
    return found


def _complete(found: list[TextResult], texts: Texts, request: MetricRequest) -> list[TextResult]:
    """The results with the judge's name, and one for every text: what a metric passed over is named too."""
    results = [replace(r, judge=request.judge) for r in found]
    named = {getattr(r, "prompt_index", None) for r in results}
    if None in named:
        return results
    reason = "the metric gave no value"
    passed_over = [p.index for p in texts.prompts if p.index not in named]
    return results + [Unscored(texts.cell.id, request.name, index, reason, request.judge) for index in passed_over]


# ---------------------------------------------------------------- aggregates


def aggregate(cells: Mapping[str, Cell], results: Sequence[TextResult], draws: int = DRAWS) -> Iterator[Score]:
    """One Score for each (cell, metric): sum of totals over sum of weights, with a bootstrap over prompts."""
    groups: dict[tuple[str, str], list[TextResult]] = {}
    for result in results:
        if result.cell_id in cells:
            groups.setdefault((result.cell_id, result.metric), []).append(result)
    for (cell_id, metric), every in groups.items():
        if metric not in registry.names("metrics"):
            continue  # of a plug-in that has gone since: its texts' values stay on record
        # Texts of an earlier judge say nothing beside those of the last one that gave values.
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
            not_scored=tuple(
                MissingText(r.prompt_index, r.reason)
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
    low, high = _interval(ratios, effective_n(weights))
    errors = [t.stderr for t in texts if t.stderr is not None]
    return replace(
        known,
        value=float(totals.sum() / weights.sum()) if weights.sum() else None,
        low=low,
        high=high,
        stderr=float(np.nanstd(ratios, ddof=1)),
        monte_carlo_stderr=math.hypot(*errors) / float(weights.sum()) if len(errors) == len(texts) else None,
        in_other_units=tuple(_readings(texts, totals, indices)) if known.unit == "nats/token" else (),
    )


def _readings(texts: Sequence[TextScore], totals: FloatArray, indices: IndexArray) -> Iterator[Reading]:
    """Nats over the same spans as perplexity a token, perplexity a word, and bits a byte."""
    columns = (("perplexity/token", "weight", np.exp), ("perplexity/word", "words", np.exp))
    for unit, column, shown in (*columns, ("bits/byte", "size_bytes", lambda nats: nats / math.log(2))):
        if any(getattr(t, column) is None for t in texts):
            continue
        weights = _column(texts, column)
        with np.errstate(over="ignore"):  # a hopeless text's perplexity is infinite, which is said as unknown
            value = float(shown(totals.sum() / weights.sum()))
            low, high = _interval(shown(ratio_of_sums(totals, weights, indices)), effective_n(weights))
        yield Reading(unit, value, low, high)


def _interval(draws: FloatArray, texts: int) -> tuple[float | None, float | None]:
    """None for a single text, which says nothing of others."""
    return bootstrap_interval(draws, texts) if texts > 1 else (None, None)


def _column(texts: Sequence[TextScore], name: str) -> FloatArray:
    return np.array([getattr(t, name) for t in texts], dtype=np.float64)


def _note(module: ModuleType, cell: Cell, texts: Sequence[TextScore | WholeScore]) -> str:
    """What kind of number this is, and what was remarked of its texts, each once with how many share it."""
    parts = [module.note(cell)] if hasattr(module, "note") else []
    for remark, count in Counter(t.remark for t in texts if t.remark).items():
        parts.append(remark if count == len(texts) else f"{count} of {len(texts)} texts: {remark}")
    return "; ".join(parts)


def _same_model(judge: str, source: str) -> bool:
    """Whether a judge is a model of the run: by its name, or by the folder it lies in."""
    return judge == source or (Path(judge).is_dir() and Path(judge).resolve() == Path(source).resolve())
