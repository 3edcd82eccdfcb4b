"""What a task list leaves in a run folder: tasks.json and its CSV, and one line a document to resample from.

A finished (task, setting) is on the disk before the next begins: its documents first, then tasks.json swapped in
whole. A kill between the two leaves lines of an unfinished one, which a later line of the same document replaces.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from dlmbench.errors import BenchError
from dlmbench.results.journal import append_lines, drop_torn_line, lock_folder, read_lines, replace_file, write_error
from dlmbench.types import SCHEMA_VERSION, Knobs, KnobValue, ModelSpec, Status, from_mapping, stable_hash

TASKS, TABLE, SAMPLES = "tasks.json", "tasks.csv", "task_samples.jsonl"

# A document's value of a metric: a number, or (sum, weight) of a ratio such as log-likelihood over bytes.
Value = float | tuple[float, float]


@dataclass(frozen=True)
class TaskRun:
    """One task (or group of tasks) asked of one model in one setting: all that decides its answers.

    likelihood, draws: None where they do not matter. definition: hash of the task's file and documents. limit: of
    documents; below 1 a share of them. num_fewshot: None leaves it to the task.
    """

    task: str
    definition: str
    model: ModelSpec
    sampler: str
    knobs: Knobs
    engine: str
    precision: str
    attention: str
    seed: int
    likelihood: str | None
    draws: int | None
    max_length: int
    new_tokens: int | None
    limit: float | None
    num_fewshot: int | None
    chat: bool

    @property
    def id(self) -> str:
        """Hash of the content: what has it on record is not run again."""
        return stable_hash(asdict(self) | {"model": self.model.identity})

    @property
    def question(self) -> tuple[object, ...]:
        """What was asked, whoever answers: runs that agree in it can be compared."""
        size = (self.max_length, self.new_tokens, self.limit)
        return (self.task, self.definition, *size, self.num_fewshot, self.chat)

    @property
    def steps(self) -> int | None:
        """Diffusion steps K; None for one a token, and where there are none."""
        value = self.knob("steps")
        return None if value is None else int(value)

    def knob(self, name: str) -> KnobValue:
        """The value of a knob, None where it was left open."""
        return dict(self.knobs).get(name)

    @property
    def label(self) -> str:
        """The run in a few words."""
        knobs = " ".join(f"{name}={value}" for name, value in self.knobs if value not in (None, False, 0, "none"))
        return " ".join(part for part in (self.task, self.model.key, knobs) if part)


@dataclass(frozen=True)
class TaskScore:
    """A metric of one task in one run. stderr: lm-eval's, None where it has none.

    low, high: 95% of a bootstrap over documents; None where the metric is not a mean or a ratio of sums.
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
    """One document: what was answered, and its value of each metric. doc_hash says that it is the same document."""

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
class Difference:
    """A run minus the baseline over the same n documents, in the metric's unit; 95% by the paired bootstrap."""

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
class Ended:
    """A run with its end: ok, or why not."""

    run: TaskRun
    status: Status
    reason: str = ""


@dataclass
class Contents:
    """All that a folder says of tasks."""

    ended: dict[str, Ended] = field(default_factory=dict)
    scores: list[TaskScore] = field(default_factory=list)
    differences: tuple[Difference, ...] = ()


