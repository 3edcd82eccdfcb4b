"""A run, analysed: every cell summarised, every curve over K with its parity, speedup and break-even.

`analyse` is the one place that joins times and quality. What cannot be computed is not an error: the curve names what
is missing and why, and everything else is still computed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from dlmbench.analysis.break_even import break_even
from dlmbench.analysis.findings import findings
from dlmbench.analysis.parity import DELTAS, Parity, Repetitions, common_prompts, speedup_at_parity, steps_to_parity
from dlmbench.analysis.quality import Quality, all_cells, metrics_of, quality_of, scores_by_text, whole_scores
from dlmbench.analysis.results import (
    RANDOM_WEIGHTS,
    CellSummary,
    Curve,
    MetricParity,
    PeakMemory,
    Study,
    group_by,
    timed_of,
)
from dlmbench.analysis.stats import bootstrap_indices, ratio_interval, summarise
from dlmbench.types import Cell, CellResult, KnobValue, MemoryPass, Run

__all__ = ["RANDOM_WEIGHTS", "CellSummary", "Curve", "MetricParity", "PeakMemory", "Study", "analyse", "labels_of"]


def analyse(run: Run, draws: int = 2000, seed: int = 0) -> Study:
    """The whole analysis of `run`; the same run, draws and seed give the same numbers to the digit."""
    return _Analysis(run, draws, seed).study()


# ---------------------------------------------------------------- one cell


def repetitions_of(result: CellResult | None) -> Repetitions | None:
    """The timed repetitions of a cell that did not fail, None where there are none."""
    timed = [s for s in result.timed if s.latency_s > 0] if result else []
    if result is None or result.status not in ("ok", None) or not timed:
        return None
    latency = np.array([s.latency_s for s in timed])
    tokens = np.array([s.new_tokens for s in timed], dtype=np.float64)
    energy = [s.energy_j for s in timed if s.energy_j is not None]
    if not energy and result.energy:
        energy = [window.generation_j for window in result.energy]
    # A generation of no tokens has no throughput; 1 keeps its inverse finite and findings report it.
    return Repetitions(latency, np.maximum(tokens, 1.0) / latency, np.array(energy) if energy else None)


def peak_of(memory: MemoryPass | None) -> PeakMemory | None:
    """The peak that a device reserves or, on a CPU, that of the process."""
    if memory is None:
        return None
    if memory.peak_reserved_bytes is not None:
        return PeakMemory(memory.peak_reserved_bytes, "CUDA memory reserved")
    if memory.peak_process_bytes is not None:
        return PeakMemory(memory.peak_process_bytes, "resident memory of the process")
    return None


# ---------------------------------------------------------------- which cells belong together


def labels_of(cells: Sequence[Cell]) -> dict[str, str]:
    """Cell id -> model key and as few settings other than K, B, P and G as distinguish the cells of its role."""
    labels = {}
    for role in ("baseline", "target"):
        group = [c for c in cells if c.model.role == role]
        settings = [_settings(c) for c in group]
        varying: list[str] = []
        for name in dict.fromkeys(itertools.chain.from_iterable(settings)):
            # A setting that follows from those already shown (a threshold only one rule has) adds nothing.
            if _distinct(settings, [*varying, name]) > _distinct(settings, varying):
                varying.append(name)
        for cell, own in zip(group, settings, strict=True):
            shown = [_setting_text(n, own[n]) for n in varying if n in own]
            labels[cell.id] = ", ".join([cell.model.key, *shown])
    return labels


def _distinct(settings: Sequence[Mapping[str, KnobValue]], names: Sequence[str]) -> int:
    return len({tuple(s.get(n) for n in names) for s in settings})


def _setting_text(name: str, value: KnobValue) -> str:
    if name == "block_length":
        return "one block" if value is None else f"block {value}"
    if name == "cache":
        return "no cache" if value == "none" else f"{value} cache"
    needs_no_name = name in ("engine", "sampler", "precision", "commit")
    return str(value) if needs_no_name else f"{name.replace('_', ' ')} {value}"


def _settings(cell: Cell) -> dict[str, KnobValue]:
    names = ("engine", "sampler", "precision", "attention", "seed", "prompts")
    return {n: getattr(cell, n) for n in names} | {n: value for n, value in cell.knobs if n != "steps"}


def _curve_key(cell: Cell) -> tuple[object, ...]:
    """Equal for the points of one curve: everything but the steps."""
    settings = tuple(sorted((k, str(v)) for k, v in _settings(cell).items()))
    return (cell.model, settings, cell.prompt_tokens, cell.new_tokens, cell.batch_size)


def _nearest(cell: Cell, baselines: Iterable[CellSummary], same_batch: bool) -> CellSummary | None:
    """The baseline of the same P and G (and B) that shares most settings with `cell`; the first among equals."""
    same = [
        b
        for b in baselines
        if (b.cell.prompt_tokens, b.cell.new_tokens) == (cell.prompt_tokens, cell.new_tokens)
        and (not same_batch or b.cell.batch_size == cell.batch_size)
    ]
    own = _settings(cell)

    def agreement(baseline: CellSummary) -> tuple[int, bool]:
        theirs = _settings(baseline.cell)
        return sum(theirs.get(n) == v for n, v in own.items()), baseline.cell.batch_size == cell.batch_size

    return max(same, key=agreement, default=None)


# ---------------------------------------------------------------- the whole run


class _Analysis:
    """The joins of one run, with the resamples that all of it shares."""

    def __init__(self, run: Run, draws: int, seed: int) -> None:
        self.run, self.draws, self.seed = run, draws, seed
        self.cells = all_cells(run)
        self.results = {r.cell.id: r for r in run.results}
        self.repetitions = {i: reps for i, r in self.results.items() if (reps := repetitions_of(r)) is not None}
        self.metrics = metrics_of(run)
        self.compared = tuple(m for m in self.metrics if m.truth_of is None)
        self.texts = scores_by_text(run)
        self.whole = whole_scores(run)
        self.labels = labels_of(self.cells)
        # The resampling of n texts that everything shares; qualities and parities that several cells share.
        self.indices = functools.cache(lambda n: bootstrap_indices(n, draws, seed))
        self.qualities: dict[str, tuple[Quality, ...]] = {}
        self.parities: dict[object, Parity] = {}

    def study(self) -> Study:
        baselines = tuple(self.summary(c) for c in self.cells if c.model.role == "baseline")
        targets = [c for c in self.cells if c.model.role == "target"]
        swept = group_by((c for c in targets if c.steps is not None), _curve_key)
        curves = tuple(self.curve(group, baselines) for group in swept.values())
        others = tuple(
            self.summary(c, _nearest(c, timed_of(baselines), same_batch=True)) for c in targets if c.steps is None
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
            metrics=self.compared,
            baselines=baselines,
            curves=curves,
            others=others,
            labels=self.labels,
            findings=findings(self.run),
            missing=tuple(missing),
        )

    def summary(self, cell: Cell, baseline: CellSummary | None = None) -> CellSummary:
        """One cell, with its speedup over `baseline` where both were timed."""
        result = self.results.get(cell.id)
        quality = self.quality(cell)
        if result is None:
            return CellSummary(cell, None, "not measured", quality=quality)
        reps = self.repetitions.get(cell.id)
        other = self.repetitions[baseline.cell.id] if baseline else None
        traced = result.traced
        first = (traced.first_block_s if traced.first_token_s is None else traced.first_token_s) if traced else None
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
            first_text_s=first,
            inter_token_s=traced.inter_token_s if traced else None,
        )

    def quality(self, cell: Cell) -> tuple[Quality, ...]:
        """Every metric of the cell's texts; nothing for random weights, whose texts mean nothing."""
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
                    ends = (whole.low, whole.high) if whole.n > 1 else (None, None)
                    found.append(Quality(metric, whole.value, *ends, whole.n))
            self.qualities[key] = tuple(q for q in found if q is not None)
        return self.qualities[key]

    def curve(self, group: Sequence[Cell], baselines: Sequence[CellSummary]) -> Curve:
        """One curve over K from the cells of one group."""
        cells = sorted(group, key=lambda c: c.steps or 0)
        first = cells[0]
        timed = _nearest(first, timed_of(baselines), same_batch=True)
        scored = _nearest(first, [b for b in baselines if b.quality], same_batch=False)
        points = tuple(self.summary(c, timed) for c in cells)
        missing = [f"K={p.cell.steps} {p.status or 'not measured'}: {p.reason}" for p in points if p.latency is None]
        random = "random" in (first.model.weights, *(b.cell.model.weights for b in baselines))
        parities: tuple[MetricParity, ...] = ()
        if random:
            missing.append(RANDOM_WEIGHTS)
        elif scored is None:
            missing.append("no quality of a baseline with the same prompt and new tokens: parity unknown")
        else:
            parities = tuple(self.metric_parities(cells, scored.cell, timed, missing))
        if timed is None:
            missing.append("no latency of a baseline with the same B, P and G: speedup and break-even unknown")
        crossing = None
        if timed is not None:
            latencies = {k: t.latency_s for k, t in self.times(cells).items()}
            baseline_s = self.repetitions[timed.cell.id].latency_s
            crossing = break_even(latencies, baseline_s, self.draws, self.seed)
            if crossing is None:
                missing.append("fewer than two step counts timed: no break-even")
        return Curve(
            label=self.labels[first.id],
            model=first.model.key,
            weights="random" if random else "pretrained",
            batch_size=first.batch_size,
            prompt_tokens=first.prompt_tokens,
            new_tokens=first.new_tokens,
            points=points,
            baseline=timed or _nearest(first, baselines, same_batch=True),
            quality_baseline=scored if not random else None,
            parities=parities,
            break_even=crossing,
            missing=tuple(missing),
        )

    def times(self, cells: Iterable[Cell]) -> dict[int, Repetitions]:
        """The repetitions of each step count that has any."""
        return {c.steps: self.repetitions[c.id] for c in cells if c.steps is not None and c.id in self.repetitions}

    def metric_parities(
        self, cells: Sequence[Cell], scored: Cell, timed: CellSummary | None, missing: list[str]
    ) -> Iterator[MetricParity]:
        """Parity by every metric scored text by text, at every delta; adds to `missing` what is not there."""
        times = self.times(cells)
        base_times = self.repetitions[timed.cell.id] if timed else None
        for metric in self.compared:
            base = self.texts.get((scored.quality_key, metric.name))
            scores = ((c.steps, self.texts.get((c.quality_key, metric.name))) for c in cells)
            known = {steps: texts for steps, texts in scores if steps is not None and texts is not None}
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
            for delta in DELTAS:
                # Curves that differ in batch size share their texts, and so their parity.
                key = (metric.name, delta, scored.quality_key, tuple(c.quality_key for c in cells))
                if key not in self.parities:
                    self.parities[key] = steps_to_parity(
                        known,
                        base,
                        delta=delta,
                        log_scale=metric.log_scale,
                        higher_is_better=metric.higher_is_better,
                        indices=self.indices(len(shared)),
                    )
                parity = self.parities[key]
                speedup = None
                if base_times is not None:
                    speedup = speedup_at_parity(parity, times, base_times, self.draws, self.seed)
                yield MetricParity(metric, parity, speedup)
