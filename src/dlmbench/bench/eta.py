"""Remaining time of a run: the repetitions the protocol still makes of each cell, times the latency of one generation.

A cell that was timed uses its own median. Any other is estimated from the timed cells of its kind (model, engine and
sampler): its `Expectation.weight`, times the sum of their medians over the sum of their weights. Until a cell of the
kind is timed, weights that are predicted seconds are used as they are; with weights that are only amounts of work the
time is unknown, and such cells are counted instead. Loading, energy and scoring are not included.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from dlmbench.measure.protocol import further_repetitions
from dlmbench.types import Cell, CellResult, ProtocolSettings, Sample

# After the timed repetitions: one traced generation and one for memory. Energy takes few, and only on a GPU.
OWN_PASSES = 2
_UNLIMITED_S = 1e15

Kind = tuple[str, str, str]


@dataclass(frozen=True)
class Expectation:
    """What is known of a cell before it is timed: predicted seconds of one generation, or its amount of work.

    weight: None where neither is known.
    """

    weight: Callable[[Cell], float | None]
    is_seconds: bool


@dataclass(frozen=True)
class Remaining:
    """Seconds of all generations still to come, without the `unknown` cells, whose kind was never timed."""

    seconds: float
    unknown: int


def repetitions_left(samples: Sequence[Sample], latency_s: float, settings: ProtocolSettings) -> int:
    """Warm-ups and timed repetitions that the protocol still makes of a cell.

    Args:
        samples: the recorded ones of this cell; a recorded pilot is used as it is.
        latency_s: the assumed latency of all further ones.
        settings: of the experiment.
    """
    timed = [s for s in samples if not s.is_warmup]
    pilot = [s.latency_s for s in timed[: settings.pilot]]
    further = further_repetitions(pilot + [latency_s] * (settings.pilot - len(pilot)), settings)
    left = settings.pilot + further - len(timed)
    if left <= 0:
        return 0
    first = 0 if timed else max(0, settings.warmup - len(samples))
    # A later round begins with one warm-up in the same process, with all in a new one; a round without work has none.
    rounds = settings.rounds - 1 - max((s.round for s in timed), default=0)
    again = settings.warmup if settings.fresh_process_per_round else min(1, settings.warmup)
    return left + first + again * min(rounds, left if len(timed) >= settings.pilot else further)


def remaining(
    results: Sequence[CellResult],
    ended: Container[str],
    settings: ProtocolSettings,
    expectation: Expectation,
    texts: Mapping[str, int],
    rows: int,
) -> Remaining:
    """Remaining time of the speed pass.

    Args:
        results: of all cells of the plan.
        ended: ids of the cells that are finished.
        settings: of the experiment.
        expectation: of cells that were not timed yet.
        texts: by cell id, how many prompts still lack the text that scoring needs; repetitions also provide texts.
        rows: the smallest batch size in which the remaining texts are generated after the repetitions.
    """
    estimate = _Estimate(results, settings, expectation)
    seconds = [estimate.seconds_left(r, texts.get(r.cell.id, 0), rows) for r in results if r.cell.id not in ended]
    known = [s for s in seconds if s is not None]
    return Remaining(math.fsum(known), len(seconds) - len(known))


class _Estimate:
    """Estimates for cells that were not timed yet, from those that were."""

    def __init__(self, results: Sequence[CellResult], settings: ProtocolSettings, expectation: Expectation) -> None:
        self.results, self.settings, self.expectation = results, settings, expectation
        self.measured = {r.cell.id: statistics.median(s.latency_s for s in r.timed) for r in results if r.timed}
        seconds: dict[Kind, float] = {}
        weights: dict[Kind, float] = {}
        for cell in (r.cell for r in results if r.timed):
            if (weight := expectation.weight(cell)) is not None:
                weights[_kind(cell)] = weights.get(_kind(cell), 0.0) + weight
                seconds[_kind(cell)] = seconds.get(_kind(cell), 0.0) + self.measured[cell.id]
        self.ratios = {kind: seconds[kind] / weight for kind, weight in weights.items() if weight > 0}

    def seconds_left(self, result: CellResult, texts: int, rows: int) -> float | None:
        """Of one cell: repetitions, profiling passes, texts; None where no cell of its kind was timed."""
        cell = result.cell
        latency = self.latency_s(cell)
        if latency is None:
            return None
        settings = self.settings if len(result.timed) >= self.settings.pilot else self.typical
        repetitions = repetitions_left(result.samples, latency, settings)
        passes = OWN_PASSES - (result.traced is not None) - (result.memory is not None)
        rows = max(rows, cell.batch_size)
        batches = max(0, texts - repetitions * cell.batch_size) / rows
        return latency * (repetitions + passes + batches * self.batch_factor(cell, rows))

    def latency_s(self, cell: Cell) -> float | None:
        """Seconds of one generation; None where unknown."""
        if cell.id in self.measured:
            return self.measured[cell.id]
        weight = self.expectation.weight(cell)
        ratio = self.ratios.get(_kind(cell), 1.0 if self.expectation.is_seconds else None)
        return None if weight is None or ratio is None else weight * ratio

    def batch_factor(self, cell: Cell, rows: int) -> float:
        """Latency of a batch of `rows`, relative to the cell's own batch."""
        own, other = (self.expectation.weight(c) for c in (cell, replace(cell, batch_size=rows)))
        return other / own if own and other else rows / cell.batch_size

    @cached_property
    def typical(self) -> ProtocolSettings:
        """The settings, with min_repeats raised to the recorded pilots' average, ignoring max_time_s."""
        unlimited = replace(self.settings, max_time_s=_UNLIMITED_S)
        pilots = [[s.latency_s for s in r.timed[: self.settings.pilot]] for r in self.results]
        wanted = [further_repetitions(p, unlimited) for p in pilots if len(p) == self.settings.pilot]
        return replace(self.settings, min_repeats=round(statistics.fmean(wanted))) if wanted else self.settings


def _kind(cell: Cell) -> Kind:
    return cell.model.key, cell.engine, cell.sampler
