"""Rules on times: intervals over processes, and verdicts of `compare` on identical and on slowed runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from benchmarks.simulate.campaign import FloatArray, Scenario, Trial
from benchmarks.simulate.machines import LLADA, LLAMA, Machine, cell, run_of

from dlmbench.analysis.break_even import BreakEven, break_even, fit_line
from dlmbench.analysis.compare import compare
from dlmbench.analysis.replication import Estimate, energies, estimate, latencies
from dlmbench.analysis.stats import Interval, Summary, percentiles, summarise
from dlmbench.measure.selfcheck import noise_floor
from dlmbench.types import BUSY, CellResult, EnergyWindow, Selfcheck

# A run: a baseline and a target at two batch sizes, the target at three step counts.
BASELINES = {cell(LLAMA, b): 0.5 * b**0.2 for b in (1, 8)}
TARGETS = {cell(LLADA, b, k): 0.02 * k * b**0.5 for b in (1, 8) for k in (8, 16, 32)}
CELLS = BASELINES | TARGETS
SHARED = {f"process sd {sd:.1%}": Machine(sd) for sd in (0.003, 0.005, 0.01, 0.03)}
EQUAL = {
    "process sd 1.0%, of each cell": Machine(0.01, effects="of each cell"),
    "process sd 3.0%, of each cell": Machine(0.03, effects="of each cell"),
    "AR(1) noise of 0.8": Machine(0.003, correlation=0.8, repetition_sd=0.01),
    "drift of 2% in a process": Machine(0.005, drift=0.02),
    "skewed noise of 2%": Machine(0.005, repetition_sd=0.02, is_skewed=True),
    "throttling on record": Machine(0.005, throttled=0.2),
    "throttling not on record": Machine(0.005, throttled=0.2, is_recorded=False),
}
UNEQUAL = {
    "unequal cells, process sd 1.0%": Machine(0.01, unequal=True),
    "unequal cells, process sd 1.0%, of each cell": Machine(0.01, effects="of each cell", unequal=True),
}
MODES = {
    "two modes 2% apart": Machine(0.003, modes=0.02),
    "two modes 2% apart, of each cell": Machine(0.003, modes=0.02, effects="of each cell"),
}
MACHINES = SHARED | EQUAL | UNEQUAL | MODES


def _times(result: CellResult) -> FloatArray:
    return np.array([s.latency_s for s in result.timed])


def _as_repetitions(result: CellResult) -> Estimate:
    """The rule before: repetitions of one process, taken for the machine."""
    return estimate({0: _times(result).tolist()}, None, floor=0.0)


# ---------------------------------------------------------------- intervals


def latency_interval(machine: Machine, processes: int, rng: np.random.Generator) -> Trial:
    """Intervals of every cell's latency against the truth about the machine."""
    found = latencies(machine.measure(CELLS, processes, 6, rng))
    return _intervals([found[c.id].interval() for c in CELLS], list(CELLS.values()))


def loud_interval(machine: Machine, processes: int, rng: np.random.Generator) -> Trial:
    """Intervals of the cells that are noisier than their kind, the first of each model."""
    found = latencies(machine.measure(CELLS, processes, 6, rng))
    loud = [next(c for c in CELLS if c.model.key == key) for key in sorted({c.model.key for c in CELLS})]
    return _intervals([found[c.id].interval() for c in loud], [CELLS[c] for c in loud])


def latency_before(machine: Machine, rng: np.random.Generator) -> float:
    """The share of intervals of the median of 15 repetitions of one process that hold the truth about the machine."""
    results = machine.measure(CELLS, 1, 15, rng)
    return float(np.mean([_covers(summarise(_times(r)), CELLS[r.cell]) for r in results]))


def ratio_interval(machine: Machine, processes: int, rng: np.random.Generator) -> Trial:
    """Intervals of the ratio of the baseline to every target cell of the same batch size."""
    found = latencies(machine.measure(CELLS, processes, 6, rng))
    pairs = [(b, t) for b in BASELINES for t in TARGETS if b.batch_size == t.batch_size]
    return _intervals(
        [found[b.id].over(found[t.id]).interval() for b, t in pairs], [CELLS[b] / CELLS[t] for b, t in pairs]
    )


def _intervals(found: Sequence[Interval], truth: Sequence[float]) -> Trial:
    low_C, high_C, value_C = (np.array([getattr(i, name) for i in found]) for name in ("low", "high", "value"))
    covered_C = (low_C <= truth) & (truth <= high_C)
    return Trial(float(covered_C.mean()), np.log(high_C / low_C) / 2, np.log(value_C / truth))


