"""Before a run: what each cell should take, whether it fits, and what the whole costs. After it: the fit to its cells.

A model whose shape is not known on this machine (families/_shapes.py) has no prediction, and that is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dlmbench.analysis.cost import per_million_tokens
from dlmbench.bench.eta import OWN_PASSES, Expectation, repetitions_left
from dlmbench.errors import BenchError
from dlmbench.models.loading import architectures
from dlmbench.roofline import corrected, hardware, memory, operators
from dlmbench.roofline.corrected import DEFAULT, Efficiencies
from dlmbench.roofline.hardware import Hardware
from dlmbench.roofline.surface import Surface, surfaces
from dlmbench.types import Architecture, Cell, Environment, Finding, Plan, Prediction, ProtocolSettings, Run

if TYPE_CHECKING:
    from dlmbench.roofline.bounds import Bounds
    from dlmbench.roofline.calibrate import Calibration, Estimate

_SCHEMA = 1


def devices(file: Path | None) -> tuple[Hardware, ...]:
    """The user's own rows, none without a file."""
    return () if file is None else hardware.load_rows(file)


# ---------------------------------------------------------------- a plan


@dataclass(frozen=True)
class Forecast:
    """A plan with a prediction for every cell (an empty one where nothing is known), and remarks for its reader.

    estimates: by cell id, the interval of the latency where a calibration says how wrong it is. known: shapes by model.
    """

    plan: Plan
    hardware: Hardware
    notes: tuple[str, ...]
    estimates: Mapping[str, Estimate]
    known: Mapping[str, Architecture]
    efficiencies: Mapping[str, Efficiencies]

    def of(self, cell: Cell) -> Prediction:
        """The prediction of one cell of the plan."""
        return self._by_id[cell.id]

    @cached_property
    def _by_id(self) -> dict[str, Prediction]:
        return {p.cell_id: p for p in self.plan.predictions}

    def fits(self, cell: Cell) -> bool | None:
        """Whether the predicted peak is within the device's memory; advice only, measurement decides."""
        peak = self.of(cell).peak_bytes
        return None if peak is None else peak <= self.hardware.memory_bytes

    def surfaces(self) -> tuple[Surface, ...]:
        """The break-even surface of every way in which the plan runs diffusion."""
        return surfaces(self.plan.cells, self.known, self.hardware, self.efficiencies)


def predict(plan: Plan, device: Hardware, saved: Saved | None = None) -> Forecast:
    """Predictions for every cell of a plan on `device`.

    Args:
        plan: of an experiment.
        device: where it is to run.
        saved: a calibration; engines that it lacks keep `corrected.DEFAULT`, which has no interval.
    """
    known, unknown = architectures(dict.fromkeys(c.model for c in plan.cells))
    chosen = {**DEFAULT, **(saved.efficiencies if saved else {})}
    predictions = tuple(
        corrected.predict(cell, known[cell.model.key], device, chosen)
        if cell.model.key in known
        else Prediction(cell.id)
        for cell in plan.cells
    )
    notes = [f"{key}: no prediction: {why}" for key, why in unknown.items()]
    predicted = [c for c in plan.cells if c.model.key in known]
    notes += _caveats(predicted, saved.efficiencies if saved else {})
    if saved is not None and saved.hardware != device.name:
        notes.append(
            f"calibrated on {saved.hardware} and carried over to {device.name}: the intervals are that much wider "
            "(docs/roofline.md)"
        )
    estimates = _estimates(predicted, known, device, saved) if saved else {}
    return Forecast(replace(plan, predictions=predictions), device, tuple(notes), estimates, known, chosen)


def _estimates(
    cells: Sequence[Cell], known: Mapping[str, Architecture], device: Hardware, saved: Saved
) -> dict[str, Estimate]:
    from dlmbench.roofline.calibrate import estimate

    by_label = {c.label: c for c in saved.calibrations if c.held_out}
    found = {}
    for cell in cells:
        calibration = by_label.get(f"{cell.engine}/{cell.sampler}")
        made = estimate(calibration, cell, known[cell.model.key], device) if calibration else None
        if made is not None:
            found[cell.id] = made
    return found


