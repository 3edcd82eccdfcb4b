"""A run, analysed: every cell summarised, every curve over K with its parity, speedup and break-even.

`analyse` is the one place that joins times and quality. What cannot be computed is not an error: the curve names what
is missing and why, and everything else is still computed.
"""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from dlmbench.analysis.break_even import break_even
from dlmbench.analysis.findings import findings
from dlmbench.analysis.parity import CellCosts, Parity, common_prompts, speedup_at_parity, steps_to_parity
from dlmbench.analysis.quality import Quality, all_cells, metrics_of, quality_of, scores_by_text, whole_scores
from dlmbench.analysis.replication import Estimate, energies, latencies
from dlmbench.analysis.results import (
    RANDOM_WEIGHTS,
    CellSummary,
    Curve,
    MetricParity,
    PeakMemory,
    Study,
    timed_of,
)
from dlmbench.analysis.stats import Summary, bootstrap_indices, false_discovery, group_by, summarise
from dlmbench.analysis.verdict import verdicts_of
from dlmbench.types import Cell, CellResult, KnobValue, MemoryPass, Run, TracedPass

# Under load for this long, a device has reached the clocks and the temperature at which it stays.
SUSTAINED_S = 20.0

__all__ = ["RANDOM_WEIGHTS", "CellSummary", "Curve", "MetricParity", "PeakMemory", "Study", "analyse", "labels_of"]


def analyse(run: Run, draws: int = 2000, seed: int = 0) -> Study:
    """The whole analysis of `run`; the same run, draws and seed give the same numbers to the digit."""
    return _Analysis(run, draws, seed).study()


# ---------------------------------------------------------------- one cell


def costs_of(run: Run) -> dict[str, CellCosts]:
    """Seconds and joules of one generation of every cell that was timed, by id, with variances pooled over them."""
    energy = energies(run.results, run.selfcheck)
    return {i: CellCosts(latency, energy.get(i)) for i, latency in latencies(run.results, run.selfcheck).items()}


def timing_of(result: CellResult, latency: Estimate) -> Summary:
    """The latency of a cell in seconds, with the interval of its estimate.

    In one process the interval is that of order statistics, widened where repetitions depend on each other.
    """
    times = summarise([s.latency_s for s in result.timed if s.latency_s > 0])
    ends = latency.interval()
    if latency.processes < 2:
        if not times.covered:
            return times
        low = min(times.low, ends.low) if latency.is_widened else times.low
        high = max(times.high, ends.high) if latency.is_widened else times.high
        return replace(times, low=low, high=high)
    return replace(times, median=latency.value, low=ends.low, high=ends.high, covered=True, processes=latency.processes)


def _rate(count: float | None, latency: Summary) -> Summary | None:
    """`count` per generation as a rate per second, with the latency's interval."""
    if not count:
        return None
    return replace(
        latency,
        median=count / latency.median,
        low=count / latency.high,
        high=count / latency.low,
        mean=count / latency.mean,
        sd=None if latency.sd is None else count * latency.sd / latency.mean**2,
        p10=count / latency.p90,
        p90=count / latency.p10,
    )


def peak_of(memory: MemoryPass | None) -> PeakMemory | None:
    """The peak that a device reserves or, on a CPU, that of the process."""
    if memory is None:
        return None
    if memory.peak_reserved_bytes is not None:
        return PeakMemory(memory.peak_reserved_bytes, "CUDA memory reserved")
    if memory.peak_process_bytes is not None:
        return PeakMemory(memory.peak_process_bytes, "resident memory of the process")
    return None


def _inter_token_s(latency: Summary | None, traced: TracedPass | None, new_tokens: int) -> float | None:
    """L_itl = (L_e2e - L_prefill) / (N - 1) in seconds, of the L_e2e that is reported; None for diffusion."""
    if latency is None or traced is None or traced.prefill_s is None or new_tokens < 2:
        return None
    return (latency.median - traced.prefill_s) / (new_tokens - 1)


