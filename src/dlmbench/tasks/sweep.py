"""A task list over the step sweep of an experiment: every task, every model, every setting of its sampler.

lm-eval runs in this process; each model answers in a worker process of its own, and only if requests remain. A
run that fails (steps that do not divide its canvas, no memory, a worker that dies) is recorded with the reason,
and the others still run.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dlmbench import registry
from dlmbench.bench.generate import default_device
from dlmbench.bench.worker import Pool, Worker, failure
from dlmbench.errors import BenchError
from dlmbench.experiment import knobs as axes
from dlmbench.experiment import plan
from dlmbench.models import FoundModel, hub, identity
from dlmbench.tasks import require
from dlmbench.tasks.paired import differences, with_interval
from dlmbench.tasks.records import (
    ELBO_DRAWS,
    LikelihoodKind,
    TaskDifference,
    TaskOutcome,
    TaskResults,
    TaskRun,
    TaskSample,
    TaskScore,
    TaskStore,
    Value,
    read_samples,
)
from dlmbench.types import Experiment, Grid, Knobs, ModelSpec

if TYPE_CHECKING:
    from dlmbench.tasks.adapter import DlmbenchLM

# For metrics whose standard error lm-eval finds by resampling; a mean has a formula.
STDERR_DRAWS = 1000
# lm-eval's own seeds, so that few-shot examples are those of its command line.
_FEWSHOT_SEED, _RANDOM_SEED = 1234, 0


@dataclass(frozen=True)
class TaskListArgs:
    """Which tasks to run, and how; None leaves it to the task or to the models."""

    tasks: tuple[str, ...]
    include_path: Path | None = None
    likelihood: LikelihoodKind = "sampler"
    draws: int = ELBO_DRAWS
    limit: float | None = None
    num_fewshot: int | None = None
    new_tokens: int | None = None
    max_length: int | None = None
    chat: bool = False
    rows: int = 8


class TaskProgress(Protocol):
    """Shows the progress of a task list."""

    def reading(self, what: str) -> None:
        """Something slow begins before the first request."""

    def begin(self, run: TaskRun, number: int, total: int) -> None:
        """A run begins, number `number` of the `total` that are left."""

    def bar(self, what: str, total: int) -> AbstractContextManager[Callable[[int], object]]:
        """Requests of one kind begin; the function counts those that were answered."""

    def ended(self, outcome: TaskOutcome, scores: Sequence[TaskScore]) -> None:
        """A run is recorded."""


@dataclass(frozen=True)
class TaskListResult:
    """The runs of this list, in its order, and all recorded results."""

    runs: tuple[TaskRun, ...]
    results: TaskResults


@dataclass(frozen=True)
class _Task:
    """A task or group as lm-eval loaded it. loaded: its TaskDict. kinds: output types of its tasks."""

    name: str
    loaded: Any
    definition: str
    kinds: frozenset[str]
    needs_greedy: bool


def run(experiment: Experiment, args: TaskListArgs, output: Path, progress: TaskProgress) -> TaskListResult:
    """Run what is not recorded yet, then compare with the baseline.

    Raises:
        BenchError: lm-eval is missing, an unknown task, no model with weights, or a folder that cannot be written.
    """
    require()
    progress.reading("lm-eval and its tasks")
    if not logging.getLogger().isEnabledFor(logging.INFO):
        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # `TaskProgress` shows the progress
    import lm_eval

    found = _find_models(experiment)
    tasks = _load(args)
    runs = _plan(experiment, args, tasks, found)
    with TaskStore(output, lm_eval.__version__) as store, Pool(found, default_device()) as pool:
        left = store.plan(runs)
        for number, task_run in enumerate(left, 1):
            key = task_run.model.key
            if number == 1 or left[number - 2].model.key != key:
                pool.stop(found.keys() - {key})  # one model at a time, so that each has all of the memory
                progress.reading(f"model {key}")
            progress.begin(task_run, number, len(left))
            outcome, scores, samples = _evaluate(
                task_run, tasks[task_run.task].loaded, found[key], pool.worker(key), progress
            )
            store.add(outcome, scores, samples)
            progress.ended(outcome, scores)
        store.results.differences = _differences(store)
        store.write()
        return TaskListResult(tuple(runs), store.results)


def _evaluate(
    task_run: TaskRun, loaded: Any, found: FoundModel, worker: Worker, progress: TaskProgress
) -> tuple[TaskOutcome, list[TaskScore], list[TaskSample]]:
    """Run one task with lm-eval; a failure becomes its outcome."""
    from dlmbench.tasks.adapter import DlmbenchLM, RequestFailedError

    try:
        results = _lm_eval_results(task_run, loaded, DlmbenchLM.from_worker(task_run, found, worker, progress.bar))
        samples = list(_samples(task_run, results))
        scores = [with_interval(score, samples) for score in _scores(task_run, loaded, results)]
        return TaskOutcome(task_run, "ok"), scores, samples
    except RequestFailedError as error:
        failed = error.failed
    except Exception as error:  # one task's failure must not stop the others
        failed = failure(error)
    return TaskOutcome(task_run, failed.status, failed.reason), [], []


def _lm_eval_results(task_run: TaskRun, loaded: Any, lm: DlmbenchLM) -> dict[str, Any]:
    import lm_eval

    for leaf in loaded["tasks"].values():
        if task_run.num_fewshot is not None and leaf.get_config("num_fewshot") != 0:
            leaf.set_config(key="num_fewshot", value=task_run.num_fewshot)
        elif leaf.get_config("num_fewshot") is None:
            leaf.set_config(key="num_fewshot", value=0)
        leaf.set_fewshot_seed(seed=_FEWSHOT_SEED)
    results: dict[str, Any] = lm_eval.evaluate(
        lm,
        task_dict=loaded,
        limit=task_run.limit,
        bootstrap_iters=STDERR_DRAWS,
        apply_chat_template=task_run.chat,
        fewshot_as_multiturn=task_run.chat,
        confirm_run_unsafe_code=False,
    )
    return results


def _scores(task_run: TaskRun, loaded: Any, results: dict[str, Any]) -> Iterator[TaskScore]:
    """lm-eval's results: `metric,filter` beside `metric_stderr,filter`, for tasks and groups alike."""
    for name, values in results["results"].items():
        for key, value in values.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not _is_number(value):
                continue
            stderr = values.get(f"{metric}_stderr,{filter_name}")
            better = results["higher_is_better"].get(name, {}).get(metric)
            yield TaskScore(
                run_id=task_run.id,
                task=name,
                metric=metric,
                filter=filter_name,
                value=float(value),
                stderr=float(stderr) if _is_number(stderr) else None,
                n=results["n-samples"].get(name, {}).get("effective"),
                higher_is_better=better if isinstance(better, bool) else None,
                aggregation=_aggregation(loaded["tasks"].get(name), metric),
            )