def _caveats(cells: Sequence[Cell], calibrated: Mapping[str, Efficiencies]) -> list[str]:
    """What the predicted times rest on, where that is not the user's own cells."""
    notes = []
    engines = dict.fromkeys(f"{c.engine}/{c.sampler}" for c in cells)
    if lacking := [e for e in engines if e not in calibrated and e in DEFAULT]:
        notes.append(
            f"{', '.join(lacking)}: efficiencies measured on one H200, bfloat16, flash attention: calibrate on your own"
        )
    if waiting := [e for e in lacking if e.startswith("hf/")]:
        notes.append(
            f"{', '.join(waiting)}: where the host's launching decides (decoding, short cells) a later run on an H200 "
            "took up to 2.3 times as long (docs/roofline.md)"
        )
    if unheard := [e for e in engines if e not in calibrated and e not in DEFAULT]:
        notes.append(f"{', '.join(unheard)}: no efficiencies known, hence no times; give a --calibration")
    others = {c.attention for c in cells if c.attention == "math"} | {c.precision for c in cells} & {"float32"}
    if others and lacking:
        notes.append(f"never calibrated: {', '.join(sorted(others))}")
    return notes


# ---------------------------------------------------------------- time and money of a run


@dataclass(frozen=True)
class Bill:
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


def bill(forecast: Forecast, protocol: ProtocolSettings) -> Bill:
    """What the speed pass of a plan takes; loading models and scoring texts are not in it."""
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
    return Bill(low, high, too_large, without_time)


# ---------------------------------------------------------------- while a run goes on


@dataclass(frozen=True)
class Machine:
    """What the user says of a run's machine: the name of a device that does not tell its own, and rows of theirs."""

    name: str | None = None
    rows: tuple[Hardware, ...] = ()


AS_FOUND = Machine()


@dataclass(frozen=True)
class Outlook:
    """What is expected of the cells of a run on its own device. too_large: by cell id, why it should not fit."""

    device: Hardware | None
    expectation: Expectation
    too_large: Mapping[str, str]


def outlook(
    cells: Sequence[Cell], known: Mapping[str, Architecture], environment: Environment, machine: Machine = AS_FOUND
) -> Outlook:
    """Times of the cells by the corrected model where the device is known, else their work; and what cannot fit.

    Args:
        cells: of the plan.
        known: the shape of every model, by key.
        environment: where the run takes place.
        machine: see there.

    Raises:
        BenchError: the machine is known to be another one.
    """
    device = _device_here(environment, machine)
    # A row of the user's own says how much memory there is; otherwise the device itself does, better than a data sheet.
    own_row = device is not None and device in machine.rows
    capacity = device.memory_bytes if device is not None and own_row else float(environment.memory_bytes)
    peaks = {c.id: memory.split(c, known[c.model.key]).total for c in cells}
    where = device.name if device is not None else environment.device
    too_large = {
        cell_id: f"predicted not to fit: {peak / 1e9:.3g} GB of the {capacity / 1e9:.3g} GB of {where}"
        for cell_id, peak in peaks.items()
        if peak > capacity
    }
    return Outlook(device, _expectation(known, device), too_large)


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
        is_scheduled = operators.forwards_of(cell) is not None
        return corrected.compulsory(cell, known[cell.model.key]).flops if is_scheduled else None

    return Expectation(flops, is_seconds=False) if device is None else Expectation(seconds, is_seconds=True)


def million_tokens(cell: Cell, prediction: Prediction, price_per_gpu_hour: float) -> float | None:
    """Predicted money for a million new tokens; None without a predicted time."""
    if prediction.latency_s is None:
        return None
    return per_million_tokens(prediction.latency_s, cell.batch_size * cell.new_tokens, price_per_gpu_hour)


# ---------------------------------------------------------------- a finished run


