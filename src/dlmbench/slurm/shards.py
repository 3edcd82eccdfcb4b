"""Shards of a submitted run: what an array task does, and how far each shard is.

All shards must run in one environment. The first task records its own in `shards/environment.json`; tasks in a
different environment stop before measuring, because their times could not be merged.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dlmbench.bench import run
from dlmbench.errors import BenchError
from dlmbench.experiment.plan import with_models
from dlmbench.measure.environment import fingerprint
from dlmbench.models.identity import with_content
from dlmbench.models.loading import resolve_model
from dlmbench.results.folder import differences
from dlmbench.results.journal import replace_file, write_error
from dlmbench.results.records import RunRecords, read_records
from dlmbench.slurm.submission import MODELS, SHARDS, Submission
from dlmbench.types import Environment, Plan, Progress, ProtocolSettings, from_mapping

ENVIRONMENT = "environment.json"
# Written once everything in a shard is measured and scored; complete cells alone do not show that scoring is done.
ENDED = "ended"


def run_shard(submission: Submission, plan: Plan, index: int, progress: Progress) -> None:
    """Measure and score what is left of one shard.

    Raises:
        BenchError: no GPU although one was requested, or a different environment than the first task's.
        StopRequestedError: stopped by a signal; calling again resumes.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and submission.resources.wants_gpu and not submission.allow_cpu:
        raise BenchError(
            f"torch sees no GPU here, though the task requested {submission.resources.gres}",
            "Check that the installed torch fits the driver (`dlmbench doctor` in a job); to test without a GPU, "
            "submit with --allow-cpu",
        )
    claim_environment(submission.folder, fingerprint(device))
    submission = claim_models(submission, plan)
    plan = submission.plan()
    folder = submission.shard_folder(index)
    processes = submission.shard_processes(index)
    run.run(
        submission.experiment, submission.shard_plan(plan, index), folder, progress, whole=plan, processes=processes
    )
    mark_ended(folder)


def claim_environment(folder: Path, environment: Environment) -> None:
    """Record `environment` as that of the run in `folder`, or check that it agrees with the recorded one.

    Raises:
        BenchError: the fields that differ.
    """
    first = from_mapping(Environment, _first(folder / SHARDS / ENVIRONMENT, asdict(environment)))
    if differing := differences(first, environment, Environment.COMPARABLE):
        raise BenchError(
            f"this node differs from the one on which {folder} was started ({'; '.join(differing)})",
            "Request one type of GPU, as in --gres gpu:a100:1; to measure on this one, choose a new --output-dir",
        )


def claim_models(submission: Submission, plan: Plan) -> Submission:
    """The submission with the content of its models, which all tasks must find equal.

    Where the models were not on the machine that submitted, the first task records their content, and with it the ids
    that the cells have from then on.

    Raises:
        BenchError: a model is missing, or is another checkpoint than the recorded one.
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
                f"model {model.key}: this node finds a different checkpoint than the first task did "
                f"(content {model.content} here, {first['content'].get(model.key)} there)",
                "Make every node read the same folder or revision of the model, then submit again to resume",
            )
    return submission.with_models(found, ids)


def _first(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Write `values` as JSON unless another task has done so already; returns what the first task wrote.

    The file is created by a hard link, which succeeds for one task only, so tasks may start at the same time.
    """
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


def mark_ended(folder: Path) -> None:
    """Record that a shard has nothing left to do."""
    replace_file(folder / ENDED, "all cells of this shard are measured and scored\n")


@dataclass(frozen=True)
class ShardProgress:
    """Progress of one shard. ended: cells measured or failed; measured_s and left_s: seconds of measuring.

    broken: cells that failed for a reason that may be gone by now, so that a resumed shard tries them again. left_s is
    None if a remaining cell has no predicted time. It scales predictions by how long the ended cells took; before the
    first one has ended it is the prediction itself.
    """

    index: int
    cells: int
    ended: int
    failed: int
    broken: int
    is_complete: bool
    measured_s: float
    left_s: float | None


def shard_progress(submission: Submission) -> tuple[ShardProgress, ...]:
    """The progress of every shard, from its records; a shard that never started has no cells ended."""
    contents = [read_records(submission.shard_folder(s.index)) for s in submission.shards]
    ratio = _measured_to_predicted(contents, submission.predicted, submission.experiment.protocol)
    found = []
    for shard, recorded in zip(submission.shards, contents, strict=True):
        results = {r.cell.id: r for r in recorded.results()}
        ended = [i for i in shard.cell_ids if i in results and results[i].status is not None]
        processes = submission.shard_processes(shard.index)
        predicted = {i: len(processes[i]) * s for i, s in submission.predicted.items() if i in processes}
        is_complete = len(ended) == len(shard.cell_ids) and (submission.shard_folder(shard.index) / ENDED).is_file()
        found.append(
            ShardProgress(
                shard.index,
                len(shard.cell_ids),
                len(ended),
                sum(results[i].status != "ok" for i in ended),
                sum(results[i].status in ("error", "invalid") for i in ended),
                is_complete,
                math.fsum(_measured_s(recorded, i) for i in shard.cell_ids),
                _left_s(set(shard.cell_ids) - set(ended), recorded, predicted, ratio),
            )
        )
    return tuple(found)


def _measured_s(contents: RunRecords, cell_id: str) -> float:
    return math.fsum(s.wall_s for s in contents.samples.get(cell_id, {}).values())


def _measured_to_predicted(
    contents: Iterable[RunRecords], predicted: Mapping[str, float], protocol: ProtocolSettings
) -> float:
    """Ratio of measured to predicted time over the ended cells; 1 before there is one."""
    measured = expected = 0.0
    for recorded in contents:
        for result in recorded.results():
            if result.status == "ok" and result.cell.id in predicted:
                processes = min(protocol.processes, len({s.process_id for s in result.samples}))
                measured += _measured_s(recorded, result.cell.id)
                expected += predicted[result.cell.id] * processes
    return measured / expected if measured and expected else 1.0


def _left_s(cell_ids: set[str], contents: RunRecords, predicted: Mapping[str, float], ratio: float) -> float | None:
    if any(i not in predicted for i in cell_ids):
        return None
    return math.fsum(max(0.0, predicted[i] * ratio - _measured_s(contents, i)) for i in cell_ids)
