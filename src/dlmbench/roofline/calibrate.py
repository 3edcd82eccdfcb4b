"""Fitting the corrected model's efficiencies to measured cells, with its error on cells that were not fitted.

Four numbers describe an engine on a device (`Efficiencies`). They are fitted in the logarithm of the latency, so that
short cells weigh as much as long ones. Cells of one model and length resemble one another, so whole (model, length)
groups are left out in turn: the error on fitted cells, or on near copies of them, would be too small.
Shape legend: C cells, F forward shapes over all cells.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlmbench.errors import BenchError
from dlmbench.models.loading import architectures
from dlmbench.roofline import operators
from dlmbench.roofline.corrected import (
    Bounds,
    MeasuredCell,
    below_floor,
    bounds_of,
    floor_s,
    forward_s,
    label_of,
    latency_s,
    rates_of,
)
from dlmbench.roofline.hardware import Hardware, find, of_device
from dlmbench.types import Architecture, Cell, CellResult, Efficiencies, Finding, Run

FloatArray = NDArray[np.float64]
_SCHEMA = 2  # 1: of the roofline without a rounded ridge

# A weak prior, for numbers that the cells do not determine: it weighs like one cell with relative errors of 25%,
# 20% and 33%, where measured cells have 5%. Without it, matrix and bandwidth trade against one another on cells whose
# FLOPs and bytes grow together. The prior on host time is much weaker and centred below every
# cell's time.
_PRIOR = (0.6, 0.7, 0.4)
_PRIOR_WEIGHTS = (0.2, 0.25, 0.15, 0.05)
_PRIOR_HOST_SHARE = 0.25
_HOST_SHARES = (0.02, 0.5, 1.0, 1.5)
_LOWEST, _HIGHEST = np.log([0.01, 0.01, 0.001, 1e-7]), np.log([1.0, 1.0, 1.0, 100.0])
# Spread of the logarithm of the latency when efficiencies move to another machine. Measured, as far as it could be:
# the root mean square of `log_errors` of the engines' defaults, fitted to one session on an H200, over the 30 cells of
# docs/study/h200-random, another session on an H200 (0.38 decoding, 0.34 diffusion, nearly all of it the host's
# launching). Another GPU comes with another host, so the spread is at least this large; the error of the data sheets
# themselves is unknown. A test computes it again.
TRANSFER_SD = 0.36
_MIN_GROUPS = 3


def measured_cells(
    results: Iterable[CellResult], architectures: Mapping[str, Architecture], hardware: Hardware
) -> dict[str, tuple[MeasuredCell, ...]]:
    """The measured cells of a run, by "engine/sampler" as `corrected.predict` looks efficiencies up.

    Cells that failed, have no timed repetition or a sampler that plans no forwards are left out; those of a run that
    was cut off count with the repetitions they have. architectures: by model key.
    """
    found: dict[str, list[MeasuredCell]] = {}
    for result in results:
        if result.status in ("ok", None) and result.timed:
            latency = float(np.median([s.latency_s for s in result.timed]))
            forwards = float(np.median([s.forwards for s in result.timed]))
            cell = result.cell
            if operators.forwards_of(cell, forwards) is not None:
                row = MeasuredCell(cell, architectures[cell.model.key], hardware, latency, forwards)
                found.setdefault(label_of(cell), []).append(row)
    return {key: tuple(rows) for key, rows in found.items()}


@dataclass(frozen=True)
class HeldOut:
    """Relative errors |predicted / measured - 1| of one group, predicted with efficiencies fitted without it."""

    model: str
    prompt_tokens: int
    new_tokens: int
    errors: tuple[float, ...]
    log_errors: tuple[float, ...]
    efficiencies: Efficiencies


@dataclass(frozen=True)
class Calibration:
    """Efficiencies of one engine on one device, and how well they predict.

    median_error, p90_error: of the groups left out; None with a single group.
    """

    label: str
    hardware: str
    efficiencies: Efficiencies
    cells: int
    fitted_error: float
    median_error: float | None
    p90_error: float | None
    held_out: tuple[HeldOut, ...]


class _Problem:
    """All forwards of all cells as arrays: seconds_C = sum over the cell's forwards of count_F * seconds_F."""

    def __init__(self, rows: Sequence[MeasuredCell]) -> None:
        loads, rates, starts = [], [], []
        counts: list[float] = []
        for row in rows:
            kinds = operators.forwards_of(row.cell, row.forwards)
            assert kinds, f"{row.cell.label}: no schedule fixes its forwards, and they are not given"
            starts.append(len(counts))
            loads += [astuple(operators.load_of(f, row.cell, row.architecture)) for f in kinds]
            rates += [rates_of(row.cell, row.hardware)] * len(kinds)
            counts += [f.count for f in kinds]
        self.load, self.rates = operators.Load(*np.array(loads).T), np.array(rates).T
        self.count_F, self.starts_C = np.array(counts), np.array(starts)
        self.latency_C = np.array([r.latency_s for r in rows])

    def log_errors(self, efficiencies: Efficiencies) -> FloatArray:
        seconds_F = forward_s(self.load, self.rates, efficiencies, np.maximum)
        return np.asarray(np.log(np.add.reduceat(self.count_F * seconds_F, self.starts_C) / self.latency_C))


