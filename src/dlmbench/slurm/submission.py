"""A run submitted to SLURM: its experiment, shards and jobs, kept in `submission.json`, and how its jobs are queued.

Jobs start hours later, when the experiment file may have been edited, so they read the experiment from
submission.json. A prompt file that has changed since then shows in the cell ids, and the job is refused. Submitting
again completes a run in every case: shards that are done or still queued are left alone.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import geometric_mean

from dlmbench.bench.forecast import load_seconds, process_s
from dlmbench.errors import BenchError
from dlmbench.experiment import plan as grid
from dlmbench.experiment.shards import Shard, balance
from dlmbench.models.identity import with_known_content
from dlmbench.models.loading import architectures
from dlmbench.results import RECORDS
from dlmbench.results.journal import replace_file
from dlmbench.roofline import hardware
from dlmbench.roofline.hardware import Hardware
from dlmbench.roofline.predict import predict
from dlmbench.slurm import scheduler
from dlmbench.types import Experiment, ModelSpec, Plan, from_mapping

SUBMISSION = "submission.json"
SHARDS = "shards"
MODELS = "models.json"  # in SHARDS: the content of the models, written by the first array task that finds them
JOB_SCRIPT = "jobs/benchmark_array.sbatch"
UNKNOWN = "unknown device"
_SCHEMA = 3
_CHECKOUT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Resources:
    """What each job requests from SLURM; "" means the cluster's default. extra: further sbatch options, verbatim."""

    partition: str = ""
    gres: str = "gpu:1"
    time: str = ""
    account: str = ""
    cpus_per_task: int | None = None
    exclusive: bool = True
    warn_s: int = 180
    extra: tuple[str, ...] = ()

    @property
    def wants_gpu(self) -> bool:
        """Whether a GPU is requested, so that running without one is an error."""
        return "gpu" in self.gres

    @property
    def limit_s(self) -> int | None:
        """The time limit, which SLURM reads as M, M:S, H:M:S, D-H, D-H:M or D-H:M:S; None where it is none of these."""
        found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", self.time)
        if found is None:
            return None
        days, first, second, third = (int(part or 0) for part in found.groups())
        if found[1] is None and found[4] is None:
            return 60 * first + second
        return 86400 * days + 3600 * first + 60 * second + third


@dataclass(frozen=True)
class Job:
    """One queued job: the array over `shards`, or (no shards) the job that merges, scores and reports."""

    id: str
    shards: tuple[int, ...] = ()


@dataclass(frozen=True)
class Submission:
    """A submitted run. predicted: seconds of one process of a cell, by id, on `device`, or between the known ones.

    device: UNKNOWN where the GPU asked for is not known.
    """

    folder: Path
    experiment: Experiment
    shards: tuple[Shard, ...]
    predicted: Mapping[str, float]
    device: str
    resources: Resources
    allow_cpu: bool = False
    jobs: tuple[Job, ...] = ()

    def shard_folder(self, index: int) -> Path:
        """The run folder of one shard."""
        return self.folder / SHARDS / f"{index:03d}"

    def plan(self) -> Plan:
        """The plan of the whole run, from the experiment as submitted.

        Raises:
            BenchError: the experiment now expands to other cells than when it was submitted.
        """
        plan = grid.expand(self.experiment)
        submitted = {cell_id for shard in self.shards for cell_id in shard.cell_ids}
        if {cell.id for cell in plan.cells} != submitted:
            raise BenchError(
                f"the experiment gives different cells now than when {self.folder} was submitted",
                "The prompt file or dlmbench itself has changed: restore it, or submit to a new --output-dir",
            )
        return plan

    def with_models(self, models: tuple[ModelSpec, ...], ids: Mapping[str, str]) -> Submission:
        """The submission with model contents hashed after it was made. ids: new cell ids by old ones."""
        shards = tuple(replace(s, cell_ids=tuple(ids.get(i, i) for i in s.cell_ids)) for s in self.shards)
        predicted = {ids.get(cell_id, cell_id): seconds for cell_id, seconds in self.predicted.items()}
        return replace(self, experiment=replace(self.experiment, models=models), shards=shards, predicted=predicted)

    def shard_plan(self, plan: Plan, index: int) -> Plan:
        """The part of `plan` for one shard; left-out combinations are listed in shard 0 only."""
        if not 0 <= index < len(self.shards):
            raise BenchError(f"{self.folder} has no shard {index}", f"Shards are 0 to {len(self.shards) - 1}")
        ids = set(self.shards[index].cell_ids)
        cells = tuple(cell for cell in plan.cells if cell.id in ids)
        return replace(plan, cells=cells, left_out=plan.left_out if index == 0 else (), predictions=())

    def shard_processes(self, index: int) -> dict[str, tuple[int, ...]]:
        """Which processes of each of its cells a shard measures, by cell id."""
        shard = self.shards[index]
        return dict(zip(shard.cell_ids, shard.processes, strict=True))

    def tasks_by_shard(self, tasks: Sequence[scheduler.Task]) -> dict[int, scheduler.Task]:
        """The array task of each shard among `tasks`; if several jobs had the shard, that of the latest."""
        found: dict[int, scheduler.Task] = {}
        for job in self.jobs:
            for task in tasks:
                if task.job == job.id:
                    found |= dict.fromkeys(job.shards if task.index is None else (task.index,), task)
        return found

    def save(self) -> None:
        """Write submission.json atomically."""
        replace_file(self.folder / SUBMISSION, self.to_json())

    def to_json(self) -> str:
        """The text of submission.json."""
        values = {k: v for k, v in asdict(self).items() if k != "folder"}
        return json.dumps({"schema_version": _SCHEMA, **values}, indent=1) + "\n"