class TaskStore:
    """The task results of a run folder, open for writing by one process."""

    def __init__(self, folder: Path, lm_eval_version: str) -> None:
        """Open or create it.

        Raises:
            BenchError: not a folder, not writable, in use by another run, or broken.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise BenchError(f"{folder} is not a folder", "Name another --output_dir") from error
        except OSError as error:
            raise write_error(error, folder) from error
        self.folder, self.version = folder, lm_eval_version
        self._lock, _ = lock_folder(folder)
        try:
            drop_torn_line(folder / SAMPLES)
            self.contents = read(folder)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another run in."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> TaskStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def is_done(self, run: TaskRun) -> bool:
        """Whether the run is on record with its scores; one that failed is tried again."""
        found = self.contents.ended.get(run.id)
        return found is not None and found.status == "ok"

    def add(self, ended: Ended, scores: Sequence[TaskScore] = (), samples: Iterable[TaskSample] = ()) -> None:
        """Put the end of a run on record; it is on the disk when this returns."""
        append_lines(self.folder / SAMPLES, (_plain(asdict(s)) for s in samples))
        self.contents.ended[ended.run.id] = ended
        self.contents.scores = [s for s in self.contents.scores if s.run_id != ended.run.id]
        self.contents.scores += [replace(s, value=_finite(s.value), stderr=_finite(s.stderr)) for s in scores]
        self.write()

    def write(self) -> None:
        """Rewrite tasks.json and the CSV."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "lm_eval": self.version,
            "runs": [asdict(e.run) | {"id": i, "status": e.status, "reason": e.reason} for i, e in self._ended()],
            "scores": [self._spelt_out(s) for s in self.contents.scores],
            "differences": [asdict(d) for d in self.contents.differences],
        }
        replace_file(self.folder / TASKS, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
        replace_file(self.folder / TABLE, self._table())

    def _ended(self) -> list[tuple[str, Ended]]:
        return list(self.contents.ended.items())

    def _spelt_out(self, score: TaskScore) -> dict[str, Any]:
        """A score with what a reader groups by; later keys win, so no knob can hide a field of the score."""
        run = self.contents.ended[score.run_id].run
        return {"model": run.model.key, "role": run.model.role, "steps": run.steps} | asdict(score)

    def _table(self) -> str:
        differences = {(d.run_id, d.task, d.metric, d.filter): d for d in self.contents.differences}
        out = io.StringIO()
        columns = (
            "task metric filter model role sampler steps block_length knobs value stderr low high n higher_is_better "
            "difference difference_low difference_high difference_n likelihood limit num_fewshot chat status reason "
            "definition run_id"
        )
        table = csv.DictWriter(out, columns.split(), restval="", lineterminator="\n")
        table.writeheader()
        for run_id, ended in self._ended():
            run = ended.run
            row: dict[str, Any] = {"task": run.task, "model": run.model.key, "role": run.model.role}
            row |= {"sampler": run.sampler, "steps": run.steps, "block_length": run.knob("block_length")}
            row |= {"knobs": " ".join(f"{k}={v}" for k, v in run.knobs), "likelihood": run.likelihood}
            row |= {"limit": run.limit, "num_fewshot": run.num_fewshot, "chat": str(run.chat).lower()}
            row |= {"status": ended.status, "reason": ended.reason}
            row |= {"definition": run.definition, "run_id": run_id}
            scores = [s for s in self.contents.scores if s.run_id == run_id]
            if not scores:
                table.writerow(row)
            for s in scores:
                own = {k: v for k, v in asdict(s).items() if k in columns.split()}
                own["higher_is_better"] = "" if s.higher_is_better is None else str(s.higher_is_better).lower()
                d = differences.get((run_id, s.task, s.metric, s.filter))
                if d is not None:
                    own |= {"difference": d.value, "difference_low": d.low, "difference_high": d.high}
                    own["difference_n"] = d.n
                table.writerow(row | own)
        return out.getvalue()

    def samples(self, run_ids: Iterable[str]) -> dict[str, list[TaskSample]]:
        """The documents of each of these runs, each document once."""
        return read_samples(self.folder, run_ids)


def read(folder: Path) -> Contents:
    """What tasks.json says; nothing where there is none.

    Raises:
        BenchError: the file is damaged.
    """
    path = folder / TASKS
    if not path.exists():
        return Contents()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        ended = {}
        for entry in document["runs"]:
            model = from_mapping(ModelSpec, entry["model"])
            knobs = tuple((name, value) for name, value in entry["knobs"])
            run = from_mapping(TaskRun, entry | {"model": model, "knobs": knobs})
            ended[run.id] = Ended(run, entry["status"], entry["reason"])
        scores = [from_mapping(TaskScore, s) for s in document["scores"] if s["run_id"] in ended]
        return Contents(ended, scores, tuple(from_mapping(Difference, d) for d in document["differences"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path} is damaged: {error}", "Restore it from a copy, or remove it to start anew") from None


def read_samples(folder: Path, run_ids: Iterable[str]) -> dict[str, list[TaskSample]]:
    """The documents of each of these runs; of two lines of the same document the later one counts."""
    found: dict[str, dict[tuple[str, str, int], TaskSample]] = {run_id: {} for run_id in run_ids}
    for _, line in read_lines(folder / SAMPLES):
        if line.get("run_id") in found:
            values = {m: _value(v) for m, v in line["values"].items()}
            sample = from_mapping(TaskSample, line | {"values": values})
            found[sample.run_id][sample.task, sample.filter, sample.doc_id] = sample
    return {run_id: list(samples.values()) for run_id, samples in found.items()}


def _value(written: Any) -> Value:
    return (float(written[0]), float(written[1])) if isinstance(written, list) else float(written)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """For strict JSON: it has no word for infinity, which is kept as text."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
