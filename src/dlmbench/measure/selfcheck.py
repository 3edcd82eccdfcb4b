"""How far to trust the instrument: work of known length for the clock, and the noise floor of equal processes.

Two runs of the same cell differ even when nothing has changed, because a process keeps its memory layout, clocks and
compile choices for its whole life. The floor says by how much: a smaller difference between two runs proves nothing.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dlmbench.errors import BenchError
from dlmbench.measure.clock import Clock
from dlmbench.measure.host import HostLoad
from dlmbench.measure.nvml import GpuMeter
from dlmbench.measure.protocol import Z_95, timed_repetition
from dlmbench.types import ClockBias, Generation, NoiseFloor, PlantedSlowdown, Sample

PLANTED = (0.01, 0.02, 0.03, 0.05, 0.10)  # slowdowns that are planted, as shares of the latency
KNOWN_LENGTHS_S = (0.01, 0.1)
_KNOWN_REPETITIONS = 10
_CALIBRATION_CYCLES = 200_000_000  # of a GPU's clock, about 0.1 s

# Keeps the device busy for that many seconds and returns the length that is known without the measuring clock.
KnownWork = Callable[[float], float]


# ---------------------------------------------------------------- the clock


def _raw_s() -> float:
    """Seconds by the oscillator itself: unlike the clock that measures, it is not steered by NTP."""
    return time.clock_gettime(time.CLOCK_MONOTONIC_RAW)


def sleep(seconds: float) -> float:
    """The host idle; the length is what passed by the raw clock, as a sleep is never exact."""
    started_s = _raw_s()
    time.sleep(seconds)
    return _raw_s() - started_s


def spin(seconds: float) -> float:
    """One thread of the host busy."""
    started_s = _raw_s()
    while (passed_s := _raw_s() - started_s) < seconds:
        pass
    return passed_s


def spin_kernel(cuda: Any) -> KnownWork:
    """A kernel that counts cycles, on the current stream of `cuda` (torch.cuda); returns without waiting for it.

    Its rate is calibrated by the raw clock: the difference of a long and a short kernel, without what both take to be
    launched. The length holds as long as the GPU keeps its clock.
    """

    def seconds(cycles: int) -> float:
        cuda.synchronize()
        started_s = _raw_s()
        cuda._sleep(cycles)
        cuda.synchronize()
        return _raw_s() - started_s

    seconds(_CALIBRATION_CYCLES)  # until the GPU has raised its clock
    once, thrice = (statistics.median(seconds(n * _CALIBRATION_CYCLES) for _ in range(3)) for n in (1, 3))
    rate = 2 * _CALIBRATION_CYCLES / (thrice - once)

    def run(length_s: float) -> float:
        cycles = round(length_s * rate)
        cuda._sleep(cycles)
        return cycles / rate

    return run


def known_workloads(device: str) -> dict[str, KnownWork]:
    """Work of known length for a device; the last one keeps the device itself busy."""
    work: dict[str, KnownWork] = {"sleep": sleep, "spin": spin}
    if device == "cuda":
        import torch

        work["kernel"] = spin_kernel(torch.cuda)
    return work


def clock_bias(clock: Clock, workload: str, work: KnownWork, length_s: float) -> ClockBias:
    """Measure `work` of `length_s` as a repetition of a cell is measured, and compare."""
    ratios = []
    for index in range(_KNOWN_REPETITIONS + 1):
        known: list[float] = []

        def generate(known: list[float] = known) -> Generation:
            known.append(work(length_s))
            return Generation(((0,),), 1, 1, 1)

        sample = repetition(generate, clock, index)
        ratios.append(sample.latency_s / known[0])
    return ClockBias(workload, length_s, statistics.median(ratios[1:]), _KNOWN_REPETITIONS)  # the first warms up


def repetition(generate: Callable[[], Generation], clock: Clock, index: int, meter: GpuMeter | None = None) -> Sample:
    """One repetition by the protocol, of work that is no cell of a study."""
    sample, _ = timed_repetition(
        generate,
        clock,
        cell_id="selfcheck",
        index=index,
        is_warmup=False,
        round_index=0,
        process_id=0,
        loaded_since_s=clock.wall(),
        meter=meter or GpuMeter(),
        host=HostLoad(),
        useful_tokens=lambda generation: None,
        output_bytes=lambda generation: None,
    )
    return sample


def clock_resolution(clock: Clock, readings: int = 2000) -> float:
    """The smallest positive difference of two marks in a row, in seconds; at least what a mark takes.

    Raises:
        BenchError: the clock stands still.
    """
    marks = [clock.mark() for _ in range(readings)]
    clock.synchronize()
    differences = [clock.seconds(a, b) for a, b in itertools.pairwise(marks)]
    if not any(d > 0 for d in differences):
        raise BenchError(f"the clock '{clock.name}' did not move in {readings} readings", "Do not measure here")
    return min(d for d in differences if d > 0)


# ---------------------------------------------------------------- noise between processes


def noise_floor(kind: str, engine: str, medians_s: Sequence[float]) -> NoiseFloor:
    """The noise floor from the medians of one cell in at least two fresh processes.

    sd is the standard deviation of the log medians, with n - 1 degrees of freedom; its upper 95% bound is
    sd sqrt((n - 1) / chi2(0.05; n - 1)). For one process on each side the log ratio has the standard deviation
    sqrt(2) sd, so the floor is exp(1.96 sqrt(2) sd_upper) - 1: with 95% confidence, at least 95% of such ratios are
    closer to 1. The bound falls with n: 15.9 sd for 2 processes, 4.4 for 3, 2.4 for 5, 2.1 for 6.
    """
    from scipy.stats import chi2

    n = len(medians_s)
    assert n >= 2, n
    sd = statistics.stdev(math.log(m) for m in medians_s)
    upper = sd * math.sqrt((n - 1) / float(chi2.ppf(0.05, n - 1)))
    floor = NoiseFloor(kind, engine, 0.0, n, n * (n - 1) // 2, upper, tuple(medians_s))
    return replace(floor, ratio=floor.floor(1))


def planted_slowdown(
    floor: NoiseFloor,
    planted: float,
    plain_s: Sequence[float],
    slowed_s: Sequence[float],
    measured: float,
) -> PlantedSlowdown:
    """Whether processes that ran slower are told apart from others that did not.

    Found: the mean log medians differ by more than 1.96 sd_upper sqrt(1/n + 1/m), the floor for n and m processes.

    plain_s: medians of processes that ran as they are. slowed_s: medians of other processes, with the slowdown, whose
    share is `planted`. measured: the share found within these processes.
    """
    difference = statistics.fmean(map(math.log, slowed_s)) - statistics.fmean(map(math.log, plain_s))
    error = floor.sd_log_upper * math.sqrt(1 / len(plain_s) + 1 / len(slowed_s))
    return PlantedSlowdown(floor.kind, floor.engine, planted, measured, difference > Z_95 * error)
