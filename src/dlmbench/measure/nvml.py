"""One GPU as NVML sees it: energy, power, clocks, other processes, and its settings.

The board's energy counter is refreshed only every few tens of milliseconds, so over a short region its difference
depends mostly on when the refreshes happened. `measure_energy` therefore repeats a generation for at least
`WINDOW_S` and `WINDOW_REFRESHES`, from one refresh to another: an error of one refresh is then 3% at most.
Without NVML every value is None and `counts_energy` is False, so callers need no special case.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dlmbench.measure.clock import Clock
from dlmbench.types import EnergyWindow

WINDOW_S = 3.0
WINDOW_REFRESHES = 30
_REFRESH_S = 0.25  # longer than the refresh interval of any known counter
_REFRESHES_TIMED = 8
_SETTLE_S = 0.5  # until the counter includes all earlier work and the board's power has dropped to idle

# Bits of NVML's clocks-event reasons that hold the clock below the requested one. Not listed because they are normal:
# idle (0x1), the user's own application clocks (0x2) and the display (0x100).
_THROTTLE_BITS = {
    0x04: "power_cap",
    0x08: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
}
# NVML's own numbers: NVML_CLOCK_SM, NVML_TEMPERATURE_GPU, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC.
_CLOCK_SM, _TEMPERATURE_GPU, _UNCORRECTED, _SINCE_DRIVER_LOAD = 1, 0, 1, 0
_COMPUTE_MODES = ("default", "exclusive_thread", "prohibited", "exclusive_process")


@dataclass(frozen=True)
class GpuReading:
    """The GPU at one moment. power_w: the board's latest average."""

    power_w: float | None = None
    sm_clock_mhz: int | None = None
    temperature_c: int | None = None
    throttle: str | None = None
    other_processes: int | None = None
    device_uuid: str | None = None


def _is_sibling(pid: int) -> bool:
    """Whether this process, or one with the same parent, has the id `pid`."""
    import psutil

    try:
        return pid == os.getpid() or psutil.Process(pid).ppid() == os.getppid()
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class GpuCondition:
    """Settings and health of one GPU; None where NVML does not report a value.

    is_persistent: the driver stays loaded between programs. ecc_errors: uncorrected errors since the driver was loaded.
    compute_mode: default | exclusive_thread | prohibited | exclusive_process. is_divided: MIG is on.
    """

    is_persistent: bool | None
    has_ecc: bool | None
    ecc_errors: int | None
    sm_clock_mhz: int | None
    max_sm_clock_mhz: int | None
    throttle: str | None
    compute_mode: str | None
    is_divided: bool | None
    power_cap_w: float | None
    default_power_cap_w: float | None
    other_processes: int | None
    counts_energy: bool


