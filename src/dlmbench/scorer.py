"""The quality pass, over stored texts and references: a metric can be added without generating again.

Every metric is asked once per group of cells with equal texts; what is on record is not computed again. Values of
single texts are kept, and aggregated with one bootstrap over prompts that all cells share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import numpy as np

from dlmbench import registry
from dlmbench.analysis.stats import bootstrap_indices, bootstrap_interval, ratio_of_sums
from dlmbench.errors import BenchError
from dlmbench.store import Store, read_text_scores
from dlmbench.types import Cell, Plan, Progress, Prompt, PromptSets, Score, StoredGeneration, Texts, TextScore
from dlmbench.worker import Failed, Measure, Pool

DRAWS = 2000


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


def score_run(
    plan: Plan,
    metrics: Sequence[str],
    store: Store,
    pool: Callable[[], Pool],
    prompts: Callable[[], PromptSets],
    progress: Progress,
) -> None:
    """Score every scored cell of `plan` with every metric that applies, then aggregate.

    `pool` and `prompts` are asked for only when something is left to compute.
    """
    cells = {cell.id: cell for cell in plan.scored_cells}
    done = {(s.cell_id, s.metric) for s in read_text_scores(store.folder)}
    written = {(g.cell_id, g.prompt_index): g for g in store.generations()}
    failed = {r.cell.id for r in store.results() if r.status not in (None, "ok")}
    for metric in metrics:
        module = registry.load("metrics", metric)
        for cell in cells.values():
            if inapplicable(metric, cell) or cell.id in failed or (cell.id, metric) in done:
                continue
            wanted = prompts()[cell.model.key, cell.prompt_tokens, cell.new_tokens].prompts
            if "model" in module.NEEDS:
                progress.cell(cell, f"scoring {metric}")
            try:
                texts = _texts(cell, wanted, written, module)
                store.add_text_scores(_scores(metric, module, texts, pool))
            except BenchError as error:
                progress.failed(cell, f"{metric}: {error}")
    store.write_scores(aggregate(cells, read_text_scores(store.folder)))


def _texts(
    cell: Cell, prompts: tuple[Prompt, ...], written: dict[tuple[str, int], StoredGeneration], module: ModuleType
) -> Texts:
    generations: tuple[StoredGeneration, ...] = ()
    if "generations" in module.NEEDS:
        missing = [p.index for p in prompts if (cell.id, p.index) not in written]
        if missing:
            raise BenchError(f"{cell.label}: no text for prompt {missing[0]}", "run the same command again")
        generations = tuple(written[cell.id, p.index] for p in prompts)
    return Texts(cell, prompts, generations)


def _scores(metric: str, module: ModuleType, texts: Texts, pool: Callable[[], Pool]) -> list[TextScore]:
    """Scores of one cell, by its model's process where the metric needs the model.

    Raises:
        BenchError: the model or the metric failed.
    """
    if "model" not in module.NEEDS:
        return list(module.score(texts))
    found: list[TextScore] = []
    for reply in pool().worker(texts.cell.model.key).ask(Measure(metric, texts)):
        if isinstance(reply, Failed):
            raise BenchError(reply.reason, "the other metrics go on")
        assert isinstance(reply, TextScore)
        found.append(reply)
    return found


def aggregate(cells: dict[str, Cell], texts: Sequence[TextScore], draws: int = DRAWS) -> Iterator[Score]:
    """One Score for each (cell, metric): sum of totals over sum of weights, with a bootstrap over prompts."""
    groups: dict[tuple[str, str], dict[int, TextScore]] = {}
    for text in texts:
        if text.cell_id in cells:
            groups.setdefault((text.cell_id, text.metric), {})[text.prompt_index] = text
    for (cell_id, metric), rows in groups.items():
        module = registry.load("metrics", metric)
        ordered = [rows[i] for i in sorted(rows)]
        totals = np.array([t.total for t in ordered], dtype=np.float64)
        weights = np.array([t.weight for t in ordered], dtype=np.float64)
        ratios = ratio_of_sums(totals, weights, bootstrap_indices(len(ordered), draws, seed=0))
        low, high = bootstrap_interval(ratios, len(ordered)) if len(ordered) > 1 else (None, None)
        yield Score(
            cell_id=cell_id,
            metric=metric,
            value=float(totals.sum() / weights.sum()),
            low=low,
            high=high,
            stderr=float(np.nanstd(ratios, ddof=1)),
            n=len(ordered),
            unit=module.UNIT,
            higher_is_better=module.HIGHER_IS_BETTER,
            note=module.note(cells[cell_id]) if hasattr(module, "note") else "",
        )
