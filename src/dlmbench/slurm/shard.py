"""What an array task does: its own shard, on the GPU type of its siblings, into a run folder of its own."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from dlmbench.bench import run
from dlmbench.errors import BenchError
from dlmbench.measure.environment import fingerprint
from dlmbench.results.journal import replace_file, write_error
from dlmbench.slurm.status import mark_ended
from dlmbench.slurm.submission import SHARDS, Submission
from dlmbench.types import Environment, Plan, Progress, from_mapping

CLAIM = "environment.json"


def run_shard(submission: Submission, plan: Plan, index: int, progress: Progress) -> None:
    """Measure and score what is left of one shard.

    Raises:
        BenchError: no GPU where one was asked for, or another one than the first task of this run found.
        StopRequestedError: asked to stop; the same call goes on.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and submission.resources.wants_gpu and not submission.allow_cpu:
        raise BenchError(
            f"torch sees no GPU here, though the task asked for {submission.resources.gres}",
            "Check that the installed torch fits the driver (`dlmbench doctor` in a job); to try the way out without "
            "a GPU, submit with --allow-cpu",
        )
    claim(submission.folder, fingerprint(device))
    folder = submission.shard_folder(index)
    run.run(submission.experiment, submission.part(plan, index), folder, progress, whole=plan)
    mark_ended(folder)


def claim(folder: Path, environment: Environment) -> None:
    """Make `environment` the one of this run, or check that it is the one that another task made it.

    The first task to come decides, by a hard link that only one can make; the others measure nothing rather than
    times that cannot be merged.

    Raises:
        BenchError: the fields that differ.
    """
    path = folder / SHARDS / CLAIM
    draft = path.with_name(f".{CLAIM}.{os.uname().nodename}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(draft, json.dumps(asdict(environment), indent=1) + "\n")
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink(missing_ok=True)
        first = from_mapping(Environment, json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise write_error(error, path) from error
    if differing := differences(first, environment):
        raise BenchError(
            f"this node differs from the one on which {folder} was begun ({'; '.join(differing)})",
            "Ask for one type of GPU, as in --gres gpu:a100:1; to measure on this one, name a new --output_dir",
        )


def differences(one: Environment, other: Environment) -> list[str]:
    """The fields that must agree and do not, with both values."""
    return [
        f"{name}: {getattr(one, name)!r} there, {getattr(other, name)!r} here"
        for name in Environment.COMPARABLE
        if getattr(one, name) != getattr(other, name)
    ]
