"""SLURM's commands: sbatch, squeue, scancel and sinfo.

Accounting (sacct) is not used: on many clusters it is not available to users.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dlmbench.errors import BenchError

# SLURM stores a job's environment in files. Jobs run offline and need no token, so tokens are left out.
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
_TIMEOUT_S = 60
_FINAL_STATES = {"CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL"}


@dataclass(frozen=True)
class Task:
    """A job or array task in the queue. index: its number; None for a single job or an array not yet split up."""

    job: str
    index: int | None
    state: str
    reason: str

    @property
    def is_over(self) -> bool:
        """Whether it has ended, successfully or not."""
        return self.state in _FINAL_STATES


def is_available() -> bool:
    """Whether SLURM's commands are on this machine."""
    return shutil.which("sbatch") is not None


def run_command(command: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
    """Run one of SLURM's commands and return its output.

    Its environment, which sbatch passes to the job, is this process's without secrets, plus `variables`.

    Raises:
        BenchError: it is missing, times out, or fails (with SLURM's message).
    """
    environment = {k: v for k, v in os.environ.items() if k not in _SECRETS} | dict(variables or {})
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env=environment)
    except FileNotFoundError:
        hint = "Submit from a login node of a SLURM cluster, or use `dlmbench run`"
        raise BenchError(f"{command[0]} is not on this machine", hint) from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[0]} did not answer within {_TIMEOUT_S} s", "Try again: SLURM is busy") from None
    if done.returncode != 0:
        # The first line states the problem, further lines repeat it layer by layer.
        message = next(iter((done.stderr or done.stdout).strip().splitlines()), f"exit code {done.returncode}")
        raise BenchError(f"{command[0]} failed: {message}", "Check partition, account, gres and time with your cluster")
    return done.stdout


def sbatch(command: Sequence[str], variables: Mapping[str, str]) -> str:
    """Run an sbatch command with `variables` added to the environment; returns the job id."""
    return run_command(command, variables).strip().partition(";")[0]


def tasks(jobs: Sequence[str]) -> tuple[Task, ...]:
    """The tasks of these jobs that squeue knows: pending, running, and recently ended.

    Raises:
        BenchError: SLURM is missing or does not answer.
    """
    if not jobs:
        return ()
    try:
        output = run_command(["squeue", "-h", "-r", "-t", "all", "-j", ",".join(jobs), "-o", "%A|%F|%K|%T|%r"])
    except BenchError as error:
        if "Invalid job id" in error.message:
            # One id that SLURM no longer knows fails the whole query, so each job is queried separately.
            return tuple(t for job in jobs for t in tasks([job])) if len(jobs) > 1 else ()
        raise
    found = []
    for line in output.splitlines():
        job, array, index, state, reason = line.strip().split("|", 4)
        is_task = index.isdigit()
        found.append(Task(array if is_task else job, int(index) if is_task else None, state, reason))
    return tuple(found)


def version() -> str:
    """The version of SLURM's commands."""
    return run_command(["sinfo", "--version"]).strip()


def nodes() -> str:
    """Number and state of nodes by partition, as sinfo prints them; fails if the controller does not answer."""
    output = run_command(["sinfo", "-h", "-o", "%P %D %T"])
    return ", ".join(" ".join(line.split()) for line in output.splitlines())


def gpu_types(partition: str) -> tuple[str, ...]:
    """The GPU types of a partition ("" for the default one); empty where GPUs have no type."""
    command = ["sinfo", "-h", "-o", "%P|%G", *(["-p", partition] if partition else [])]
    found: set[str] = set()
    for line in run_command(command).splitlines():
        name, _, gres = line.strip().partition("|")
        if partition or name.endswith("*"):
            found.update(re.findall(r"gpu:([A-Za-z][\w.-]*)", gres))
    return tuple(sorted(found))
