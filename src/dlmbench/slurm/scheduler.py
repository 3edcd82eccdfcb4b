"""SLURM's own commands, as far as they are needed: queue a job, see what became of it, take one back.

Only sbatch, squeue, scancel and sinfo are asked: they work for everyone, where accounting (sacct) often does not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dlmbench.errors import BenchError

# Jobs run offline: a token has no business in the files in which SLURM keeps a job's environment.
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
_TIMEOUT_S = 60


@dataclass(frozen=True)
class Task:
    """A job or array task in the queue. index: of an array, None for a job of its own or tasks not yet split up."""

    job: str
    index: int | None
    state: str
    reason: str


def is_there() -> bool:
    """Whether SLURM's commands are on this machine."""
    return shutil.which("sbatch") is not None


def _not_here(command: str) -> BenchError:
    return BenchError(
        f"{command} is not on this machine", "Submit from a login node of a SLURM cluster, or use `dlmbench run`"
    )


def require() -> None:
    """Check that jobs can be submitted from here.

    Raises:
        BenchError: SLURM's commands are not on this machine.
    """
    if not is_there():
        raise _not_here("sbatch")


def ask(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What one of its commands prints.

    Raises:
        BenchError: it is not here, does not answer, or refuses, in its own words.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            env=None if environment is None else dict(environment),
        )
    except FileNotFoundError:
        raise _not_here(command[0]) from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[0]} did not answer within {_TIMEOUT_S} s", "Try again: SLURM is busy") from None
    if done.returncode != 0:
        # The first line says what is wrong; the others repeat it layer by layer.
        said = next(iter((done.stderr or done.stdout).strip().splitlines()), f"exit code {done.returncode}")
        raise BenchError(f"{command[0]} refused: {said}", "Check partition, account, gres and time with your cluster")
    return done.stdout


def queue(command: Sequence[str], variables: Mapping[str, str]) -> str:
    """Run an sbatch command with `variables` added to the environment; returns the job's id."""
    return ask(command, job_environment(variables)).strip().partition(";")[0]


def job_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without secrets, with `variables` added: what sbatch hands on to a job."""
    return {k: v for k, v in os.environ.items() if k not in _SECRETS} | dict(variables)


def tasks(jobs: Sequence[str]) -> tuple[Task, ...]:
    """What the queue still knows of these jobs: pending, running, and those that ended a short while ago.

    Raises:
        BenchError: SLURM is not here, or does not answer.
    """
    if not jobs:
        return ()
    try:
        shown = ask(["squeue", "-h", "-r", "-t", "all", "-j", ",".join(jobs), "-o", "%A|%F|%K|%T|%r"])
    except BenchError as error:
        if "Invalid job id" in error.message:
            # One job that SLURM has forgotten spoils the answer for all: each is then asked for alone.
            return tuple(t for job in jobs for t in tasks([job])) if len(jobs) > 1 else ()
        raise
    found = []
    for line in shown.splitlines():
        own, array, index, state, reason = line.strip().split("|", 4)
        is_task = index.isdigit()
        found.append(Task(array if is_task else own, int(index) if is_task else None, state, reason))
    return tuple(found)


def cancel(job: str) -> None:
    """Take a job out of the queue."""
    ask(["scancel", job])


def version() -> str:
    """The version of SLURM's commands."""
    return ask(["sinfo", "--version"]).strip()


def nodes() -> str:
    """How many nodes are in which state, in SLURM's own words; proves that its controller answers."""
    return ", ".join(" ".join(line.split()) for line in ask(["sinfo", "-h", "-o", "%P %D %T"]).splitlines())


def gpu_types(partition: str) -> tuple[str, ...]:
    """The types of GPU that a partition (or the default one, "") offers; nothing where they have no type."""
    command = ["sinfo", "-h", "-o", "%P|%G", *(["-p", partition] if partition else [])]
    found: set[str] = set()
    for line in ask(command).splitlines():
        name, _, gres = line.strip().partition("|")
        if partition or name.endswith("*"):
            found.update(re.findall(r"gpu:([A-Za-z][\w.-]*)", gres))
    return tuple(sorted(found))