def resume_command(folder: Path) -> str:
    """The command that completes a submitted run."""
    return f"dlmbench submit --resume {shlex.quote(str(folder))}"


# ---------------------------------------------------------------- create and check


def create(
    experiment: Experiment,
    plan: Plan,
    folder: Path,
    count: int,
    device: Hardware | None,
    resources: Resources,
    allow_cpu: bool = False,
) -> Submission:
    """A submission with nothing queued yet: `count` shards, balanced by each cell's predicted time on `device`.

    None for a device that is not known: the times are geometric means over the known devices.
    """
    experiment = replace(experiment, models=with_known_content(experiment.models))
    plan = grid.with_models(plan, experiment.models)
    if device is not None:
        seconds = predicted_s(plan, experiment, device)
    else:
        everywhere = [predicted_s(plan, experiment, row) for row in hardware.ROWS]
        seconds = {i: geometric_mean(one[i] for one in everywhere) for i in everywhere[0]}
    known, _ = architectures(dict.fromkeys(c.model for c in plan.cells))
    shards = balance(plan, count, seconds, load_seconds(plan.cells, known), experiment.protocol.processes)
    name = UNKNOWN if device is None else device.name
    return Submission(folder.absolute(), experiment, shards, seconds, name, resources, allow_cpu)


def predicted_s(plan: Plan, experiment: Experiment, device: Hardware) -> dict[str, float]:
    """Predicted seconds of one process of each cell on `device`, by id; cells without a prediction are left out."""
    forecast = predict(plan, device)
    latencies = {cell.id: forecast.of(cell).latency_s for cell in plan.cells}
    return {i: process_s(s, experiment.protocol) for i, s in latencies.items() if s is not None}


def requested_device(gres: str) -> Hardware | None:
    """The GPU that a gres such as gpu:rtx_a6000:1 names; None where it names none, or one that is not known.

    Raises:
        BenchError: several known devices have that name.
    """
    gpu = next((item.partition("(")[0] for item in gres.split(",") if item.startswith("gpu:")), "")
    kind = gpu.split(":")[1] if gpu else ""
    if not kind or kind.isdigit():
        return None
    device, several = hardware.of_device(kind), hardware.variants(kind)
    if device is None and len(several) == 1:
        return hardware.find(several[0])
    if device is None and several:
        raise BenchError(
            f"--gres {gres} may be any of several devices ({', '.join(several)})",
            f"Name the one that the cluster has with --hardware, as in --hardware '{several[-1]}'",
        )
    return device


