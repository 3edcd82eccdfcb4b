"""What this machine is, and whether a study may start on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Examined:
    """One thing looked at: ok, warning or error, with what was seen and what to do."""

    state: Literal["ok", "warning", "error"]
    subject: str
    text: str


def examine() -> Iterator[Examined]:
    """Look at versions, device, GPU counters, memory and disk."""
    import psutil
    import torch

    from dlmbench.measure.energy import GpuMeter

    for package in ("dlmbench", "torch", "transformers"):
        yield Examined("ok", package, version(package))
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        kind = "ROCm" if torch.version.hip else "CUDA"
        yield Examined("ok", "device", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {kind}")
        meter = GpuMeter.of_device("cuda")
        others = meter.other_processes()
        if others:
            yield Examined(
                "warning", "GPU", f"{others} other processes run on it: end them, or the times are theirs too"
            )
        if not meter.counts_energy:
            yield Examined("warning", "energy", "the GPU's energy counter cannot be read: joules will be unknown")
    else:
        yield Examined("warning", "device", "no GPU: the 8B models are out of reach here, the embedded pair is not")
    memory = psutil.virtual_memory()
    yield Examined("ok", "memory", f"{memory.available / 2**30:.1f} GiB of {memory.total / 2**30:.1f} GiB available")
    free = shutil.disk_usage(Path.cwd()).free
    state: Literal["ok", "warning"] = "ok" if free > 2**30 else "warning"
    yield Examined(state, "disk", f"{free / 2**30:.1f} GiB free here")
