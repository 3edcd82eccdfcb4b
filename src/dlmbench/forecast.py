"""Before a run: what each cell should take, whether it fits, and what the whole costs. After it: the fit to its cells.

Nothing here asks the network. Where a model's shape is not known on this machine (roofline/architectures.py), there is
no prediction, and that is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dlmbench.errors import BenchError
from dlmbench.measure.protocol import further_repetitions
from dlmbench.roofline import corrected, hardware
from dlmbench.roofline.architectures import architectures
from dlmbench.roofline.corrected import DEFAULT, Efficiencies, cost_per_million_tokens
from dlmbench.roofline.hardware import Hardware
from dlmbench.types import Cell, Finding, Plan, Prediction, ProtocolSettings, Run

if TYPE_CHECKING:
    from dlmbench.roofline.bounds import Bounds
    from dlmbench.roofline.calibrate import Calibration

# After the timed repetitions: one traced generation and one for memory. Those for energy are few and only on a GPU.
_OWN_PASSES = 2
_SCHEMA = 1


def devices(file: Path | None) -> tuple[Hardware, ...]:
    """The user's own rows, none without a file."""
    return () if file is None else hardware.load_rows(file)


# ---------------------------------------------------------------- a plan


@dataclass(frozen=True)
class Forecast:
    """A plan with a prediction for every cell (an empty one where nothing is known), and remarks for its reader."""

    plan: Plan
    hardware: Hardware
    notes: tuple[str, ...]

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


def predict(plan: Plan, device: Hardware, efficiencies: Mapping[str, Efficiencies] | None = None) -> Forecast:
    """Predictions for every cell of a plan on `device`.

    Args:
        plan: of an experiment.
        device: where it is to run.
        efficiencies: by "engine/sampler", from a calibration; engines that it lacks keep `corrected.DEFAULT`.
    """
    known, unknown = architectures(dict.fromkeys(c.model for c in plan.cells))
    chosen = {**DEFAULT, **(efficiencies or {})}
    predictions = tuple(
        corrected.predict(cell, known[cell.model.key], device, chosen)
        if cell.model.key in known
        else Prediction(cell.id)
        for cell in plan.cells
    )
    notes = [f"{key}: no prediction: {why}" for key, why in unknown.items()]
    predicted = [c for c in plan.cells if c.model.key in known]
    return Forecast(replace(plan, predictions=predictions), device, (*notes, *_caveats(predicted, efficiencies or {})))


def _caveats(cells: Sequence[Cell], calibrated: Mapping[str, Efficiencies]) -> list[str]:
    """What the predicted times rest on, where that is not the user's own cells."""
    notes = []
    engines = dict.fromkeys(f"{c.engine}/{c.sampler}" for c in cells)
    if lacking := [e for e in engines if e not in calibrated and e in DEFAULT]:
        notes.append(
            f"{', '.join(lacking)}: efficiencies measured on one H200, bfloat16, flash attention; where the host's "
            "launching decides (decoding, short cells) a later run took up to 2.3 times as long: calibrate on your own"
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
    further = further_repetitions([latency_s] * protocol.pilot, protocol)
    # Later rounds in the same process begin with one warm-up, in a fresh one with all; a round without work has none.
    later = min(further, protocol.rounds - 1)
    again = protocol.warmup if protocol.fresh_process_per_round else min(1, protocol.warmup)
    return protocol.warmup + later * again + protocol.pilot + further + _OWN_PASSES


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


def million_tokens(cell: Cell, prediction: Prediction, price_per_gpu_hour: float) -> float | None:
    """Predicted money for a million new tokens; None without a predicted time."""
    if prediction.latency_s is None:
        return None
    return cost_per_million_tokens(prediction.latency_s, cell.batch_size * cell.new_tokens, price_per_gpu_hour)


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
    """A calibration file: efficiencies by "engine/sampler", and the device and run they are from."""

    hardware: str
    run: str
    efficiencies: Mapping[str, Efficiencies]


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
        found = [Calibration.from_json(json.dumps(c)) for c in document["calibrations"]]
        numbers = {c.label: c.efficiencies for c in found}
        if not all(0 < v < float("inf") for e in numbers.values() for v in asdict(e).values()):
            raise BenchError(f"{path} has an efficiency that is not above 0", remedy)
        return Saved(str(document["hardware"]["name"]), str(document["run"]), numbers)
    except BenchError as error:
        message = error.message if str(path) in error.message else f"{path} is {error.message}"
        raise BenchError(message, remedy) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"{path} is not a calibration", remedy) from error
