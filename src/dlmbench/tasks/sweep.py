"""A task list over the step sweep of an experiment: every task, every model, every setting of its sampler.

Models are loaded one after the other and each only if something is left to ask it. A setting that cannot run a task
(steps that do not divide its canvas) or fails at it is on record with the reason, and the others go on.
"""

from __future__ import annotations

import difflib
import gc
import hashlib
import json
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dlmbench import registry
from dlmbench.bench.worker import failure
from dlmbench.errors import BenchError
from dlmbench.experiment import knobs as axes
from dlmbench.metrics import elbo
from dlmbench.models import checkpoint
from dlmbench.models.assets import resolve_model
from dlmbench.tasks import require
from dlmbench.tasks.paired import differences, with_interval
from dlmbench.tasks.records import Contents, Difference, Ended, TaskRun, TaskSample, TaskScore, TaskStore, Value
from dlmbench.tasks.subject import Done, LikelihoodKind, Setup, Subject
from dlmbench.types import Experiment, Grid, Knobs, ModelSpec

# For metrics whose standard error lm-eval finds by resampling; a mean has a formula.
STDERR_DRAWS = 1000
# lm-eval's own seeds, so that few-shot examples are those of its command line.
_FEWSHOT_SEED, _RANDOM_SEED = 1234, 0


@dataclass(frozen=True)
class Request:
    """Which tasks, and how they are asked; None leaves it to the task or to the models."""

    tasks: tuple[str, ...]
    include_path: Path | None = None
    likelihood: LikelihoodKind = "sampler"
    draws: int = elbo.ElboSettings().draws
    limit: float | None = None
    num_fewshot: int | None = None
    new_tokens: int | None = None
    max_length: int | None = None
    chat: bool = False
    rows: int = 8


class Progress(Protocol):
    """Whoever shows how far a task list is."""

    def reading(self, what: str) -> None:
        """Something slow begins before the first run."""

    def begin(self, run: TaskRun, number: int, total: int) -> None:
        """A run begins, the `number`-th of those left."""

    def watch(self, what: str, total: int) -> Done:
        """Requests of one kind begin; the answer counts them."""

    def ended(self, ended: Ended, scores: Sequence[TaskScore]) -> None:
        """A run is on record."""


@dataclass(frozen=True)
class Outcome:
    """The runs of this list, in its order, and all that the folder says of them."""

    runs: tuple[TaskRun, ...]
    contents: Contents


@dataclass(frozen=True)
class _Task:
    """A task or group as lm-eval loaded it. loaded: its TaskDict. kinds: output types of what is in it."""

    name: str
    loaded: Any
    definition: str
    kinds: frozenset[str]
    needs_greedy: bool


def run(experiment: Experiment, request: Request, output: Path, progress: Progress) -> Outcome:
    """Run what is not on record yet, then compare with the baseline.

    Raises:
        BenchError: lm-eval is missing, an unknown task, no model with weights, or a folder that cannot be written.
    """
    require()
    progress.reading("lm-eval and its tasks")
    with _quiet():
        import lm_eval

        models = _folders(experiment)
        tasks = _load(request)
        runs = _plan(experiment, request, tasks, models)
        with TaskStore(output, lm_eval.__version__) as store:
            left = [r for r in runs if not store.is_done(r)]
            subject: Subject | None = None
            for number, one in enumerate(left, 1):
                if subject is not None and not _is_loaded_for(subject, one):
                    subject = None
                if subject is None:
                    _free()
                    progress.reading(f"model {one.model.key}")
                progress.begin(one, number, len(left))
                subject = _answer(one, tasks, request, subject, store, progress)
            store.contents.differences = _compared(store)
            store.write()
            return Outcome(tuple(runs), store.contents)


def _is_loaded_for(subject: Subject, one: TaskRun) -> bool:
    setup = subject.setup
    wanted = (one.model, one.engine, one.precision, one.attention)
    return (setup.model, setup.engine, setup.precision, setup.attention) == wanted


def _answer(
    one: TaskRun,
    tasks: dict[str, _Task],
    request: Request,
    subject: Subject | None,
    store: TaskStore,
    progress: Progress,
) -> Subject | None:
    """One run, put on record however it ends; the loaded model is handed on."""
    task = tasks[one.task]
    setup = Setup(
        model=one.model,
        sampler=one.sampler,
        knobs=one.knobs,
        engine=one.engine,
        precision=one.precision,
        attention=one.attention,
        seed=one.seed,
        likelihood=request.likelihood,
        draws=request.draws,
        max_length=one.max_length,
        new_tokens=one.new_tokens,
        rows=request.rows,
        check_greedy=task.needs_greedy,
    )
    scores: list[TaskScore] = []
    samples: list[TaskSample] = []
    try:
        subject = Subject.load(setup) if subject is None else subject.asked(setup)
        scores, samples = _evaluate(one, task, subject, progress)
        ended = Ended(one, "ok")
    except Exception as error:  # one task's failure must not cost the others
        found = failure(error)
        ended = Ended(one, found.status, found.reason)
    store.add(ended, scores, samples)
    progress.ended(ended, scores)
    return subject