@dataclass(frozen=True)
class Calibrated:
    """What the cells of a run say about the device they ran on.

    notes: models that had to be left out, and fits that rest on too few cells.
    """

    run: Run
    hardware: Hardware
    calibrations: tuple[Calibration, ...]
    bounds: tuple[Bounds, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """The file that `plan --calibration` reads: fits, the device's row, where and when they were measured."""
        environment = self.run.environment
        document = {
            "schema_version": _SCHEMA,
            "run": self.run.name,
            "date": datetime.now(UTC).date().isoformat(),
            "hardware": asdict(self.hardware),
            "environment": asdict(environment) if environment else None,
            "notes": self.notes,
            "calibrations": [asdict(c) for c in self.calibrations],
            "cells": [
                {
                    "cell_id": b.cell.id,
                    "label": b.cell.label,
                    "latency_s": b.latency_s,
                    "floor_s": b.floor_s,
                    "floor_ratio": b.floor_ratio,
                    "mfu": b.mfu,
                    "mbu": b.mbu,
                }
                for b in self.bounds
            ],
        }
        return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def calibrate(run: Run, device_name: str | None = None, rows: Sequence[Hardware] = ()) -> Calibrated:
    """Fit the efficiencies of each engine and sampler of a run, and hold every cell against its floor.

    Args:
        run: read back from its folder; cells that failed are left out.
        device_name: where it ran; None for what its environment says.
        rows: devices of the user's own.

    Raises:
        BenchError: an unknown device, or no measured cell.
    """
    from dlmbench.roofline import calibrate as fitting
    from dlmbench.roofline.bounds import below_floor, bounds_of

    device = _device_of(run, device_name, rows)
    known, unknown = architectures(dict.fromkeys(c.model for c in run.cells))
    usable = [r for r in run.results if r.cell.model.key in known]
    groups = fitting.measured_cells(usable, known, device)
    if not groups:
        why = next((f"{key}: {text}" for key, text in unknown.items()), "no cell has a timed repetition")
        raise BenchError(f"{run.folder} has no measured cells to calibrate with ({why})", "Name another run folder")
    notes = [f"{key}: left out: {why}" for key, why in unknown.items()]
    calibrations, bounds = [], []
    for label, measured in groups.items():
        held = [bounds_of(row) for row in measured]
        bounds += held
        sound = [row for row, b in zip(measured, held, strict=True) if b.is_possible]
        if not sound:
            notes.append(f"{label}: not calibrated: every cell is below its floor")
            continue
        calibrations.append(fitting.calibrate(sound, label))
        if (small := fitting.too_small(calibrations[-1], len({r.group for r in sound}))) is not None:
            notes.append(f"{label}: {small}")
    findings = tuple(below_floor(bounds, device.name))
    return Calibrated(run, device, tuple(calibrations), tuple(bounds), findings, tuple(notes))


def _device_of(run: Run, name: str | None, rows: Sequence[Hardware]) -> Hardware:
    if name is not None:
        return hardware.find(name, rows)
    recorded = run.environment.device if run.environment else ""
    row = hardware.of_device(recorded, rows)
    if row is None:
        raise BenchError(
            f"the data sheet of '{recorded}', on which {run.folder} was measured, is not known",
            "Name a device with --hardware, or describe it with --hardware-file (docs/roofline.md)",
        )
    return row


@dataclass(frozen=True)
class Saved:
    """A calibration file: what was fitted, and the device and run it is from."""

    hardware: str
    run: str
    calibrations: tuple[Calibration, ...]

    @cached_property
    def efficiencies(self) -> dict[str, Efficiencies]:
        """By "engine/sampler"."""
        return {c.label: c.efficiencies for c in self.calibrations}


def load_calibration(path: Path) -> Saved:
    """Read what `calibrate` wrote.

    Raises:
        BenchError: no such file, or another one.
    """
    from dlmbench.roofline.calibrate import Calibration

    remedy = "Write one with `dlmbench calibrate RUN --output FILE`"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}", remedy) from error
    except ValueError as error:
        raise BenchError(f"{path} is not a calibration: not JSON", remedy) from error
    try:
        if document["schema_version"] != _SCHEMA:
            raise BenchError(f"{path} is of another version of dlmbench", remedy)
        found = tuple(Calibration.from_json(json.dumps(c)) for c in document["calibrations"])
        if not all(0 < v < float("inf") for c in found for v in asdict(c.efficiencies).values()):
            raise BenchError(f"{path} has an efficiency that is not above 0", remedy)
        return Saved(str(document["hardware"]["name"]), str(document["run"]), found)
    except BenchError as error:
        message = error.message if str(path) in error.message else f"{path} is {error.message}"
        raise BenchError(message, remedy) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"{path} is not a calibration", remedy) from error
