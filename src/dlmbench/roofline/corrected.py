"""The corrected roofline: what a cell should take on a device, its floor, and measured cells beside their floors.

Two numbers that must not be confused. `floor_s` is a bound, from data-sheet rates and compulsory work alone: a
measurement below it is wrong. `latency_s` is an expectation, with efficiencies fitted to measured cells (calibrate.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dlmbench.roofline import memory, operators
from dlmbench.roofline.hardware import Hardware
from dlmbench.types import Architecture, Cell, Efficiencies, Finding, Prediction

# An engine that takes longer than this to launch a forward of 8B parameters launches kernel by kernel.
SLOW_LAUNCH_S = 5e-3
# How sharply the roofline bends where both limits meet; at infinity the larger of the two counts alone. 3 was chosen:
# it lowers the errors on groups left out, and on cached forwards in batches (docs/study/engines-h200/block-attention).
_RIDGE = 3
IDEAL = Efficiencies(1.0, 1.0, 1.0, 0.0)
GivenEfficiencies = Efficiencies | Mapping[str, Efficiencies] | None
"""One set for all cells, sets by "engine/sampler", or None for the defaults of each cell's engine."""


def label_of(cell: Cell) -> str:
    """The "engine/sampler" under which calibrations keep efficiencies."""
    return f"{cell.engine}/{cell.sampler}"


def efficiencies_for(cell: Cell, given: GivenEfficiencies = None) -> Efficiencies | None:
    """`given` themselves, those of the cell's "engine/sampler", or (given None) what the engine's COST states."""
    if isinstance(given, Efficiencies):
        return given
    if given is not None:
        return given.get(label_of(cell))
    cost = operators.engine_cost(cell)
    return None if cost is None else cost.efficiencies.get(operators.paradigm_of(cell))


def rates_of(cell: Cell, hardware: Hardware) -> tuple[float, float, float]:
    """The data sheet's FLOP/s of matrix products and of attention, and bytes/s, as a cell uses them."""
    peak = hardware.matrix_flops(cell.precision)
    # torch's math kernel computes in 32 bits, whatever the model's precision.
    return peak, hardware.fp32_flops if cell.attention == "math" else peak, hardware.bandwidth


def forward_s(
    load: operators.Load, rates: Any, e: Efficiencies, larger: Callable[[Any, Any], Any] = max
) -> Any:  # a number, or an array where load and rates are of arrays
    """Seconds of one forward at its `rates_of`.

    Body, head and attention take each its own roofline, then come pointwise operators; the host may take longer.
    Kernels whose FLOPs and bytes take equally long reach neither limit, so the two make a norm, not a maximum.
    """
    peak, attention_peak, bandwidth = rates

    def kernel_s(flops_s: Any, bytes_s: Any) -> Any:
        return (flops_s**_RIDGE + bytes_s**_RIDGE) ** (1 / _RIDGE)

    device_s = (
        kernel_s(load.body_flops / peak / e.matrix, load.body_bytes / bandwidth / e.bandwidth)
        + kernel_s(load.head_flops / peak / e.matrix, load.head_bytes / bandwidth / e.bandwidth)
        + kernel_s(load.attention_flops / attention_peak / e.attention, load.attention_bytes / bandwidth / e.bandwidth)
        + load.pointwise_bytes / bandwidth / e.bandwidth
    )
    return larger(device_s, e.host_s)


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
    rates = rates_of(cell, hardware)
    loads = [(f.count, operators.load_of(f, cell, architecture)) for f in kinds]
    return float(sum(count * forward_s(load, rates, efficiencies) for count, load in loads))


def launches_slowly(cell: Cell) -> bool:
    """Whether the cell's engine launches kernel by kernel, as far as it states its efficiencies."""
    e = efficiencies_for(cell)
    return e is not None and e.host_s > SLOW_LAUNCH_S


def is_launch_bound(cell: Cell, architecture: Architecture, hardware: Hardware | None) -> bool:
    """Whether launching kernels on the host costs a cell more than a tenth of its expected time.

    On an unknown device: whether the engine launches slowly at all. False where the engine states no efficiencies.
    """
    e = efficiencies_for(cell)
    if e is None or hardware is None:
        return launches_slowly(cell)
    expected, on_device = (latency_s(cell, architecture, hardware, x) for x in (e, replace(e, host_s=0.0)))
    return expected is not None and on_device is not None and expected > 1.1 * on_device


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
    efficiencies: GivenEfficiencies = None,
    forwards: float | None = None,
) -> Prediction:
    """Expected latency and peak memory, and the floor; None for each that sampler and engine do not allow to predict.

    No latency is predicted without efficiencies for this cell, nor for a rule without a schedule unless `forwards`,
    how many it takes, is known.
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
