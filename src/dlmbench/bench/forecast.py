"""What a run should take: the seconds and the price of its speed pass, and what is expected while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from dlmbench.bench.eta import OWN_PASSES, Expectation, repetitions_left
from dlmbench.errors import BenchError
from dlmbench.roofline import corrected, hardware, memory, operators
from dlmbench.roofline.hardware import Hardware
from dlmbench.roofline.predict import Forecast
from dlmbench.types import Architecture, Cell, Environment, ProtocolSettings

# ---------------------------------------------------------------- before a run: time and money


@dataclass(frozen=True)
class RunCost:
    """Predicted seconds of all generations of a run: at min_repeats, and at max_repeats where cells are noisy.

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


def run_cost(forecast: Forecast, protocol: ProtocolSettings) -> RunCost:
    """What the speed pass of a plan takes; loading models and scoring texts are not included."""
    low = high = 0.0
    too_large = without_time = 0
    noisy = replace(protocol, min_repeats=max(protocol.min_repeats, protocol.max_repeats))
    for cell in forecast.plan.cells:
        latency = forecast.of(cell).latency_s
        if forecast.fits(cell) is False:
            too_large += 1
        elif latency is None:
            without_time += 1
        else:
            low += latency * generations_of(latency, protocol)
            high += latency * generations_of(latency, noisy)
    return RunCost(low, high, too_large, without_time)


# ---------------------------------------------------------------- during a run


@dataclass(frozen=True)
class Machine:
    """What the user states about the machine: the name of a device that reports none, and rows of their own."""

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

    Args:
        cells: of the plan.
        known: the architecture of every model, by key.
        environment: where the run takes place.
        machine: what the user states about it.

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
            f"this machine measures on {environment.device}, not on {named.name}",
            "Leave --hardware out, or describe this device with --hardware-file (docs/roofline.md)",
        )
    return named


def _expectation(known: Mapping[str, Architecture], device: Hardware | None) -> Expectation:
    @cache
    def seconds(cell: Cell) -> float | None:
        assert device is not None
        return corrected.predict(cell, known[cell.model.key], device).latency_s

    @cache
    def flops(cell: Cell) -> float | None:
        if operators.forwards_of(cell) is None:
            return None
        total = corrected.compulsory(cell, known[cell.model.key])
        return None if total is None else total.flops

    return Expectation(flops, is_seconds=False) if device is None else Expectation(seconds, is_seconds=True)