def _covers(interval: Interval | Summary, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def energy_interval(machine: Machine, processes: int, rng: np.random.Generator) -> Trial:
    """Intervals of the energy of a generation at 100 W, from two windows of three generations in each process."""
    results = []
    for result in machine.measure(CELLS, processes, 6, rng):
        windows = tuple(
            EnergyWindow(result.cell.id, first.process_id, 3, seconds, 100 * seconds)
            for first, seconds in (
                (result.timed[i], sum(s.latency_s for s in result.timed[i : i + 3]))
                for i in range(0, len(result.timed), 3)
            )
        )
        results.append(replace(result, energy=windows))
    found = energies(results)
    return _intervals([found[c.id].interval() for c in CELLS], [100 * t for t in CELLS.values()])


def within_one_process(machine: Machine, rng: np.random.Generator) -> Trial:
    """The interval of 15 repetitions of one process, against that process's own median in the long run."""
    one = next(iter(BASELINES))
    results = machine.measure({one: 1.0}, 1, 15, rng)
    return _intervals([latencies(results)[one.id].interval()], [1.0])


def within_before(machine: Machine, rng: np.random.Generator) -> float:
    """The same by order statistics, which take the repetitions for independent."""
    (result,) = machine.measure({next(iter(BASELINES)): 1.0}, 1, 15, rng)
    return float(_covers(summarise(_times(result)), 1.0))


# ---------------------------------------------------------------- verdicts


def self_checked(machine: Machine, rng: np.random.Generator) -> Selfcheck:
    """A self-check of `machine` that compared six processes of one cell."""
    (result,) = machine.measure({next(iter(BASELINES)): 1.0}, 6, 6, rng)
    medians_P = np.median(_times(result).reshape(6, 6), axis=1)
    floor = noise_floor(BUSY, result.cell.engine, medians_P.tolist())
    return Selfcheck("gpu", "host", result.environment_id, "", 0.0, (floor,), (), (), 0.0, 0.0, 2, 0.0, 0.0)


def compared(
    machine: Machine,
    processes: int,
    repetitions: int,
    rng: np.random.Generator,
    *,
    slower: float = 0.0,
    is_floor_measured: bool = False,
) -> Trial:
    """Two runs of the same cells; in the second every fourth cell is slower by a share.

    Counted is a report with any false verdict where nothing is slower, else the share of slower cells that are found.
    """
    slowed = [c for i, c in enumerate(CELLS) if i % 4 == 0]
    second_s = {c: t * (1 + slower * (c in slowed)) for c, t in CELLS.items()}
    first, second = (run_of(machine.measure(t, processes, repetitions, rng)) for t in (CELLS, second_s))
    if is_floor_measured:
        check = self_checked(machine, rng)
        first, second = (replace(run, selfcheck=check) for run in (first, second))
    pairs = {p.first: p.verdict for p in compare(first, second).pairs}
    if slower:
        return Trial(float(np.mean([pairs[c] == "slower" for c in slowed])))
    return Trial(float(any(v in ("faster", "slower") for v in pairs.values())))


def compared_before(machine: Machine, rng: np.random.Generator) -> float:
    """A report with any false verdict on identical runs, from 15 repetitions of one process each."""
    first, second = (machine.measure(CELLS, 1, 15, rng) for _ in range(2))
    ratios = [_as_repetitions(a).over(_as_repetitions(b)) for a, b in zip(first, second, strict=True)]
    return float(any(r.is_below() or r.is_above() for r in ratios))


# ---------------------------------------------------------------- break-even


def break_even_interval(
    machine: Machine, truth_s: Mapping[int, float], baseline_s: float, true_steps: float, rng: np.random.Generator
) -> Trial:
    """k* of a curve over three processes of each model; trials in which it is rough do not count."""
    found = _break_even(machine, truth_s, baseline_s, rng)
    if found.low is None or found.high is None or found.steps is None:
        return Trial(math.nan)
    return Trial(
        float(found.low <= true_steps <= found.high),
        np.array([found.high - found.low]) / 2,
        np.array([found.steps - true_steps]),
    )


def break_even_given(
    machine: Machine, truth_s: Mapping[int, float], baseline_s: float, rng: np.random.Generator
) -> Trial:
    """Whether k* has an interval."""
    return Trial(float(_break_even(machine, truth_s, baseline_s, rng).low is not None))


def _break_even(
    machine: Machine, truth_s: Mapping[int, float], baseline_s: float, rng: np.random.Generator
) -> BreakEven:
    cells = {cell(LLAMA): baseline_s} | {cell(LLADA, 1, k): t for k, t in truth_s.items()}
    found = latencies(machine.measure(cells, 3, 6, rng))
    by_steps = {c.steps: found[c.id] for c in cells if c.steps}
    crossing = break_even(by_steps, found[cell(LLAMA).id], seed=int(rng.integers(1 << 30)))
    assert crossing is not None
    return crossing


def break_even_before(
    machine: Machine, truth_s: Mapping[int, float], baseline_s: float, true_steps: float, rng: np.random.Generator
) -> float:
    """Whether the line through medians of 15 repetitions of one process, drawn again and again, covered k*."""
    cells = {cell(LLAMA): baseline_s} | {cell(LLADA, 1, k): t for k, t in truth_s.items()}
    found = {r.cell.steps: _as_repetitions(r) for r in machine.measure(cells, 1, 15, rng)}
    log_KD, base_D = (
        np.array([found[k].log + math.sqrt(found[k].variance) * rng.normal(size=1000) for k in keys])
        for keys in (truth_s, [None])
    )
    intercept_D, slope_D = fit_line(np.array(list(truth_s), dtype=np.float64), np.exp(log_KD))
    low, high = percentiles((np.exp(base_D[0]) - intercept_D) / slope_D)
    return float(low <= true_steps <= high)


LINE = {k: 0.1 + 0.02 * k for k in (8, 16, 32, 64, 128)}
# A power cap makes steps longer the more of them there are.
BENT = {k: 0.1 + 0.02 * k * (1 + 0.1 * k / 128) for k in (8, 16, 32, 64, 128)}
CLOSE = {k: 0.1 + 0.02 * k for k in (32, 36, 40, 44, 48)}
_ENERGY = "Interval of an energy over processes"
_INTERVAL, _RATIO = "Interval of a latency over processes", "Interval of a ratio of two models over processes"
_SAME, _SLOWER = "Verdicts of compare on identical runs", "Verdicts of compare on a slower run"
_ONE, _CROSSING = "Interval within one process", "Break-even k*"
_COVERAGE, _FALSE, _FOUND = "coverage", "false verdicts", "found"
_WIDTH = (
    "The width is over that of the narrowest interval that would have covered 95% of the same trials, "
    "which takes knowing the noise."
)
NOTES = {
    _INTERVAL: f"Processes of six repetitions; the truth is the median latency of an average process. "
    f"{_WIDTH} Before: the interval of 15 repetitions of one process.",
    _RATIO: "As above, for the baseline's latency over diffusion's; their processes are separate.",
    _ENERGY: "Two windows of three generations in each process.",
    _ONE: "Fifteen repetitions against the long-run median of the very process they are from. Before: order "
    "statistics, which take repetitions for independent.",
    _SAME: "Reports in which any of eight cells is called faster or slower, though nothing differs. "
    "Before: 15 repetitions of one process, each cell tested at 5%.",
    _SLOWER: "The share of slower cells that are found; two of the eight are.",
    _CROSSING: "Three processes of each model. Before: a line through all medians of one process.",
}
_TWO_MODES = "all processes may be in one mode"


def _limit(name: str) -> str:
    return _TWO_MODES if name == "two modes 2% apart" else ""


def _widest(name: str, processes: int) -> float:
    """The bound on width: few processes cost Student's t, pooling costs the quieter of unequal cells."""
    return 3.0 if name in UNEQUAL else 2.25 if processes == 3 else 1.5


SCENARIOS = (
    *(
        Scenario(
            _INTERVAL,
            f"{name}; {p} processes",
            _COVERAGE,
            partial(latency_interval, machine, p),
            least=0.93,
            most_width=_widest(name, p),
            before=partial(latency_before, machine) if p == 3 else None,
            limit=_limit(name),
        )
        for name, machine in MACHINES.items()
        for p in ((3, 5) if machine in MODES.values() or name == "process sd 0.5%" else (3,))
    ),
    *(
        Scenario(
            _INTERVAL,
            f"the one cell of its kind that is 20 times noisier; {p} processes",
            _COVERAGE,
            partial(loud_interval, Machine(0.002, effects="of each cell", is_one_loud=True, repetition_sd=0.0005), p),
            least=0.93,
            most_width=_widest("", p),
            limit="three processes cannot always tell that it is noisier" if p == 3 else "",
        )
        for p in (3, 5)
    ),
    *(
        Scenario(
            _RATIO,
            f"{name}; 3 processes",
            _COVERAGE,
            partial(ratio_interval, MACHINES[name], 3),
            least=0.93,
            most_width=_widest(name, 3),
        )
        for name in ("process sd 0.5%", "process sd 1.0%, of each cell", *UNEQUAL, *MODES)
    ),
    *(
        Scenario(
            _ENERGY,
            f"{name}; 3 processes",
            _COVERAGE,
            partial(energy_interval, MACHINES[name], 3),
            least=0.93,
            most_width=_widest(name, 3),
        )
        for name in ("process sd 0.5%", "process sd 3.0%", "process sd 1.0%, of each cell")
    ),
    *(
        Scenario(
            _ONE,
            name,
            _COVERAGE,
            partial(within_one_process, machine),
            least=0.93,
            most_width=2.0,
            before=partial(within_before, machine),
            limit="too strong a dependence to be measured in 15 repetitions" if machine.correlation > 0.5 else "",
        )
        for name, machine in {
            "independent": Machine(0.0),
            "skewed": Machine(0.0, is_skewed=True),
            "AR(1) noise of 0.5": Machine(0.0, correlation=0.5),
            "AR(1) noise of 0.8": Machine(0.0, correlation=0.8),
        }.items()
    ),
    *(
        Scenario(
            _SAME,
            f"{name}; {p} processes",
            _FALSE,
            partial(compared, machine, p, 6),
            most=0.05,
            before=partial(compared_before, machine) if p == 3 else None,
            limit=_limit(name),
        )
        for name, machine in MACHINES.items()
        for p in ((3, 5) if machine in MODES.values() or name == "AR(1) noise of 0.8" else (3,))
    ),
    *(
        Scenario(
            _SAME,
            f"{name}; one process of 15, floor {'measured' if is_measured else 'of 10%'}",
            _FALSE,
            partial(compared, MACHINES[name], 1, 15, is_floor_measured=is_measured),
            most=0.05,
        )
        for name in ("process sd 0.5%", "process sd 3.0%", "process sd 3.0%, of each cell")
        for is_measured in (False, True)
    ),
    *(
        Scenario(
            _SLOWER,
            f"3% slower, {name}; {p} processes",
            _FOUND,
            partial(compared, MACHINES[name], p, 6, slower=0.03),
            least=0.9,
            share=0.3,
        )
        for name, p in (
            ("process sd 0.3%", 3),
            ("process sd 0.5%", 5),
            ("drift of 2% in a process", 5),
        )
    ),
    Scenario(
        _SLOWER,
        "20% slower, process sd 0.5%; one process of 15, floor of 10%",
        _FOUND,
        partial(compared, MACHINES["process sd 0.5%"], 1, 15, slower=0.2),
        least=0.9,
        share=0.3,
    ),
    Scenario(
        _SLOWER,
        "8% slower, process sd 0.5%; one process of 15, floor measured",
        _FOUND,
        partial(compared, MACHINES["process sd 0.5%"], 1, 15, slower=0.08, is_floor_measured=True),
        least=0.9,
        share=0.3,
    ),
    *(
        Scenario(
            _CROSSING,
            f"{what}, {name}",
            _COVERAGE,
            partial(break_even_interval, MACHINES[name], line, base, truth),
            least=0.93,
            most_width=3.0,
            before=partial(break_even_before, MACHINES[name], line, base, truth),
        )
        for what, line, base, truth, name in (
            ("bracketed", LINE, 0.9, 40.0, "process sd 0.5%"),
            ("bracketed", LINE, 0.9, 40.0, "process sd 3.0%"),
            ("at a measured step count", LINE, 0.74, 32.0, "process sd 1.0%"),
            ("steps grow longer", BENT, BENT[32], 32.0, "process sd 0.5%"),
            ("a line through step counts closer than the noise", CLOSE, 0.9, 40.0, "process sd 3.0%, of each cell"),
        )
    ),
    Scenario(
        _CROSSING,
        "beyond the largest step count: an interval",
        _FALSE,
        partial(break_even_given, MACHINES["process sd 0.5%"], LINE, 3.3),
        most=0.0,
        share=0.3,
    ),
)
