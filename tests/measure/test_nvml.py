"""The GPU meter against a fake NVML, and on a real GPU where there is one."""

import os
from types import SimpleNamespace

import pytest
import torch

from dlmbench.measure import environment
from dlmbench.measure.clock import clock_for
from dlmbench.measure.nvml import GpuMeter, measure_energy
from support.fake_clock import FakeClock


class FakeNvml:
    """A GPU whose counter returns preset millijoules; everything else raises NVMLError, as on an old board."""

    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, millijoules=(), pids=(), reasons=0):
        self._millijoules = iter(millijoules)
        self._pids = pids
        self._reasons = reasons

    def nvmlDeviceGetTotalEnergyConsumption(self, _):
        return next(self._millijoules)

    def nvmlDeviceGetPowerUsage(self, _):
        return 350_500

    def nvmlDeviceGetClockInfo(self, _, kind):
        return {1: 1980}[kind]

    def nvmlDeviceGetTemperature(self, _, __):
        raise self.NVMLError

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _):
        return self._reasons

    def nvmlDeviceGetComputeRunningProcesses(self, _):
        return [SimpleNamespace(pid=pid, usedGpuMemory=7) for pid in self._pids]

    def nvmlDeviceGetGraphicsRunningProcesses(self, _):
        raise self.NVMLError


def test_a_region_too_short_for_the_counter_claims_no_energy():
    meter = GpuMeter(FakeNvml([1000, 9000, 9000, 21_000]), object())
    assert meter.stop(meter.counter_j(), 0.499).energy_j is None
    assert meter.stop(meter.counter_j(), 0.5).energy_j == 12.0


def test_a_reading_keeps_what_the_board_supports_and_leaves_the_rest_unknown():
    meter = GpuMeter(FakeNvml([0], pids=[os.getpid(), 1], reasons=0x1 | 0x4 | 0x40), object())
    reading = meter.stop(None, 9.0)
    assert (reading.power_w, reading.sm_clock_mhz, reading.temperature_c) == (350.5, 1980, None)
    assert (reading.throttle, reading.other_processes, reading.energy_j) == ("power_cap+hw_thermal", 1, None)
    assert meter.process_bytes() == 7


def test_waiting_workers_of_the_same_run_are_not_others(monkeypatch):
    parents = {11: os.getppid(), 12: 1}
    monkeypatch.setattr("psutil.Process", lambda pid: SimpleNamespace(ppid=lambda: parents[pid]))
    assert GpuMeter(FakeNvml([0], pids=[os.getpid(), 11, 12]), object()).other_processes() == 1


def test_other_processes_are_unknown_if_our_own_is_not_in_the_list():
    assert GpuMeter(FakeNvml(pids=[123456789]), object()).other_processes() is None


def test_short_generations_are_repeated_until_the_region_is_long_enough():
    # Readings of the wall: start, then after each of three generations. The counter is read until it is refreshed.
    clock, ran = FakeClock([0.0, 0.4, 0.8, 1.2]), []
    counter = FakeNvml([400, 400, 1000, 9000, 9000, 9000, 10_000])
    energy = measure_energy("c", 1, lambda: ran.append(1), clock, GpuMeter(counter, object()))
    assert (energy.repetitions, energy.region_s, energy.energy_j) == (3, 1.2, 9.0)
    assert len(ran) == 3
    assert measure_energy("c", 1, lambda: ran.append(1), FakeClock([]), GpuMeter()) is None
    assert len(ran) == 3


def test_idle_power_is_the_counter_over_the_sleep():
    meter = GpuMeter(FakeNvml([0, 0, 80_000]), object())
    assert meter.idle_power_w(1.0, sleep=lambda _: None) == 80.0
    assert GpuMeter().idle_power_w(1.0) is None


def test_the_null_meter_answers_none_to_everything():
    meter = GpuMeter.of_device("cpu")
    assert set(vars(meter.stop(meter.counter_j(), 10.0)).values()) == {None}
    assert not meter.counts_energy
    assert (meter.driver(), meter.power_cap_w(), meter.process_bytes()) == (None, None, None)


@pytest.mark.gpu
def test_the_meter_finds_torchs_own_board_and_counts_its_energy():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    meter = GpuMeter.of_device("cuda")
    if not meter.counts_energy:
        pytest.skip("this GPU has no energy counter")
    idle_w = meter.idle_power_w()
    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    energy = measure_energy("c", 1, lambda: x @ x, clock_for("cuda"), meter)
    assert energy.region_s >= 0.5
    assert energy.energy_j / energy.region_s > 1.2 * idle_w > 0
    assert environment.fingerprint("cuda").power_cap_w > idle_w
