"""What an array task does: its own shard, on the GPU type of its siblings, into a run folder of its own."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dlmbench.bench import run
from dlmbench.errors import BenchError
from dlmbench.experiment.plan import with_models
from dlmbench.measure.environment import fingerprint
from dlmbench.models.identity import with_content
from dlmbench.models.loading import resolve_model
from dlmbench.results.journal import replace_file, write_error
from dlmbench.slurm.status import mark_ended
from dlmbench.slurm.submission import MODELS, SHARDS, Submission
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
    submission = claim_models(submission, plan)
    plan = submission.plan()
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
    first = from_mapping(Environment, _first(folder / SHARDS / CLAIM, asdict(environment)))
    if differing := differences(first, environment):
        raise BenchError(
            f"this node differs from the one on which {folder} was begun ({'; '.join(differing)})",
            "Ask for one type of GPU, as in --gres gpu:a100:1; to measure on this one, name a new --output_dir",
        )


def claim_models(submission: Submission, plan: Plan) -> Submission:
    """The submission with the content of its models, which all tasks must find equal.

    Where the models were not on the machine that submitted, the first task to come records their content, and with it
    the ids that the cells have from then on.

    Raises:
        BenchError: a model is not there, or is another checkpoint than the one recorded.
    """
    used = {cell.model.key for cell in plan.cells}
    found = tuple(with_content(m, resolve_model(m)) if m.key in used else m for m in submission.experiment.models)
    if found == submission.experiment.models:
        return submission
    ids = {a.id: b.id for a, b in zip(plan.cells, with_models(plan, found).cells, strict=True)}
    values = {"content": {m.key: m.content for m in found}, "cell_ids": ids}
    first = _first(submission.folder / SHARDS / MODELS, values)
    for model in found:
        if first["content"].get(model.key) != model.content:
            raise BenchError(
                f"model {model.key}: this node finds another checkpoint than the first task did "
                f"(content {model.content} here, {first['content'].get(model.key)} there)",
                "Make every node read the same folder or revision of the model, then submit again to resume",
            )
    return submission.with_models(found, ids)


def _first(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Write `values` as JSON unless another task already has written its own; what the first one wrote."""
    draft = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(draft, json.dumps(values, indent=1) + "\n")
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink(missing_ok=True)
        first: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise write_error(error, path) from error
    return first


def differences(one: Environment, other: Environment) -> list[str]:
    """The fields that must agree and do not, with both values."""
    return [
        f"{name}: {getattr(one, name)!r} there, {getattr(other, name)!r} here"
        for name in Environment.COMPARABLE
        if getattr(one, name) != getattr(other, name)
    ]
