"""Reading a run folder: its records, texts and scores. No lock is needed.

All samples and energy windows of a cell are kept; of every other kind, the latest record of a cell replaces the
earlier ones.

Folders of earlier schema versions are read as well, but not resumed. Cell ids of version 1 (dlmbench 0.1.0), which
still depended on the key, role and source of the model, are kept as they were recorded. Version 2 had the energy of one
generation in place of `EnergyWindow`. Names that changed are in `_RENAMED`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dlmbench.errors import BenchError
from dlmbench.results.journal import LOCK, broken_line, read_json, read_lines
from dlmbench.results.selfcheck import SELFCHECK, read_selfcheck
from dlmbench.types import (
    SCHEMA_VERSION,
    Cell,
    CellResult,
    CellStatus,
    CommitOrder,
    DeviceTime,
    EnergyWindow,
    Environment,
    LeftOut,
    MemoryPass,
    Run,
    Sample,
    Score,
    StoredGeneration,
    TextResult,
    TextScore,
    TracedPass,
    Unscored,
    WholeScore,
    from_mapping,
)

T = TypeVar("T")

RECORDS = "records.jsonl"
GENERATIONS = "generations.jsonl"
TEXT_SCORES = "scores.jsonl"
QUALITY_METRICS = "quality_metrics.json"

Record = Sample | TracedPass | MemoryPass | EnergyWindow | CommitOrder | CellStatus | DeviceTime

KIND_OF = {
    Sample: "sample",
    TracedPass: "traced",
    MemoryPass: "memory",
    EnergyWindow: "energy_window",
    CommitOrder: "commit_order",
    CellStatus: "status",
    DeviceTime: "device_time",
}
_TYPE_OF: dict[str, type[Any]] = {kind: record for record, kind in KIND_OF.items()}
# The first schema version with the energy of windows, and with other processes without the run's own.
_FIRST_WITH_WINDOWS = 3
# Kinds of records and fields of quality_metrics.json as earlier schema versions called them.
_RENAMED = {"order": "commit_order", "not_scored": "unscored", "energy": "energy_window"}


@dataclass
class RunRecords:
    """records.jsonl in memory, cell by cell in the order of the plan."""

    name: str = ""
    schema_version: int = SCHEMA_VERSION
    environment: Environment | None = None
    cells: dict[str, Cell] = field(default_factory=dict)
    left_out: dict[LeftOut, None] = field(default_factory=dict)
    samples: dict[str, dict[tuple[bool, int], Sample]] = field(default_factory=dict)
    energy: dict[str, list[EnergyWindow]] = field(default_factory=dict)
    latest: dict[tuple[str, type[Any]], Any] = field(default_factory=dict)
    device_time: list[DeviceTime] = field(default_factory=list)

    def add_cell(self, cell: Cell) -> None:
        """Add a cell, or replace the one of the same id, whose model was renamed or moved."""
        self.cells[cell.id] = cell
        self.samples.setdefault(cell.id, {})

    def add(self, record: Record) -> None:
        """Add a sample, an energy window or a device time, or set the latest record of another kind."""
        if isinstance(record, Sample):
            self.samples[record.cell_id][record.is_warmup, record.index] = record
        elif isinstance(record, EnergyWindow):
            self.energy.setdefault(record.cell_id, []).append(record)
        elif isinstance(record, DeviceTime):
            self.device_time.append(record)
        else:
            assert record.cell_id in self.cells, record.cell_id
            self.latest[record.cell_id, type(record)] = record

    def results(self) -> tuple[CellResult, ...]:
        """Everything recorded about every cell."""
        return tuple(self.result(cell_id) for cell_id in self.cells)

    def result(self, cell_id: str) -> CellResult:
        """Everything recorded about one cell."""
        status: CellStatus | None = self.latest.get((cell_id, CellStatus))
        return CellResult(
            cell=self.cells[cell_id],
            status=status.status if status else None,
            reason=status.reason if status else "",
            samples=tuple(self.samples[cell_id].values()),
            traced=self.latest.get((cell_id, TracedPass)),
            memory=self.latest.get((cell_id, MemoryPass)),
            environment_id=self.environment.id if self.environment else "",
            energy=tuple(self.energy.get(cell_id, ())),
            order=self.latest.get((cell_id, CommitOrder)),
        )


def cell_record(cell: Cell) -> dict[str, Any]:
    """The cell's line, with its id, so that a reader who computes other ids notices."""
    values = asdict(cell)
    del values["recorded_id"]
    return {"kind": "cell", "id": cell.id, **values}


