"""The state a GPU is in before a study: what an administrator can set, and what would spoil the times."""

from __future__ import annotations

from dataclasses import dataclass

from dlmbench.measure.energy import GpuMeter


@dataclass(frozen=True)
class GpuCondition:
    """What NVML says of one GPU; None where it cannot say.

    is_persistent: the driver stays loaded between programs. ecc_errors: uncorrected ones since the driver was loaded.
    compute_mode: default | exclusive_thread | prohibited | exclusive_process.
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


_COMPUTE_MODES = ("default", "exclusive_thread", "prohibited", "exclusive_process")


def condition_of(meter: GpuMeter) -> GpuCondition:
    """The condition of the meter's GPU."""
    ask = meter.ask
    mode = ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetComputeMode(gpu)))
    persistent = ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetPersistenceMode(gpu)))
    ecc = ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetEccMode(gpu)[0]))
    divided = ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetMigMode(gpu)[0]))
    return GpuCondition(
        is_persistent=None if persistent is None else bool(persistent),
        has_ecc=None if ecc is None else bool(ecc),
        ecc_errors=ask(
            lambda nvml, gpu: int(
                nvml.nvmlDeviceGetTotalEccErrors(gpu, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
            )
        ),
        sm_clock_mhz=ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM))),
        max_sm_clock_mhz=ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM))),
        throttle=meter.throttle(),
        compute_mode=_COMPUTE_MODES[mode] if mode is not None and mode < len(_COMPUTE_MODES) else None,
        is_divided=None if divided is None else bool(divided),
        power_cap_w=meter.power_cap_w(),
        default_power_cap_w=ask(lambda nvml, gpu: int(nvml.nvmlDeviceGetPowerManagementDefaultLimit(gpu)) / 1000.0),
        other_processes=meter.other_processes(),
        counts_energy=meter.counts_energy,
    )


def devices_seen_by_the_driver() -> int:
    """How many GPUs NVIDIA's driver has, whatever torch makes of them."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0
