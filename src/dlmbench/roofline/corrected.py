"""The corrected roofline: what a cell should take on a device, its floor, and measured cells beside their floors.

Two numbers that must not be confused. `floor_s` is a bound, from data-sheet rates and compulsory work alone: a
measurement below it is wrong. `latency_s` is an expectation, with efficiencies fitted to measured cells (calibrate.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dlmbench import registry
from dlmbench.roofline import memory, operators
from dlmbench.roofline.hardware import Hardware
from dlmbench.types import Architecture, Cell, Efficiencies, Finding, Prediction

IDEAL = Efficiencies(1.0, 1.0, 1.0, 0.0)


def label_of(cell: Cell) -> str:
    """The "engine/sampler" under which calibrations keep efficiencies."""
    return f"{cell.engine}/{cell.sampler}"


def default_efficiencies(engine: str, sampler: str) -> Efficiencies | None:
    """Those that the engine's COST states for the sampler's paradigm; None where it has none."""
    cost = registry.attribute("engines", engine, "COST", None)
    paradigm = registry.attribute("samplers", sampler, "PARADIGM", "")
    found: Efficiencies | None = None if cost is None else cost.efficiencies.get(paradigm)
    return found


def efficiencies_for(cell: Cell, efficiencies: Efficiencies | Mapping[str, Efficiencies] | None) -> Efficiencies | None:
    """`efficiencies` themselves, those of the cell's "engine/sampler", or (given None) the engine's defaults."""
    if efficiencies is None:
        return default_efficiencies(cell.engine, cell.sampler)
    return efficiencies if isinstance(efficiencies, Efficiencies) else efficiencies.get(label_of(cell))


@dataclass(frozen=True)
class Limits:
    """Seconds of one forward at the data sheet's rates, by what limits it (numbers, or arrays of them)."""

    body_compute: float
    body_memory: float
    head_compute: float
    head_memory: float
    attention_compute: float
    attention_memory: float
    pointwise: float

    def seconds(self, efficiencies: Efficiencies, larger: Callable[[Any, Any], Any] = max) -> float:
        """Body, head and attention each at its own roofline, then pointwise operators; the host may take longer."""
        e = efficiencies
        device_s = (
            larger(self.body_compute / e.matrix, self.body_memory / e.bandwidth)
            + larger(self.head_compute / e.matrix, self.head_memory / e.bandwidth)
            + larger(self.attention_compute / e.attention, self.attention_memory / e.bandwidth)
            + self.pointwise / e.bandwidth
        )
        seconds: float = larger(device_s, e.host_s)
        return seconds


def limits_of(forward: operators.Forward, cell: Cell, architecture: Architecture, hardware: Hardware) -> Limits:
    """The limits of one forward on `hardware`."""
    load = operators.load_of(forward, cell, architecture)
    peak, bandwidth = hardware.matrix_flops(cell.precision), hardware.bandwidth
    # torch's math kernel computes in 32 bits, whatever the model's precision.
    attention_peak = hardware.matrix_flops("float32") if cell.attention == "math" else peak
    return Limits(
        body_compute=load.body_flops / peak,
        body_memory=load.body_bytes / bandwidth,
        head_compute=load.head_flops / peak,
        head_memory=load.head_bytes / bandwidth,
        attention_compute=load.attention_flops / attention_peak,
        attention_memory=(load.cached_bytes + load.score_bytes) / bandwidth,
        pointwise=(load.pointwise_bytes + load.sampling_bytes) / bandwidth,
    )


def latency_s(
    cell: Cell,
    architecture: Architecture,
    hardware: Hardware,
    efficiencies: Efficiencies,
    forwards: float | None = None,
) -> float | None:
    """Expected seconds of one generation; None where the number of forwards is neither scheduled nor given."""
    kinds = operators.forwards_of(cell, forwards)
    if kinds is None:
        return None
    return sum(f.count * limits_of(f, cell, architecture, hardware).seconds(efficiencies) for f in kinds)


@dataclass(frozen=True)
class Totals:
    """Compulsory work of one generation: FLOPs by the exact mask, head where tokens are chosen; weights and cache."""

    flops: float
    bytes: float
    forwards: float

    def floor_s(self, hardware: Hardware, precision: str) -> float:
        """Seconds that the larger of the two takes at the data sheet's rates."""
        return max(self.flops / hardware.matrix_flops(precision), self.bytes / hardware.bandwidth)


