"""The environment that a run was measured in, so that incomparable runs are never merged.

`Environment.COMPARABLE` lists the fields that must agree; the others are recorded for information.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import dlmbench
from dlmbench.errors import BenchError
from dlmbench.measure.memory import host_memory
from dlmbench.measure.nvml import GpuMeter
from dlmbench.types import Environment, stable_hash

_PACKAGE = Path(dlmbench.__file__).resolve().parent


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(_PACKAGE), *arguments]
    # Inside a git hook, GIT_DIR and similar variables point to the hook's repository.
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False, env=variables)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, "-dirty" with changes on top; None outside a checkout.

    An installed copy may be inside an unrelated repository (a virtual environment often is), whose commit would be
    wrong here: the package must be at src/dlmbench of the checkout.
    """
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() / "src" / "dlmbench" != _PACKAGE:
        return None
    commit = _git("rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ":/src")
    return f"{commit}-dirty" if changes else commit


def _node_shared() -> bool | None:
    """Set by jobs/env.sh, because the scheduler often cannot be queried from inside a container."""
    return {"0": False, "1": True}.get(os.environ.get("DLMBENCH_NODE_SHARED", ""))


def fingerprint(device_type: str) -> Environment:
    """The environment of this process on torch's current device of `device_type` (cuda or cpu).

    memory_bytes is the measured device's: the GPU's, or on a CPU what this process may use of the host's. On a CPU,
    `device` contains the processor's name, because runs are compared by it. The host name is hashed: enough to tell two
    apart.

    Raises:
        BenchError: torch sees no such device.
    """
    import torch

    cpu = _cpu_name()
    meter = GpuMeter.of_device(device_type)
    if device_type == "cuda":
        if not torch.cuda.is_available():
            raise BenchError("torch sees no CUDA device", "Check the driver with nvidia-smi and `dlmbench doctor`")
        device = torch.cuda.get_device_name()
        device_count = torch.cuda.device_count()
        memory_bytes = int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
        cuda = torch.version.cuda or (f"rocm {torch.version.hip}" if torch.version.hip else None)
    else:
        device, device_count, cuda = f"CPU {cpu}", 1, None
        memory_bytes = host_memory().total
    return Environment(
        device=device,
        device_count=device_count,
        driver=meter.driver(),
        cuda=cuda,
        python=platform.python_version(),
        torch=str(torch.__version__),
        transformers=metadata.version("transformers"),
        cpu=cpu,
        cpu_threads=torch.get_num_threads(),
        memory_bytes=memory_bytes,
        power_cap_w=meter.power_cap_w(),
        host=stable_hash(platform.node(), 8),
        platform=platform.platform(),
        dlmbench=dlmbench.__version__,
        git_commit=git_commit(),
        node_shared=_node_shared(),
    )
