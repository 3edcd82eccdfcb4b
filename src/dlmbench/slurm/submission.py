"""What was submitted: the experiment, its shards and the jobs, in `submission.json` of the run folder.

Tasks start hours later, when the experiment file may have been edited: they read the experiment from here. A prompt
file that has changed since shows in the ids of the cells, and is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dlmbench.errors import BenchError
from dlmbench.experiment import plan as grid
from dlmbench.experiment.shards import Shard
from dlmbench.results.journal import replace_file
from dlmbench.types import (
    Experiment,
    Grid,
    ModelSpec,
    Plan,
    PromptSettings,
    ProtocolSettings,
    SamplerAxes,
    from_mapping,
)

SUBMISSION = "submission.json"
SHARDS = "shards"
MODELS = "models.json"  # in SHARDS: the content of the models, written by the first task that saw them
_SCHEMA = 2


@dataclass(frozen=True)
class Resources:
    """What each task asks SLURM for; "" leaves a choice to the cluster. extra: further sbatch options, as written."""

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
        """Whether a task without a GPU is a mistake."""
        return "gpu" in self.gres


@dataclass(frozen=True)
class Job:
    """One job that was queued: the array over `shards`, or (no shards) the one that merges and reports."""

    id: str
    shards: tuple[int, ...] = ()


@dataclass(frozen=True)
class Submission:
    """A run as it was handed to the cluster. device: what the predicted seconds are for."""

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
        return shard_folder(self.folder, index)

    def plan(self) -> Plan:
        """The whole plan, from the experiment as it was submitted.

        Raises:
            BenchError: it gives other cells now than it did then.
        """
        plan = grid.expand(self.experiment)
        dealt = {cell_id for shard in self.shards for cell_id in shard.cell_ids}
        if {cell.id for cell in plan.cells} != dealt:
            raise BenchError(
                f"the experiment gives other cells now than when {self.folder} was submitted",
                "The prompt file or dlmbench itself has changed: put it back, or submit into a new --output_dir",
            )
        return plan

    def with_models(self, models: tuple[ModelSpec, ...], ids: Mapping[str, str]) -> Submission:
        """The submission with models whose content is known by now. ids: the new id of each cell by its old one."""
        shards = tuple(replace(s, cell_ids=tuple(ids.get(i, i) for i in s.cell_ids)) for s in self.shards)
        predicted = {ids.get(cell_id, cell_id): seconds for cell_id, seconds in self.predicted.items()}
        return replace(self, experiment=replace(self.experiment, models=models), shards=shards, predicted=predicted)

    def part(self, plan: Plan, index: int) -> Plan:
        """The cells of one shard; what was left out is told in shard 0 only."""
        if not 0 <= index < len(self.shards):
            raise BenchError(f"{self.folder} has no shard {index}", f"They are 0 to {len(self.shards) - 1}")
        ids = set(self.shards[index].cell_ids)
        cells = tuple(cell for cell in plan.cells if cell.id in ids)
        return replace(plan, cells=cells, left_out=plan.left_out if index == 0 else (), predictions=())

    def save(self) -> None:
        """Write submission.json, whole or not at all."""
        values = {k: v for k, v in asdict(self).items() if k != "folder"}
        replace_file(self.folder / SUBMISSION, json.dumps({"schema_version": _SCHEMA, **values}, indent=1) + "\n")


def shard_folder(folder: Path, index: int) -> Path:
    """Where one shard of the run in `folder` keeps its records."""
    return folder / SHARDS / f"{index:03d}"


def exists(folder: Path) -> bool:
    """Whether `folder` holds a run that was submitted."""
    return (folder / SUBMISSION).is_file()


def load(folder: Path) -> Submission:
    """Read submission.json back, with the content of models that a task has found since.

    Raises:
        BenchError: none there, a damaged one, or not one of this version.
    """
    path = folder / SUBMISSION
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchError(
            f"{folder} was not submitted to a cluster", "Name the --output_dir given to `dlmbench submit`"
        ) from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if isinstance(values, dict) and values.get("schema_version") != _SCHEMA:
        raise BenchError(f"{path} was written by another version of dlmbench", "Use the version that submitted it")
    try:
        return _with_models_found(_submission_from(folder, values))
    except KeyError as error:
        raise _unreadable(path, f"it has no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise _unreadable(path, "it is not what `dlmbench submit` writes") from error


def _unreadable(path: Path, why: object) -> BenchError:
    return BenchError(f"{path} cannot be read ({why})", "Restore it from a copy")


def _with_models_found(submission: Submission) -> Submission:
    path = submission.folder / SHARDS / MODELS
    if not path.is_file():
        return submission
    found = json.loads(path.read_text(encoding="utf-8"))
    models = tuple(replace(m, content=found["content"].get(m.key)) for m in submission.experiment.models)
    return submission.with_models(models, found["cell_ids"])


def _submission_from(folder: Path, values: Mapping[str, Any]) -> Submission:
    return Submission(
        folder=folder,
        experiment=experiment_from(values["experiment"]),
        shards=tuple(from_mapping(Shard, {**s, "cell_ids": tuple(s["cell_ids"])}) for s in values["shards"]),
        predicted={cell_id: float(seconds) for cell_id, seconds in values["predicted"].items()},
        device=values["device"],
        resources=from_mapping(Resources, {**values["resources"], "extra": tuple(values["resources"]["extra"])}),
        allow_cpu=values["allow_cpu"],
        jobs=tuple(Job(j["id"], tuple(j["shards"])) for j in values["jobs"]),
    )


def experiment_from(values: Mapping[str, Any]) -> Experiment:
    """An Experiment from the JSON of its dataclass."""
    return from_mapping(
        Experiment,
        {
            **values,
            "models": tuple(from_mapping(ModelSpec, m) for m in values["models"]),
            "grids": tuple(_grid_from(g) for g in values["grids"]),
            "prompts": from_mapping(PromptSettings, values["prompts"]),
            "protocol": from_mapping(ProtocolSettings, values["protocol"]),
            "metrics": tuple(values["metrics"]),
        },
    )


def _grid_from(values: Mapping[str, Any]) -> Grid:
    samplers = (SamplerAxes(s["sampler"], tuple((k, tuple(v)) for k, v in s["knobs"])) for s in values["samplers"])
    return from_mapping(
        Grid,
        {
            **values,
            "lengths": tuple((p, g) for p, g in values["lengths"]),
            "batch_sizes": tuple(values["batch_sizes"]),
            "engines": tuple(values["engines"]),
            "samplers": tuple(samplers),
        },
    )