def _adjusted(
    curves: Sequence[Curve], others: Sequence[CellSummary]
) -> tuple[tuple[Curve, ...], tuple[CellSummary, ...]]:
    """The same with the p-values of all ratios adjusted together."""
    cells = [*(p for c in curves for p in c.points), *others]
    ratios = {p.cell.id: p.ratio.p_value for p in cells if p.ratio is not None}
    adjusted = dict(zip(ratios, false_discovery(list(ratios.values())), strict=True))

    def one(point: CellSummary) -> CellSummary:
        return replace(point, adjusted_p=adjusted.get(point.cell.id, 1.0))

    return tuple(replace(c, points=tuple(map(one, c.points))) for c in curves), tuple(map(one, others))


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
        self.costs = costs_of(run)
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
        curves, others = _adjusted(curves, others)
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
            verdicts=verdicts_of(curves),
            others=others,
            labels=self.labels,
            findings=findings(self.run, curves),
            missing=tuple(missing),
        )

    def summary(self, cell: Cell, baseline: CellSummary | None = None) -> CellSummary:
        """One cell, with its speedup over `baseline` where both were timed."""
        result = self.results.get(cell.id)
        quality = self.quality(cell)
        if result is None:
            return CellSummary(cell, None, "not measured", quality=quality)
        costs = self.costs.get(cell.id)
        latency = timing_of(result, costs.latency_s) if costs else None
        other = self.costs.get(baseline.cell.id) if baseline else None
        traced = result.traced
        first = (traced.first_block_s if traced.first_token_s is None else traced.first_token_s) if traced else None
        new_tokens = statistics.fmean(s.new_tokens for s in result.timed) if latency else None
        useful = [s.useful_tokens for s in result.timed if s.useful_tokens is not None]
        useful_tokens = statistics.fmean(useful) if useful and len(useful) == len(result.timed) else None
        loads = [s.load_s for s in result.timed if s.load_s is not None]
        return CellSummary(
            cell=cell,
            status=result.status,
            reason=result.reason,
            latency=latency,
            throughput=_rate(new_tokens, latency) if latency else None,
            useful_throughput=_rate(useful_tokens, latency) if latency else None,
            costs=costs,
            memory=peak_of(result.memory),
            quality=quality,
            ratio=other.latency_s.over(costs.latency_s) if costs and other else None,
            first_text_s=first,
            inter_token_s=_inter_token_s(latency, traced, cell.new_tokens),
            useful_tokens=useful_tokens,
            state=("sustained" if statistics.median(loads) >= SUSTAINED_S else "rested") if loads else None,
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
        # The baseline under the same controls, even if it failed: another engine's would not be the same comparison.
        matching = _nearest(first, baselines, same_batch=True)
        timed = matching if matching and matching.latency else None
        depends = first.texts_depend_on_batch
        scored = _nearest(first, [b for b in baselines if b.quality], same_batch=depends)
        points = tuple(self.summary(c, timed) for c in cells)
        missing = [f"K={p.cell.steps} {p.status or 'not measured'}: {p.reason}" for p in points if p.latency is None]
        random = "random" in (first.model.weights, *(b.cell.model.weights for b in baselines))
        parities: tuple[MetricParity, ...] = ()
        if random:
            missing.append(RANDOM_WEIGHTS)
        elif scored is None:
            same = "prompt, new tokens and batch size" if depends else "prompt and new tokens"
            missing.append(f"no quality of a baseline with the same {same}: parity unknown")
        else:
            parities = tuple(self.metric_parities(cells, scored.cell, timed, missing))
        if timed is None:
            why = f" ({matching.status_text}: {matching.reason})" if matching else ""
            missing.append(f"no latency of a baseline with the same B, P and G{why}: speedup and break-even unknown")
        crossing = None
        if timed is not None:
            by_steps = {k: c.latency_s for k, c in self.costs_by_steps(cells).items()}
            crossing = break_even(by_steps, self.costs[timed.cell.id].latency_s, self.draws, self.seed)
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
            baseline=matching,
            quality_baseline=scored if not random else None,
            parities=parities,
            break_even=crossing,
            missing=tuple(missing),
        )

    def costs_by_steps(self, cells: Iterable[Cell]) -> dict[int, CellCosts]:
        """What a generation takes at each step count that was timed."""
        return {c.steps: self.costs[c.id] for c in cells if c.steps is not None and c.id in self.costs}

    def metric_parities(
        self, cells: Sequence[Cell], scored: Cell, timed: CellSummary | None, missing: list[str]
    ) -> Iterator[MetricParity]:
        """Parity by every metric scored text by text, at every delta; adds to `missing` what is not there."""
        costs = self.costs_by_steps(cells)
        base_costs = self.costs[timed.cell.id] if timed else None
        for metric in (m for m in self.compared if m.decides):
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
            for delta in metric.margins:
                # Curves that differ in batch size share their texts, and so their parity.
                key = (metric.name, delta, scored.quality_key, tuple(c.quality_key for c in cells))
                if key not in self.parities:
                    self.parities[key] = steps_to_parity(
                        known,
                        base,
                        delta=delta,
                        log_scale=metric.log_scale,
                        higher_is_better=metric.higher_is_better,
                        seed=self.seed,
                    )
                parity = self.parities[key]
                speedup = None
                if base_costs is not None:
                    speedup = speedup_at_parity(parity, costs, base_costs)
                yield MetricParity(metric, parity, speedup)
