import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from dlmbench.errors import BenchError
from dlmbench.measure import environment
from dlmbench.measure.clock import FakeClock
from dlmbench.measure.energy import GpuMeter, repeat_for_energy
from dlmbench.types import Environment


class FakeNvml:
    """A GPU whose counter gives out invented millijoules; what is not set raises NVMLError, as on an old board."""

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
    assert meter.stop(meter.start(), 0.499).energy_j is None
    assert meter.stop(meter.start(), 0.5).energy_j == 12.0


def test_a_reading_keeps_what_the_board_supports_and_leaves_the_rest_unknown():
    meter = GpuMeter(FakeNvml([0], pids=[os.getpid(), 1], reasons=0x1 | 0x4 | 0x40), object())
    reading = meter.stop(None, 9.0)
    assert (reading.power_w, reading.sm_clock_mhz, reading.temperature_c) == (350.5, 1980, None)
    assert (reading.throttle, reading.other_processes, reading.energy_j) == ("power_cap+hw_thermal", 1, None)
    assert meter.process_bytes() == 7


def test_strangers_cannot_be_counted_where_process_ids_are_the_hosts():
    assert GpuMeter(FakeNvml(pids=[123456789]), object()).other_processes() is None


def test_short_generations_are_repeated_until_the_region_is_long_enough():
    # Readings of the wall: start, then after each of three generations. The counter is read until it is refreshed.
    clock, ran = FakeClock([0.0, 0.4, 0.8, 1.2]), []
    counter = FakeNvml([400, 400, 1000, 9000, 9000, 9000, 10_000])
    energy = repeat_for_energy("c", lambda: ran.append(1), clock, GpuMeter(counter, object()))
    assert (energy.repetitions, energy.region_s, energy.energy_j) == (3, 1.2, 3.0)
    assert len(ran) == 3
    assert repeat_for_energy("c", lambda: ran.append(1), FakeClock([]), GpuMeter()) is None
    assert len(ran) == 3


def test_idle_power_is_the_counter_over_the_sleep():
    meter = GpuMeter(FakeNvml([0, 0, 80_000]), object())
    assert meter.idle_power_w(1.0, sleep=lambda _: None) == 80.0
    assert GpuMeter().idle_power_w(1.0) is None


def test_the_null_meter_answers_none_to_everything():
    meter = GpuMeter.of_device("cpu")
    assert set(vars(meter.stop(meter.start(), 10.0)).values()) == {None}
    assert not meter.counts_energy
    assert (meter.driver(), meter.power_cap_w(), meter.process_bytes()) == (None, None, None)


def test_the_fingerprint_of_a_cpu_tells_processors_and_thread_counts_apart():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = environment.fingerprint("cpu")
        torch.set_num_threads(2)
        two = environment.fingerprint("cpu")
    finally:
        torch.set_num_threads(before)
    assert (one.cpu_threads, two.cpu_threads) == (1, 2)
    assert one.id != two.id
    assert one.cpu in one.device
    assert one.torch == torch.__version__
    assert (one.driver, one.cuda, one.power_cap_w) == (None, None, None)
    assert one.memory_bytes > 2**28
    assert os.uname().nodename not in vars(one).values()


def test_the_comparable_fields_exist():
    assert set(Environment.COMPARABLE) <= set(Environment.__dataclass_fields__)


def test_a_commit_is_claimed_only_for_a_checkout_of_our_own(monkeypatch, tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, env=clean)

    ours, foreign = tmp_path / "src" / "dlmbench", tmp_path / ".venv" / "lib" / "dlmbench"
    for package in (ours, foreign):
        package.mkdir(parents=True)
    (ours / "a.py").write_text("1\n")
    git("init")
    monkeypatch.setattr(environment, "_PACKAGE", ours)
    assert environment.git_commit() is None
    git("add", "src")
    git("commit", "-m", "first")
    commit = environment.git_commit()
    assert len(commit) == 40
    (ours / "a.py").write_text("2\n")
    assert environment.git_commit() == f"{commit}-dirty"
    monkeypatch.setattr(environment, "_PACKAGE", foreign)
    assert environment.git_commit() is None


def test_measuring_imports_no_torch_until_it_measures():
    code = (
        "import sys, dlmbench.measure.protocol, dlmbench.measure.memory;"
        "import dlmbench.measure.environment, dlmbench.results;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_a_missing_gpu_is_an_error_the_user_can_mend():
    with pytest.raises(BenchError, match="no CUDA device"):
        environment.fingerprint("cuda")


@pytest.mark.gpu
def test_the_meter_finds_torchs_own_board_and_counts_its_energy():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    meter = GpuMeter.of_device("cuda")
    if not meter.counts_energy:
        pytest.skip("this GPU has no energy counter")
    idle_w = meter.idle_power_w()
    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    from dlmbench.measure.clock import clock_for

    energy = repeat_for_energy("c", lambda: x @ x, clock_for("cuda"), meter)
    assert energy.region_s >= 0.5
    assert energy.energy_j * energy.repetitions / energy.region_s > 1.2 * idle_w > 0
    assert environment.fingerprint("cuda").power_cap_w > idle_w
