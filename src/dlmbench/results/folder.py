"""A run folder open for writing: by one process, from one environment, with the models it was created with."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from dlmbench.errors import BenchError
from dlmbench.results.journal import LockedFolder, append_lines, drop_torn_line, replace_file
from dlmbench.results.records import (
    GENERATIONS,
    KIND_OF,
    QUALITY_METRICS,
    RECORDS,
    TEXT_SCORES,
    Record,
    RunRecords,
    cell_record,
    read_records,
    read_scores,
    read_text_results,
)
from dlmbench.results.views import quality_metrics, raw_metrics
from dlmbench.types import (
    SCHEMA_VERSION,
    Environment,
    ModelSpec,
    Plan,
    Sample,
    Score,
    StoredGeneration,
    TextResult,
    Unscored,
)

RAW_METRICS = "raw_metrics.csv"

S = TypeVar("S")  # a dataclass


class Store(LockedFolder):
    """A run folder open for writing, by one process at a time. records: everything measured so far."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.records = RunRecords()
        self._scores: tuple[Score, ...] = ()
        self._unscored: tuple[Unscored, ...] = ()

    @classmethod
    def open(cls, folder: Path, environment: Environment, experiment_name: str, plan: Plan | None = None) -> Store:
        """Create or resume the run in `folder`; every file exists when this returns.

        `plan`: the cells to measure, None to add scores only.

        Raises:
            BenchError: not a folder, not writable, in use by another run, of another environment, broken; or `plan`
                cannot be added (see `add_plan`). A folder that is refused is left unchanged.
        """
        store = cls(folder)
        try:
            store._resume(environment, experiment_name, plan)
        except BaseException:
            store.close()
            raise
        return store

    def _resume(self, environment: Environment, experiment_name: str, plan: Plan | None) -> None:
        self.records = read_records(self.folder)
        recorded = self.records.environment
        if recorded is not None and (differing := differences(recorded, environment, Environment.COMPARABLE)):
            raise BenchError(
                f"{self.folder} contains results from another environment ({'; '.join(differing)})",
                "Times from two environments are not one data set: name a new --output-dir",
            )
        if plan is not None:
            self._check_plan(plan)
        for name in (RECORDS, GENERATIONS, TEXT_SCORES):
            drop_torn_line(self.folder / name)
        self._scores = tuple(s for s in read_scores(self.folder) if s.cell_id in self.records.cells)
        self._unscored = unscored_cells(read_text_results(self.folder), self.records.cells)
        new: list[dict[str, Any]] = []
        if recorded != environment:
            new.append({"kind": "environment", **asdict(environment)})
        if self.records.name != experiment_name:
            new.append({"kind": "experiment", "name": experiment_name, "schema_version": self.records.schema_version})
        append_lines(self.folder / RECORDS, new)
        self.records.environment, self.records.name = environment, experiment_name
        if plan is not None:
            self.add_plan(plan)
        self.write_views()

    def add_plan(self, plan: Plan) -> None:
        """Record the cells and left-out combinations of `plan` that are not on record yet.

        Recorded cells of a model that has another key, role or source by now are recorded again with the new one.

        Raises:
            BenchError: a model's name or source was recorded with another checkpoint, or the folder was written by an
                earlier version of dlmbench.
        """
        self._check_plan(plan)
        models = {c.model.identity: c.model for c in plan.cells}
        current = {i: models.get(c.model.identity, c.model) for i, c in self.records.cells.items()}
        cells = {i: replace(c, model=current[i]) for i, c in self.records.cells.items() if c.model != current[i]}
        cells |= {c.id: c for c in plan.cells if c.id not in self.records.cells}
        left_out = [out for out in dict.fromkeys(plan.left_out) if out not in self.records.left_out]
        lines = [cell_record(c) for c in cells.values()] + [{"kind": "left_out", **asdict(out)} for out in left_out]
        append_lines(self.folder / RECORDS, lines)
        for cell in cells.values():
            self.records.add_cell(cell)
        self.records.left_out.update(dict.fromkeys(left_out))

    def _check_plan(self, plan: Plan) -> None:
        if self.records.schema_version != SCHEMA_VERSION:
            raise BenchError(
                f"{self.folder} was written by an earlier version of dlmbench and cannot be resumed",
                "Name a new --output-dir; report, analyze, compare and score still read this one",
            )
        recorded = (cell.model for cell in self.records.cells.values())
        refuse_replaced_models(self.folder, recorded, (cell.model for cell in plan.cells))

    def append(self, record: Record) -> None:
        """Record one measurement or the end of a cell; it is on disk when this returns.

        Raises:
            BenchError: the disk is full or the folder is gone; nothing recorded before is lost.
        """
        if isinstance(record, Sample):
            assert (record.is_warmup, record.index) not in self.records.samples[record.cell_id], record
        append_lines(self.folder / RECORDS, [{"kind": KIND_OF[type(record)], **asdict(record)}])
        self.records.add(record)

    def add_generations(self, generations: Iterable[StoredGeneration]) -> None:
        """Record generated texts; readers take the latest of a cell and prompt."""
        append_lines(self.folder / GENERATIONS, (asdict(g) for g in generations))

    def add_text_scores(self, scores: Iterable[TextResult]) -> None:
        """Record results of metrics; readers take the latest of a cell, metric and prompt."""
        append_lines(self.folder / TEXT_SCORES, map(_strict_json, scores))

    def write_scores(self, scores: Iterable[Score]) -> None:
        """Replace the aggregated scores. A value that is not finite is unknown (None)."""
        self._unscored = unscored_cells(read_text_results(self.folder), self.records.cells)
        known = map(finite, scores)
        self._scores = tuple(replace(s, in_other_units=tuple(map(finite, s.in_other_units))) for s in known)
        replace_file(self.folder / QUALITY_METRICS, self._quality_metrics())

    def samples(self, cell_id: str) -> tuple[Sample, ...]:
        """The recorded repetitions of one cell, in order."""
        return tuple(self.records.samples[cell_id].values())

    def _quality_metrics(self) -> str:
        environment = self.records.environment
        assert environment is not None
        return quality_metrics(environment, self.records.cells, self._scores, self._unscored)

    def write_views(self) -> None:
        """Rewrite the CSV and the JSON from the records."""
        replace_file(self.folder / RAW_METRICS, raw_metrics(self.records.results()))
        replace_file(self.folder / QUALITY_METRICS, self._quality_metrics())