def _aggregation(leaf: Any, metric: str) -> str | None:
    """lm-eval's name of the metric's aggregation."""
    from lm_eval.api.registry import aggregation_registry

    rule = leaf.aggregation().get(metric) if leaf is not None else None
    names: list[str] = [n for n in aggregation_registry if rule is not None and aggregation_registry.get(n) is rule]
    return names[0] if names else None


def _samples(task_run: TaskRun, results: dict[str, Any]) -> Iterator[TaskSample]:
    for name, documents in results["samples"].items():
        for document in documents:
            values = {metric: _value(document[metric]) for metric in document["metrics"]}
            yield TaskSample(
                run_id=task_run.id,
                task=name,
                filter=document["filter"],
                doc_id=document["doc_id"],
                doc_hash=document["doc_hash"],
                target=str(document["target"]),
                raw=document["resps"],
                answers=document["filtered_resps"],
                values={metric: value for metric, value in values.items() if value is not None},
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or hasattr(value, "dtype")


def _value(value: Any) -> Value | None:
    """A document's value where it can be averaged; lists of gold and prediction (as for F1) cannot."""
    if isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)):
        return float(value[0]), float(value[1])
    return float(value) if _is_number(value) and getattr(value, "ndim", 0) == 0 else None


# ---------------------------------------------------------------- the plan


