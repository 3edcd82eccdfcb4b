"""The run folder open for writing: one process, one environment, every append on the disk when it returns."""

from __future__ import annotations

import math
import os
from collections.abc import Container, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from dlmbench.errors import BenchError
from dlmbench.results.journal import append_lines, drop_torn_line, lock_folder, replace_file, write_error
from dlmbench.results.records import (
    GENERATIONS,
    KIND_OF,
    QUALITY_METRICS,
    RECORDS,
    TEXT_SCORES,
    Contents,
    Record,
    cell_record,
    read_contents,
    read_generations,
    read_scores,
    read_text_results,
)
from dlmbench.results.views import quality_metrics, raw_metrics
from dlmbench.types import (
    SCHEMA_VERSION,
    CellResult,
    Environment,
    Plan,
    Sample,
    Score,
    StoredGeneration,
    TextResult,
    Unscored,
)

RAW_METRICS = "raw_metrics.csv"


class Store:
    """A run folder open for writing, by one process at a time."""

    def __init__(self, folder: Path, lock: int, is_locked: bool) -> None:
        self.folder = folder
        self.is_locked = is_locked
        self._lock = lock
        self._contents = Contents()
        self._scores: tuple[Score, ...] = ()
        self._unscored: tuple[Unscored, ...] = ()

    @classmethod
    def open(cls, folder: Path, environment: Environment, experiment_name: str) -> Store:
        """Create or resume the run in `folder`; every file exists when this returns.

        `is_locked` is False on the few file systems that cannot lock (some cluster mounts): one run at a time is
        then the user's care.

        Raises:
            BenchError: not a folder, not writable, in use by another run, of another environment, or broken.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise BenchError(f"{folder} is not a folder", "Name another --output_dir") from error
        except OSError as error:
            raise write_error(error, folder) from error
        store = cls(folder, *lock_folder(folder))
        try:
            store._resume(environment, experiment_name)
        except BaseException:
            store.close()
            raise
        return store

    def _resume(self, environment: Environment, experiment_name: str) -> None:
        for name in (RECORDS, GENERATIONS, TEXT_SCORES):
            drop_torn_line(self.folder / name)
        self._contents = read_contents(self.folder)
        recorded = self._contents.environment
        if recorded is not None:
            _refuse_another_environment(self.folder, recorded, environment)
        self._scores = tuple(s for s in read_scores(self.folder) if s.cell_id in self._contents.cells)
        self._unscored = cells_not_scored(read_text_results(self.folder), self._contents.cells)
        new: list[dict[str, Any]] = []
        if recorded != environment:
            new.append({"kind": "environment", **asdict(environment)})
        if self._contents.name != experiment_name:
            new.append({"kind": "experiment", "name": experiment_name, "schema_version": SCHEMA_VERSION})
        append_lines(self.folder / RECORDS, new)
        self._contents.environment, self._contents.name = environment, experiment_name
        self.write_views()

    def close(self) -> None:
        """Let another run in; nothing is pending, each append was on the disk when it returned."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def add_plan(self, plan: Plan) -> None:
        """Record the cells and left-out combinations that are not on record yet."""
        cells = {c.id: c for c in plan.cells if c.id not in self._contents.cells}
        left_out = [out for out in dict.fromkeys(plan.left_out) if out not in self._contents.left_out]
        lines = [cell_record(c) for c in cells.values()] + [{"kind": "left_out", **asdict(out)} for out in left_out]
        append_lines(self.folder / RECORDS, lines)
        for cell in cells.values():
            self._contents.add_cell(cell)
        self._contents.left_out.update(dict.fromkeys(left_out))

    def append(self, record: Record) -> None:
        """Record one measurement or the end of a cell; it is on the disk when this returns.

        Raises:
            BenchError: the disk is full or the folder has gone; nothing recorded before is lost.
        """
        if isinstance(record, Sample):
            assert (record.is_warmup, record.index) not in self._contents.samples[record.cell_id], record
        append_lines(self.folder / RECORDS, [{"kind": KIND_OF[type(record)], **asdict(record)}])
        self._contents.add(record)

    def add_generations(self, generations: Iterable[StoredGeneration]) -> None:
        """Keep generated texts; a later one of the same cell and prompt replaces the earlier when read."""
        append_lines(self.folder / GENERATIONS, (asdict(g) for g in generations))

    def add_text_scores(self, scores: Iterable[TextResult]) -> None:
        """Keep what a metric said; a later one of the same cell, metric and prompt replaces the earlier when read."""
        append_lines(self.folder / TEXT_SCORES, map(_spelt_out, scores))

    def write_scores(self, scores: Iterable[Score]) -> None:
        """Replace the aggregated scores. A value that is not finite is unknown (None)."""
        self._unscored = cells_not_scored(read_text_results(self.folder), self._contents.cells)
        self._scores = tuple(
            replace(
                s,
                value=_finite(s.value),
                low=_finite(s.low),
                high=_finite(s.high),
                stderr=_finite(s.stderr),
                monte_carlo_stderr=_finite(s.monte_carlo_stderr),
                in_other_units=tuple(
                    replace(r, value=_finite(r.value), low=_finite(r.low), high=_finite(r.high))
                    for r in s.in_other_units
                ),
            )
            for s in scores
        )
        replace_file(self.folder / QUALITY_METRICS, self._quality_metrics())

    def samples(self, cell_id: str) -> tuple[Sample, ...]:
        """The repetitions of one cell on record, in the order they were made."""
        return tuple(self._contents.samples[cell_id].values())

    def results(self) -> tuple[CellResult, ...]:
        """All that is on record of every cell, in the order of the plan."""
        return self._contents.results()

    def result(self, cell_id: str) -> CellResult:
        """All that is on record of one cell."""
        return self._contents.result(cell_id)

    def generations(self) -> tuple[StoredGeneration, ...]:
        """The texts on record."""
        return read_generations(self.folder)

    def _quality_metrics(self) -> str:
        environment = self._contents.environment
        assert environment is not None
        return quality_metrics(environment, self._contents.cells, self._scores, self._unscored)

    def write_views(self) -> None:
        """Rewrite the CSV and the JSON from the records."""
        replace_file(self.folder / RAW_METRICS, raw_metrics(self.results()))
        replace_file(self.folder / QUALITY_METRICS, self._quality_metrics())


