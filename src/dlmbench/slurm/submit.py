"""From a plan to jobs: shards by predicted time, an array over those with work left, and the job that ends the run.

Submitting again is how anything is completed: shards that are done, or still in the queue, are left alone.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dlmbench.bench.forecast import generations_of
from dlmbench.errors import BenchError
from dlmbench.experiment.plan import with_models
from dlmbench.experiment.shards import balance, setting_of
from dlmbench.models.identity import with_known_content
from dlmbench.models.loading import architectures
from dlmbench.results import RECORDS
from dlmbench.roofline.hardware import Hardware
from dlmbench.roofline.predict import predict
from dlmbench.slurm import scheduler, status, submission
from dlmbench.slurm.submission import Job, Resources, Submission
from dlmbench.types import Experiment, Plan

# Reading weights from a shared file system. Only shares are decided by it, and only between large models.
_LOAD_BYTES_PER_S = 1e9
_WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
# A job in one of these states will not touch its shard any more.
OVER = {"CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL"}
_CHECKOUT = Path(__file__).parents[3]
SCRIPT = "jobs/benchmark_array.sbatch"


def resume_command(folder: Path) -> str:
    """The one command that completes a submitted run, whatever happened to it."""
    return f"dlmbench submit --resume {shlex.quote(str(folder))}"


def propose(
    experiment: Experiment,
    plan: Plan,
    folder: Path,
    count: int,
    device: Hardware,
    resources: Resources,
    allow_cpu: bool = False,
) -> Submission:
    """A submission that nothing is queued of yet: shards balanced by what `device` should take for each cell."""
    experiment = replace(experiment, models=with_known_content(experiment.models))
    plan = with_models(plan, experiment.models)
    made = predict(plan, device)
    seconds = {}
    for cell in plan.cells:
        latency = made.of(cell).latency_s
        if latency is not None:
            seconds[cell.id] = latency * generations_of(latency, experiment.protocol)
    known, _ = architectures(dict.fromkeys(c.model for c in plan.cells))
    load_s = {
        setting_of(c): known[c.model.key].parameters * _WIDTH[c.precision] / _LOAD_BYTES_PER_S
        for c in plan.cells
        if c.model.key in known
    }
    shards = balance(plan, count, seconds, load_s)
    return Submission(folder.absolute(), experiment, shards, seconds, device.name, resources, allow_cpu)


def agree(old: Submission, new: Submission) -> None:
    """Check that a run submitted before is the one that is submitted now.

    Raises:
        BenchError: another experiment, another checkpoint in a model's place, or another number of shards.
    """
    hint = f"`{resume_command(old.folder)}` goes on with it as it is; for anything else name a new --output_dir"
    one, other = (json.dumps(asdict(_without_content(s.experiment)), sort_keys=True) for s in (old, new))
    if one != other:
        raise BenchError(f"{old.folder} was submitted with another experiment", hint)
    for before, now in zip(old.experiment.models, new.experiment.models, strict=True):
        if before.content and now.content and before.content != now.content:
            raise BenchError(
                f"model {now.key}: {now.source} holds another checkpoint than when {old.folder} was submitted "
                f"(content {now.content} now, {before.content} then)",
                "Put that checkpoint back to resume; for the new one name a new --output_dir",
            )
    if len(old.shards) != len(new.shards):
        raise BenchError(f"{old.folder} was cut into {len(old.shards)} shards, not {len(new.shards)}", hint)


def _without_content(experiment: Experiment) -> Experiment:
    return replace(experiment, models=tuple(replace(m, content=None) for m in experiment.models))


def refuse_a_run_of_its_own(folder: Path) -> None:
    """A folder that `dlmbench run` has filled cannot be filled by a merge as well.

    Raises:
        BenchError: it holds records that no submission made.
    """
    if (folder / RECORDS).is_file() and not submission.exists(folder):
        raise BenchError(
            f"{folder} holds a run that was not submitted",
            "`dlmbench run` goes on with it; to submit, name a new --output_dir",
        )


@dataclass(frozen=True)
class Order:
    """What to hand to sbatch: the array over `todo`, and the job after it. waited_for: shards still in the queue."""

    submission: Submission
    todo: tuple[int, ...]
    waited_for: tuple[int, ...]
    running: tuple[str, ...]
    stale: tuple[str, ...]

    def array_command(self) -> list[str]:
        """The sbatch command of the array."""
        resources = self.submission.resources
        return [
            *_sbatch(self.submission, "", "%A_%a"),
            f"--array={','.join(map(str, self.todo))}",
            f"--signal=B:USR1@{resources.warn_s}",
            "--requeue",
            *(["--exclusive"] if resources.exclusive else []),
            *_script(self.submission),
        ]

    def last_command(self, array: str | None) -> list[str]:
        """The sbatch command of the job that merges, scores and reports, once all others have ended in any way."""
        after = [*self.running, *([array] if array else [])]
        dependency = [f"--dependency=afterany:{':'.join(after)}"] if after else []
        return [*_sbatch(self.submission, "-report", "%j"), *dependency, *_script(self.submission)]

    def variables(self) -> dict[str, str]:
        """What the job scripts need to know; what the user has set goes first."""
        given: Mapping[str, str] = os.environ
        home = given.get("DLMBENCH_HOME", str(_CHECKOUT))
        return {"DLMBENCH_HOME": home, "DLMBENCH_PYTHON": given.get("DLMBENCH_PYTHON", sys.executable)}


def _sbatch(made: Submission, suffix: str, job: str) -> list[str]:
    wanted = made.resources
    choices = (
        ("partition", wanted.partition),
        ("account", wanted.account),
        ("gres", wanted.gres),
        ("time", wanted.time),
        ("cpus-per-task", str(wanted.cpus_per_task or "")),
    )
    name = f"dlmbench-{made.experiment.name}{suffix}"
    logs = Path.cwd() / "logs" / "slurm"
    return [
        "sbatch",
        "--parsable",
        f"--job-name={name}",
        f"--output={logs}/{name}-{job}.out",
        "--open-mode=append",
        *(f"--{option}={value}" for option, value in choices if value),
        *wanted.extra,
    ]


def _script(made: Submission) -> list[str]:
    return [str(Path(os.environ.get("DLMBENCH_HOME", _CHECKOUT)) / SCRIPT), str(made.folder)]


def order(made: Submission) -> Order:
    """What is left to queue of a run: shards with work left that no job of it will still do."""
    todo = [p.index for p in status.examine(made) if not p.is_complete]
    active = [t for t in scheduler.tasks([j.id for j in made.jobs]) if t.state not in OVER] if made.jobs else []
    arrays = {j.id: set(j.shards) for j in made.jobs if j.shards}
    covered: set[int] = set()
    for task in active:
        if task.job in arrays:
            covered |= arrays[task.job] if task.index is None else {task.index}
    running = dict.fromkeys(t.job for t in active if t.job in arrays)
    stale = dict.fromkeys(t.job for t in active if t.job not in arrays)
    waited_for = tuple(i for i in todo if i in covered)
    return Order(made, tuple(i for i in todo if i not in covered), waited_for, tuple(running), tuple(stale))


def check(wanted: Resources) -> None:
    """Refuse before queueing what could mix two types of GPU.

    Raises:
        BenchError: the partition offers several and none is chosen; or SLURM, or the job scripts, are not here.
    """
    script = Path(os.environ.get("DLMBENCH_HOME", _CHECKOUT)) / SCRIPT
    if not script.is_file():
        raise BenchError(f"there is no {script}", "Submit from a checkout, or name one in DLMBENCH_HOME")
    scheduler.require()
    is_chosen = any(_chooses_nodes(option) for option in wanted.extra)
    if wanted.gres.partition(":")[0] != "gpu" or wanted.gres.count(":") > 1 or is_chosen:
        return
    types = scheduler.gpu_types(wanted.partition)
    if len(types) > 1 and not any(t in wanted.gres.split(":") for t in types):
        raise BenchError(
            f"the partition offers several types of GPU ({', '.join(types)}), which must not be mixed",
            f"Choose one, as in --gres gpu:{types[0]}:1",
        )


def _chooses_nodes(option: str) -> bool:
    """Whether an option of sbatch picks nodes by feature or by name; a short one may have its value attached."""
    return option.partition("=")[0] in ("--constraint", "--nodelist") or option.startswith(("-C", "-w"))


def queue(wanted: Order) -> Submission:
    """Queue the array and the job after it, and note both.

    Raises:
        BenchError: SLURM refused, in its own words; the same command again is the way on.
    """
    made = wanted.submission
    (Path.cwd() / "logs" / "slurm").mkdir(parents=True, exist_ok=True)
    made.folder.mkdir(parents=True, exist_ok=True)
    made.save()  # before the first task can look for it
    array = None
    if wanted.todo:
        array = scheduler.queue(wanted.array_command(), wanted.variables())
        made = replace(made, jobs=(*made.jobs, Job(array, wanted.todo)))
        made.save()
    for job in wanted.stale:
        scheduler.cancel(job)  # it would end the run without the shards that are queued now
    last = scheduler.queue(wanted.last_command(array), wanted.variables())
    made = replace(made, jobs=(*made.jobs, Job(last)))
    made.save()
    return made