def compulsory(
    cell: Cell, architecture: Architecture, cache_bytes: float = 0.0, forwards: float | None = None
) -> Totals | None:
    """The work that no implementation of one generation can avoid; None for a sampler that plans no forwards.

    cache_bytes: last-level cache of the device; weights that fit into it need to be read only once. forwards: how many
    a rule without a schedule took; the fewest possible where unknown.
    """
    kinds = operators.forwards_of(cell, forwards or operators.min_forwards(cell), needed_head_only=True)
    if kinds is None:
        return None
    loads = [(f.count, operators.load_of(f, cell, architecture, exact_mask=True)) for f in kinds]
    flops = sum(count * load.flops for count, load in loads)
    if max((load.compulsory_bytes for _, load in loads), default=0.0) <= cache_bytes:
        moved = max(load.body_bytes + load.head_bytes for _, load in loads)
    else:
        moved = sum(count * load.compulsory_bytes for count, load in loads)
    return Totals(flops, moved, sum(f.count for f in kinds))


def floor_s(cell: Cell, architecture: Architecture, hardware: Hardware, forwards: float | None = None) -> float | None:
    """Seconds below which no generation of `cell` can be on `hardware`; None for a sampler that plans no forwards."""
    total = compulsory(cell, architecture, hardware.cache_bytes, forwards)
    return None if total is None else total.floor_s(hardware, cell.precision)


def predict(
    cell: Cell,
    architecture: Architecture,
    hardware: Hardware,
    efficiencies: Efficiencies | Mapping[str, Efficiencies] | None = None,
    forwards: float | None = None,
) -> Prediction:
    """Expected latency and peak memory, and the floor; None for each that sampler and engine do not allow to predict.

    efficiencies: one set, or sets by "engine/sampler"; None for the defaults of the cell's engine. Without any for this
    cell no latency is predicted. forwards: how many a rule without a schedule takes; else no latency is predicted.
    """
    chosen, split = efficiencies_for(cell, efficiencies), memory.split(cell, architecture)
    return Prediction(
        cell_id=cell.id,
        latency_s=None if chosen is None else latency_s(cell, architecture, hardware, chosen, forwards),
        peak_bytes=None if split is None else split.total,
        floor_s=floor_s(cell, architecture, hardware, forwards),
    )


# ---------------------------------------------------------------- measured cells beside their floors


@dataclass(frozen=True)
class MeasuredCell:
    """A cell, where it ran, and its median latency; `forwards` where no schedule fixes them."""

    cell: Cell
    architecture: Architecture
    hardware: Hardware
    latency_s: float
    forwards: float | None = None

    @property
    def group(self) -> tuple[str, int, int]:
        """What is left out together: model and length."""
        return self.cell.model.key, self.cell.prompt_tokens, self.cell.new_tokens


@dataclass(frozen=True)
class Bounds:
    """One measured cell beside its floor.

    mfu, mbu: compulsory FLOPs and bytes of the whole generation (`compulsory`) over the latency and the data sheet's
    rate; above 1 they are impossible. floor_ratio: measured over floor, 1 or more.
    """

    cell: Cell
    latency_s: float
    floor_s: float
    mfu: float
    mbu: float

    @property
    def floor_ratio(self) -> float:
        """Measured latency over the floor."""
        return self.latency_s / self.floor_s

    @property
    def is_possible(self) -> bool:
        """Not below the floor."""
        return self.latency_s >= self.floor_s


def bounds_of(row: MeasuredCell) -> Bounds | None:
    """The bounds of one measured cell on its device; None for a sampler that plans no forwards."""
    device, precision = row.hardware, row.cell.precision
    total = compulsory(row.cell, row.architecture, device.cache_bytes, row.forwards)
    if total is None:
        return None
    return Bounds(
        cell=row.cell,
        latency_s=row.latency_s,
        floor_s=total.floor_s(device, precision),
        mfu=total.flops / device.matrix_flops(precision) / row.latency_s,
        mbu=total.bytes / device.bandwidth / row.latency_s,
    )


def below_floor(bounds: Iterable[Bounds], hardware: str) -> Iterator[Finding]:
    """An error for each cell that is faster than `hardware` can be.

    Such a cell did less work than it says, was timed wrongly or ran on another device; no efficiency explains it.
    """
    for b in bounds:
        if not b.is_possible:
            message = (
                f"{b.cell.label}: {b.latency_s * 1e3:.3g} ms is below the floor of {b.floor_s * 1e3:.3g} ms "
                f"on {hardware}"
            )
            hint = "Check --hardware, the clock and that all steps ran; the cell is left out of the fit"
            yield Finding("below_floor", "error", b.cell.id, message, hint)