def _find_models(experiment: Experiment) -> dict[str, FoundModel]:
    """Each model's checkpoint, baseline first; random weights are left out, because they have no quality."""
    specs = sorted((m for m in experiment.models if m.weights != "random"), key=lambda m: m.role != "baseline")
    if not specs:
        raise BenchError(f"'{experiment.name}' has only random weights, but tasks need trained ones", "Use checkpoints")
    return {spec.key: identity.find_identified(spec) for spec in specs}


def _plan(
    experiment: Experiment, args: TaskListArgs, tasks: dict[str, _Task], found: dict[str, FoundModel]
) -> list[TaskRun]:
    """Model by model, then setting by setting, then task by task; equal runs only once.

    Windows and contexts are cut at one length for all models, the shortest of theirs, so that all read the same text.
    """
    max_length = args.max_length or min(model.architecture.max_positions for model in found.values())
    runs: dict[str, TaskRun] = {}
    for spec in (model.spec for model in found.values()):
        for grid, sampler, knobs in _settings(experiment, spec):
            is_diffusion = registry.load("samplers", sampler).PARADIGM == "diffusion"
            for task in tasks.values():
                generates = "generate_until" in task.kinds
                is_scored = is_diffusion and task.kinds != {"generate_until"}
                likelihood = args.likelihood if is_scored else None
                # The ELBO has no steps: where nothing is generated, all settings of a model are one.
                has_knobs = likelihood != "elbo" or generates or task.needs_greedy
                task_run = TaskRun(
                    task=task.name,
                    definition=task.definition,
                    model=spec,
                    sampler=sampler,
                    knobs=knobs if has_knobs else (),
                    engine=grid.engines[0],
                    precision=grid.precision,
                    attention=grid.attention,
                    seed=experiment.seed,
                    likelihood=likelihood,
                    draws=args.draws if likelihood == "elbo" else None,
                    max_length=max_length,
                    new_tokens=args.new_tokens if generates else None,
                    limit=args.limit,
                    num_fewshot=args.num_fewshot,
                    chat=args.chat,
                    rows=args.rows,
                    check_greedy=task.needs_greedy,
                )
                runs.setdefault(task_run.id, task_run)
    if not runs:
        raise BenchError(f"no sampler of '{experiment.name}' fits its models", "Add one under grid.samplers")
    return list(runs.values())


def _settings(experiment: Experiment, spec: ModelSpec) -> Iterator[tuple[Grid, str, Knobs]]:
    """The samplers of the experiment that can run the model, with each combination of the knobs it names."""
    for grid in experiment.grids:
        for swept in plan.fitting(grid, spec):
            names = [name for name, _ in swept.knobs]
            for combination in axes.combinations(swept):
                chosen = tuple(sorted((n, combination[n]) for n in names if combination.get(n) is not None))
                yield grid, swept.sampler, chosen


def _differences(store: TaskStore) -> tuple[TaskDifference, ...]:
    """Every recorded run minus the baseline's run of the same task; of several baseline runs the first."""
    ok = [outcome.run for outcome in store.results.outcomes.values() if outcome.status == "ok"]
    baselines: dict[tuple[object, ...], str] = {}
    for run in ok:
        if run.model.role == "baseline":
            baselines.setdefault(run.comparison_key, run.id)
    targets = [r for r in ok if r.model.role != "baseline" and r.comparison_key in baselines]
    pairs = {r.id: baselines[r.comparison_key] for r in targets}
    needed = {*pairs, *pairs.values()}
    scores = [s for s in store.results.scores if s.run_id in needed]
    return differences(scores, pairs, read_samples(store.folder, needed))


