"""A self-check as a machine with known noise would give it."""

from __future__ import annotations

from dataclasses import replace

from dlmbench.measure.selfcheck import noise_floor
from dlmbench.types import BUSY, LAUNCH_BOUND, ClockBias, Environment, PlantedSlowdown, Selfcheck


def a_selfcheck(environment: Environment | None = None, sd_log_upper: float = 0.01) -> Selfcheck:
    """Both kinds of cells in the engine hf; the busy one is twice as noisy."""
    floors = []
    for kind, sd in ((LAUNCH_BOUND, sd_log_upper), (BUSY, 2 * sd_log_upper)):
        floor = replace(noise_floor(kind, "hf", (1.0, 1.1, 1.2)), sd_log_upper=sd)
        floors.append(replace(floor, ratio=floor.floor(1)))
    return Selfcheck(
        device=environment.device if environment else "CPU",
        host=environment.host if environment else "host",
        environment_id=environment.id if environment else "id",
        at="2026-01-01T00:00:00+00:00",
        duration_s=100.0,
        floors=tuple(floors),
        detected=tuple(
            PlantedSlowdown(kind, "hf", planted, planted, is_found=planted >= 0.03)
            for kind in (LAUNCH_BOUND, BUSY)
            for planted in (0.01, 0.03, 0.1)
        ),
        bias=(ClockBias("sleep", 0.01, 1.001, 10), ClockBias("spin", 0.1, 1.0001, 10)),
        overhead_s=0.002,
        clock_resolution_s=1e-7,
        cores=2,
        load_average=0.1,
        other_cores=0.1,
    )
