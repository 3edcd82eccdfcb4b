"""What a time is worth as evidence: estimates replicated over processes, their ratios, and when a ratio decides.

Repetitions in one process share its clocks, its memory layout and what was compiled for it, so they say little about
the next process. The unit of replication is therefore the process: a cell's value is the geometric mean of its
process medians, and its error comes from how much those medians differ. Three processes alone estimate that badly, so
the variance is pooled over cells of a kind: same model, same engine, launch-bound or not.

A cell that ran in fewer than three processes has an interval that holds within its processes only, and a ratio decides
only beyond the noise floor of the machine. Shape legend: C cells, P processes, R repetitions.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy import special
from scipy import stats as _scipy

from dlmbench.analysis.stats import CONFIDENCE, FloatArray, Interval, group_by, median_error, two_modes, widening
from dlmbench.types import BUSY, LAUNCH_BOUND, CellResult, Sample, Selfcheck

ProcessT = TypeVar("ProcessT", bound=Hashable)

# The least on which a verdict may rest: three processes of three repetitions, or one of six beyond the noise floor.
LEAST_PROCESSES = 3
LEAST_REPETITIONS = 3
LEAST_ALONE = 6
LEAST = (
    f"{LEAST_PROCESSES} processes with at least {LEAST_REPETITIONS} repetitions each, "
    f"or {LEAST_ALONE} repetitions in one process"
)
# What two processes of the same code may differ by, where no self-check has measured it on this machine.
UNMEASURED_FLOOR = 0.10
# No verdict rests on a cell of which more repetitions than this share met other work on the device or a hot device; on
# a CPU, where other programs keep more than this share of the cores busy.
MOST_DISTURBED = 0.1
MOST_BUSY = 0.25
DISTURBED = f"other programs, busy GPUs in the same node or heat disturbed over {MOST_DISTURBED:.0%} of the repetitions"
# The level of the F test that a cell is noisier than its kind: lax, because a loud cell taken for a quiet one is worse.
NOISIER = 0.2
# A forward over fewer positions than this is bound by launches, not by arithmetic or memory traffic.
LAUNCH_BOUND_POSITIONS = 64


@dataclass(frozen=True)
class LogNormal:
    """A positive quantity on a log scale: log value, variance of that (NaN where unknown), degrees of freedom."""

    log: float
    variance: float
    df: float

    @property
    def value(self) -> float:
        """The quantity in its own unit."""
        return math.exp(self.log)

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """The value with its t interval, unknown for a single repetition."""
        if not math.isfinite(self.variance):
            return Interval(self.value, math.nan, math.nan)
        reach = float(special.stdtrit(self.df, (1 + confidence) / 2)) * math.sqrt(self.variance)
        return Interval(self.value, math.exp(self.log - reach), math.exp(self.log + reach))


def are_enough(processes: int, repetitions: int) -> bool:
    """Whether a verdict may rest on so many complete processes, or on so many repetitions in all (see `LEAST`)."""
    return processes >= LEAST_PROCESSES or repetitions >= LEAST_ALONE


@dataclass(frozen=True)
class Estimate(LogNormal):
    """A quantity of a cell, as its latency.

    processes: how many complete ones it rests on (see `LEAST_REPETITIONS`). repetitions: all of them. floor: by what
    share two processes of the same code may differ. is_widened: whether the repetitions of the only process depend on
    each other or have two modes. is_disturbed: other work or heat slowed more repetitions than `MOST_DISTURBED` allows.
    """

    processes: int
    repetitions: int
    floor: float = UNMEASURED_FLOOR
    is_widened: bool = False
    is_disturbed: bool = False

    @property
    def is_replicated(self) -> bool:
        """Whether the error is that between processes and its interval holds for the machine."""
        return self.processes >= LEAST_PROCESSES

    @property
    def suffices(self) -> bool:
        """Whether a verdict may rest on it at all."""
        return are_enough(self.processes, self.repetitions) and math.isfinite(self.variance) and not self.is_disturbed

    def over(self, other: Estimate) -> Ratio:
        """This over `other`: variances add, degrees of freedom by Welch and Satterthwaite."""
        variance = self.variance + other.variance
        parts = self.variance**2 / self.df + other.variance**2 / other.df
        return Ratio(
            log=self.log - other.log,
            variance=variance,
            df=variance**2 / parts if parts > 0 else math.inf,
            floor=0.0 if self.is_replicated and other.is_replicated else max(self.floor, other.floor),
            suffices=self.suffices and other.suffices,
            is_disturbed=self.is_disturbed or other.is_disturbed,
        )


@dataclass(frozen=True)
class Ratio(LogNormal):
    """One estimate over another. suffices: False where too little was measured for any verdict, or is_disturbed.

    floor: the share by which equal code in two processes may differ, 0 where the variance is that between processes. It
    bounds 95% of such ratios, so it enters the test as a variance (but not the interval): a single ratio must exceed
    it, one of many must exceed it by more. Among many cells a fixed threshold is passed by chance too often.
    """

    floor: float
    suffices: bool
    is_disturbed: bool = False

    @property
    def p_value(self) -> float:
        """Two-sided, that the true ratio is 1 but for the noise floor; 1 where too little was measured.

        Never below the value without a floor: its many degrees of freedom must not make up for too few repetitions.
        """
        if not self.suffices:
            return 1.0
        if self.variance == 0 == self.floor:
            return 1.0 if self.log == 0 else 0.0
        floor = (math.log1p(self.floor) / float(special.ndtri((1 + CONFIDENCE) / 2))) ** 2
        with_floor = self.variance + floor
        df = self.df * (with_floor / self.variance) ** 2 if self.variance > 0 else math.inf
        tests = [(self.variance, self.df), (with_floor, df)]
        return max(float(2 * special.stdtr(df, -abs(self.log) / math.sqrt(v))) for v, df in tests if v > 0)

    def is_above(self, alpha: float = 1 - CONFIDENCE) -> bool:
        """Whether the ratio is shown to be above 1 at the two-sided level `alpha`."""
        return self.log > 0 and self.p_value <= alpha

    def is_below(self, alpha: float = 1 - CONFIDENCE) -> bool:
        """Whether the ratio is shown to be below 1 at the two-sided level `alpha`."""
        return self.log < 0 and self.p_value <= alpha


# ---------------------------------------------------------------- the error between processes


def card_ratios(results: Sequence[CellResult]) -> dict[str, float]:
    """The time of each GPU over that of the average one, by UUID; empty where the run used one, or cannot tell.

    Log process medians as the sum of an effect of the cell and one of the GPU, by least squares within cells: a cell
    need not have run on every GPU, but the cells must link all of them.
    """
    logs = [logs_of(_times_by_card(result)) for result in results if usable(result)]
    cards = sorted({card for cell in logs for card, _ in cell})
    if len(cards) < 2:
        return {}
    logs_N, is_on_NK = [], []
    for cell in logs:
        if cell:
            on_PK = np.array([[card == other for other in cards] for card, _ in cell], dtype=np.float64)
            is_on_NK.append(on_PK - on_PK.mean(axis=0))
            logs_N.append(np.array([*cell.values()]) - np.mean([*cell.values()]))
    offsets_K, _, rank, _ = np.linalg.lstsq(np.concatenate(is_on_NK), np.concatenate(logs_N), rcond=None)
    if rank < len(cards) - 1:
        return {}
    return dict(zip(cards, np.exp(offsets_K - offsets_K.mean()).tolist(), strict=True))


def _times_by_card(result: CellResult) -> dict[tuple[str, int], list[float]]:
    known = (s for s in result.timed if s.device_uuid)
    groups = group_by(known, lambda s: (s.device_uuid or "", s.process_id))
    return {key: [s.latency_s for s in samples] for key, samples in groups.items()}


@dataclass(frozen=True)
class Spread:
    """The pooled variance of log process medians over cells of one kind, and its degrees of freedom."""

    variance: float
    df: float


def spread_of(logs: Sequence[Mapping[int, float]]) -> Spread | None:
    """Pooled variance of log process medians over cells, each given as process -> log median; None without any pair.

    Cells measured in the same processes share those processes' effects and are not independent evidence: the degrees
    of freedom are those of a two-way layout (cells by processes), by Satterthwaite: P - 1 where cells move together,
    C * (P - 1) where they move apart.
    """
    variances, weights, squares = [], [], []
    groups = group_by([c for c in logs if len(c) > 1], frozenset)
    for processes, cells in groups.items():
        logs_CP = np.array([[cell[p] for p in sorted(processes)] for cell in cells])
        deviations_CP = logs_CP - logs_CP.mean(axis=1, keepdims=True)
        n_cells, df = len(cells), len(processes) - 1
        together = n_cells * float((deviations_CP.mean(axis=0) ** 2).sum()) / df
        apart = 0.0
        if n_cells > 1:
            apart = float(((deviations_CP - deviations_CP.mean(axis=0)) ** 2).sum()) / ((n_cells - 1) * df)
        weights.append(n_cells)
        variances.append((together + (n_cells - 1) * apart) / n_cells)
        squares.append(together**2 / df + ((n_cells - 1) * apart) ** 2 / (max(1, n_cells - 1) * df))
    if not weights:
        return None
    total = float(np.dot(weights, variances))
    return Spread(total / sum(weights), total**2 / sum(squares) if sum(squares) > 0 else math.inf)


def estimate(
    values: Mapping[int, Sequence[float]],
    spread: Spread | None,
    floor: float = UNMEASURED_FLOOR,
    least: int = LEAST_REPETITIONS,
) -> Estimate:
    """A cell's estimate from its positive values by process, in the order they were taken, and its kind's `Spread`.

    A process of fewer than `least` values is not complete. See `_error` for several complete processes; with one, the
    error is that of the median of its repetitions.
    """
    complete = logs_of(values, least)
    count = sum(len(v) for v in values.values())
    if len(complete) > 1:
        logs_P = np.array(list(complete.values()))
        assert spread is not None, "several processes have a spread"
        between = _error(logs_P, spread)
        return Estimate(float(logs_P.mean()), between.variance, between.df, len(complete), count, floor)
    only = max(values.values(), key=len)
    logs_R = np.log(np.asarray(only, dtype=np.float64))
    error, wider, n = median_error(logs_R), widening(logs_R), len(only)
    # Repetitions that depend on each other count as fewer. Fewer than 5 would only estimate their own dependence.
    df = max(1, min(4, n - 1), n / wider**2 - 1)
    widened = wider > 1 or two_modes(logs_R) is not None
    return Estimate(float(np.median(logs_R)), error**2, df, 1, n, floor, widened)


def _error(logs_P: FloatArray, spread: Spread) -> Spread:
    """Variance of the mean of log process medians, and its degrees of freedom.

    The larger of the cell's own variance and the pooled one, with the pooled degrees of freedom; a cell that an F test
    shows to be noisier than its kind has its own degrees of freedom too.
    """
    own, n = float(logs_P.var(ddof=1)), len(logs_P)
    is_noisier = own > spread.variance * float(_scipy.f.isf(NOISIER, n - 1, min(spread.df, 1e6)))
    return Spread(max(own, spread.variance) / n, n - 1 if is_noisier else spread.df)


def logs_of(values: Mapping[ProcessT, Sequence[float]], least: int = LEAST_REPETITIONS) -> dict[ProcessT, float]:
    """The log median of each process that has enough repetitions."""
    return {p: float(np.median(np.log(v))) for p, v in values.items() if len(v) >= least}


# ---------------------------------------------------------------- the cells of a run


def is_launch_bound(sample: Sample) -> bool:
    """Whether a forward of this repetition is so small that launching it takes longer than computing it."""
    return sample.positions < LAUNCH_BOUND_POSITIONS * max(1, sample.forwards)


def kind_of(result: CellResult) -> Hashable:
    """Equal for cells whose processes vary alike: model, engine, launch-bound or not."""
    return result.cell.model.identity, result.cell.engine, is_launch_bound(result.timed[0])


def floor_of(result: CellResult, selfcheck: Selfcheck | None) -> float:
    """The noise floor of this cell's engine and kind of work, as measured by `selfcheck`."""
    if selfcheck is None:
        return UNMEASURED_FLOOR
    measured = selfcheck.floor(result.cell.engine, 1, _noise_kind(result))
    return UNMEASURED_FLOOR if measured is None else measured