def _evaluate(
    one: TaskRun, task: _Task, subject: Subject, progress: Progress
) -> tuple[list[TaskScore], list[TaskSample]]:
    import lm_eval

    from dlmbench.tasks.adapter import DlmbenchLM

    for leaf in task.loaded["tasks"].values():
        if one.num_fewshot is not None and leaf.get_config("num_fewshot") != 0:
            leaf.set_config(key="num_fewshot", value=one.num_fewshot)
        elif leaf.get_config("num_fewshot") is None:
            leaf.set_config(key="num_fewshot", value=0)
        leaf.set_fewshot_seed(seed=_FEWSHOT_SEED)
    results: dict[str, Any] = lm_eval.evaluate(
        DlmbenchLM.over(subject, progress.watch),
        task_dict=task.loaded,
        limit=one.limit,
        bootstrap_iters=STDERR_DRAWS,
        apply_chat_template=one.chat,
        fewshot_as_multiturn=one.chat,
        confirm_run_unsafe_code=False,
    )
    samples = list(_samples(one, results))
    return [with_interval(s, samples) for s in _scores(one, task, results)], samples


def _scores(one: TaskRun, task: _Task, results: dict[str, Any]) -> Iterator[TaskScore]:
    """lm-eval's results: `metric,filter` beside `metric_stderr,filter`, for tasks and groups alike."""
    for name, found in results["results"].items():
        for key, value in found.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not _is_number(value):
                continue
            stderr = found.get(f"{metric}_stderr,{filter_name}")
            better = results["higher_is_better"].get(name, {}).get(metric)
            yield TaskScore(
                run_id=one.id,
                task=name,
                metric=metric,
                filter=filter_name,
                value=float(value),
                stderr=float(stderr) if _is_number(stderr) else None,
                n=results["n-samples"].get(name, {}).get("effective"),
                higher_is_better=better if isinstance(better, bool) else None,
                aggregation=_aggregation(task.loaded["tasks"].get(name), metric),
            )


def _aggregation(leaf: Any, metric: str) -> str | None:
    """The name under which lm-eval knows the metric's aggregation."""
    from lm_eval.api.registry import aggregation_registry

    rule = leaf.aggregation().get(metric) if leaf is not None else None
    names: list[str] = [n for n in aggregation_registry if rule is not None and aggregation_registry.get(n) is rule]
    return names[0] if names else None


def _samples(one: TaskRun, results: dict[str, Any]) -> Iterator[TaskSample]:
    for name, documents in results["samples"].items():
        for document in documents:
            values = {metric: _value(document[metric]) for metric in document["metrics"]}
            yield TaskSample(
                run_id=one.id,
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
    """A document's value where it can be averaged; lists of gold and guess (as F1 has) cannot."""
    if isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)):
        return float(value[0]), float(value[1])
    return float(value) if _is_number(value) and getattr(value, "ndim", 0) == 0 else None


# ---------------------------------------------------------------- what is to be run


def _folders(experiment: Experiment) -> dict[str, Path]:
    """Each model's checkpoint, baseline first; random weights are left out, for they have no quality."""
    specs = sorted((m for m in experiment.models if m.weights != "random"), key=lambda m: m.role != "baseline")
    if not specs:
        raise BenchError(f"'{experiment.name}' has only random weights, which no task can judge", "Name checkpoints")
    found = {}
    for spec in specs:
        folder = resolve_model(spec)
        assert folder is not None
        checkpoint.inspect(folder, spec.family)
        found[spec.key] = folder
    return found


def _plan(experiment: Experiment, request: Request, tasks: dict[str, _Task], folders: dict[str, Path]) -> list[TaskRun]:
    """Model by model, then setting by setting, then task by task; equal runs only once.

    Windows and contexts are cut at one length for all models, the shortest of theirs, so that they read alike.
    """
    specs = {spec.key: spec for spec in experiment.models}
    positions = [checkpoint.inspect(folder).architecture.max_positions for folder in folders.values()]
    runs: dict[str, TaskRun] = {}
    for key in folders:
        for grid, sampler, knobs in _settings(experiment, specs[key]):
            is_diffusion = registry.load("samplers", sampler).PARADIGM == "diffusion"
            for task in tasks.values():
                is_scored = is_diffusion and task.kinds != {"generate_until"}
                likelihood = request.likelihood if is_scored else None
                # The ELBO has no steps: where nothing is generated all settings of a model are one.
                is_bound = likelihood == "elbo" and "generate_until" not in task.kinds and not task.needs_greedy
                one = TaskRun(
                    task=task.name,
                    definition=task.definition,
                    model=specs[key],
                    sampler=sampler,
                    knobs=() if is_bound else knobs,
                    engine=grid.engines[0],
                    precision=grid.precision,
                    attention=grid.attention,
                    seed=experiment.seed,
                    likelihood=likelihood,
                    draws=request.draws if likelihood == "elbo" else None,
                    max_length=request.max_length or min(positions),
                    new_tokens=request.new_tokens if "generate_until" in task.kinds else None,
                    limit=request.limit,
                    num_fewshot=request.num_fewshot,
                    chat=request.chat,
                )
                runs.setdefault(one.id, one)
    if not runs:
        raise BenchError(f"no sampler of '{experiment.name}' fits its models", "Add one under grid.samplers")
    return list(runs.values())