def unscored_cells(results: Iterable[TextResult], cells: Container[str]) -> tuple[Unscored, ...]:
    """For each metric the cells that it could not score at all and has not scored since."""
    found, scored = dict[tuple[str, str], Unscored](), set[tuple[str, str]]()
    for result in results:
        if result.cell_id not in cells:
            continue
        if not isinstance(result, Unscored):
            scored.add((result.cell_id, result.metric))
        elif result.prompt_index is None:
            found[result.cell_id, result.metric] = result
    return tuple(missing for key, missing in found.items() if key not in scored)


def finite(score: S) -> S:
    """The score with None for every value that is not finite."""
    values = vars(score).items()
    unknown = {name: None for name, v in values if isinstance(v, float) and not math.isfinite(v)}
    return cast(S, replace(cast(Any, score), **unknown))


def _strict_json(score: TextResult) -> dict[str, Any]:
    """The score for JSON, which has no infinity: an infinite loss is kept as text. Unknown fields are left out."""
    known = ((k, v) for k, v in asdict(score).items() if v not in (None, "") or k == "prompt_index")
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in known}


def refuse_replaced_models(folder: Path, recorded: Iterable[ModelSpec], models: Iterable[ModelSpec]) -> None:
    """Check that no new model has the key, or comes from the place, of another checkpoint recorded in `folder`.

    Raises:
        BenchError: one has, with what differs.
    """
    old, new = ({model.identity: model for model in specs} for specs in (recorded, models))
    for now in (model for identity, model in new.items() if identity not in old):
        for before in (model for identity, model in old.items() if identity not in new):
            if before.key != now.key and _place(before) != _place(now):
                continue
            names = ("family", "source", "revision", "weights", "content")
            raise BenchError(
                f"model {now.key} is a different checkpoint than model {before.key} in {folder} "
                f"({'; '.join(differences(before, now, names))})",
                "Put the recorded checkpoint back to resume, give a new model its own key, or name a new --output-dir",
            )


def _place(model: ModelSpec) -> tuple[str, ...]:
    """Where a model comes from; another checkpoint at the same place has replaced the first."""
    return model.source, model.revision or "", model.weights, model.family


def differences(recorded: object, now: object, names: Iterable[str]) -> list[str]:
    """The named attributes in which two records differ, as phrases."""
    values = {name: (getattr(recorded, name), getattr(now, name)) for name in names}
    return [f"{name}: {old!r} on record, {new!r} now" for name, (old, new) in values.items() if old != new]
