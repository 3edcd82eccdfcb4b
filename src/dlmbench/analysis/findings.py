"""Findings: what a reader of the results should know before believing them, each with advice.

Every check is silent where its data are missing: a CPU run has no clocks or temperatures, and that is not a fault.
All thresholds are defined here and named in the messages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from scipy import stats as _scipy

from dlmbench import registry
from dlmbench.analysis.break_even import RISING_STEP
from dlmbench.analysis.parity import LEAST_PROMPTS, PerText, common_prompts
from dlmbench.analysis.quality import all_cells, metric_for, metrics_of, scores_by_text
from dlmbench.analysis.replication import (
    DISTURBED,
    LEAST_PROCESSES,
    are_enough,
    card_ratios,
    is_disturbed,
    is_launch_bound,
    latencies,
    logs_of,
)
from dlmbench.analysis.results import Curve
from dlmbench.analysis.stats import autocorrelation, group_by, summarise, two_modes
from dlmbench.models.loading import architectures
from dlmbench.roofline.corrected import launches_slowly
from dlmbench.types import Cell, CellResult, Finding, Run

WIDE_HALF_WIDTH = 0.05
SLOWER_SHARE = 0.05
SIGNIFICANCE = 0.01
# Among fewer repetitions none can be told to lie far from the rest.
LEAST_FOR_OUTLIERS = 10
TEMPERATURE_SPAN_C = 10
CLOCK_SPAN = 0.05
REPETITION_MARGIN = 0.10
CAP_MARGIN = 0.05
SMALL_PARAMETERS = 1e8
MOST_NAMED = 3  # other cells that have the same finding

Severity = Literal["info", "warning", "error"]
# Code, severity, message and advice; the cell is added where there is one.
Remarks = Iterator[tuple[str, Severity, str, str]]


def findings(run: Run, curves: Sequence[Curve] = ()) -> tuple[Finding, ...]:
    """All findings about `run` and its curves: errors first, then warnings, then notes."""
    remarks = [_cell_finding(r.cell, *remark) for r in run.results for check in _CELL_CHECKS for remark in check(r)]
    remarks += [f for check in _RUN_CHECKS for f in check(run)]
    remarks += [_cell_finding(c.points[-1].cell, *remark) for c in curves for remark in _curve(c)]
    rank = {"error": 0, "warning": 1, "info": 2}
    return tuple(sorted(remarks, key=lambda f: rank[f.severity]))


def by_kind(found: Iterable[Finding]) -> list[list[Finding]]:
    """Findings of one kind and severity together, in their order."""
    return list(group_by(found, lambda f: (f.severity, f.code)).values())


def in_one_line(group: Sequence[Finding]) -> str:
    """Findings of one kind: the first message, and a few of the other cells; all messages where they are of no cell."""
    first = group[0]
    if first.cell_id is None:
        return "; ".join(dict.fromkeys(f.message for f in group))
    # A message of a cell begins with the cell's label.
    labels = {f.cell_id: f.message.partition(": ")[0] for f in group}
    others = [label for cell_id, label in labels.items() if cell_id != first.cell_id]
    named = others if len(others) <= MOST_NAMED else [*others[: MOST_NAMED - 1], f"{len(others) - MOST_NAMED + 1} more"]
    listed = " and ".join(filter(None, (", ".join(named[:-1]), *named[-1:])))
    return first.message + (f"; also {listed}" if others else "")


def _cell_finding(cell: Cell, code: str, severity: Severity, message: str, hint: str) -> Finding:
    return Finding(code, severity, cell.id, f"{cell.label}: {message}", hint)


# ---------------------------------------------------------------- one cell


def _failed(result: CellResult) -> Remarks:
    if result.status == "oom":
        hint = "use a smaller batch or shorter sequences, or a device with more memory"
        yield "cell_failed", "warning", f"out of memory ({result.reason})", hint
    elif result.status == "skipped":
        hint = "the same command with --try-oom measures it: a prediction is advice"
        yield "not_tried", "warning", f"not tried ({result.reason})", hint
    elif result.status in ("invalid", "error"):
        hint = "fix the cause and run the same command again: finished cells are kept"
        yield "cell_failed", "error", f"{result.status} ({result.reason})", hint


def _repetitions(result: CellResult) -> Remarks:
    n = len(result.timed)
    by_process = group_by(result.timed, lambda s: s.process_id)
    complete = logs_of({p: [s.latency_s for s in samples] for p, samples in by_process.items()})
    if result.status == "ok" and not are_enough(len(complete), n):
        message = f"{n} timed repetition{'s' * (n != 1)}, too few for a verdict"
        yield "few_repetitions", "warning", message, "raise processes, min_repeats or max_time_s"
    if n < 2:
        return
    latency = summarise([s.latency_s for s in result.timed])
    if n >= LEAST_FOR_OUTLIERS and latency.outliers:
        message = f"{latency.outliers} of {n} latencies lie far from the rest (none is dropped)"
        yield "outliers", "info", message, "look for other work on the machine at those times"
    if latency.half_width > WIDE_HALF_WIDTH:
        message = f"the median latency is known to ±{latency.half_width:.0%}, more than {WIDE_HALF_WIDTH:.0%}"
        hint = "raise max_repeats and max_time_s, and keep other work off the machine"
        yield "interval_wide", "warning", message, hint


def _within_processes(result: CellResult) -> Remarks:
    """Each process by itself: a slow start, rounds that differ, repetitions that depend on each other, two modes."""
    for process, samples in group_by(result.timed, lambda s: s.process_id).items():
        times = [s.latency_s for s in sorted(samples, key=lambda s: s.index)]
        # If the first fifth of the repetitions is slower than the others, more warm-up is needed.
        head = max(2, len(times) // 5)
        slower = np.median(times[:head]) / np.median(times[head:]) - 1 if len(times) >= 10 else 0.0
        if slower > SLOWER_SHARE:
            # Two against eight cannot be clearer than p = 1/45, hence a laxer level than elsewhere.
            p = _scipy.mannwhitneyu(times[:head], times[head:], alternative="greater").pvalue
            if p < 0.05:
                message = f"the first {head} repetitions of process {process} are {slower:.0%} slower than its others"
                yield "warmup_short", "warning", message, "raise warmup in the protocol"
        rounds = [[s.latency_s for s in g] for g in group_by(samples, lambda s: s.round).values() if len(g) >= 4]
        span = _span_of_medians(rounds)
        if span > SLOWER_SHARE and _scipy.kruskal(*rounds).pvalue < SIGNIFICANCE:
            hint = "let the machine settle, fix its clocks, keep other work off it; then run again into a new folder"
            yield "drift", "warning", f"the median latency differs by {span:.0%} between rounds", hint
        r = autocorrelation(times)
        if r is not None and r > _scipy.norm.isf(SIGNIFICANCE) / np.sqrt(len(times)):
            message = f"the repetitions of process {process} follow each other (autocorrelation {r:.2f})"
            hint = "they carry less information than their number; intervals are widened by it"
            yield "autocorrelated", "info", message, hint
        if (modes := two_modes(times)) is not None:
            message = f"process {process} has two modes, around {modes[0]:.4g} and {modes[1]:.4g} s"
            yield "two_modes", "warning", message, "look for a clock that switches or other work; add processes"


def _processes_differ(result: CellResult) -> Remarks:
    groups = group_by(result.timed, lambda s: s.process_id).values()
    if (span := _span_of_medians([[s.latency_s for s in g] for g in groups])) > SLOWER_SHARE:
        message = f"the medians of its {len(groups)} processes differ by {span:.1%}"
        yield "processes_differ", "warning", message, "look for other work on the machine; add processes"


def _span_of_medians(groups: list[list[float]]) -> float:
    """How much larger the largest median is than the smallest, as a share; 0 for fewer than two groups."""
    medians = [float(np.median(g)) for g in groups]
    return max(medians) / min(medians) - 1 if len(medians) > 1 else 0.0


def _tokens_short(result: CellResult) -> Remarks:
    wanted = result.cell.batch_size * result.cell.new_tokens
    least = min((s.new_tokens for s in result.timed), default=wanted)
    if least < wanted:
        hint = "the models did unequal work: no end-of-text token may stop a timed run"
        yield "tokens_short", "error", f"{least} new tokens in a repetition instead of {wanted}", hint


def _disturbed(result: CellResult) -> Remarks:
    if result.timed and is_disturbed(result):
        yield "disturbed", "warning", f"{DISTURBED}: no verdict on speed rests on it", "measure again on an idle device"


def _energy_windows(result: CellResult) -> Remarks:
    processes = {s.process_id for s in result.timed}
    metered = {w.process_id for w in result.energy}
    if metered and len(metered) < len(processes):
        message = f"energy was metered in {len(metered)} of its {len(processes)} processes"
        yield "energy_windows", "info", message, "run the same command again: it resumes"


def _device(result: CellResult) -> Remarks:
    celsius = [s.temperature_c for s in result.timed if s.temperature_c is not None]
    if celsius and max(celsius) - min(celsius) > TEMPERATURE_SPAN_C:
        message = f"the device went from {min(celsius)} to {max(celsius)} °C"
        yield "temperature_drift", "warning", message, "warm the device up for longer"
    clocks = [s.sm_clock_mhz for s in result.timed if s.sm_clock_mhz]
    if clocks and (max(clocks) - min(clocks)) / max(clocks) > CLOCK_SPAN:
        message = f"the device's clock ran between {min(clocks)} and {max(clocks)} MHz"
        yield "clock_drift", "warning", message, "fix the clock, or check power and cooling"


def _curve(curve: Curve) -> Remarks:
    line = curve.break_even
    if line is not None and line.rise is not None and line.rise > RISING_STEP:
        message = f"a step takes {line.rise:.0%} longer between the largest step counts than between the smallest"
        hint = "lower clocks or other work slowed the long generations: compare cells measured in the same state"
        yield "step_time_rises", "warning", message, hint
    busy = curve.baseline.busy_before if curve.baseline else None
    others = [p.cell.steps for p in curve.timed if busy and p.busy_before not in (None, busy)]
    if others:
        message = f"the device had been busy for {busy} before the baseline, not before K={', '.join(map(str, others))}"
        hint = "clocks fall under long load: raise warmup, or read both"
        yield "load_differs", "info", message, hint


# ---------------------------------------------------------------- the whole run


def _unmeasured(run: Run) -> Iterator[Finding]:
    done = {r.cell.id for r in run.results}
    absent = [c for c in run.cells if c.id not in done]
    if absent:
        message = f"{len(absent)} of {len(run.cells)} planned cells are not measured, first {absent[0].label}"
        yield Finding("cells_unmeasured", "warning", None, message, "run the same command again: it resumes")


def _controls(run: Run) -> Iterator[Finding]:
    """Settings that must be equal for both models; otherwise kernels are compared, not models."""
    cells = all_cells(run)
    clocks = {r.cell.id: {s.clock for s in r.timed} for r in run.results}
    baseline, target = ([c for c in cells if c.model.role == role] for role in ("baseline", "target"))
    if not baseline or not target:
        return
    reads: tuple[tuple[str, Callable[[Cell], set[str]]], ...] = (
        ("precision", lambda c: {c.precision}),
        ("attention kernel", lambda c: {c.attention}),
        ("engine", lambda c: {c.engine}),
        ("prompts", lambda c: {c.prompts}),
        ("clock", lambda c: clocks.get(c.id, set())),
    )
    for name, read in reads:
        ours, theirs = (set().union(*map(read, group)) for group in (baseline, target))
        if ours and theirs and ours != theirs:
            message = f"{name} differs: baseline {', '.join(sorted(ours))}; target {', '.join(sorted(theirs))}"
            hint = "use the same for both models, or read the difference as part of the result"
            yield Finding("controls_differ", "warning", None, message, hint)


def _few_processes(run: Run) -> Iterator[Finding]:
    counts = [len({s.process_id for s in r.timed}) for r in run.results if r.timed]
    few = [n for n in counts if n < LEAST_PROCESSES]
    if few:
        message = f"{len(few)} of {len(counts)} cells were measured in fewer than {LEAST_PROCESSES} processes"
        hint = (
            f"their intervals hold within the process only; set processes: {LEAST_PROCESSES} for a claim on the machine"
        )
        yield Finding("few_processes", "info", None, message, hint)


def _node_shared(run: Run) -> Iterator[Finding]:
    if run.environment is not None and run.environment.node_shared:
        message = "the node was shared: other jobs may have used its cores, memory and links meanwhile"
        yield Finding("node_shared", "warning", None, message, "submit without --shared for times of an idle node")


def _cards(run: Run) -> Iterator[Finding]:
    """How much the GPUs of the run differ, beside how much processes do."""
    ratios = card_ratios(run.results)
    if not ratios:
        return
    spreads = [math.sqrt(e.variance * e.processes) for e in latencies(run.results).values() if e.processes > 1]
    apart = max(ratios.values()) / min(ratios.values()) - 1
    message = (
        f"its {len(ratios)} GPUs differ by {apart:.2%} on average over cells; "
        f"processes of a cell by {float(np.median(spreads)):.2%} (standard deviation)"
    )
    hint = "the processes of a cell ran on several GPUs, so intervals include the difference"
    severity: Severity = "warning" if apart > SLOWER_SHARE else "info"
    yield Finding("gpus_differ", severity, None, message, hint)


def _neighbours(run: Run) -> Iterator[Finding]:
    """Launch-bound cells of engines that launch slowly, measured while the run kept other GPUs busy."""
    beside = [r for r in run.results if any(s.neighbours for s in r.timed)]
    slowed = [r for r in beside if launches_slowly(r.cell) and is_launch_bound(r.timed[0])]
    if slowed:
        first = slowed[0].cell.label
        message = f"{len(slowed)} launch-bound cells were measured while other GPUs were busy, the first: {first}"
        hint = "the host launches for all GPUs and may have slowed them: leave --concurrent out"
        yield Finding("neighbours", "info", None, message, hint)


def _uncommitted(run: Run) -> Iterator[Finding]:
    commit = run.environment.git_commit if run.environment else None
    if commit and commit.endswith("-dirty"):
        message = f"measured by commit {commit[:12]} with uncommitted changes: nobody can check out what was measured"
        yield Finding("uncommitted", "warning", None, message, "commit first, then run again into a new folder")


def _energy_above_cap(run: Run) -> Iterator[Finding]:
    cap_w = run.environment.power_cap_w if run.environment else None
    if not cap_w:
        return
    for result in run.results:
        powers = [window.energy_j / window.region_s for window in result.energy]
        if powers and (power_w := max(powers)) > (1 + CAP_MARGIN) * cap_w:
            message = f"its energy implies {power_w:.0f} W, above the board's power cap of {cap_w:.0f} W"
            hint = "its counter was read at a bad moment: trust energy of longer generations"
            yield _cell_finding(result.cell, "energy_above_cap", "warning", message, hint)


def _random_weights(run: Run) -> Iterator[Finding]:
    keys = sorted({c.model.key for c in all_cells(run) if c.model.weights == "random"})
    if keys:
        message = f"random weights ({', '.join(keys)}): times and memory are real, quality is not measured"
        yield Finding("random_weights", "info", None, message, "give the models' trained weights to measure quality")


def _small_models(run: Run) -> Iterator[Finding]:
    known, _ = architectures(dict.fromkeys(c.model for c in all_cells(run) if c.model.weights == "pretrained"))
    if keys := sorted(key for key, found in known.items() if found.parameters < SMALL_PARAMETERS):
        message = f"tiny models ({', '.join(keys)}): what holds for them need not hold for large ones"
        yield Finding("small_models", "info", None, message, "compare the models that you mean to use")


def _too_few_prompts(run: Run) -> Iterator[Finding]:
    fewest: dict[str, int] = {}
    for (_, metric), scores in scores_by_text(run).items():
        fewest[metric] = min(scores.n, fewest.get(metric, scores.n))
    for metric, n in fewest.items():
        if n < LEAST_PROMPTS:
            rests = f"{metric} rests on {n} prompt{'' if n == 1 else 's'}, fewer than {LEAST_PROMPTS}"
            message = f"{rests}: {'its intervals are rough' if n > 1 else 'it has no interval'}"
            yield Finding("few_prompts", "warning", None, message, "raise the number of prompts")


def _degenerate(run: Run) -> Iterator[Finding]:
    for cell, own, base in _pairs_with_baseline(run, metric_for("repetition")):
        if own.value > base.value + REPETITION_MARGIN:
            message = (
                f"{own.value:.0%} of the text repeats itself, the baseline's {base.value:.0%}: "
                "validity and judges can be fooled by it"
            )
            yield _cell_finding(cell, "degenerate", "warning", message, "read this cell's other metrics with suspicion")


def _better_than_truth(run: Run) -> Iterator[Finding]:
    scores = scores_by_text(run)
    lines = {m.name: m.truth_of for m in metrics_of(run) if m.truth_of is not None}
    for line, metric in lines.items():
        source = registry.attribute("metrics", line, "TRUTH_SOURCE", "its source")
        for cell in _one_per_text(run):
            own, truth = scores.get((cell.quality_key, metric)), scores.get((cell.quality_key, line))
            if own and truth and own.value < truth.value:
                message = f"its text scores {own.value:.3f} nats/token under {source}, better than true text"
                hint = "text more probable than the truth is duller than the truth: a warning, not a win"
                yield _cell_finding(cell, "better_than_truth", "warning", f"{message} ({truth.value:.3f})", hint)


def _self_judged(run: Run) -> Iterator[Finding]:
    for judge in dict.fromkeys(s.judge for s in run.scores if s.self_judged):
        metrics = ", ".join(dict.fromkeys(s.metric for s in run.scores if s.self_judged and s.judge == judge))
        message = f"{metrics}: the judge {judge} is itself a model of this run, and favours its own text"
        yield Finding("self_judging", "warning", None, message, "judge again with --judge and another causal model")


def _tokens_differ(run: Run) -> Iterator[Finding]:
    """Nats per token compare only where both models split the reference into the same number of tokens."""
    for cell, own, base in _pairs_with_baseline(run, metric_for("likelihood")):
        shared = common_prompts([own, base])
        if shared and not np.array_equal(own.only(shared).weights, base.only(shared).weights):
            message = "the two models split the reference into different numbers of tokens"
            hint = "nats per token then compare unequal things: compare bits per byte"
            yield _cell_finding(cell, "tokens_differ", "warning", message, hint)
            return


# ---------------------------------------------------------------- what the checks share


def _one_per_text(run: Run) -> list[Cell]:
    """One cell for each set of texts."""
    return [group[0] for group in group_by(all_cells(run), lambda c: c.quality_key).values()]


def _pairs_with_baseline(run: Run, metric: str) -> Iterator[tuple[Cell, PerText, PerText]]:
    """Each target's texts with those of a baseline of the same prompt and new tokens."""
    scores = scores_by_text(run)
    cells = _one_per_text(run)
    for cell in cells:
        own = scores.get((cell.quality_key, metric))
        if cell.model.role != "target" or own is None:
            continue
        for other in cells:
            base = scores.get((other.quality_key, metric))
            same = (other.prompt_tokens, other.new_tokens) == (cell.prompt_tokens, cell.new_tokens)
            if other.model.role == "baseline" and same and base is not None:
                yield cell, own, base
                break


_CELL_CHECKS: tuple[Callable[[CellResult], Remarks], ...] = (
    *(_failed, _repetitions, _within_processes, _processes_differ),
    *(_disturbed, _tokens_short, _energy_windows, _device),
)
_RUN_CHECKS: tuple[Callable[[Run], Iterator[Finding]], ...] = (
    *(_unmeasured, _controls, _few_processes, _node_shared, _cards, _neighbours, _uncommitted, _energy_above_cap),
    *(_random_weights, _small_models, _too_few_prompts, _tokens_differ, _degenerate, _better_than_truth, _self_judged),
)
