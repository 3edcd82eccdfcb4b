"""Energy, power, clocks and neighbours of one GPU, by NVML.

Energy comes from the board's own counter, which is refreshed only every few tens of milliseconds: a difference over a
short region is mostly the luck of where the refresh fell. So a region under `MIN_REGION_S` claims no energy, and
`repeat_for_energy` measures generations many at a time, from one refresh to another. Without NVML the same meter
answers None to everything, and callers never branch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from dlmbench.measure.clock import Clock
from dlmbench.types import EnergyPass

MIN_REGION_S = 0.5
ENERGY_PASS_S = 1.0
_REFRESH_S = 0.25  # longer than any counter known takes to be refreshed
_SETTLE_S = 0.5  # what the counter still owes for work that has just ended, and the board's way down from it

# Bits of NVML's clocks-event reasons that hold the clock below what was asked for. Left out: idle (0x1), the
# user's own application clocks (0x2) and the display (0x100), which are no sign of trouble.
_THROTTLE_BITS = {
    0x04: "power_cap",
    0x08: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
}

T = TypeVar("T")


@dataclass(frozen=True)
class GpuReading:
    """The GPU over one region; energy_j is None where the region was too short or nothing counts."""

    energy_j: float | None = None
    power_w: float | None = None
    sm_clock_mhz: int | None = None
    temperature_c: int | None = None
    throttle: str | None = None
    other_processes: int | None = None


class GpuMeter:
    """One GPU as NVML sees it; `GpuMeter()` is the null variant that knows nothing."""

    def __init__(self, nvml: Any = None, handle: Any = None) -> None:
        self._nvml = nvml
        self._handle = handle

    @classmethod
    def of_device(cls, device_type: str) -> GpuMeter:
        """The meter of torch's current CUDA device, or the null variant without NVIDIA's library or such a device.

        Matched by UUID, then by PCI address: NVML's numbering ignores CUDA_VISIBLE_DEVICES, so equal indices may be
        different boards.
        """
        if device_type != "cuda":
            return cls()
        import pynvml
        import torch

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return cls()
        if not torch.cuda.is_available():
            return cls()
        properties: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
        uuid, bus = str(getattr(properties, "uuid", "")), getattr(properties, "pci_bus_id", None)
        if uuid:
            name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
            try:
                return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(name))
            except pynvml.NVMLError:
                pass  # a slice of a GPU has an id of its own; its board still has an address
        if bus is not None:
            address = f"{properties.pci_domain_id:08x}:{bus:02x}:{properties.pci_device_id:02x}.0"
            try:
                return cls(pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(address))
            except pynvml.NVMLError:
                return cls()
        return cls()

    def ask(self, question: Callable[[Any, Any], T]) -> T | None:
        """The answer, or None where there is no GPU or this board does not support the question."""
        if self._handle is None:
            return None
        try:
            return question(self._nvml, self._handle)
        except self._nvml.NVMLError:
            return None

    def _counter_j(self) -> float | None:
        return self.ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)) / 1000.0)

    def refreshed_j(self) -> float | None:
        """Joules on the counter right after a refresh, so that none of the work before is still owed."""
        seen_j, until_s = self._counter_j(), time.perf_counter() + _REFRESH_S
        now_j = seen_j
        while now_j is not None and now_j == seen_j and time.perf_counter() < until_s:
            time.sleep(0.001)
            now_j = self._counter_j()
        return now_j

    @property
    def counts_energy(self) -> bool:
        """Whether this GPU has an energy counter (NVIDIA since Volta)."""
        return self._counter_j() is not None

    def start(self) -> float | None:
        """Joules on the counter at the start of a region; hand them to `stop`."""
        return self._counter_j()

    def stop(self, started_j: float | None, region_s: float) -> GpuReading:
        """The GPU over a region of `region_s` seconds that has just ended. power_w is the board's own last average."""
        ended_j = self._counter_j()
        energy_j = None
        if started_j is not None and ended_j is not None and region_s >= MIN_REGION_S:
            energy_j = ended_j - started_j
        return GpuReading(
            energy_j=energy_j,
            power_w=self.ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetPowerUsage(gpu)) / 1000.0),
            sm_clock_mhz=self.ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM))),
            temperature_c=self.ask(
                lambda nvml, gpu: int(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))
            ),
            throttle=self.throttle(),
            other_processes=self.other_processes(),
        )

    def throttle(self) -> str | None:
        """What holds the SM clock back now, joined by +; "" when nothing does."""
        bits = self.ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)))
        if bits is None:
            return None
        return "+".join(name for bit, name in _THROTTLE_BITS.items() if bits & bit)

    def power_cap_w(self) -> float | None:
        """The limit the board enforces."""
        return self.ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetEnforcedPowerLimit(gpu)) / 1000.0)

    def driver(self) -> str | None:
        """The NVIDIA driver's version."""
        return self.ask(lambda nvml, _: str(nvml.nvmlSystemGetDriverVersion()))

    def _processes(self) -> dict[int, int | None] | None:
        """Bytes of device memory by process id."""
        compute = self.ask(lambda nvml, gpu: list(nvml.nvmlDeviceGetComputeRunningProcesses(gpu)))
        if compute is None:
            return None
        graphics = self.ask(lambda nvml, gpu: list(nvml.nvmlDeviceGetGraphicsRunningProcesses(gpu))) or []
        return {int(p.pid): p.usedGpuMemory for p in graphics + compute}

    def process_bytes(self) -> int | None:
        """Device memory of this process: the allocator's share, the context and the libraries' workspaces."""
        return (self._processes() or {}).get(os.getpid())

    def other_processes(self) -> int | None:
        """How many other processes hold this GPU.

        None where this process is not in the driver's list: inside a container process ids may be the host's, and
        then ours cannot be told from a stranger's.
        """
        processes = self._processes()
        if processes is None or os.getpid() not in processes:
            return None
        return len(processes) - 1

    def idle_power_w(self, duration_s: float = 1.0, sleep: Callable[[float], None] = time.sleep) -> float | None:
        """Mean power over `duration_s` of doing nothing: call it with the model loaded and the device synchronized."""
        assert duration_s >= MIN_REGION_S
        if not self.counts_energy:
            return None
        sleep(_SETTLE_S)
        started_j, started_s = self._counter_j(), time.perf_counter()
        sleep(duration_s)
        ended_j, region_s = self._counter_j(), time.perf_counter() - started_s
        return None if started_j is None or ended_j is None else (ended_j - started_j) / max(region_s, duration_s)


def repeat_for_energy(cell_id: str, generate: Callable[[], object], clock: Clock, meter: GpuMeter) -> EnergyPass | None:
    """Energy of one generation, from as many in a row as fill `ENERGY_PASS_S`; None where nothing counts energy.

    Both readings wait for a refresh. At the end that adds what the idle device takes until then: at most a tenth of a
    second of idle power.
    """
    clock.synchronize()
    started_j = meter.refreshed_j()
    if started_j is None:
        return None
    started_s, region_s, repetitions = clock.wall(), 0.0, 0
    while region_s < ENERGY_PASS_S:
        generate()
        clock.synchronize()
        repetitions += 1
        region_s = clock.wall() - started_s
    ended_j = meter.refreshed_j()
    if ended_j is None:
        return None
    return EnergyPass(cell_id, os.getpid(), repetitions, region_s, (ended_j - started_j) / repetitions)
