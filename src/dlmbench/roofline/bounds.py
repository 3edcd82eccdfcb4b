"""Measured cells held against what the device can do: floor, and the shares of its arithmetic and bandwidth used.

A cell that is faster than its floor did less work than it says, or was timed wrongly, or ran on another device. No
efficiency explains it, so it is an error and not a good result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dlmbench.roofline.calibrate import MeasuredCell
from dlmbench.roofline.corrected import compulsory, floor_s
from dlmbench.types import Cell, Finding


@dataclass(frozen=True)
class Bounds:
    """One measured cell beside its floor.

    mfu, mbu: compulsory FLOPs and bytes of the whole generation (`corrected.compulsory`) over the latency and the data
    sheet's rate; above 1 they are impossible. floor_ratio: measured over floor, 1 or more.
    """

    cell: Cell
    latency_s: float
    floor_s: float
    mfu: float
    mbu: float

    @property
    def floor_ratio(self) -> float:
        """How many times its floor the cell took."""
        return self.latency_s / self.floor_s

    @property
    def is_possible(self) -> bool:
        """Not below the floor."""
        return self.latency_s >= self.floor_s


def bounds_of(row: MeasuredCell) -> Bounds:
    """The bounds of one measured cell on its device."""
    device, precision = row.hardware, row.cell.precision
    total = compulsory(row.cell, row.architecture, device.cache_bytes, row.forwards)
    return Bounds(
        cell=row.cell,
        latency_s=row.latency_s,
        floor_s=floor_s(row.cell, row.architecture, device, row.forwards),
        mfu=total.flops / device.matrix_flops(precision) / row.latency_s,
        mbu=total.bytes / device.bandwidth / row.latency_s,
    )


def below_floor(bounds: Iterable[Bounds], hardware: str) -> Iterator[Finding]:
    """An error for each cell that is faster than `hardware` can be."""
    for b in bounds:
        if not b.is_possible:
            message = (
                f"{b.cell.label}: {b.latency_s * 1e3:.3g} ms is below the floor of {b.floor_s * 1e3:.3g} ms "
                f"on {hardware}"
            )
            hint = "check --hardware, the clock and that all steps ran; the cell is left out of the fit"
            yield Finding("below_floor", "error", b.cell.id, message, hint)