def check_same_run(old: Submission, new: Submission) -> None:
    """Check that `new` submits the same run as `old`, which is in its folder already.

    Raises:
        BenchError: another experiment, another checkpoint of a model, or another number of shards.
    """
    hint = f"`{resume_command(old.folder)}` resumes it unchanged; for a different run choose a new --output-dir"
    one, other = (json.dumps(asdict(_without_content(s.experiment)), sort_keys=True) for s in (old, new))
    if one != other:
        raise BenchError(f"{old.folder} was submitted with another experiment", hint)
    for before, now in zip(old.experiment.models, new.experiment.models, strict=True):
        if before.content and now.content and before.content != now.content:
            raise BenchError(
                f"model {now.key}: {now.source} contains a different checkpoint than when {old.folder} was submitted "
                f"(content {now.content} now, {before.content} then)",
                "Restore that checkpoint to resume; for the new one choose a new --output-dir",
            )
    if len(old.shards) != len(new.shards):
        raise BenchError(f"{old.folder} was split into {len(old.shards)} shards, not {len(new.shards)}", hint)


def _without_content(experiment: Experiment) -> Experiment:
    return replace(experiment, models=tuple(replace(m, content=None) for m in experiment.models))


def check_not_serial_run(folder: Path) -> None:
    """Check that `dlmbench run` has not filled `folder`: a merge must not mix with its records.

    Raises:
        BenchError: the folder has records but no submission.
    """
    if (folder / RECORDS).is_file() and not exists(folder):
        raise BenchError(
            f"{folder} contains a run that was not submitted",
            "`dlmbench run` resumes it; to submit, choose a new --output-dir",
        )


def check_time(resources: Resources) -> None:
    """Check that tasks are not told to stop as soon as they start, which would queue them again and again.

    Raises:
        BenchError: the warning comes no later than the task.
    """
    if resources.limit_s is not None and resources.limit_s <= resources.warn_s:
        raise BenchError(
            f"--time {resources.time} ends before its warning, {resources.warn_s} s earlier, so that nothing would run",
            "Give more --time, or less --warn",
        )


def check_resources(resources: Resources) -> None:
    """Check before queueing that jobs can be submitted, and that shards cannot end up on different types of GPU.

    Raises:
        BenchError: the partition has several types and none is chosen; SLURM or the job script is missing.
    """
    if not _job_script().is_file():
        raise BenchError(f"there is no {_job_script()}", "Submit from a checkout, or set DLMBENCH_HOME to one")
    scheduler.run_command(["sbatch", "--version"])
    is_chosen = any(_chooses_nodes(option) for option in resources.extra)
    if resources.gres.partition(":")[0] != "gpu" or resources.gres.count(":") > 1 or is_chosen:
        return
    types = scheduler.gpu_types(resources.partition)
    if len(types) > 1 and not any(t in resources.gres.split(":") for t in types):
        raise BenchError(
            f"the partition offers several types of GPU ({', '.join(types)}), which must not be mixed",
            f"Choose one, as in --gres gpu:{types[0]}:1",
        )


def _chooses_nodes(option: str) -> bool:
    """Whether an sbatch option selects nodes by feature or name; the value may be attached to a short option."""
    return option.partition("=")[0] in ("--constraint", "--nodelist") or option.startswith(("-C", "-w"))


# ---------------------------------------------------------------- queue


@dataclass(frozen=True)
class QueueRequest:
    """What to submit: the array over the shards in `todo`, then the job that merges, scores and reports.

    queued: unfinished shards that are in the queue already. arrays: ids of their jobs. superseded: report jobs that
    are replaced by the new one.
    """

    submission: Submission
    todo: tuple[int, ...]
    queued: tuple[int, ...]
    arrays: tuple[str, ...]
    superseded: tuple[str, ...]

    def array_command(self) -> list[str]:
        """The sbatch command of the array."""
        resources = self.submission.resources
        return [
            *_sbatch(self.submission, "", "%A_%a"),
            f"--array={','.join(map(str, self.todo))}",
            f"--signal=B:USR1@{resources.warn_s}",
            "--requeue",
            *(["--exclusive"] if resources.exclusive else []),
            str(_job_script()),
            str(self.submission.folder),
        ]

    def report_command(self, array: str | None) -> list[str]:
        """The sbatch command of the job that merges, scores and reports after all others have ended in any state."""
        after = [*self.arrays, *([array] if array else [])]
        dependency = [f"--dependency=afterany:{':'.join(after)}"] if after else []
        folder = str(self.submission.folder)
        return [*_sbatch(self.submission, "-report", "%j"), *dependency, str(_job_script()), folder]

    def variables(self) -> dict[str, str]:
        """Environment variables for the job script; values that the user has set win."""
        environment = os.environ
        return {
            "DLMBENCH_HOME": environment.get("DLMBENCH_HOME", str(_CHECKOUT)),
            "DLMBENCH_PYTHON": environment.get("DLMBENCH_PYTHON", sys.executable),
        }


