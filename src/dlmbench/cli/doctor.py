"""What this machine is, and whether a study may start on it.

An error stands in the way of a study; a warning spoils its times, or its comfort, and comes with what to do about it.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dlmbench.errors import BenchError
from dlmbench.slurm import scheduler

if TYPE_CHECKING:
    from dlmbench.measure.nvml import GpuCondition
    from dlmbench.types import Experiment

State = Literal["ok", "warning", "error"]
_GIB = 2**30
_LEAST_FREE = 100 * 2**20
_FREE = _GIB
# Two models of 8e9 parameters in bfloat16 take 32 GB.
_PAIR_BYTES = 34e9
_CLOCK_SHARE = 0.5


@dataclass(frozen=True)
class Examined:
    """One thing looked at: ok, warning or error, what was seen, and what to do where it is not ok."""

    state: State
    subject: str
    text: str
    remedy: str = ""

    @property
    def line(self) -> str:
        """In one line."""
        return f"{self.state:<8} {self.subject}: {self.text}" + (f". {self.remedy}" if self.remedy else "")


def examine(experiment: Experiment | None = None) -> Iterator[Examined]:
    """Look at everything a study rests on; with an experiment also at its models and data."""
    yield from _versions()
    yield from _device()
    yield from _machine()
    yield from _disk()
    yield from _caches()
    yield from _cluster()
    if experiment is not None:
        yield from _assets(experiment)


# ---------------------------------------------------------------- versions


def _versions() -> Iterator[Examined]:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    python, system = platform.python_version(), platform.platform()
    try:
        own = metadata.metadata("dlmbench")["Requires-Python"]
    except metadata.PackageNotFoundError:
        text = f"python {python}; dlmbench runs from its source and is not installed, so its requirements are not known"
        yield Examined("error", "packages", text, "Install it: make setup, or pip install --no-deps -e .")
        return
    if own and python not in SpecifierSet(own, prereleases=True):
        yield Examined("error", "python", f"{python} on {system}", f"dlmbench needs {own}")
    else:
        yield Examined("ok", "python", f"{python} on {system}, {sys.executable}")
    wrong, right = [], []
    for text in metadata.requires("dlmbench") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            there = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        right.append(requirement.name)
        if not requirement.specifier.contains(there, prereleases=True):
            wrong.append(f"{requirement.name} {there}, needed {requirement.specifier}")
    if wrong:
        yield Examined("error", "packages", "; ".join(wrong), "Install what requirements.txt pins: make setup")
    named = ", ".join(f"{name} {metadata.version(name)}" for name in ("dlmbench", "torch", "transformers"))
    yield Examined("ok", "packages", f"{named}; {len(right)} requirements looked at")


# ---------------------------------------------------------------- device


def _device() -> Iterator[Examined]:
    import torch

    from dlmbench.measure.nvml import GpuMeter, driver_gpu_count

    if not torch.cuda.is_available():
        seen = driver_gpu_count()
        if seen:
            text = f"the driver has {seen} GPUs, but torch {torch.__version__} (CUDA {torch.version.cuda}) sees none"
            remedy = "Check CUDA_VISIBLE_DEVICES, and install a torch whose CUDA the driver knows"
            yield Examined("error", "device", text, remedy)
        else:
            text = "no GPU: the 8B models are out of reach here, the embedded pair is not"
            yield Examined("warning", "device", text, "On a cluster, look from inside a job: srun --gres=gpu:1 ...")
        return
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    count = torch.cuda.device_count()
    hip = torch.version.hip
    kind = f"ROCm {hip}, {getattr(properties, 'gcnArchName', '?')}" if hip else f"CUDA {torch.version.cuda}"
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    text = f"{properties.name}, {properties.total_memory / _GIB:.0f} GiB, {kind}, capability {capability}"
    yield Examined("ok", "device", f"{text}; {count} visible, the first is used")
    if hip:
        override = os.environ.get("HSA_OVERRIDE_GFX_VERSION")
        yield Examined("ok", "ROCm", f"HSA_OVERRIDE_GFX_VERSION {override or 'not set'}; energy is unknown on AMD")
    try:
        probe = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
        is_right = float((probe @ probe).float().sum()) == 64.0**3
    except RuntimeError as error:
        yield Examined("error", "kernels", str(error).splitlines()[0], "Install a torch that was built for this GPU")
        return
    if not is_right:
        yield Examined("error", "kernels", "a matrix product in bfloat16 is wrong", "Do not measure on this GPU")
    meter = GpuMeter.of_device("cuda")
    driver = meter.driver()
    if driver is None:
        if not hip:
            remedy = "Check that libnvidia-ml is there (in a container: --nv, or --gpus all)"
            yield Examined("warning", "driver", "NVML does not answer: no energy, clocks or neighbours", remedy)
        return
    yield Examined("ok", "driver", f"NVIDIA {driver}, torch built for CUDA {torch.version.cuda}")
    yield from of_condition(meter.condition())


def of_condition(found: GpuCondition) -> Iterator[Examined]:
    """Exclusivity, clocks, persistence, ECC and power of one GPU."""
    if found.other_processes:
        text = f"{found.other_processes} other processes run on the GPU"
        yield Examined("warning", "exclusivity", text, "End them, or ask for the GPU alone: the times are theirs too")
    elif found.other_processes is None:
        text = "whether others use the GPU cannot be told (process ids of a container are not the driver's)"
        yield Examined("ok", "exclusivity", text)
    else:
        yield Examined("ok", "exclusivity", f"no other process on the GPU; compute mode {found.compute_mode}")
    if found.compute_mode == "prohibited":
        yield Examined("error", "compute mode", "prohibited", "An administrator sets it: nvidia-smi -c DEFAULT")
    if found.is_divided:
        text = "MIG is on: a slice is measured, not the GPU of the data sheet"
        yield Examined("warning", "MIG", text, "Ask for a whole GPU")
    if found.sm_clock_mhz is not None:
        text = f"SM at {found.sm_clock_mhz} of {found.max_sm_clock_mhz} MHz"
        if found.throttle:
            remedy = "Check cooling and power; the finding shows in the results as well"
            yield Examined("warning", "clocks", f"{text}, held back by {found.throttle}", remedy)
        else:
            yield Examined("ok", "clocks", f"{text}, nothing holds them back")
    if found.is_persistent is False:
        remedy = "An administrator sets it: nvidia-smi -pm 1; until then the first seconds of each run are slower"
        yield Examined("warning", "persistence", "off: the driver is unloaded between programs", remedy)
    elif found.is_persistent:
        yield Examined("ok", "persistence", "on")
    if found.ecc_errors:
        text = f"{found.ecc_errors} uncorrected errors since the driver was loaded"
        yield Examined("warning", "ECC", text, "Take another node, and tell its administrators")
    elif found.has_ecc is not None:
        yield Examined("ok", "ECC", "on, no uncorrected errors" if found.has_ecc else "off")
    if found.power_cap_w is not None and found.default_power_cap_w is not None:
        text = f"cap {found.power_cap_w:.0f} W"
        if found.power_cap_w < found.default_power_cap_w - 1:
            remedy = "Say so beside the results, or have it reset: nvidia-smi -pl"
            yield Examined("warning", "power", f"{text}, below the default {found.default_power_cap_w:.0f} W", remedy)
        else:
            yield Examined("ok", "power", f"{text}, the default")
    if not found.counts_energy:
        yield Examined("warning", "energy", "the counter cannot be read", "Joules will be unknown; all else works")


# ---------------------------------------------------------------- machine, disk, caches


def _machine() -> Iterator[Examined]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    yield Examined("ok", "memory", f"{memory.available / _GIB:.1f} GiB of {memory.total / _GIB:.1f} GiB available")
    allowed, busy = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    text = f"{allowed} cores for this process, torch uses {torch.get_num_threads()}; load {busy:.1f}"
    if busy > allowed / 2:
        yield Examined("warning", "cores", text, "Other work runs on this machine: let it end before measuring")
    else:
        yield Examined("ok", "cores", text)


def _disk() -> Iterator[Examined]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    text = f"{free / _GIB:.1f} GiB free in {here}"
    if not os.access(here, os.W_OK):
        yield Examined("error", "disk", f"{here} cannot be written to", "Run from a folder of your own")
    elif free < _LEAST_FREE:
        yield Examined("error", "disk", text, "Free some space, or run from another file system")
    elif free < _FREE:
        yield Examined("warning", "disk", text, "A long study with texts may need more")
    else:
        yield Examined("ok", "disk", text)


def _caches() -> Iterator[Examined]:
    from dlmbench.models import hub

    folder = hub.cache_folder()
    is_offline = hub.is_offline()
    mode = "offline: the network is never asked" if is_offline else "online"
    held = [p for p in folder.glob("models--*") if p.is_dir()] if folder.is_dir() else []
    place = folder if folder.is_dir() else next((p for p in folder.parents if p.is_dir()), Path("/"))
    free = shutil.disk_usage(place).free
    text = f"{folder}, {len(held)} models, {free / _GIB:.1f} GiB free; {mode}"
    if is_offline and not folder.is_dir():
        remedy = "Set HF_HOME to where `dlmbench download` put the models"
        yield Examined("warning", "caches", f"{text}, and the folder does not exist", remedy)
    elif not is_offline and not os.access(place, os.W_OK):
        yield Examined("warning", "caches", f"{text}; it cannot be written to", "Set HF_HOME to a folder of your own")
    elif not held and free < _PAIR_BYTES:
        remedy = "The 8B pair needs 32 GB: set HF_HOME to a larger file system"
        yield Examined("warning", "caches", text, remedy)
    else:
        yield Examined("ok", "caches", text)


def _assets(experiment: Experiment) -> Iterator[Examined]:
    from dlmbench.models import assets

    try:
        for report in assets.download(experiment, local_files_only=True):
            name = f"{report.kind} {report.name}"
            if report.is_ready:
                yield Examined("ok", name, report.line.removeprefix(f"{name}: "))
            else:
                yield Examined("error", name, "; ".join(report.problems), report.remedy)
    except BenchError as error:
        yield Examined("error", "assets", error.message, error.hint)


# ---------------------------------------------------------------- cluster


def _cluster() -> Iterator[Examined]:
    if not scheduler.is_there():
        yield Examined("ok", "SLURM", "not on this machine: `dlmbench run` measures here")
        return
    try:
        yield Examined("ok", "SLURM", f"{scheduler.version()} answers; partitions: {scheduler.nodes() or 'none'}")
    except BenchError as error:
        remedy = "Run it on a login node, or check SLURM_CONF; `dlmbench run` needs no SLURM"
        yield Examined("warning", "SLURM", error.message, remedy)
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    shared = os.environ.get("DLMBENCH_NODE_SHARED")
    if shared == "1":
        remedy = "Ask for it alone (--exclusive); the results will say that it was shared"
        yield Examined("warning", "node", f"job {job} shares it with others", remedy)
    else:
        known = "alone" if shared == "0" else "alone or not: jobs/env.sh was not sourced"
        yield Examined("ok", "node", f"job {job} is on it {known}")
