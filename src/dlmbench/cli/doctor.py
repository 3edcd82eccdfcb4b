"""The checks of `dlmbench doctor`: is this machine ready to measure?

An error means that a study cannot run; a warning means that times may be distorted or that something is missing.
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
_MIN_FREE = 100 * 2**20
# Two models of 8e9 parameters in bfloat16 take 32 GB.
_PAIR_BYTES = 34e9


@dataclass(frozen=True)
class Check:
    """One check: its result, what was found, and a hint unless all is well."""

    state: State
    subject: str
    text: str
    hint: str = ""

    @property
    def line(self) -> str:
        """As one line."""
        return f"{self.state:<8} {self.subject}: {self.text}" + (f". {self.hint}" if self.hint else "")


def _check(problem: object, subject: str, text: str, hint: str, otherwise: str, state: State = "warning") -> Check:
    """`text` with `hint` if there is a problem, otherwise ok."""
    return Check(state, subject, text, hint) if problem else Check("ok", subject, otherwise)


def run_checks(experiment: Experiment | None = None) -> Iterator[Check]:
    """Check everything that a study depends on; with an experiment also its models and data."""
    yield from _packages()
    yield from _device()
    yield from _machine()
    yield _selfcheck()
    yield from _disk()
    yield from _caches()
    yield from _cluster()
    if experiment is not None:
        yield from _assets(experiment)


# ---------------------------------------------------------------- packages


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    python, system = platform.python_version(), platform.platform()
    try:
        own = metadata.metadata("dlmbench")["Requires-Python"]
    except metadata.PackageNotFoundError:
        text = f"python {python}; dlmbench is not installed but runs from source, so its requirements are unknown"
        yield Check("error", "packages", text, "Install it: make setup, or pip install --no-deps -e .")
        return
    is_unsupported = own and python not in SpecifierSet(own, prereleases=True)
    text, hint = f"{python} on {system}", f"dlmbench needs {own}"
    yield _check(is_unsupported, "python", text, hint, f"{text}, {sys.executable}", "error")
    wrong, right = [], []
    for text in metadata.requires("dlmbench") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        right.append(requirement.name)
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed}, needed {requirement.specifier}")
    if wrong:
        yield Check("error", "packages", "; ".join(wrong), "Install what requirements.txt pins: make setup")
    named = ", ".join(f"{name} {metadata.version(name)}" for name in ("dlmbench", "torch", "transformers"))
    yield Check("ok", "packages", f"{named}; {len(right)} requirements checked")


# ---------------------------------------------------------------- device


def _device() -> Iterator[Check]:
    import torch

    from dlmbench.measure.nvml import GpuMeter, driver_gpu_count

    if not torch.cuda.is_available():
        seen = driver_gpu_count()
        if seen:
            text = f"the driver has {seen} GPUs, but torch {torch.__version__} (CUDA {torch.version.cuda}) sees none"
            hint = "Check CUDA_VISIBLE_DEVICES, and install a torch whose CUDA version the driver supports"
            yield Check("error", "device", text, hint)
        else:
            text = "no GPU: the embedded pair can be measured, the 8B models cannot"
            yield Check("warning", "device", text, "On a cluster, run this check in a job: srun --gres=gpu:1 ...")
        return
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    count = torch.cuda.device_count()
    hip = torch.version.hip
    kind = f"ROCm {hip}, {getattr(properties, 'gcnArchName', '?')}" if hip else f"CUDA {torch.version.cuda}"
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    text = f"{properties.name}, {properties.total_memory / _GIB:.0f} GiB, {kind}, capability {capability}"
    yield Check("ok", "device", f"{text}; {count} visible, the first is used")
    if hip:
        override = os.environ.get("HSA_OVERRIDE_GFX_VERSION")
        yield Check("ok", "ROCm", f"HSA_OVERRIDE_GFX_VERSION {override or 'not set'}; energy is unknown on AMD")
    try:
        probe = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
        is_right = float((probe @ probe).float().sum()) == 64.0**3
    except RuntimeError as error:
        yield Check("error", "kernels", str(error).splitlines()[0], "Install a torch that was built for this GPU")
        return
    if not is_right:
        yield Check("error", "kernels", "a matrix product in bfloat16 is wrong", "Do not measure on this GPU")
    meter = GpuMeter.of_device("cuda")
    driver = meter.driver()
    if driver is None:
        if not hip:
            hint = "Check that libnvidia-ml is installed (in a container: --nv, or --gpus all)"
            yield Check("warning", "driver", "NVML does not answer: no energy, clocks or other processes", hint)
        return
    yield Check("ok", "driver", f"NVIDIA {driver}, torch built for CUDA {torch.version.cuda}")
    yield from gpu_checks(meter.condition())


def gpu_checks(found: GpuCondition) -> Iterator[Check]:
    """Exclusivity, clocks, persistence, ECC and power of one GPU."""
    if found.other_processes:
        text = f"{found.other_processes} other processes run on the GPU"
        yield Check("warning", "exclusivity", text, "End them, or request the GPU exclusively: they distort times")
    elif found.other_processes is None:
        text = "other processes on the GPU cannot be detected (process ids in a container differ from the driver's)"
        yield Check("ok", "exclusivity", text)
    else:
        yield Check("ok", "exclusivity", f"no other process on the GPU; compute mode {found.compute_mode}")
    if found.compute_mode == "prohibited":
        yield Check("error", "compute mode", "prohibited", "An administrator can change it: nvidia-smi -c DEFAULT")
    if found.is_divided:
        text = "MIG is on: a slice is measured, not the whole GPU"
        yield Check("warning", "MIG", text, "Request a whole GPU")
    if found.sm_clock_mhz is not None:
        text = f"SM at {found.sm_clock_mhz} of {found.max_sm_clock_mhz} MHz"
        hint = "Check cooling and power; the results will also contain this finding"
        throttled = f"{text}, throttled by {found.throttle}"
        yield _check(found.throttle, "clocks", throttled, hint, f"{text}, not throttled")
    if found.is_persistent is not None:
        text = "off: the driver is unloaded between programs"
        hint = "An administrator can turn it on: nvidia-smi -pm 1; without it the first seconds of each run are slower"
        yield _check(not found.is_persistent, "persistence", text, hint, "on")
    if found.ecc_errors or found.has_ecc is not None:
        text = f"{found.ecc_errors} uncorrected errors since the driver was loaded"
        hint = "Use another node, and inform its administrators"
        yield _check(found.ecc_errors, "ECC", text, hint, "on, no uncorrected errors" if found.has_ecc else "off")
    if found.power_cap_w is not None and found.default_power_cap_w is not None:
        text = f"cap {found.power_cap_w:.0f} W"
        lowered = f"{text}, below the default {found.default_power_cap_w:.0f} W"
        hint = "Mention it with the results, or have it reset: nvidia-smi -pl"
        is_lowered = found.power_cap_w < found.default_power_cap_w - 1
        yield _check(is_lowered, "power", lowered, hint, f"{text}, the default")
    if not found.counts_energy:
        yield Check("warning", "energy", "the counter cannot be read", "Energy will be unknown; everything else works")


# ---------------------------------------------------------------- machine, disk, caches


def _machine() -> Iterator[Check]:
    import torch

    from dlmbench.measure.memory import host_memory

    memory = host_memory()
    yield Check("ok", "memory", f"{memory.available / _GIB:.1f} GiB of {memory.total / _GIB:.1f} GiB available")
    allowed, busy = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    text = f"{allowed} cores for this process, torch uses {torch.get_num_threads()}; load {busy:.1f}"
    hint = "Other work is running here: wait for it to end before measuring"
    yield _check(busy > allowed / 2, "cores", text, hint, text)


def _selfcheck() -> Check:
    from dlmbench.bench.generate import default_device
    from dlmbench.measure.environment import fingerprint
    from dlmbench.results.selfcheck import selfcheck_of

    try:
        found, hint = selfcheck_of(fingerprint(default_device()))
    except BenchError as error:
        return Check("error", "selfcheck", error.message, error.hint)
    if found is None:
        return Check("ok", "selfcheck", f"none for this environment. {hint}")
    floor = max(f.ratio for f in found.floors)
    return Check(
        "ok", "selfcheck", f"of {found.at}: one process against another differs by up to {floor:.1%} by chance"
    )


def _disk() -> Iterator[Check]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    text = f"{free / _GIB:.1f} GiB free in {here}"
    if not os.access(here, os.W_OK):
        yield Check("error", "disk", f"{here} cannot be written to", "Run from a folder that you can write to")
    elif free < _MIN_FREE:
        yield Check("error", "disk", text, "Free some space, or run on another file system")
    else:
        yield _check(free < _GIB, "disk", text, "A long study may need more", text)


def _caches() -> Iterator[Check]:
    from dlmbench.models import hub

    folder = hub.cache_folder()
    is_offline = hub.is_offline()
    mode = "offline: the network is not used" if is_offline else "online"
    models = [p for p in folder.glob("models--*") if p.is_dir()] if folder.is_dir() else []
    parent = folder if folder.is_dir() else next((p for p in folder.parents if p.is_dir()), Path("/"))
    free = shutil.disk_usage(parent).free
    text = f"{folder}, {len(models)} models, {free / _GIB:.1f} GiB free; {mode}"
    if is_offline and not folder.is_dir():
        hint = "Set HF_HOME to the folder that `dlmbench download` used"
        yield Check("warning", "caches", f"{text}, and the folder does not exist", hint)
    elif not is_offline and not os.access(parent, os.W_OK):
        yield Check("warning", "caches", f"{text}; it cannot be written to", "Set HF_HOME to a writable folder")
    else:
        hint = "The 8B pair needs 32 GB: set HF_HOME to a larger file system"
        yield _check(not models and free < _PAIR_BYTES, "caches", text, hint, text)


def _assets(experiment: Experiment) -> Iterator[Check]:
    from dlmbench.models import assets

    try:
        for report in assets.download(experiment, local_files_only=True):
            name = f"{report.kind} {report.name}"
            text, problems = report.line.removeprefix(f"{name}: "), "; ".join(report.problems)
            yield _check(not report.is_ready, name, problems, report.remedy, text, "error")
    except BenchError as error:
        yield Check("error", "assets", error.message, error.hint)


# ---------------------------------------------------------------- cluster


def _cluster() -> Iterator[Check]:
    if not scheduler.is_available():
        yield Check("ok", "SLURM", "not on this machine: `dlmbench run` measures here")
        return
    try:
        yield Check("ok", "SLURM", f"{scheduler.version()} answers; partitions: {scheduler.nodes() or 'none'}")
    except BenchError as error:
        hint = "Use a login node, or check SLURM_CONF; `dlmbench run` needs no SLURM"
        yield Check("warning", "SLURM", error.message, hint)
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    shared = os.environ.get("DLMBENCH_NODE_SHARED")
    if shared == "1":
        hint = "Request it exclusively (--exclusive); the results will say that it was shared"
        yield Check("warning", "node", f"job {job} shares it with other jobs", hint)
    else:
        text = "has it exclusively" if shared == "0" else "may share it: jobs/env.sh was not sourced"
        yield Check("ok", "node", f"job {job} {text}")