def _settings(experiment: Experiment, spec: ModelSpec) -> Iterator[tuple[Grid, str, Knobs]]:
    """The samplers of the experiment that can run the model, with each combination of the knobs that are given."""
    paradigm = registry.load("families", spec.family).PARADIGM
    for grid in experiment.grids:
        for swept in grid.samplers:
            if paradigm == registry.load("samplers", swept.sampler).PARADIGM:
                given = [name for name, _ in swept.knobs]
                for combination in axes.combinations(swept):
                    chosen = tuple(sorted((n, combination[n]) for n in given if combination.get(n) is not None))
                    yield grid, swept.sampler, chosen


def _compared(store: TaskStore) -> tuple[Difference, ...]:
    """All that is on record against the baseline's run of the same task in the same way; of several the first."""
    ok = [e.run for e in store.contents.ended.values() if e.status == "ok"]
    first: dict[tuple[object, ...], str] = {}
    for one in ok:
        if one.model.role == "baseline":
            first.setdefault(one.question, one.id)
    pairs = {r.id: first[r.question] for r in ok if r.model.role != "baseline" and r.question in first}
    needed = {*pairs, *pairs.values()}
    scores = [s for s in store.contents.scores if s.run_id in needed]
    return differences(scores, pairs, store.samples(needed))


# ---------------------------------------------------------------- lm-eval's tasks


def _load(request: Request) -> dict[str, _Task]:
    """The tasks by their names.

    Raises:
        BenchError: an unknown one, with the nearest known; or one whose documents cannot be had.
    """
    import numpy as np

    random.seed(_RANDOM_SEED)
    np.random.seed(_FEWSHOT_SEED)
    if request.include_path is not None and not request.include_path.is_dir():
        raise BenchError(f"no folder at {request.include_path}", "Name the folder that holds the tasks' YAML files")
    manager = _manager(request)
    found = {}
    for name in dict.fromkeys(request.tasks):
        if name not in manager.task_index:
            raise unknown_task(name, manager.all_tasks)
        try:
            loaded = manager.load([name])
        except Exception as error:  # the library passes on whatever data sets and YAML raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            hint = "Check its YAML file; a path in data_files is taken from the folder the command is started in"
            raise BenchError(f"task '{name}' cannot be loaded: {reason}", hint) from None
        found[name] = _task(name, loaded, manager.task_index[name].yaml_path)
    return found


def _manager(request: Request) -> Any:
    """lm-eval's task index; its own ten thousand tasks are read only if one is not found without them.

    Raises:
        BenchError: a name that nearly is one of the user's own tasks.
    """
    from lm_eval.tasks import TaskManager

    if request.include_path is not None:
        own = TaskManager(include_path=str(request.include_path), include_defaults=False)
        strange = [name for name in request.tasks if name not in own.task_index]
        if not strange:
            return own
        for name in strange:  # a slip is told at once
            if difflib.get_close_matches(name, own.all_tasks, n=1, cutoff=0.8):
                raise unknown_task(name, own.all_tasks)
    return TaskManager(include_path=str(request.include_path) if request.include_path else None)


def unknown_task(name: str, known: Sequence[str]) -> BenchError:
    """What to tell the user of a task that is not there: the nearest names, for all of them would fill pages."""
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
        # Only these look at whether a continuation is the greedy one, and finding out costs a generation.
        asks = leaf.OUTPUT_TYPE == "multiple_choice" and "exact_match" in leaf.aggregation()
        own = callable(getattr(leaf.config, "process_results", None)) and leaf.OUTPUT_TYPE != "generate_until"
        needs_greedy = needs_greedy or leaf.OUTPUT_TYPE == "loglikelihood" or asks or own
    return _Task(name, loaded, digest.hexdigest()[:12], frozenset(kinds), needs_greedy)


def _free() -> None:
    """Let the last model go before the next one comes."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval and datasets keep to errors meanwhile: the progress shown is ours."""
    import datasets

    log = logging.getLogger("lm_eval")
    level, had_bars = log.level, not datasets.utils.are_progress_bars_disabled()
    log.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        if had_bars:
            datasets.enable_progress_bars()