def _add_line(records: RunRecords, values: Mapping[str, Any]) -> str | None:
    """Add one line to `records`; returns what is wrong with it, if anything."""
    kind = _RENAMED.get(values.get("kind", ""), values.get("kind"))
    if kind == "cell":
        cell = from_mapping(Cell, values)
        if records.schema_version == 1:
            cell = replace(cell, recorded_id=values["id"])
        elif cell.id != values["id"]:
            return "the cell was recorded by another version of dlmbench"
        records.add_cell(cell)
    elif kind == "left_out":
        records.left_out[from_mapping(LeftOut, values)] = None
    elif kind == "environment":
        records.environment = from_mapping(Environment, values)
    elif kind == "experiment":
        if values["schema_version"] not in range(1, SCHEMA_VERSION + 1):
            return f"schema version {values['schema_version']}, but this dlmbench reads 1 to {SCHEMA_VERSION}"
        records.name, records.schema_version = values["name"], values["schema_version"]
    elif kind in _TYPE_OF:
        record = from_mapping(_TYPE_OF[kind], values)
        if not isinstance(record, DeviceTime) and record.cell_id not in records.cells:
            return f"cell {record.cell_id} is not on record"
        if isinstance(record, Sample) and (record.is_warmup, record.index) in records.samples[record.cell_id]:
            return f"repetition {record.index} of cell {record.cell_id} is on record twice"
        if isinstance(record, Sample) and records.schema_version < _FIRST_WITH_WINDOWS:
            # The run's own waiting workers were counted as others.
            record = replace(record, other_processes=None)
        if isinstance(record, EnergyWindow) and records.schema_version < _FIRST_WITH_WINDOWS:
            record = replace(record, energy_j=record.energy_j * record.repetitions)
        records.add(record)
    else:
        return f"unknown kind of record {kind!r}"
    return None


def read_records(folder: Path) -> RunRecords:
    """records.jsonl of a run folder; empty if there is none.

    Raises:
        BenchError: a broken line, with file and line number.
    """
    records = RunRecords()
    for number, fault in enumerate(_parsed(folder / RECORDS, partial(_add_line, records), "record"), start=1):
        if fault:
            raise broken_line(folder / RECORDS, number, fault)
    return records


def read_generations(folder: Path) -> tuple[StoredGeneration, ...]:
    """The texts of a run folder, for each cell and prompt the latest."""
    texts = _parsed(folder / GENERATIONS, partial(from_mapping, StoredGeneration), "generation")
    return tuple({(text.cell_id, text.prompt_index): text for text in texts}.values())


def _parsed(path: Path, parse: Callable[[Mapping[str, Any]], T], what: str) -> Iterator[T]:
    for number, values in read_lines(path):
        try:
            yield parse(values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            fault = f"not a {what} as dlmbench writes it ({type(error).__name__}: {error})"
            raise broken_line(path, number, fault) from error


def read_text_results(folder: Path) -> tuple[TextResult, ...]:
    """The results of metrics, for each cell, metric and prompt the latest.

    A line is the score of a text (`total`), the score of a whole cell (`value`), or says why there is none (`reason`).
    """
    results = _parsed(folder / TEXT_SCORES, _text_result, "score")
    return tuple({(r.cell_id, r.metric, getattr(r, "prompt_index", None)): r for r in results}.values())


def _text_result(values: Mapping[str, Any]) -> TextResult:
    kind: type[TextResult] = Unscored if "reason" in values else WholeScore if "value" in values else TextScore
    return from_mapping(kind, values)


def read_scores(folder: Path) -> tuple[Score, ...]:
    """The aggregated scores of a run folder; empty before it was scored."""

    def parse(document: dict[str, Any]) -> tuple[Score, ...]:
        entries = [{_RENAMED.get(k, k): v for k, v in entry.items()} for entry in document["scores"]]
        return tuple(from_mapping(Score, entry) for entry in entries)

    return read_json(folder / QUALITY_METRICS, parse, "Delete it, then run `dlmbench score` again") or ()


def read_run(folder: Path) -> Run:
    """The whole run folder, read without a lock: also while a run is writing there.

    Raises:
        BenchError: no records there, a broken line, or a damaged self-check.
    """
    records = read_records(folder)
    if not records.name and (folder / LOCK).exists():
        raise BenchError(f"nothing is on record in {folder} yet", "Wait for the first cell, or start the run again")
    if not records.name:
        raise BenchError(
            f"{folder} is not a run folder", f"Name the folder given to --output-dir (it contains {RECORDS})"
        )
    results = read_text_results(folder)
    return Run(
        folder=str(folder),
        name=records.name,
        environment=records.environment,
        cells=tuple(records.cells.values()),
        left_out=tuple(records.left_out),
        results=records.results(),
        text_scores=tuple(r for r in results if isinstance(r, TextScore)),
        scores=read_scores(folder),
        unscored=tuple(r for r in results if isinstance(r, Unscored)),
        selfcheck=read_selfcheck(folder / SELFCHECK),
        device_time=tuple(records.device_time),
    )