def _noise_kind(result: CellResult) -> str:
    return LAUNCH_BOUND if is_launch_bound(result.timed[0]) else BUSY


def is_slowed_by_neighbours(result: CellResult, selfcheck: Selfcheck | None) -> bool:
    """Whether too many repetitions ran beside busy GPUs that cost their kind more than a process's noise.

    By the self-check, which has measured that beside all GPUs at once.
    """
    beside = sum(bool(s.neighbours) for s in result.timed)
    if selfcheck is None or beside <= MOST_DISTURBED * len(result.timed):
        return False
    cost = selfcheck.neighbour_cost(result.cell.engine, _noise_kind(result))
    return cost is not None and cost > floor_of(result, selfcheck)


def is_disturbed(result: CellResult) -> bool:
    """Whether too many repetitions met other work on the device, a device too hot or, on a CPU, a busy host."""

    def meets(sample: Sample) -> bool:
        is_busy = sample.clock == "wall" and (sample.host_busy or 0.0) > MOST_BUSY
        return bool(sample.other_processes) or is_busy or "thermal" in (sample.throttle or "")

    return sum(map(meets, result.timed)) > MOST_DISTURBED * len(result.timed)


def usable(result: CellResult | None) -> bool:
    """Whether a cell has timed repetitions and did not fail."""
    return result is not None and result.status in ("ok", None) and bool(result.timed)


