"""Task results in a run folder: tasks.json, the same as CSV, and one JSON line per document, for resampling.

A finished run of a task is on disk before the next begins: its documents first, then tasks.json, replaced as a whole.
If the process dies in between, lines of an unfinished run remain; later lines of the same documents replace them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from dlmbench.errors import BenchError
from dlmbench.results.folder import finite, refuse_replaced_models
from dlmbench.results.journal import (
    LockedFolder,
    append_lines,
    drop_torn_line,
    parse_json,
    read_lines,
    replace_file,
)
from dlmbench.results.views import csv_text
from dlmbench.types import SCHEMA_VERSION, Knobs, ModelSpec, Status, from_mapping, stable_hash

TASKS, TABLE, SAMPLES = "tasks.json", "tasks.csv", "task_samples.jsonl"

_NAMES = """
    task metric filter model role sampler steps block_length knobs value stderr low high n higher_is_better difference
    difference_low difference_high difference_n likelihood limit num_fewshot chat status reason definition run_id"""
_COLUMNS = tuple(_NAMES.split())

LikelihoodKind = Literal["elbo", "sampler"]
LIKELIHOODS: tuple[LikelihoodKind, ...] = get_args(LikelihoodKind)
ELBO_DRAWS = 128  # the authors' number

# A document's value of a metric: a number, or (sum, weight) of a ratio such as log-likelihood over bytes.
Value = float | tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class TaskModelArgs:
    """Which model answers, and how: lm-eval's --model_args.

    sampler, precision: "" leaves the choice to the family and the device. knobs: those chosen; the others are
    resolved for each length. likelihood: the estimator of a diffusion model's log-likelihoods, draws: its Monte Carlo
    samples; None where they do not apply. max_length: most tokens of a request; None takes the checkpoint's positions.
    new_tokens: the canvas of a generation; None takes the task's own limit. rows: requests in one forward.
    check_greedy: whether to find out which continuations greedy decoding would have generated.
    """

    model: ModelSpec
    sampler: str = ""
    knobs: Knobs = ()
    engine: str = "hf"
    precision: str = ""
    attention: str = "auto"
    seed: int = 0
    likelihood: LikelihoodKind | None = "elbo"
    draws: int | None = ELBO_DRAWS
    max_length: int | None = None
    new_tokens: int | None = None
    rows: int = 1
    check_greedy: bool = True


@dataclass(frozen=True, kw_only=True)
class TaskRun(TaskModelArgs):
    """One task (or group of tasks) for one model in one setting.

    definition: hash of the task's file and documents. limit: number of documents; below 1 a share of them.
    num_fewshot: None leaves it to the task.
    """

    task: str
    definition: str
    limit: int | float | None = None  # 4 stays 4 when it is read back, so that the id is the same
    num_fewshot: int | None = None
    chat: bool = False

    @property
    def id(self) -> str:
        """Hash of everything that determines the answers: a run recorded as ok under this id is not run again."""
        values = asdict(self) | {"model": self.model.identity}
        return stable_hash({name: value for name, value in values.items() if name not in ("rows", "check_greedy")})

    @property
    def comparison_key(self) -> tuple[object, ...]:
        """Equal for runs on the same documents and prompts, so that their scores can be compared."""
        size = (self.max_length, self.new_tokens, self.limit)
        return (self.task, self.definition, *size, self.num_fewshot, self.chat)

    @property
    def steps(self) -> int | None:
        """Diffusion steps K; None for one per token, and where the sampler has none."""
        value = dict(self.knobs).get("steps")
        return None if value is None else int(value)

    @property
    def label(self) -> str:
        """A short name for tables and messages."""
        knobs = " ".join(f"{name}={value}" for name, value in self.knobs if value not in (None, False, 0, "none"))
        return " ".join(part for part in (self.task, self.model.key, knobs) if part)


@dataclass(frozen=True)
class TaskScore:
    """A metric of one task in one run. stderr: lm-eval's, None where it has none.

    low, high: 95% interval over documents; None where the metric is not a mean or a ratio of sums.
    """

    run_id: str
    task: str
    metric: str
    filter: str
    value: float | None
    stderr: float | None
    n: int | None
    higher_is_better: bool | None
    aggregation: str | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class TaskSample:
    """One document and its value of each metric; raw, answers: lm-eval's resps, filtered_resps.

    Equal doc_hash means the same document.
    """

    run_id: str
    task: str
    filter: str
    doc_id: int
    doc_hash: str
    target: str
    raw: Any
    answers: Any
    values: dict[str, Value]


@dataclass(frozen=True)
class TaskDifference:
    """A run minus the baseline over the same n documents, in the metric's unit; paired-bootstrap 95% interval."""

    run_id: str
    baseline_id: str
    task: str
    metric: str
    filter: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class TaskOutcome:
    """How a run ended: ok, or why not."""

    run: TaskRun
    status: Status
    reason: str = ""


@dataclass
class TaskResults:
    """All task results of a run folder; outcomes by run id."""

    outcomes: dict[str, TaskOutcome] = field(default_factory=dict)
    scores: list[TaskScore] = field(default_factory=list)
    differences: tuple[TaskDifference, ...] = ()