def _fit(rows: Sequence[MeasuredCell]) -> Efficiencies:
    from scipy.optimize import least_squares

    problem = _Problem(rows)
    shortest = float((problem.latency_C / np.add.reduceat(problem.count_F, problem.starts_C)).min())
    centre = np.log([*_PRIOR, _PRIOR_HOST_SHARE * shortest])

    def residuals(x: FloatArray) -> FloatArray:
        return np.concatenate([problem.log_errors(Efficiencies(*np.exp(x))), _PRIOR_WEIGHTS * (x - centre)])

    # Host time affects only host-bound cells: below all of them its gradient is 0, so try several starting points.
    starts = [np.log([*_PRIOR, share * shortest]).clip(_LOWEST + 1e-9, _HIGHEST - 1e-9) for share in _HOST_SHARES]
    found = [least_squares(residuals, start, bounds=(_LOWEST, _HIGHEST), x_scale=0.1) for start in starts]
    best = min(found, key=lambda fit: fit.cost)
    return Efficiencies(*(float(v) for v in np.exp(best.x)))


def log_errors(efficiencies: Efficiencies, rows: Sequence[MeasuredCell]) -> tuple[float, ...]:
    """log(predicted / measured) of each cell: also how well efficiencies transfer to cells of another device."""
    return tuple(float(v) for v in _Problem(rows).log_errors(efficiencies))


def calibrate(rows: Sequence[MeasuredCell], label: str = "") -> Calibration:
    """Fit one engine's efficiencies on one device, and measure their error on each (model, length) group left out."""
    assert all(0 < r.latency_s < math.inf for r in rows), "invalid latency"
    (device,) = {r.hardware.name for r in rows}
    efficiencies = _fit(rows)
    held_out = []
    groups = list(dict.fromkeys(r.group for r in rows))
    for group in groups if len(groups) > 1 else ():
        refit = _fit([r for r in rows if r.group != group])
        logs = log_errors(refit, [r for r in rows if r.group == group])
        held_out.append(HeldOut(*group, tuple(abs(math.expm1(v)) for v in logs), logs, refit))
    errors = [e for h in held_out for e in h.errors]
    return Calibration(
        label=label,
        hardware=device,
        efficiencies=efficiencies,
        cells=len(rows),
        fitted_error=float(np.median(np.abs(np.expm1(log_errors(efficiencies, rows))))),
        median_error=float(np.median(errors)) if errors else None,
        p90_error=float(np.percentile(errors, 90)) if errors else None,
        held_out=tuple(held_out),
    )


def too_small(calibration: Calibration) -> str | None:
    """Why a calibration of so few cells, or groups of a model and length, cannot be relied on; None where it can.

    Five cells are one more than the numbers fitted; of two groups, each is predicted from a single other one.
    """
    groups = len(calibration.held_out)
    if not groups:
        return "too small: one model and length, so the error elsewhere is unknown; measure a second length"
    reasons = []
    if calibration.cells <= len(Efficiencies.__dataclass_fields__):
        reasons.append(f"{calibration.cells} cells for 4 parameters, which are mostly determined by the prior")
    if groups < _MIN_GROUPS:
        reasons.append(f"held-out errors come from only {groups} groups")
    return f"too small: {'; '.join(reasons)}" if reasons else None


@dataclass(frozen=True)
class LatencyEstimate:
    """Expected seconds with a 95% interval, never below the floor."""

    value_s: float
    low_s: float
    high_s: float