def latencies(results: Sequence[CellResult], selfcheck: Selfcheck | None = None) -> dict[str, Estimate]:
    """The latency in seconds of every usable cell, by id, with variances pooled over the cells given."""
    times = {
        r.cell.id: {
            process: [s.latency_s for s in samples]
            for process, samples in group_by(r.timed, lambda s: s.process_id).items()
        }
        for r in results
        if usable(r)
    }
    return _by_kind(results, times, selfcheck, LEAST_REPETITIONS)


def energies(results: Sequence[CellResult], selfcheck: Selfcheck | None = None) -> dict[str, Estimate]:
    """The energy in joules of one generation of every cell that has windows, by id: means over processes.

    A process counts by the mean of its windows; with fewer than two processes there is no error and no interval.
    """
    joules = {
        r.cell.id: {
            process: [sum(w.energy_j for w in windows) / sum(w.repetitions for w in windows)]
            for process, windows in group_by(r.energy, lambda w: w.process_id).items()
        }
        for r in results
        if usable(r) and r.energy
    }
    return _by_kind(results, joules, selfcheck, 1)


def _by_kind(
    results: Sequence[CellResult],
    values: Mapping[str, Mapping[int, Sequence[float]]],
    selfcheck: Selfcheck | None,
    least: int,
) -> dict[str, Estimate]:
    """The estimate of every cell that has `values` (by id and process), with variances pooled over cells of a kind."""
    found = {}
    for cells in group_by([r for r in results if r.cell.id in values], kind_of).values():
        spread = spread_of([logs_of(values[r.cell.id], least) for r in cells])
        for result in cells:
            own = estimate(values[result.cell.id], spread, floor_of(result, selfcheck), least)
            disturbed = is_disturbed(result) or is_slowed_by_neighbours(result, selfcheck)
            found[result.cell.id] = replace(own, is_disturbed=disturbed)
    return found
