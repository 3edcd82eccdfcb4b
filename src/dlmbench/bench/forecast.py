"""How long a run takes: predicted before it, with its price, and estimated while it runs.

Both count the generations that the protocol still makes of each cell, times the latency of one. During a run a timed
cell uses its own median. Any other is estimated from the timed cells of its kind (model, engine and sampler): its
`Expectation.weight`, times the sum of their medians over the sum of their weights. Until a cell of the kind is timed,
weights that are predicted seconds are used as they are; with weights that are only amounts of work the time is unknown,
and such cells are counted instead. Energy windows are included, before a run also loading; scoring never is.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from dlmbench.errors import BenchError
from dlmbench.experiment.shards import LoadKey, setting_of
from dlmbench.measure.nvml import WINDOW_S
from dlmbench.measure.protocol import MIN_PER_PROCESS, further_repetitions, process_share
from dlmbench.roofline import corrected, hardware, memory, operators
from dlmbench.roofline.hardware import Hardware
from dlmbench.roofline.predict import Forecast
from dlmbench.types import Architecture, Cell, CellResult, Environment, ProtocolSettings, Sample

# After the timed repetitions: one generation from a clean start, and a second one where its times cannot be used.
OWN_PASSES = 2
# Reading weights from a disk or a shared file system.
LOAD_BYTES_PER_S = 1e9
_UNLIMITED_S = 1e15

Kind = tuple[str, str, str]


def repetitions_left(
    samples: Sequence[Sample], latency_s: float, settings: ProtocolSettings, processes: int | None = None
) -> int:
    """Warm-ups and timed repetitions that the protocol still makes of a cell, if each takes `latency_s`.

    samples: the recorded ones of this cell; a recorded pilot is used as it is, and the last one's process is taken to
    be running still. processes: how many processes measure the cell; None for `settings.processes`.
    """
    processes = settings.processes if processes is None else processes
    least = 1 if settings.processes == 1 else MIN_PER_PROCESS
    current = samples[-1].process_id if samples else None
    own = [s for s in samples if s.process_id == current]
    timed = Counter(s.process_id for s in samples if not s.is_warmup)
    complete = [i for i, n in timed.items() if n >= least and i != current]
    pilot = [s.latency_s for s in samples if not s.is_warmup and s.process_id in (current, *complete)]
    pilot = [*pilot, *[latency_s] * settings.pilot][: settings.pilot]
    before = sum(timed[i] for i in complete)
    left, done, warmups = 0, sum(not s.is_warmup for s in own), sum(s.is_warmup for s in own)
    rounds = range(own[-1].round if own else 0, settings.rounds)
    for number in range(len(complete), processes + 1):
        share = process_share(before, number, pilot, settings, processes)
        for index in rounds:
            more = share.after(index, settings.rounds) - done
            if more > 0 and not done:
                left += max(0, settings.warmup - warmups)
            elif more > 0 and (not own or index > own[-1].round):
                left += min(1, settings.warmup)
            left += max(0, more)
            done += max(0, more)
        before, done, warmups, own, rounds = before + done, 0, 0, [], range(settings.rounds)
    return left


# ---------------------------------------------------------------- before a run: time and money


@dataclass(frozen=True)
class RunCost:
    """Predicted seconds of a speed pass: at min_repeats, and at max_repeats where cells are noisy.

    too_large: cells that should not fit, without_time: cells without a predicted time; neither is in the sums.
    """

    low_s: float
    high_s: float
    too_large: int
    without_time: int

    def money(self, price_per_gpu_hour: float) -> tuple[float, float]:
        """Low and high, in the currency of the price."""
        return self.low_s / 3600 * price_per_gpu_hour, self.high_s / 3600 * price_per_gpu_hour


def generations_of(latency_s: float, protocol: ProtocolSettings) -> int:
    """How many generations the protocol makes of a cell of steady `latency_s`: warm-ups, repetitions, passes."""
    return repetitions_left((), latency_s, protocol) + OWN_PASSES


def process_s(latency_s: float, protocol: ProtocolSettings) -> float:
    """Seconds that a cell of steady `latency_s` takes in each of its processes, on average, energy window included."""
    return latency_s * generations_of(latency_s, protocol) / protocol.processes + max(WINDOW_S, latency_s)


def load_seconds(cells: Sequence[Cell], known: Mapping[str, Architecture]) -> dict[LoadKey, float]:
    """Predicted seconds of loading each model once, by `setting_of`; without models whose architecture is unknown."""
    return {
        setting_of(c): known[c.model.key].parameters * operators.ELEMENT_BYTES[c.precision] / LOAD_BYTES_PER_S
        for c in cells
        if c.model.key in known
    }


def run_cost(forecast: Forecast, protocol: ProtocolSettings) -> RunCost:
    """What the speed pass of a plan takes, loading in every process included; scoring texts is not."""
    low = high = protocol.processes * math.fsum(load_seconds(forecast.plan.cells, forecast.known).values())
    too_large = without_time = 0
    noisy = replace(protocol, min_repeats=max(protocol.min_repeats, protocol.max_repeats))
    for cell in forecast.plan.cells:
        latency = forecast.of(cell).latency_s
        if forecast.fits(cell) is False:
            too_large += 1
        elif latency is None:
            without_time += 1
        else:
            low += protocol.processes * process_s(latency, protocol)
            high += protocol.processes * process_s(latency, noisy)
    return RunCost(low, high, too_large, without_time)


# ---------------------------------------------------------------- expectations for a run


@dataclass(frozen=True)
class Expectation:
    """Prior estimate for an untimed cell: predicted seconds of one generation, or its amount of work.

    weight: None where neither is known.
    """

    weight: Callable[[Cell], float | None]
    is_seconds: bool


@dataclass(frozen=True)
class Machine:
    """User-provided machine description: the name of a device that reports none, and rows of their own."""

    name: str | None = None
    rows: tuple[Hardware, ...] = ()


AS_FOUND = Machine()


@dataclass(frozen=True)
class RunForecast:
    """What is expected of the cells of a run on its own device. too_large: by cell id, why it should not fit."""

    device: Hardware | None
    expectation: Expectation
    too_large: Mapping[str, str]


def forecast_run(
    cells: Sequence[Cell], known: Mapping[str, Architecture], environment: Environment, machine: Machine = AS_FOUND
) -> RunForecast:
    """Times of the cells by the corrected model where the device is known, else their work; and what cannot fit.

    known: the architecture of every model, by key. machine: what the user states about the device.

    Raises:
        BenchError: the user names another device than the one found.
    """
    device = _device_here(environment, machine)
    # A row of the user's own gives the memory; otherwise the device reports it, more exactly than a data sheet.
    own_row = device is not None and device in machine.rows
    capacity = device.memory_bytes if device is not None and own_row else float(environment.memory_bytes)
    splits = {c.id: memory.split(c, known[c.model.key]) for c in cells}
    where = device.name if device is not None else environment.device
    too_large = {
        cell_id: f"predicted not to fit: {split.total / 1e9:.3g} GB of the {capacity / 1e9:.3g} GB of {where}"
        for cell_id, split in splits.items()
        if split is not None and split.total > capacity
    }
    return RunForecast(device, _expectation(known, device), too_large)


def _device_here(environment: Environment, machine: Machine) -> Hardware | None:
    here = hardware.of_device(environment.device, machine.rows)
    if machine.name is None:
        return here
    named = hardware.find(machine.name, machine.rows)
    is_gpu = environment.cuda is not None
    if (here is not None and here != named) or (not is_gpu and named not in machine.rows):
        raise BenchError(
            f"the device is {environment.device}, not {named.name}",
            "Leave --hardware out, or describe this device with --hardware-file (docs/roofline.md)",
        )
    return named


def _expectation(known: Mapping[str, Architecture], device: Hardware | None) -> Expectation:
    @cache
    def weight(cell: Cell) -> float | None:
        if device is not None:
            return corrected.predict(cell, known[cell.model.key], device).latency_s
        if operators.forwards_of(cell) is None:
            return None
        total = corrected.compulsory(cell, known[cell.model.key])
        return None if total is None else total.flops

    return Expectation(weight, is_seconds=device is not None)


# ---------------------------------------------------------------- during a run


@dataclass(frozen=True)
class Remaining:
    """Seconds of all generations still to come, without the `unknown` cells, whose kind was never timed."""

    seconds: float
    unknown: int


def remaining(
    results: Sequence[CellResult],
    ended: Container[str],
    settings: ProtocolSettings,
    expectation: Expectation,
    texts: Mapping[str, int],
    rows: int,
    processes: Mapping[str, int] | None = None,
) -> Remaining:
    """Remaining time of the speed pass, whose cells have these results.

    ended: ids of the cells that are finished. texts: by cell id, how many prompts still lack the text that scoring
    needs; repetitions also provide texts. rows: the smallest batch size in which the remaining texts are generated
    after the repetitions. processes: by cell id, in how many processes a cell is measured, where it is not
    `settings.processes`.
    """
    estimate = _Estimate(results, settings, expectation, processes or {})
    seconds = [estimate.seconds_left(r, texts.get(r.cell.id, 0), rows) for r in results if r.cell.id not in ended]
    known = [s for s in seconds if s is not None]
    return Remaining(math.fsum(known), len(seconds) - len(known))


@dataclass
class _Estimate:
    """Estimates for cells that were not timed yet, from those that were."""

    results: Sequence[CellResult]
    settings: ProtocolSettings
    expectation: Expectation
    processes: Mapping[str, int]

    @cached_property
    def counts_energy(self) -> bool:
        """Whether the device has an energy counter, as far as is known."""
        return any(r.energy for r in self.results)

    @cached_property
    def measured(self) -> dict[str, float]:
        """The median latency of each timed cell, by id."""
        return {r.cell.id: statistics.median(s.latency_s for s in r.timed) for r in self.results if r.timed}

    @cached_property
    def ratios(self) -> dict[Kind, float]:
        """Measured seconds over weight, by kind."""
        seconds: dict[Kind, float] = {}
        weights: dict[Kind, float] = {}
        for cell in (r.cell for r in self.results if r.timed):
            if (weight := self.expectation.weight(cell)) is not None:
                weights[_kind(cell)] = weights.get(_kind(cell), 0.0) + weight
                seconds[_kind(cell)] = seconds.get(_kind(cell), 0.0) + self.measured[cell.id]
        return {kind: seconds[kind] / weight for kind, weight in weights.items() if weight > 0}

    def seconds_left(self, result: CellResult, texts: int, rows: int) -> float | None:
        """Of one cell: repetitions, energy windows, inspection, texts; None where no cell of its kind was timed."""
        cell = result.cell
        latency = self.latency_s(cell)
        if latency is None:
            return None
        settings = self.settings if len(result.timed) >= self.settings.pilot else self.typical
        repetitions = repetitions_left(result.samples, latency, settings, self.processes.get(cell.id))
        passes = OWN_PASSES - (result.traced is not None) - (result.memory is not None)
        rows = max(rows, cell.batch_size)
        batches = max(0, texts - repetitions * cell.batch_size) / rows
        windows = max(0, self.processes.get(cell.id, self.settings.processes) - len(result.energy))
        window_s = max(WINDOW_S, latency) if self.counts_energy else 0.0
        return latency * (repetitions + passes + batches * self.batch_factor(cell, rows)) + windows * window_s

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
