"""The corrected roofline: what a cell should take on a device, and below what it cannot be.

Two numbers that must not be confused. `floor_s` is a bound, from data-sheet rates and compulsory work alone: measured
below it, something is wrong. `latency_s` is an expectation, with efficiencies fitted to measured cells (calibrate.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dlmbench.roofline import memory, operators
from dlmbench.roofline.hardware import Hardware
from dlmbench.types import Architecture, Cell, Prediction


@dataclass(frozen=True)
class Efficiencies:
    """Shares of the data sheet's rates that an engine reaches, and the host's time to launch one forward.

    matrix, attention: of the matrix rate. bandwidth: of the memory's. host_s: seconds a forward; the host runs ahead
    of the device, so a forward takes the longer of the two, not their sum.
    """

    matrix: float
    bandwidth: float
    attention: float
    host_s: float


IDEAL = Efficiencies(1.0, 1.0, 1.0, 0.0)

# By engine and sampler. Fitted to this project's own measurements on one H200: of plain transformers by `python -m
# dlmbench.roofline calibrate`, of the native engine by `dlmbench calibrate docs/study/h200-native`. Both print their
# errors on cells left out, and a test refits them. Other devices: see calibrate.py.
DEFAULT: Mapping[str, Efficiencies] = {
    "hf/masked_diffusion": Efficiencies(0.596, 0.699, 0.466, 13.1e-3),
    "hf/autoregressive": Efficiencies(0.568, 0.665, 0.444, 14.8e-3),
    "native/masked_diffusion": Efficiencies(0.685, 0.634, 0.367, 1.24e-3),
    "native/autoregressive": Efficiencies(0.669, 0.735, 0.403, 1.06e-3),
}


def efficiencies_for(cell: Cell, efficiencies: Efficiencies | Mapping[str, Efficiencies]) -> Efficiencies | None:
    """Those of the cell's engine and sampler, or of its engine; None where there are none."""
    if isinstance(efficiencies, Efficiencies):
        return efficiencies
    return efficiencies.get(f"{cell.engine}/{cell.sampler}", efficiencies.get(cell.engine))


@dataclass(frozen=True)
class Limits:
    """Seconds that one forward needs at the data sheet's rates, by what limits it (numbers, or arrays of them)."""

    body_compute: float
    body_memory: float
    head_compute: float
    head_memory: float
    attention_compute: float
    attention_memory: float
    between: float

    def seconds(self, efficiencies: Efficiencies, larger: Callable[[Any, Any], Any] = max) -> float:
        """Body, head and attention each at its own roofline, then what lies between; the host may take longer."""
        e = efficiencies
        device_s = (
            larger(self.body_compute / e.matrix, self.body_memory / e.bandwidth)
            + larger(self.head_compute / e.matrix, self.head_memory / e.bandwidth)
            + larger(self.attention_compute / e.attention, self.attention_memory / e.bandwidth)
            + self.between / e.bandwidth
        )
        seconds: float = larger(device_s, e.host_s)
        return seconds


def limits_of(forward: operators.Forward, cell: Cell, architecture: Architecture, hardware: Hardware) -> Limits:
    """The limits of one forward of a kind on `hardware`."""
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
        between=(load.pointwise_bytes + load.choosing_bytes) / bandwidth,
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


def compulsory(
    cell: Cell, architecture: Architecture, cache_bytes: float = 0.0, forwards: float | None = None
) -> Totals:
    """What one generation cannot do without.

    Args:
        cell: where the number of forwards is unknown, the least is taken.
        architecture: of its model.
        cache_bytes: last-level cache of the device; weights that fit into it need to be read only once.
        forwards: how many a rule without a schedule took.
    """
    kinds = operators.forwards_of(cell, forwards or operators.least_forwards(cell), needed_head_only=True) or ()
    loads = [(f.count, operators.load_of(f, cell, architecture, exact_mask=True)) for f in kinds]
    flops = sum(count * load.flops for count, load in loads)
    if max((load.compulsory_bytes for _, load in loads), default=0.0) <= cache_bytes:
        moved = max(load.body_bytes + load.head_bytes for _, load in loads)
    else:
        moved = sum(count * load.compulsory_bytes for count, load in loads)
    return Totals(flops, moved, sum(f.count for f in kinds))


def floor_s(cell: Cell, architecture: Architecture, hardware: Hardware, forwards: float | None = None) -> float:
    """Seconds below which no generation of `cell` can be on `hardware`."""
    total = compulsory(cell, architecture, hardware.cache_bytes, forwards)
    return max(total.flops / hardware.matrix_flops(cell.precision), total.bytes / hardware.bandwidth)


def predict(
    cell: Cell,
    architecture: Architecture,
    hardware: Hardware,
    efficiencies: Efficiencies | Mapping[str, Efficiencies] = DEFAULT,
    forwards: float | None = None,
) -> Prediction:
    """Expected latency and peak memory, and the floor.

    Args:
        cell: any point of a grid.
        architecture: of its model.
        hardware: where it runs.
        efficiencies: one set, or sets by "engine/sampler" or engine; none for this cell leaves the latency open.
        forwards: how many a rule without a schedule takes, where known; else the latency stays open.
    """
    chosen = efficiencies_for(cell, efficiencies)
    return Prediction(
        cell_id=cell.id,
        latency_s=None if chosen is None else latency_s(cell, architecture, hardware, chosen, forwards),
        peak_bytes=memory.split(cell, architecture).total,
        floor_s=floor_s(cell, architecture, hardware, forwards),
    )
