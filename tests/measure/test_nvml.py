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

    def nvmlDeviceGetUUID(self, _):
        return b"GPU-1"

    def nvmlDeviceGetTemperature(self, _, __):
        raise self.NVMLError

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _):
        return self._reasons

    def nvmlDeviceGetComputeRunningProcesses(self, _):
        return [SimpleNamespace(pid=pid, usedGpuMemory=7) for pid in self._pids]

    def nvmlDeviceGetGraphicsRunningProcesses(self, _):
        raise self.NVMLError


def test_a_reading_keeps_what_the_board_supports_and_leaves_the_rest_unknown():
    meter = GpuMeter(FakeNvml([0], pids=[os.getpid(), 1], reasons=0x1 | 0x4 | 0x40), object())
    reading = meter.read()
    assert (reading.power_w, reading.sm_clock_mhz, reading.temperature_c) == (350.5, 1980, None)
    assert (reading.throttle, reading.other_processes) == ("power_cap+hw_thermal", 1)
    assert reading.device_uuid == "GPU-1"
    assert meter.process_bytes() == 7


def test_waiting_workers_of_the_same_run_are_not_others(monkeypatch):
    parents = {11: os.getppid(), 12: 1}
    monkeypatch.setattr("psutil.Process", lambda pid: SimpleNamespace(ppid=lambda: parents[pid]))
    assert GpuMeter(FakeNvml([0], pids=[os.getpid(), 11, 12]), object()).other_processes() == 1


def test_other_processes_are_unknown_if_our_own_is_not_in_the_list():
    assert GpuMeter(FakeNvml(pids=[123456789]), object()).other_processes() is None


class Board(FakeNvml):
    """A board of `watts` whose counter is refreshed every `refresh_s` of a clock that only work and sleep move."""

    def __init__(self, watts, refresh_s):
        super().__init__()
        self.watts, self.refresh_s, self.now_s = watts, refresh_s, 0.0

    def sleep(self, seconds):
        self.now_s += seconds

    def nvmlDeviceGetTotalEnergyConsumption(self, _):
        refreshed_s = int(self.now_s / self.refresh_s + 1e-9) * self.refresh_s
        return round(1000 * self.watts * refreshed_s)


class BoardClock(FakeClock):
    def __init__(self, board):
        super().__init__([])
        self.board = board

    def wall(self):
        return self.board.now_s


@pytest.fixture
def board(monkeypatch):
    made = Board(watts=400.0, refresh_s=0.1)
    monkeypatch.setattr("time.sleep", made.sleep)
    monkeypatch.setattr("time.perf_counter", lambda: made.now_s)
    return made


@pytest.mark.parametrize(
    ("refresh_s", "generation_s", "repetitions"),
    # 3 s; 30 refreshes of 0.2 s; one generation that is longer than both.
    [(0.1, 0.04, 75), (0.2, 0.04, 150), (0.1, 7.0, 1)],
)
def test_a_window_has_three_seconds_and_thirty_refreshes_and_waits_for_its_last_one(
    board, refresh_s, generation_s, repetitions
):
    board.refresh_s = refresh_s
    board.sleep(0.0123)  # somewhere between two refreshes
    window = measure_energy("c", 1, lambda: board.sleep(generation_s), BoardClock(board), GpuMeter(board, object()))
    assert abs(window.repetitions - repetitions) <= 1
    assert window.region_s >= max(3.0, 30 * refresh_s, generation_s)
    assert abs(window.refreshes - window.region_s / refresh_s) <= 1
    assert window.refreshes >= 30
    # Whole refreshes: joules and seconds are of the same stretch, so their quotient is the board's power.
    assert window.energy_j / window.region_s == pytest.approx(400.0, rel=0.001 / refresh_s / 10)


def test_a_single_region_would_have_missed_by_a_whole_refresh(board):
    """What the windows replace: the counter's difference over half a second, whatever the refreshes did."""
    board.sleep(0.099)
    meter = GpuMeter(board, object())
    began, before = board.now_s, meter.counter_j()
    board.sleep(0.502)
    assert abs((meter.counter_j() - before) / (board.now_s - began) / 400.0 - 1) > 0.15


def test_without_a_counter_there_is_no_window_and_nothing_runs():
    ran = []
    assert measure_energy("c", 1, lambda: ran.append(1), FakeClock([]), GpuMeter()) is None
    assert ran == []


def test_idle_power_is_the_counter_over_whole_refreshes(board):
    assert GpuMeter(board, object()).idle_power_w(sleep=board.sleep) == pytest.approx(400.0, rel=0.002)
    assert board.now_s < 1.5
    assert GpuMeter().idle_power_w(1.0) is None


def test_the_null_meter_answers_none_to_everything():
    meter = GpuMeter.of_device("cpu")
    assert set(vars(meter.read()).values()) == {None}
    assert not meter.counts_energy
    assert (meter.driver(), meter.power_cap_w(), meter.process_bytes()) == (None, None, None)


def test_a_counter_that_stops_answering_gives_no_window(board):
    meter = GpuMeter(board, object())

    def work():
        board.sleep(1.0)
        if board.now_s > 3.0:
            meter._handle = None

    assert measure_energy("c", 1, work, BoardClock(board), meter) is None


@pytest.fixture
def driver(monkeypatch):
    """Two boards as the driver knows them, and a function that sets what torch says of its current device."""
    pynvml = pytest.importorskip("pynvml")

    def finds(handles):
        def find(name):
            if name not in handles:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
            return handles[name]

        return find

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: handle)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", finds({"GPU-aa": "board a"}))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByPciBusId", finds({"00000000:3b:00.0": "board b"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    def torch_sees(**properties):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(**properties))

    torch_sees(uuid="aa")
    return torch_sees


BUS = {"pci_domain_id": 0, "pci_bus_id": 0x3B, "pci_device_id": 0}


@pytest.mark.parametrize(
    ("properties", "board"),
    [
        ({"uuid": "aa", **BUS}, "board a"),
        ({"uuid": "GPU-aa"}, "board a"),
        ({"uuid": "MIG-cc", **BUS}, "board b"),
        (BUS, "board b"),
        ({"uuid": "zz"}, None),
        ({}, None),
    ],
)
def test_the_board_of_torchs_device_is_found_by_uuid_then_by_address(driver, properties, board):
    driver(**properties)
    assert GpuMeter.of_device("cuda").uuid() == board


def test_without_a_driver_or_a_device_there_is_no_board(driver, monkeypatch):
    import pynvml

    assert GpuMeter.of_device("cuda").uuid() == "board a"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert GpuMeter.of_device("cuda").uuid() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def fails():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fails)
    assert GpuMeter.of_device("cuda").uuid() is None


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
    assert energy.region_s >= 3
    assert energy.refreshes >= 30
    assert energy.energy_j / energy.region_s > 1.2 * idle_w > 0
    assert environment.fingerprint("cuda").power_cap_w > idle_w
