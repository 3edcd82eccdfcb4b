"""The self-check's arithmetic: a wrong clock is found, and the noise floor holds what it promises."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from dlmbench.errors import BenchError
from dlmbench.measure import selfcheck
from dlmbench.measure.clock import Clock
from dlmbench.measure.selfcheck import clock_bias, clock_resolution, noise_floor, planted_slowdown
from dlmbench.types import BUSY, LAUNCH_BOUND
from support.selfchecks import a_selfcheck


class SimulatedClock(Clock):
    """Shows `rate` seconds for each one that `work` takes, in whole ticks."""

    name = "simulated"

    def __init__(self, rate: float = 1.0, tick_s: float = 1e-6) -> None:
        self.rate, self.tick_s, self.now_s = rate, tick_s, 100.0

    def work(self, length_s: float) -> float:
        self.now_s += length_s
        return length_s

    def wall(self) -> float:
        return math.floor(self.now_s * self.rate / self.tick_s) * self.tick_s

    def mark(self) -> object:
        self.now_s += 1e-7
        return self.wall()


@pytest.mark.parametrize("rate", [0.98, 1.0, 1.03])
def test_the_bias_of_a_wrong_clock_is_found(rate):
    clock = SimulatedClock(rate)
    bias = clock_bias(clock, "spin", clock.work, 0.1)
    assert bias.ratio == pytest.approx(rate, abs=1e-4)
    assert (bias.workload, bias.length_s, bias.repetitions) == ("spin", 0.1, 10)


def test_known_work_takes_its_length_by_a_clock_of_its_own(monkeypatch):
    readings = iter([5.0, 5.004, 5.012, 7.0, 7.02])
    monkeypatch.setattr(selfcheck, "_raw_s", lambda: next(readings))
    monkeypatch.setattr(selfcheck.time, "sleep", lambda seconds: None)
    assert selfcheck.spin(0.01) == pytest.approx(0.012)
    assert selfcheck.sleep(0.01) == pytest.approx(0.02)


def test_the_kernel_is_calibrated_without_the_time_of_its_launch(monkeypatch):
    class Cuda:
        """A GPU of 2 GHz that takes 1 ms to launch."""

        now_s = cycles = 0.0

        def _sleep(self, cycles):
            self.cycles = cycles
            self.now_s += 1e-3 + cycles / 2e9

        def synchronize(self):
            pass

    cuda = Cuda()
    monkeypatch.setattr(selfcheck, "_raw_s", lambda: cuda.now_s)
    assert selfcheck.spin_kernel(cuda)(0.05) == pytest.approx(0.05)
    assert cuda.cycles == pytest.approx(1e8, rel=1e-6)


def test_the_resolution_is_the_smallest_step_that_is_seen():
    assert clock_resolution(SimulatedClock(tick_s=1e-5)) == pytest.approx(1e-5)
    with pytest.raises(BenchError, match="did not move"):
        clock_resolution(SimulatedClock(tick_s=10.0))


# ---------------------------------------------------------------- noise between processes


def test_the_floor_to_the_digit():
    floor = noise_floor(BUSY, "hf", [math.exp(x) for x in (-0.01, 0.0, 0.01)])
    # sd 0.01, chi2(0.05; 2) = 0.102587: 0.01 sqrt(2 / 0.102587)
    assert floor.sd_log_upper == pytest.approx(0.0441540, rel=1e-5)
    assert floor.ratio == floor.floor(1) == pytest.approx(math.expm1(1.96 * math.sqrt(2) * 0.0441540), rel=1e-5)
    assert floor.floor(5) == pytest.approx(math.expm1(1.96 * math.sqrt(2 / 5) * 0.0441540), rel=1e-5)
    assert (floor.processes, floor.pairs) == (3, 3)


@pytest.mark.parametrize("sd", [0.003, 0.03])
@pytest.mark.parametrize("processes", [2, 3, 4, 6])
def test_the_floor_covers_equal_runs_and_is_not_needlessly_wide(sd, processes):
    """In 93% of self-checks or more the floor holds 95% of all later ratios, and it stays useful."""
    rng = np.random.default_rng(0)
    floors = [noise_floor(BUSY, "hf", np.exp(rng.normal(0, sd, processes))) for _ in range(800)]
    for n in (1, 3, 5):
        bounds = np.array([floor.floor(n) for floor in floors])
        ratios = np.exp(rng.normal(0, sd * math.sqrt(2 / n), (2000, len(floors))))
        held = (np.maximum(ratios, 1 / ratios) - 1 <= bounds).mean(axis=0)
        assert (held >= 0.95 - 0.01).mean() >= 0.93
        assert held.mean() >= 0.93
        # The exact bound on the sd is 4.4, 2.9, 2.1 sd for 3, 4, 6 processes; with 2 it says little.
        widest = {2: 30, 3: 4.6, 4: 3.1, 6: 2.2}[processes]
        assert np.median(bounds) <= widest * math.expm1(1.96 * sd * math.sqrt(2 / n))


def test_a_planted_slowdown_is_found_beyond_the_floor_only():
    floor = replace(noise_floor(BUSY, "hf", (1.0, 1.001, 0.999)), sd_log_upper=0.01)
    # 1.96 x 0.01 x sqrt(1/3 + 1/3) = 1.6%
    assert not planted_slowdown(floor, 0.01, (1.0, 1.0, 1.0), (1.01, 1.01, 1.01), 0.01).is_found
    assert planted_slowdown(floor, 0.02, (1.0, 1.0, 1.0), (1.02, 1.02, 1.02), 0.02).is_found
    assert not planted_slowdown(floor, 0.02, (1.0,), (1.02,), 0.02).is_found, "one process shows less than three"
    assert not planted_slowdown(floor, 0.1, (1.0,), (0.9,), -0.1).is_found, "faster is no slowdown"


def test_the_smallest_found_has_all_larger_ones_found():
    check = a_selfcheck()
    assert check.smallest_found("hf", BUSY) == 0.03
    lucky = [replace(d, is_found=d.planted == 0.01) for d in check.detected]
    assert replace(check, detected=tuple(lucky)).smallest_found("hf", BUSY) is None


def test_a_floor_is_of_its_engine_and_kind():
    check = a_selfcheck(sd_log_upper=0.01)
    one = math.expm1(1.96 * 0.01 * math.sqrt(2))
    assert check.floor("hf", 1, LAUNCH_BOUND) == pytest.approx(one)
    assert check.floor("hf", 1) == check.floor("hf", 1, BUSY) > 1.9 * one
    assert check.floor("hf", 3) < check.floor("hf", 1)
    assert check.floor("native", 1) is None


def test_other_programs_are_noticed():
    assert not a_selfcheck().is_disturbed
    for change in ({"load_average": 0.6}, {"other_cores": 0.6}, {"other_processes": 1}):
        assert replace(a_selfcheck(), **change).is_disturbed