def cells_not_scored(results: Iterable[TextResult], cells: Container[str]) -> tuple[Unscored, ...]:
    """Cells of which a metric could say nothing at all; a cell that was scored after all is none."""
    found, scored = dict[tuple[str, str], Unscored](), set[tuple[str, str]]()
    for result in results:
        if result.cell_id not in cells:
            continue
        if not isinstance(result, Unscored):
            scored.add((result.cell_id, result.metric))
        elif result.prompt_index is None:
            found[result.cell_id, result.metric] = result
    return tuple(missing for key, missing in found.items() if key not in scored)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _spelt_out(score: TextResult) -> dict[str, Any]:
    """The score for strict JSON, which has no word for infinity: an infinite loss is a finding and is kept as text.

    What is unknown is left out, so that a line says only what there is to say.
    """
    known = ((k, v) for k, v in asdict(score).items() if v not in (None, "") or k == "prompt_index")
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in known}


def _refuse_another_environment(folder: Path, recorded: Environment, now: Environment) -> None:
    differing = [
        f"{name}: {getattr(recorded, name)!r} on record, {getattr(now, name)!r} now"
        for name in Environment.COMPARABLE
        if getattr(recorded, name) != getattr(now, name)
    ]
    if differing:
        raise BenchError(
            f"{folder} holds results of another environment ({'; '.join(differing)})",
            "Times from two environments are not one data set: name a new --output_dir",
        )
