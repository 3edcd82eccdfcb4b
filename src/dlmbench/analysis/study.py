"""A run, analysed: every cell summarised, every curve over K with its parity, speedup and break-even.

This is the one place that joins times and quality. What cannot be computed is not an error: the curve says what is
missing and why, and everything else stands.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from dlmbench.analysis.breakeven import break_even
from dlmbench.analysis.cells import peak_of, repetitions_of
from dlmbench.analysis.checks import findings
from dlmbench.analysis.matching import curve_key, knobs_without_steps, labels_of, nearest, timed_of
from dlmbench.analysis.nouns import RANDOM_WEIGHTS, CellSummary, Curve, MetricParity, PeakMemory, Study
from dlmbench.analysis.pareto import Contender, Front, front_places
from dlmbench.analysis.parity import DELTAS, Parity, PerText, common_prompts, steps_to_parity
from dlmbench.analysis.quality import Quality, all_cells, metrics_of, quality_of, scores_by_text, whole_scores
from dlmbench.analysis.speedup import Repetitions, speedup_at_parity
from dlmbench.analysis.stats import IndexArray, bootstrap_indices, ratio_interval, summarise
from dlmbench.types import Cell, Run

__all__ = ["RANDOM_WEIGHTS", "CellSummary", "Curve", "MetricParity", "PeakMemory", "Study", "analyse", "labels_of"]


def analyse(run: Run, draws: int = 2000, seed: int = 0) -> Study:
    """The whole analysis of `run`; the same run, draws and seed give the same numbers to the digit."""
    return _Analysis(run, draws, seed).study()


@dataclass
class _Analysis:
    """The joins of one run, with the resamples that all of it shares."""

    run: Run
    draws: int
    seed: int
    _indices: dict[int, IndexArray] = field(default_factory=dict)
    _parities: dict[object, Parity] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cells = all_cells(self.run)
        self.results = {r.cell.id: r for r in self.run.results}
        self.metrics = metrics_of(self.run)
        self.compared = tuple(m for m in self.metrics if m.truth_of is None)
        self.texts = scores_by_text(self.run)
        self.whole = whole_scores(self.run)
        self.labels = labels_of(self.cells)
        self.qualities: dict[str, tuple[Quality, ...]] = {}

    def indices(self, n: int) -> IndexArray:
        """The one resampling of n texts."""
        if n not in self._indices:
            self._indices[n] = bootstrap_indices(n, self.draws, self.seed)
        return self._indices[n]

    def study(self) -> Study:
        baselines = tuple(self.summary(c) for c in self.cells if c.model.role == "baseline")
        targets = [c for c in self.cells if c.model.role == "target"]
        groups: dict[tuple[object, ...], list[Cell]] = {}
        for cell in targets:
            if cell.steps is not None:
                groups.setdefault(curve_key(cell), []).append(cell)
        curves = tuple(self.curve(group, baselines) for group in groups.values())
        others = tuple(
            self.summary(c, nearest(c, timed_of(baselines), same_batch=True)) for c in targets if c.steps is None
        )
        missing = []
        if not baselines:
            missing.append("no baseline: parity, speedup and break-even need an autoregressive model in the run")
        if not targets:
            missing.append("no target: there is no diffusion model in the run")
        if not self.compared:
            missing.append("no quality: no metric has been scored")
        if len({b.cell.model.key for b in baselines}) > 1:
            missing.append("several baselines: each curve is compared with the first that matches its settings best")
        return Study(
            name=self.run.name,
            metrics=self.compared,
            baselines=baselines,
            curves=curves,
            others=others,
            labels=self.labels,
            findings=findings(self.run),
            missing=tuple(missing),
            draws=self.draws,
            seed=self.seed,
            fronts=tuple(self.fronts()),
        )

    def fronts(self) -> Iterator[Front]:
        """Among the cells of one shape that were timed and scored, by every metric scored text by text."""
        shapes: dict[tuple[int, int, int], list[Cell]] = {}
        for cell in self.cells:
            if cell.model.weights != "random":
                shapes.setdefault((cell.batch_size, cell.prompt_tokens, cell.new_tokens), []).append(cell)
        for metric, (shape, cells) in itertools.product(self.compared, shapes.items()):
            found = []
            for cell in cells:
                result, texts = self.results.get(cell.id), self.texts.get((cell.quality_key, metric.name))
                reps = repetitions_of(result) if result else None
                if reps is not None and texts is not None:
                    found.append(Contender(cell.id, reps.latency_s, texts))
            shared = common_prompts([c.texts for c in found])
            if shared:
                paired = [replace(c, texts=c.texts.only(shared)) for c in found]
                places = front_places(paired, metric.higher_is_better, self.indices(len(shared)), self.seed)
                yield Front(metric.name, *shape, places, len(shared))

    def summary(self, cell: Cell, baseline: CellSummary | None = None) -> CellSummary:
        """One cell, with its speedup over `baseline` where both were timed."""
        result = self.results.get(cell.id)
        quality = self.quality(cell)
        if result is None:
            return CellSummary(cell, None, "not measured", quality=quality)
        reps = repetitions_of(result)
        other = repetitions_of(self.results[baseline.cell.id]) if baseline else None
        traced = result.traced
        return CellSummary(
            cell=cell,
            status=result.status,
            reason=result.reason,
            latency=summarise(reps.latency_s) if reps else None,
            throughput=summarise(reps.tokens_per_s) if reps else None,
            energy=summarise(reps.energy_j) if reps and reps.energy_j is not None else None,
            memory=peak_of(result.memory),
            quality=quality,
            speedup=ratio_interval(other.latency_s, reps.latency_s, self.draws, self.seed) if reps and other else None,
            first_text_s=(traced.first_block_s if traced.first_token_s is None else traced.first_token_s)
            if traced
            else None,
            inter_token_s=traced.inter_token_s if traced else None,
        )

    def quality(self, cell: Cell) -> tuple[Quality, ...]:
        """Every metric of the cell's texts; nothing for random weights, whose texts say nothing."""
        key = cell.quality_key
        if cell.model.weights == "random":
            return ()
        if key not in self.qualities:
            found = []
            for metric in self.metrics:
                texts, whole = self.texts.get((key, metric.name)), self.whole.get((key, metric.name))
                if texts is not None:
                    found.append(quality_of(metric, texts, self.indices(len(texts.prompt_indices))))
                elif whole is not None and whole.value is not None:
                    found.append(Quality(metric, whole.value, whole.low, whole.high, whole.n))
            self.qualities[key] = tuple(q for q in found if q is not None)
        return self.qualities[key]

    def curve(self, group: Sequence[Cell], baselines: Sequence[CellSummary]) -> Curve:
        """One curve over K from the cells of one group."""
        cells = sorted(group, key=lambda c: c.steps or 0)
        first = cells[0]
        timed = nearest(first, timed_of(baselines), same_batch=True)
        scored = nearest(first, [b for b in baselines if b.quality], same_batch=False)
        points = tuple(self.summary(c, timed) for c in cells)
        missing = [f"K={p.cell.steps} {p.status or 'not measured'}: {p.reason}" for p in points if p.latency is None]
        random = first.model.weights == "random" or any(b.cell.model.weights == "random" for b in baselines)
        parities: tuple[MetricParity, ...] = ()
        if random:
            missing.append(RANDOM_WEIGHTS)
        elif scored is None:
            missing.append("no quality of a baseline with the same prompt and new tokens: parity unknown")
        else:
            parities = self.parities(cells, scored.cell, timed, missing)
        if timed is None:
            missing.append("no latency of a baseline with the same B, P and G: speedup and break-even unknown")
        times = self.times(cells)
        crossing = None
        if timed is not None:
            reps = repetitions_of(self.results[timed.cell.id])
            assert reps is not None
            crossing = break_even({k: t.latency_s for k, t in times.items()}, reps.latency_s, self.draws, self.seed)
            if crossing is None:
                missing.append("fewer than two step counts timed: no break-even")
        return Curve(
            label=self.labels[first.id],
            model=first.model.key,
            sampler=first.sampler,
            knobs=knobs_without_steps(first),
            weights="random" if random else "pretrained",
            batch_size=first.batch_size,
            prompt_tokens=first.prompt_tokens,
            new_tokens=first.new_tokens,
            points=points,
            baseline=timed or nearest(first, baselines, same_batch=True),
            quality_baseline=scored if not random else None,
            parities=parities,
            break_even=crossing,
            missing=tuple(missing),
        )

    def times(self, cells: Iterable[Cell]) -> dict[int, Repetitions]:
        """The repetitions of each step count that has any."""
        found = {}
        for cell in cells:
            result = self.results.get(cell.id)
            reps = repetitions_of(result) if result else None
            if reps is not None and cell.steps is not None:
                found[cell.steps] = reps
        return found

    def parities(
        self, cells: Sequence[Cell], scored: Cell, timed: CellSummary | None, missing: list[str]
    ) -> tuple[MetricParity, ...]:
        """Parity by every metric scored text by text, at every delta; what is lacking is added to `missing`."""
        found = []
        times = self.times(cells)
        base_times = repetitions_of(self.results[timed.cell.id]) if timed else None
        for metric in self.compared:
            base = self.texts.get((scored.quality_key, metric.name))
            curve = {c.steps: self.texts[k] for c in cells if (k := (c.quality_key, metric.name)) in self.texts}
            known: dict[int, PerText] = {k: v for k, v in curve.items() if k is not None}
            if base is None or not known:
                missing.append(f"{metric.name} not scored text by text for both models: no parity by it")
                continue
            absent = [c.steps for c in cells if c.steps not in known]
            if absent:
                missing.append(f"{metric.name} not scored at K={', '.join(map(str, absent))}")
            shared = common_prompts([base, *known.values()])
            if not shared:
                missing.append(f"{metric.name}: no prompt is scored for both models and every K")
                continue
            base, known = base.only(shared), {k: v.only(shared) for k, v in known.items()}
            indices = self.indices(len(shared))
            for delta in DELTAS:
                # Curves that differ in batch size share their texts, and so their parity.
                key = (metric.name, delta, scored.quality_key, tuple(c.quality_key for c in cells))
                if key not in self._parities:
                    self._parities[key] = steps_to_parity(
                        known,
                        base,
                        delta=delta,
                        log_scale=metric.log_scale,
                        higher_is_better=metric.higher_is_better,
                        indices=indices,
                    )
                parity = self._parities[key]
                speedup = None
                if base_times is not None:
                    speedup = speedup_at_parity(parity, times, base_times, self.draws, self.seed)
                found.append(MetricParity(metric, parity, speedup))
        return tuple(found)
