"""How long a run still takes: what the protocol still asks of each cell, times what a generation of it should take.

A cell that was timed takes its own median. Of any other, `Expectation.weight` says how it compares with its kind
(model, engine and sampler), and the cells of that kind timed so far say what that is in seconds: the sum of their
medians over the sum of their weights. Weights that are predicted seconds stand for themselves until the first cell of
the kind is timed; weights that are mere amounts of work say nothing until then, and such cells are counted instead.
Loading, energy and scoring are not in it. Everything follows from the records, as in the protocol.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from dlmbench.measure.protocol import further_repetitions
from dlmbench.types import Cell, CellResult, ProtocolSettings, Sample

# After the timed repetitions: one traced generation and one for memory. Those for energy are few and only on a GPU.
OWN_PASSES = 2
_UNLIMITED_S = 1e15

Kind = tuple[str, str, str]


@dataclass(frozen=True)
class Expectation:
    """What is known of a cell before it is timed: predicted seconds of one generation, or its amount of work.

    weight: None where even that is unknown.
    """

    weight: Callable[[Cell], float | None]
    is_seconds: bool


@dataclass(frozen=True)
class Remaining:
    """Seconds of all generations still to be made; the `unknown` cells, whose kind was never timed, are not in it."""

    seconds: float
    unknown: int


def repetitions_left(samples: Sequence[Sample], latency_s: float, settings: ProtocolSettings) -> int:
    """Warm-ups and timed repetitions that the protocol still makes of a cell of steady `latency_s`.

    Args:
        samples: of this cell, those on record; their pilot counts as it is.
        latency_s: what each further one is taken to last.
        settings: of the experiment.
    """
    timed = [s for s in samples if not s.is_warmup]
    pilot = [s.latency_s for s in timed[: settings.pilot]]
    further = further_repetitions(pilot + [latency_s] * (settings.pilot - len(pilot)), settings)
    left = settings.pilot + further - len(timed)
    if left <= 0:
        return 0
    first = 0 if timed else max(0, settings.warmup - len(samples))
    # Later rounds in the same process begin with one warm-up, in a fresh one with all; a round without work has none.
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
    """What is left of the speed pass.

    Args:
        results: of all cells of the plan.
        ended: ids of those that nothing more is done for.
        settings: of the experiment.
        expectation: see there.
        texts: by cell id, how many prompts still lack the text that scoring needs; repetitions supply it as they come.
        rows: at least so many such prompts are generated at once when the repetitions are over.
    """
    outlook = _Outlook(results, settings, expectation)
    seconds = [outlook.seconds_left(r, texts.get(r.cell.id, 0), rows) for r in results if r.cell.id not in ended]
    known = [s for s in seconds if s is not None]
    return Remaining(math.fsum(known), len(seconds) - len(known))


class _Outlook:
    """What the records say of cells that were not timed yet."""

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
        """Of one cell: repetitions, passes of its own, texts; None where nothing like it was timed."""
        cell = result.cell
        latency = self.latency_s(cell)
        if latency is None:
            return None
        settings = self.settings if len(result.timed) >= self.settings.pilot else self.typical
        repetitions = repetitions_left(result.samples, latency, settings)
        passes = OWN_PASSES - (result.traced is not None) - (result.memory is not None)
        rows = max(rows, cell.batch_size)
        batches = max(0, texts - repetitions * cell.batch_size) / rows
        return latency * (repetitions + passes + batches * self.compared(cell, rows))

    def latency_s(self, cell: Cell) -> float | None:
        """Seconds of one generation, as far as they are known."""
        if cell.id in self.measured:
            return self.measured[cell.id]
        weight = self.expectation.weight(cell)
        ratio = self.ratios.get(_kind(cell), 1.0 if self.expectation.is_seconds else None)
        return None if weight is None or ratio is None else weight * ratio

    def compared(self, cell: Cell, rows: int) -> float:
        """How many times as long as `cell` a batch of `rows` takes."""
        own, other = (self.expectation.weight(c) for c in (cell, replace(cell, batch_size=rows)))
        return other / own if own and other else rows / cell.batch_size

    @cached_property
    def typical(self) -> ProtocolSettings:
        """The settings, with as many repetitions at least as the pilots on record ask for on average, time aside."""
        patient = replace(self.settings, max_time_s=_UNLIMITED_S)
        pilots = [[s.latency_s for s in r.timed[: self.settings.pilot]] for r in self.results]
        wanted = [further_repetitions(p, patient) for p in pilots if len(p) == self.settings.pilot]
        return replace(self.settings, min_repeats=round(statistics.fmean(wanted))) if wanted else self.settings


def _kind(cell: Cell) -> Kind:
    return cell.model.key, cell.engine, cell.sampler