# ---------------------------------------------------------------- lm-eval's tasks


def _load(args: TaskListArgs) -> dict[str, _Task]:
    """The tasks by their names.

    Raises:
        BenchError: an unknown one, with the nearest known; or one whose documents cannot be loaded.
    """
    import numpy as np

    random.seed(_RANDOM_SEED)
    np.random.seed(_FEWSHOT_SEED)
    if args.include_path is not None and not args.include_path.is_dir():
        raise BenchError(
            f"no folder at {args.include_path}", "--include-path must be the folder with the tasks' YAML files"
        )
    manager = _manager(args)
    tasks = {}
    with hub.offline_if_unreachable() as is_offline:
        for name in dict.fromkeys(args.tasks):
            if name not in manager.task_index:
                raise unknown_task(name, manager.all_tasks)
            try:
                loaded = manager.load([name])
            except Exception as error:  # whatever data sets and YAML raise
                raise _not_loaded(name, error, is_offline) from None
            tasks[name] = _task(name, loaded, manager.task_index[name].yaml_path)
    return tasks


def _not_loaded(name: str, error: Exception, is_offline: bool) -> BenchError:
    if is_offline and isinstance(error, ConnectionError):
        return BenchError(
            f"the data of task '{name}' are not in the cache, and {hub.HOME} is not used or cannot be reached",
            f"On a machine with network access run `dlmbench tasks -t {name} --limit 1`, then point HF_HOME to the "
            "cache it filled",
        )
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    hint = "Check its YAML file; a path in data_files is taken from the folder the command is started in"
    return BenchError(f"task '{name}' cannot be loaded: {reason}", hint)


def _manager(args: TaskListArgs) -> Any:
    """lm-eval's task index; its ten thousand tasks are read only where one of the names needs them.

    Raises:
        BenchError: a name that is almost one of the user's own tasks.
    """
    from lm_eval.tasks import TaskManager

    if args.include_path is not None:
        own = TaskManager(include_path=str(args.include_path), include_defaults=False)
        unknown = [name for name in args.tasks if name not in own.task_index]
        if not unknown:
            return own
        for name in unknown:  # a typing error is reported at once
            if difflib.get_close_matches(name, own.all_tasks, n=1, cutoff=0.8):
                raise unknown_task(name, own.all_tasks)
    return TaskManager(include_path=str(args.include_path) if args.include_path else None)


def unknown_task(name: str, known: Sequence[str]) -> BenchError:
    """The error for an unknown task, with the nearest names: a list of all of them would fill pages."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return BenchError(
        f"unknown task '{name}'",
        f"{hint}`dlmbench lm-eval ls tasks` lists lm-eval's; --include_path adds a folder of your own",
    )


def _task(name: str, loaded: Any, path: Path | None) -> _Task:
    digest = hashlib.sha256(Path(path).read_bytes() if path else b"")
    kinds: set[str] = set()
    needs_greedy = False
    for leaf in loaded["tasks"].values():
        for document in leaf.eval_docs:
            digest.update(json.dumps(document, sort_keys=True, default=str).encode())
        kinds.add(leaf.OUTPUT_TYPE)
        # Only these use whether a continuation is the greedy one, and finding out costs a generation.
        matches = leaf.OUTPUT_TYPE == "multiple_choice" and "exact_match" in leaf.aggregation()
        own = callable(getattr(leaf.config, "process_results", None)) and leaf.OUTPUT_TYPE != "generate_until"
        needs_greedy = needs_greedy or leaf.OUTPUT_TYPE == "loglikelihood" or matches or own
    return _Task(name, loaded, digest.hexdigest()[:12], frozenset(kinds), needs_greedy)