class GpuMeter:
    """One GPU, queried through NVML; `GpuMeter()` has no GPU: every value is None."""

    def __init__(self, nvml: Any = None, handle: Any = None) -> None:
        self._nvml = nvml
        self._handle = handle
        self._refresh_s: float | None = None

    @classmethod
    def of_device(cls, device_type: str) -> GpuMeter:
        """The meter of torch's current CUDA device; `GpuMeter()` without NVML or such a device.

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
        lookups = []
        if uuid:
            name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
            lookups.append((pynvml.nvmlDeviceGetHandleByUUID, name))
        if bus is not None:
            # A MIG slice has its own UUID; its board still has a PCI address.
            address = f"{properties.pci_domain_id:08x}:{bus:02x}:{properties.pci_device_id:02x}.0"
            lookups.append((pynvml.nvmlDeviceGetHandleByPciBusId, address))
        for find, name in lookups:
            with contextlib.suppress(pynvml.NVMLError):
                return cls(pynvml, find(name))
        return cls()

    def _get(self, what: str, *arguments: int) -> Any:
        """What `nvmlDeviceGet<what>` answers; None without a GPU or where this board does not support the query."""
        if self._handle is None:
            return None
        try:
            return getattr(self._nvml, f"nvmlDeviceGet{what}")(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None

    def _thousandth(self, what: str) -> float | None:
        """Watts or joules where NVML counts milliwatts or millijoules."""
        value = self._get(what)
        return None if value is None else int(value) / 1000.0

    def counter_j(self) -> float | None:
        """Joules on the energy counter."""
        return self._thousandth("TotalEnergyConsumption")

    def refreshed_j(self) -> float | None:
        """Joules on the counter right after a refresh, which includes all earlier work, or after 0.25 s without one."""
        seen_j, until_s = self.counter_j(), time.perf_counter() + _REFRESH_S
        now_j = seen_j
        while now_j is not None and now_j == seen_j and time.perf_counter() < until_s:
            time.sleep(0.001)
            now_j = self.counter_j()
        return now_j

    @property
    def counts_energy(self) -> bool:
        """Whether this GPU has an energy counter (NVIDIA since Volta)."""
        return self.counter_j() is not None

    def refresh_s(self) -> float | None:
        """Seconds between two refreshes of the counter, measured once over eight of them; None without a counter."""
        if self._refresh_s is None and self.refreshed_j() is not None:
            began = time.perf_counter()
            for _ in range(_REFRESHES_TIMED):
                self.refreshed_j()
            self._refresh_s = (time.perf_counter() - began) / _REFRESHES_TIMED
        return self._refresh_s

    def read(self) -> GpuReading:
        """The GPU now."""
        return GpuReading(
            power_w=self._thousandth("PowerUsage"),
            sm_clock_mhz=self._get("ClockInfo", _CLOCK_SM),
            temperature_c=self._get("Temperature", _TEMPERATURE_GPU),
            throttle=self._throttle(),
            other_processes=self.other_processes(),
            device_uuid=self.uuid(),
        )

    def uuid(self) -> str | None:
        """The GPU's UUID, the same in every program."""
        uuid = self._get("UUID")
        return uuid.decode() if isinstance(uuid, bytes) else uuid

    def _throttle(self) -> str | None:
        """What limits the SM clock now, joined by +; "" when nothing does."""
        bits = self._get("CurrentClocksThrottleReasons")
        return None if bits is None else "+".join(name for bit, name in _THROTTLE_BITS.items() if bits & bit)

    def power_cap_w(self) -> float | None:
        """The power limit that the board enforces."""
        return self._thousandth("EnforcedPowerLimit")

    def driver(self) -> str | None:
        """The NVIDIA driver's version."""
        return None if self._handle is None else str(self._nvml.nvmlSystemGetDriverVersion())

    def condition(self) -> GpuCondition:
        """Settings and health of the GPU now."""
        mode, persistence = self._get("ComputeMode"), self._get("PersistenceMode")
        ecc, mig = self._get("EccMode"), self._get("MigMode")
        return GpuCondition(
            is_persistent=None if persistence is None else bool(persistence),
            has_ecc=None if ecc is None else bool(ecc[0]),
            ecc_errors=self._get("TotalEccErrors", _UNCORRECTED, _SINCE_DRIVER_LOAD),
            sm_clock_mhz=self._get("ClockInfo", _CLOCK_SM),
            max_sm_clock_mhz=self._get("MaxClockInfo", _CLOCK_SM),
            throttle=self._throttle(),
            compute_mode=_COMPUTE_MODES[mode] if mode is not None and mode < len(_COMPUTE_MODES) else None,
            is_divided=None if mig is None else bool(mig[0]),
            power_cap_w=self.power_cap_w(),
            default_power_cap_w=self._thousandth("PowerManagementDefaultLimit"),
            other_processes=self.other_processes(),
            counts_energy=self.counts_energy,
        )

    def _processes(self) -> dict[int, int | None] | None:
        """Bytes of device memory by process id."""
        compute = self._get("ComputeRunningProcesses")
        if compute is None:
            return None
        graphics = self._get("GraphicsRunningProcesses") or []
        return {int(p.pid): p.usedGpuMemory for p in [*graphics, *compute]}

    def process_bytes(self) -> int | None:
        """Device memory of this process: the allocator's share, the context and the libraries' workspaces."""
        return (self._processes() or {}).get(os.getpid())

    def other_processes(self) -> int | None:
        """How many processes of others use this GPU; the run's other workers, which wait, are not counted.

        None if this process is not in the driver's list: inside a container the listed ids may be the host's, and
        then our own process cannot be told apart from others.
        """
        processes = self._processes()
        if processes is None or os.getpid() not in processes:
            return None
        return sum(not _is_sibling(pid) for pid in processes)

    def idle_power_w(self, duration_s: float = 0.5, sleep: Callable[[float], None] = time.sleep) -> float | None:
        """Mean power over `duration_s` idle seconds, from one refresh of the counter to another.

        Call it with the model loaded and the device synchronized.
        """
        if not self.counts_energy:
            return None
        sleep(_SETTLE_S)
        started_j, started_s = self.refreshed_j(), time.perf_counter()
        sleep(duration_s)
        ended_j, region_s = self.refreshed_j(), time.perf_counter() - started_s
        return None if started_j is None or ended_j is None else (ended_j - started_j) / max(region_s, duration_s)


def measure_energy(
    cell_id: str, process_id: int, generate: Callable[[], object], clock: Clock, meter: GpuMeter
) -> EnergyWindow | None:
    """Energy of as many generations in a row as fill a window; None without an energy counter.

    The window lasts from one refresh of the counter to another, at least `WINDOW_S` and `WINDOW_REFRESHES`; a longer
    generation is a window by itself. The wait for the last refresh, at most 0.25 s of idle power, is part of it.
    """
    refresh_s = meter.refresh_s()
    clock.synchronize()
    started_j = meter.refreshed_j()
    if refresh_s is None or started_j is None:
        return None
    started_s, region_s, repetitions = clock.wall(), 0.0, 0
    while region_s < max(WINDOW_S, WINDOW_REFRESHES * refresh_s):
        generate()
        clock.synchronize()
        repetitions += 1
        region_s = clock.wall() - started_s
    ended_j = meter.refreshed_j()
    region_s = clock.wall() - started_s
    if ended_j is None:
        return None
    refreshes = round(region_s / refresh_s)
    return EnergyWindow(cell_id, process_id, repetitions, region_s, ended_j - started_j, refreshes)


def driver_gpu_count() -> int:
    """How many GPUs NVIDIA's driver has, whether or not torch sees them."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0
