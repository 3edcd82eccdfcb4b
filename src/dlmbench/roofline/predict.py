"""The prediction of a plan: what each cell should take on a device, whether it fits, and what that rests on.

A model whose architecture is not known on this machine (models/loading.py) has no prediction, and a note says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from dlmbench.models.loading import architectures
from dlmbench.roofline import corrected, operators
from dlmbench.roofline.break_even import BreakEvenSurface, surfaces
from dlmbench.roofline.corrected import efficiencies_for, label_of
from dlmbench.roofline.hardware import Hardware
from dlmbench.types import Architecture, Cell, Efficiencies, Plan, Prediction

if TYPE_CHECKING:  # fitting needs numpy, which a plan without a calibration does not
    from dlmbench.roofline.calibrate import LatencyEstimate, SavedCalibration


@dataclass(frozen=True)
class Forecast:
    """A plan with a prediction for every cell (an empty one where nothing is known), and notes for its reader.

    estimates: by cell id, the interval of the latency where a calibration has one. known: architectures by model.
    """

    plan: Plan
    hardware: Hardware
    notes: tuple[str, ...]
    estimates: Mapping[str, LatencyEstimate]
    known: Mapping[str, Architecture]
    efficiencies: Mapping[str, Efficiencies]

    def of(self, cell: Cell) -> Prediction:
        """The prediction of one cell of the plan."""
        return self._by_id[cell.id]

    @cached_property
    def _by_id(self) -> dict[str, Prediction]:
        return {p.cell_id: p for p in self.plan.predictions}

    def fits(self, cell: Cell) -> bool | None:
        """Whether the predicted peak is within the device's memory; advisory only, measurement decides."""
        peak = self.of(cell).peak_bytes
        return None if peak is None else peak <= self.hardware.memory_bytes

    def surfaces(self) -> tuple[BreakEvenSurface, ...]:
        """The break-even surface of every setting in which the plan runs diffusion."""
        return surfaces(self.plan.cells, self.known, self.hardware, self.efficiencies)


def predict(plan: Plan, device: Hardware, saved: SavedCalibration | None = None) -> Forecast:
    """Predictions for every cell of a plan on `device`.

    saved: a calibration; engines that it lacks keep their defaults, which have no interval.
    """
    known, unknown = architectures(dict.fromkeys(c.model for c in plan.cells))
    calibrated = saved.efficiencies if saved else {}
    defaults = {label_of(c): efficiencies_for(c) for c in plan.cells}
    efficiencies = {label: e for label, e in defaults.items() if e is not None} | calibrated
    predictions = tuple(
        corrected.predict(cell, known[cell.model.key], device, efficiencies)
        if cell.model.key in known
        else Prediction(cell.id)
        for cell in plan.cells
    )
    notes = [f"{key}: no prediction: {why}" for key, why in unknown.items()]
    predicted = [c for c in plan.cells if c.model.key in known]
    notes += _caveats(predicted, calibrated)
    if saved is not None and saved.hardware != device.name:
        notes.append(
            f"calibrated on {saved.hardware} and carried over to {device.name}, so its intervals are wider "
            "(docs/roofline.md)"
        )
    estimates = {}
    if saved is not None:
        from dlmbench.roofline.calibrate import estimate

        fits = {c.label: c for c in saved.calibrations if c.held_out}
        for cell in predicted:
            fit = fits.get(label_of(cell))
            if fit and (interval := estimate(fit, cell, known[cell.model.key], device)) is not None:
                estimates[cell.id] = interval
    return Forecast(replace(plan, predictions=predictions), device, tuple(notes), estimates, known, efficiencies)


def _caveats(cells: Sequence[Cell], calibrated: Mapping[str, Efficiencies]) -> list[str]:
    """What the predicted times rest on, where that is not the user's own measurements, and why some are missing."""
    defaults: dict[str, list[str]] = {}
    caveats: dict[str, list[str]] = {}
    without, unplanned = [], []
    for label, cell in {label_of(c): c for c in cells}.items():
        engine = operators.engine_cost(cell)
        if operators.min_forwards(cell) is None:
            unplanned.append(label)
        elif label in calibrated:
            continue
        elif engine is None or efficiencies_for(cell) is None:
            without.append(label)
        else:
            defaults.setdefault(engine.measured_on, []).append(label)
            if engine.caveat:
                caveats.setdefault(engine.caveat, []).append(label)
    notes = [f"{', '.join(v)}: efficiencies measured on {on}: calibrate on your own" for on, v in defaults.items()]
    notes += [f"{', '.join(labels)}: {caveat}" for caveat, labels in caveats.items()]
    if without:
        notes.append(f"{', '.join(without)}: no efficiencies known, hence no times; give a --calibration")
    if unplanned:
        notes.append(f"{', '.join(unplanned)}: no prediction: the sampler does not plan its forwards (docs/adding.md)")
    others = {c.attention for c in cells if c.attention == "math"} | {c.precision for c in cells} & {"float32"}
    if others and defaults:
        notes.append(f"default efficiencies were never calibrated for: {', '.join(sorted(others))}")
    return notes


def per_million_tokens(latency_s: float, tokens: float, price_per_gpu_hour: float, gpus: int = 1) -> float:
    """Money for a million tokens when one generation of `tokens` takes `latency_s`, in the currency of the price."""
    return 1e6 * latency_s * gpus * price_per_gpu_hour / 3600 / tokens