class TaskStore(LockedFolder):
    """The task results of a run folder, locked for writing by one process."""

    def __init__(self, folder: Path, lm_eval_version: str) -> None:
        """Open or create it.

        Raises:
            BenchError: not a folder, not writable, in use by another run, or broken.
        """
        super().__init__(folder)
        self.version = lm_eval_version
        try:
            drop_torn_line(folder / SAMPLES)
            self.results = read(folder)
        except BaseException:
            self.close()
            raise

    def plan(self, runs: Sequence[TaskRun]) -> list[TaskRun]:
        """Those of `runs` that are not recorded yet; recorded ones get the current key, role and folder of the model.

        Raises:
            BenchError: a model's name or source was recorded with another checkpoint.
        """
        recorded = (outcome.run.model for outcome in self.results.outcomes.values())
        refuse_replaced_models(self.folder, recorded, (run.model for run in runs))
        models = {run.model.identity: run.model for run in runs}
        for run_id, outcome in self.results.outcomes.items():
            model = models.get(outcome.run.model.identity, outcome.run.model)
            self.results.outcomes[run_id] = replace(outcome, run=replace(outcome.run, model=model))
        return [run for run in runs if not self.is_done(run)]

    def is_done(self, run: TaskRun) -> bool:
        """Whether the run is recorded with its scores; one that failed is tried again."""
        outcome = self.results.outcomes.get(run.id)
        return outcome is not None and outcome.status == "ok"

    def add(self, outcome: TaskOutcome, scores: Sequence[TaskScore] = (), samples: Iterable[TaskSample] = ()) -> None:
        """Record an outcome; it is on disk when this returns."""
        append_lines(self.folder / SAMPLES, (_plain(asdict(s)) for s in samples))
        self.results.outcomes[outcome.run.id] = outcome
        self.results.scores = [s for s in self.results.scores if s.run_id != outcome.run.id]
        self.results.scores += map(finite, scores)
        self.write()

    def write(self) -> None:
        """Rewrite tasks.json and the CSV."""
        runs = {run_id: outcome.run for run_id, outcome in self.results.outcomes.items()}
        # What readers of scores group by.
        labels = {i: {"model": r.model.key, "role": r.model.role, "steps": r.steps} for i, r in runs.items()}
        document = {
            "schema_version": SCHEMA_VERSION,
            "lm_eval": self.version,
            "runs": [
                asdict(o.run) | {"id": run_id, "status": o.status, "reason": o.reason}
                for run_id, o in self.results.outcomes.items()
            ],
            "scores": [labels[s.run_id] | asdict(s) for s in self.results.scores],
            "differences": [asdict(d) for d in self.results.differences],
        }
        replace_file(self.folder / TASKS, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
        rows = ({name: row.get(name) for name in _COLUMNS} for row in self._rows())
        replace_file(self.folder / TABLE, csv_text(_COLUMNS, rows))

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Rows of tasks.csv: one per score, and one per run without any."""
        differences = {(d.run_id, d.task, d.metric, d.filter): d for d in self.results.differences}
        for run_id, outcome in self.results.outcomes.items():
            run, knobs = outcome.run, dict(outcome.run.knobs)
            row = asdict(run) | {"model": run.model.key, "role": run.model.role, "steps": run.steps}
            row |= {"knobs": " ".join(f"{k}={v}" for k, v in run.knobs), "block_length": knobs.get("block_length")}
            row |= {"run_id": run_id, "status": outcome.status, "reason": outcome.reason}
            scores = [s for s in self.results.scores if s.run_id == run_id]
            if not scores:
                yield row
            for s in scores:
                values = row | asdict(s)
                if d := differences.get((run_id, s.task, s.metric, s.filter)):
                    values |= {"difference": d.value, "difference_low": d.low, "difference_high": d.high}
                    values["difference_n"] = d.n
                yield values


def read(folder: Path) -> TaskResults:
    """The results in tasks.json; empty where there is none.

    Raises:
        BenchError: the file is damaged.
    """
    path = folder / TASKS
    if not path.exists():
        return TaskResults()
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
        entries = [from_mapping(TaskOutcome, entry | {"run": entry}) for entry in document["runs"]]
        outcomes = {outcome.run.id: outcome for outcome in entries}
        scores = [from_mapping(TaskScore, s) for s in document["scores"] if s["run_id"] in outcomes]
        return TaskResults(outcomes, scores, tuple(from_mapping(TaskDifference, d) for d in document["differences"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BenchError(f"{path} is damaged: {error}", "Restore it from a copy, or remove it to start again") from None


def read_samples(folder: Path, run_ids: Iterable[str]) -> dict[str, list[TaskSample]]:
    """The documents of each of these runs; the last record of a document counts."""
    found: dict[str, dict[tuple[str, str, int], TaskSample]] = {run_id: {} for run_id in run_ids}
    for _, line in read_lines(folder / SAMPLES):
        if line.get("run_id") in found:
            sample = from_mapping(TaskSample, line)
            found[sample.run_id][sample.task, sample.filter, sample.doc_id] = sample
    return {run_id: list(samples.values()) for run_id, samples in found.items()}


def _plain(value: Any) -> Any:
    """A value for strict JSON, which has no infinity: that becomes a string."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