def _sbatch(submission: Submission, suffix: str, job: str) -> list[str]:
    resources = submission.resources
    options = (
        ("partition", resources.partition),
        ("account", resources.account),
        ("gres", resources.gres),
        ("time", resources.time),
        ("cpus-per-task", str(resources.cpus_per_task or "")),
    )
    name = f"dlmbench-{submission.experiment.name}{suffix}"
    logs = Path.cwd() / "logs" / "slurm"
    return [
        "sbatch",
        "--parsable",
        f"--job-name={name}",
        f"--output={logs}/{name}-{job}.out",
        "--open-mode=append",
        *(f"--{option}={value}" for option, value in options if value),
        *resources.extra,
    ]


def _job_script() -> Path:
    return Path(os.environ.get("DLMBENCH_HOME", _CHECKOUT)) / JOB_SCRIPT


def request_for(submission: Submission, unfinished: list[int]) -> QueueRequest:
    """What to queue so that the `unfinished` shards get done; those still in the queue are left alone."""
    active = [task for task in scheduler.tasks([job.id for job in submission.jobs]) if not task.is_over]
    arrays = {job.id for job in submission.jobs if job.shards}
    covered = submission.tasks_by_shard(active)
    return QueueRequest(
        submission,
        todo=tuple(i for i in unfinished if i not in covered),
        queued=tuple(i for i in unfinished if i in covered),
        arrays=tuple(dict.fromkeys(t.job for t in active if t.job in arrays)),
        superseded=tuple(dict.fromkeys(t.job for t in active if t.job not in arrays)),
    )


def queue(request: QueueRequest) -> Submission:
    """Queue the array and the report job, and record their ids.

    Raises:
        BenchError: SLURM refused, with its message; the same command can be repeated.
    """
    submission = request.submission
    (Path.cwd() / "logs" / "slurm").mkdir(parents=True, exist_ok=True)
    submission.folder.mkdir(parents=True, exist_ok=True)
    submission.save()  # before the first job can start and read it
    array = None
    if request.todo:
        array = scheduler.sbatch(request.array_command(), request.variables())
        submission = replace(submission, jobs=(*submission.jobs, Job(array, request.todo)))
        submission.save()
    for job in request.superseded:
        scheduler.run_command(["scancel", job])  # it would report without the shards queued now
    last = scheduler.sbatch(request.report_command(array), request.variables())
    submission = replace(submission, jobs=(*submission.jobs, Job(last)))
    submission.save()
    return submission


# ---------------------------------------------------------------- read back


def exists(folder: Path) -> bool:
    """Whether `folder` holds a submitted run."""
    return (folder / SUBMISSION).is_file()


def load(folder: Path) -> Submission:
    """Read submission.json, with the content of models that an array task has found since.

    Raises:
        BenchError: it or models.json is missing, damaged, or of another version.
    """
    path = folder / SUBMISSION
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchError(
            f"{folder} was not submitted to a cluster", "Use the --output-dir given to `dlmbench submit`"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if isinstance(values, dict) and values.get("schema_version") != _SCHEMA:
        raise BenchError(f"{path} was written by another version of dlmbench", "Use the version that submitted it")
    try:
        submission = from_mapping(Submission, {**values, "folder": folder})
        if json.loads(submission.to_json()) != values:
            raise ValueError("something is missing")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, "it is not what `dlmbench submit` writes") from error
    return _with_found_models(submission)


def _unreadable(path: Path, why: object) -> BenchError:
    return BenchError(f"{path} cannot be read ({why})", "Restore it from a copy")


def _with_found_models(submission: Submission) -> Submission:
    path = submission.folder / SHARDS / MODELS
    if not path.is_file():
        return submission
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        models = tuple(replace(m, content=found["content"].get(m.key)) for m in submission.experiment.models)
        return submission.with_models(models, found["cell_ids"])
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _unreadable(path, "it is not what the first array task writes") from error