def estimate(
    calibration: Calibration, cell: Cell, architecture: Architecture, hardware: Hardware
) -> LatencyEstimate | None:
    """Latency of a cell, on the calibration's device or another one; None where its forwards are unknown.

    The interval joins the errors of the groups left out, the disagreement of the refits on this cell,
    and, on another device, TRANSFER_SD. Student's t with as many degrees as groups less one. A calibration of a single
    group, whose error is not known, has no estimates.
    """
    assert calibration.held_out, "the error of one group is unknown"
    from scipy.special import stdtrit  # the whole of scipy.stats takes seconds to import

    value = latency_s(cell, architecture, hardware, calibration.efficiencies)
    floor = floor_s(cell, architecture, hardware)
    refits = [latency_s(cell, architecture, hardware, h.efficiencies) for h in calibration.held_out]
    if value is None or floor is None:
        return None
    refit_variance = statistics.fmean(math.log(seconds / value) ** 2 for seconds in refits if seconds)
    held_out = statistics.fmean(v**2 for h in calibration.held_out for v in h.log_errors)
    variance = held_out + refit_variance + (TRANSFER_SD**2 if hardware.name != calibration.hardware else 0.0)
    factor = math.exp(float(stdtrit(len(calibration.held_out) - 1, 0.975)) * math.sqrt(variance))
    return LatencyEstimate(value, min(max(value / factor, floor), value), value * factor)


# ---------------------------------------------------------------- a finished run, and the file for `plan`


@dataclass(frozen=True)
class CalibratedRun:
    """The efficiencies fitted to the cells of a run, and each cell beside its floor.

    notes: models that had to be left out, and fits that rest on too few cells.
    """

    run: Run
    hardware: Hardware
    calibrations: tuple[Calibration, ...]
    bounds: tuple[Bounds, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """The file that `plan --calibration` reads: fits, the device's row, and the run and date they are from."""
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
                {"cell_id": b.cell.id, "label": b.cell.label}
                | {name: getattr(b, name) for name in ("latency_s", "floor_s", "floor_ratio", "mfu", "mbu")}
                for b in self.bounds
            ],
        }
        return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def calibrate_run(run: Run, device_name: str | None = None, rows: Sequence[Hardware] = ()) -> CalibratedRun:
    """Fit the efficiencies of each engine and sampler of a run, and compare every cell with its floor.

    device_name: where it ran; None for what its environment says. rows: the user's own devices.

    Raises:
        BenchError: an unknown device, or no measured cell.
    """
    recorded = run.environment.device if run.environment else ""
    device = find(device_name, rows) if device_name is not None else of_device(recorded, rows)
    if device is None:
        raise BenchError(
            f"no data sheet for '{recorded}', the device of {run.folder}",
            "Name a device with --hardware, or describe it with --hardware-file (docs/roofline.md)",
        )
    known, unknown = architectures(dict.fromkeys(c.model for c in run.cells))
    usable = [r for r in run.results if r.cell.model.key in known]
    groups = measured_cells(usable, known, device)
    if not groups:
        why = next((f"{key}: {text}" for key, text in unknown.items()), "no cell has a timed repetition")
        raise BenchError(f"{run.folder} has no measured cells to calibrate with ({why})", "Name another run folder")
    notes = [f"{key}: left out: {why}" for key, why in unknown.items()]
    calibrations, bounds = [], []
    for label, measured in groups.items():
        bounded = [(row, found) for row in measured if (found := bounds_of(row)) is not None]
        bounds += [found for _, found in bounded]
        plausible = [row for row, found in bounded if found.is_possible]
        if not plausible:
            notes.append(f"{label}: not calibrated: every cell is below its floor")
            continue
        calibrations.append(calibrate(plausible, label))
        if (warning := too_small(calibrations[-1])) is not None:
            notes.append(f"{label}: {warning}")
    findings = tuple(below_floor(bounds, device.name))
    return CalibratedRun(run, device, tuple(calibrations), tuple(bounds), findings, tuple(notes))


@dataclass(frozen=True)
class SavedCalibration:
    """A calibration file: fits by engine and sampler, with their device and run."""

    hardware: str
    run: str
    calibrations: tuple[Calibration, ...]

    @cached_property
    def efficiencies(self) -> dict[str, Efficiencies]:
        """By "engine/sampler"."""
        return {c.label: c.efficiencies for c in self.calibrations}


def load_calibration(path: Path) -> SavedCalibration:
    """Read the file of `CalibratedRun.to_json`.

    Raises:
        BenchError: no such file, or not a calibration.
    """
    from pydantic import TypeAdapter

    remedy = "Write one with `dlmbench calibrate RUN --output FILE`"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema_version"] != _SCHEMA:
            raise BenchError(f"{path} was written by another version", remedy)
        found = TypeAdapter(tuple[Calibration, ...]).validate_python(document["calibrations"])
        saved = SavedCalibration(str(document["hardware"]["name"]), str(document["run"]), found)
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}", remedy) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BenchError(f"{path} is not a calibration", remedy) from error
    if not all(0 < v < math.inf for c in found for v in asdict(c.efficiencies).values()):
        raise BenchError(f"{path} has an efficiency that is not above 0", remedy)
    return saved
