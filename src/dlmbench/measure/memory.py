"""Peak memory of one generation, apart from the timed ones, and the memory of the host.

Not of a timed one, because allocators keep the memory of earlier, larger cells: all cached memory is released first,
the peak is reset, and one generation runs.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dlmbench.measure.nvml import GpuMeter
from dlmbench.types import MemoryPass

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class HostMemory:
    """The host's memory in bytes, as far as this process may use it: a container or a job may get less than all."""

    total: int
    available: int


def host_memory() -> HostMemory:
    """The machine's memory, or less where a cgroup (version 1 or 2) limits it."""
    import psutil

    machine = psutil.virtual_memory()
    limits = list(_cgroup_limits())
    return HostMemory(
        total=min([int(machine.total), *(limit for limit, _ in limits)]),
        available=max(0, min([int(machine.available), *(limit - used for limit, used in limits)])),
    )


def _cgroup_limits() -> Iterator[tuple[int, int]]:
    """(limit, bytes in use that cannot be reclaimed) of this process's cgroup and of those around it."""
    try:
        lines = _OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = _CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = root / path.strip("/")
        # In a container the path may be the host's; its own limit is then at the root.
        for folder in dict.fromkeys((own, *(p for p in own.parents if p.is_relative_to(root)))):
            try:
                limit, used = (int((folder / name).read_text(encoding="ascii")) for name in names[:2])
            except (OSError, ValueError):  # no such file, or "max"
                continue
            yield limit, used - _cache_bytes(folder / "memory.stat", names[2])


def _cache_bytes(path: Path, name: str) -> int:
    """The entry `name` of a memory.stat: file cache that the kernel drops on demand."""
    try:
        entries = dict(line.split() for line in path.read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return 0
    return int(entries.get(name, 0))


def reset_peak_resident() -> bool:
    """Reset the kernel's record of this process's peak resident size; False where that is impossible (not Linux)."""
    try:
        # "5" resets VmHWM to the current resident size: proc(5), since Linux 4.0.
        _CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_resident_bytes() -> int | None:
    """The peak resident size of this process (VmHWM); None where the kernel does not report it."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _release_spare_host_memory() -> None:
    """Return freed heap pages to the kernel, as `empty_cache` does on a GPU; glibc only, harmless elsewhere."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


def measure_memory(cell_id: str, process_id: int, generate: Callable[[], object], device_type: str) -> MemoryPass:
    """Peak memory of one call of `generate`.

    On CUDA: peak bytes allocated and reserved by torch's allocator, and the process's device memory from NVML right
    afterwards, while the allocator still holds its peak. On every device, where the kernel can reset
    it: the host's peak resident size, weights included.
    The caller must drop caches and captured graphs of other cells first.
    """
    import torch

    on_cuda = device_type == "cuda"
    _release_spare_host_memory()
    if on_cuda:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    was_reset = reset_peak_resident()
    generate()
    if on_cuda:
        torch.cuda.synchronize()
    return MemoryPass(
        cell_id=cell_id,
        process_id=process_id,
        source="cuda" if on_cuda else "rss",
        peak_allocated_bytes=torch.cuda.max_memory_allocated() if on_cuda else None,
        peak_reserved_bytes=torch.cuda.max_memory_reserved() if on_cuda else None,
        device_bytes=GpuMeter.of_device(device_type).process_bytes(),
        peak_process_bytes=peak_resident_bytes() if was_reset else None,
    )
