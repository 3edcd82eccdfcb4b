"""A run, analysed: every cell summarised, every curve over K with its parity and break-even.

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
from dlmbench.analysis.parity import Parity, common_prompts, steps_to_parity
from dlmbench.analysis.quality import Quality, all_cells, metrics_of, quality_of, scores_by_text, whole_scores
from dlmbench.analysis.replication import Estimate, energies, latencies
from dlmbench.analysis.results import RANDOM_WEIGHTS, CellSummary, Curve, MetricParity, PeakMemory, Study
from dlmbench.analysis.stats import Summary, bootstrap_indices, false_discovery, group_by, summarise
from dlmbench.analysis.verdict import verdicts_of
from dlmbench.types import Cell, CellResult, KnobValue, MemoryPass, Run

# Busy for so long, a device has reached the clocks and the temperature at which it stays.
LONG_LOAD_S = 20.0

__all__ = ["CellSummary", "Curve", "Study", "analyse", "labels_of"]


def analyse(run: Run, draws: int = 2000, seed: int = 0) -> Study:
    """The whole analysis of `run`; the same run, draws and seed give the same numbers to the digit."""
    return _Analysis(run, draws, seed).study()


# ---------------------------------------------------------------- one cell


def timing_of(result: CellResult, latency: Estimate) -> Summary:
    """The latency of a cell in seconds, with the interval of its estimate.

    In one process the interval is that of order statistics, widened where repetitions depend on each other.
    """
    times = summarise([s.latency_s for s in result.timed])
    ends = latency.interval()
    if latency.processes > 1:
        known = replace(times, covered=True, processes=latency.processes)
        return replace(known, median=latency.value, low=ends.low, high=ends.high)
    if times.covered and latency.is_widened:
        return replace(times, low=min(times.low, ends.low), high=max(times.high, ends.high))
    return times


def _busy(load_s: float) -> str:
    return f"{LONG_LOAD_S:g} s or longer" if load_s >= LONG_LOAD_S else f"under {LONG_LOAD_S:g} s"


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
    for group in group_by(cells, lambda c: c.model.role).values():
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


def _without_steps(cell: Cell) -> Cell:
    """Equal for the points of one curve."""
    return replace(cell, knobs=tuple(sorted(k for k in cell.knobs if k[0] != "steps")), recorded_id=None)


def _nearest(cell: Cell, baselines: Iterable[CellSummary], same_batch: bool = True) -> CellSummary | None:
    """The baseline of the same P and G (and B) that shares most settings with `cell`; the first among equals."""
    own = _settings(cell)
    names = ("prompt_tokens", "new_tokens", *(["batch_size"] if same_batch else []))
    same = [b for b in baselines if all(getattr(b.cell, n) == getattr(cell, n) for n in names)]

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
        self.latencies = latencies(run.results, run.selfcheck)
        self.energies = energies(run.results, run.selfcheck)
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
        points = self.targets(targets, baselines)
        swept = group_by((c for c in targets if c.steps is not None), _without_steps)
        curves = tuple(
            self.curve([points[c.id] for c in sorted(group, key=lambda c: c.steps or 0)], baselines)
            for group in swept.values()
        )
        several = len({b.cell.model.key for b in baselines}) > 1
        missing = {
            "no baseline: parity, speedup and break-even need an autoregressive model in the run": not baselines,
            "no target: there is no diffusion model in the run": not targets,
            "no quality: no metric has been scored": not self.compared,
            "several baselines: each curve is compared with the first that matches its settings best": several,
        }
        return Study(
            metrics=self.compared,
            baselines=baselines,
            curves=curves,
            verdicts=verdicts_of(curves),
            others=tuple(points[c.id] for c in targets if c.steps is None),
            labels=self.labels,
            findings=findings(self.run, curves),
            missing=tuple(text for text, applies in missing.items() if applies),
        )

    def targets(self, targets: Sequence[Cell], baselines: Sequence[CellSummary]) -> dict[str, CellSummary]:
        """The targets by id, each with its speedup, and the p-values of all speedups adjusted together."""
        found = [self.summary(c, _nearest(c, baselines)) for c in targets]
        p_values = {p.cell.id: p.ratio.p_value for p in found if p.ratio is not None}
        adjusted = dict(zip(p_values, false_discovery(list(p_values.values())), strict=True))
        return {p.cell.id: replace(p, adjusted_p=adjusted.get(p.cell.id, 1.0)) for p in found}

    def summary(self, cell: Cell, baseline: CellSummary | None = None) -> CellSummary:
        """One cell, with its speedup over `baseline` where both were timed."""
        result = self.results.get(cell.id)
        quality = self.quality(cell)
        if result is None:
            return CellSummary(cell, None, "not measured", quality=quality)
        seconds, joules = self.latencies.get(cell.id), self.energies.get(cell.id)
        latency = timing_of(result, seconds) if seconds else None
        useful = [s.useful_tokens for s in result.timed if s.useful_tokens is not None]
        loads = [s.load_s for s in result.timed if s.load_s is not None]
        first = inter_token_s = None
        if (traced := result.traced) is not None:
            first = traced.first_block_s if traced.first_token_s is None else traced.first_token_s
            if latency is not None and traced.prefill_s is not None and cell.new_tokens > 1:
                inter_token_s = (latency.median - traced.prefill_s) / (cell.new_tokens - 1)
        return CellSummary(
            cell=cell,
            status=result.status,
            reason=result.reason,
            latency=latency,
            seconds=seconds,
            energy=joules.interval() if joules else None,
            memory=peak_of(result.memory),
            quality=quality,
            ratio=baseline.seconds.over(seconds) if seconds and baseline and baseline.seconds else None,
            traced_first_s=first,
            inter_token_s=inter_token_s,
            new_tokens=statistics.fmean(s.new_tokens for s in result.timed) if latency else None,
            useful_tokens=statistics.fmean(useful) if useful and len(useful) == len(result.timed) else None,
            busy_before=_busy(statistics.median(loads)) if loads else None,
        )

    def quality(self, cell: Cell) -> tuple[Quality, ...]:
        """The scores of a cell's texts; random weights have none, because their texts mean nothing."""
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

    def curve(self, points: Sequence[CellSummary], baselines: Sequence[CellSummary]) -> Curve:
        """One curve from its points, in the order of K."""
        first = points[0].cell
        # The baseline under the same controls, even if it failed: another engine's would not be the same comparison.
        matching = _nearest(first, baselines)
        depends = first.texts_depend_on_batch
        scored = _nearest(first, [b for b in baselines if b.quality], same_batch=depends)
        missing = [f"K={p.cell.steps} {p.status or 'not measured'}: {p.reason}" for p in points if p.latency is None]
        parities: tuple[MetricParity, ...] = ()
        random = "random" in (first.model.weights, *(b.cell.model.weights for b in baselines))
        if random:
            missing.append(RANDOM_WEIGHTS)
        elif scored is None:
            same = "prompt, new tokens and batch size" if depends else "prompt and new tokens"
            missing.append(f"no quality of a baseline with the same {same}: parity unknown")
        else:
            parities = tuple(self.metric_parities([p.cell for p in points], scored.cell, missing))
        crossing = None
        if matching is None or matching.seconds is None:
            why = f" ({matching.status_text}: {matching.reason})" if matching else ""
            missing.append(f"no latency of a baseline with the same B, P and G{why}: speedup and break-even unknown")
        else:
            by_steps = {p.cell.steps or 0: p.seconds for p in points if p.seconds}
            crossing = break_even(by_steps, matching.seconds, self.draws, self.seed)
            if crossing is None:
                missing.append("fewer than two step counts timed: no break-even")
        return Curve(
            label=self.labels[first.id],
            model=first.model.key,
            weights="random" if random else "pretrained",
            batch_size=first.batch_size,
            prompt_tokens=first.prompt_tokens,
            new_tokens=first.new_tokens,
            points=tuple(points),
            baseline=matching,
            quality_baseline=scored if not random else None,
            parities=parities,
            break_even=crossing,
            missing=tuple(missing),
        )

    def metric_parities(self, cells: Sequence[Cell], scored: Cell, missing: list[str]) -> Iterator[MetricParity]:
        """Parity by every metric scored text by text, at every delta; adds to `missing` what is not there."""
        for metric in (m for m in self.compared if m.decides):
            base = self.texts.get((scored.quality_key, metric.name))
            scores = {c.steps or 0: self.texts.get((c.quality_key, metric.name)) for c in cells}
            known = {steps: texts for steps, texts in scores.items() if texts is not None}
            if base is None or not known:
                missing.append(f"{metric.name} not scored text by text for both models: no parity by it")
                continue
            if absent := [steps for steps in scores if steps not in known]:
                missing.append(f"{metric.name} not scored at K={', '.join(map(str, absent))}")
            shared = common_prompts([base, *known.values()])
            if not shared:
                missing.append(f"{metric.name}: no prompt is scored for both models and every K")
                continue
            for delta in metric.margins:
                # Curves that differ in batch size share their texts, and so their parity.
                key = (metric.name, delta, scored.quality_key, tuple(c.quality_key for c in cells))
                if key not in self.parities:
                    self.parities[key] = steps_to_parity(
                        {k: v.only(shared) for k, v in known.items()},
                        base.only(shared),
                        delta=delta,
                        log_scale=metric.log_scale,
                        higher_is_better=metric.higher_is_better,
                        seed=self.seed,
                    )
                yield MetricParity(metric, self.parities[key])
