"""What the records of a run folder say, read back without a lock.

Of samples all are kept; of every other kind the later record of a cell replaces the earlier.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dlmbench.errors import BenchError
from dlmbench.results.journal import broken_line, read_lines
from dlmbench.types import (
    SCHEMA_VERSION,
    Cell,
    CellResult,
    CellStatus,
    CommitOrder,
    EnergyPass,
    Environment,
    LeftOut,
    MemoryPass,
    MissingText,
    ModelSpec,
    Reading,
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

RECORDS = "records.jsonl"
GENERATIONS = "generations.jsonl"
TEXT_SCORES = "scores.jsonl"
QUALITY_METRICS = "quality_metrics.json"

Record = Sample | TracedPass | MemoryPass | EnergyPass | CommitOrder | CellStatus

KIND_OF = {
    Sample: "sample",
    TracedPass: "traced",
    MemoryPass: "memory",
    EnergyPass: "energy",
    CommitOrder: "order",
    CellStatus: "status",
}
_TYPE_OF: dict[str, type[Any]] = {kind: record for record, kind in KIND_OF.items()}


@dataclass
class Contents:
    """records.jsonl in memory, cell by cell in the order of the plan."""

    name: str = ""
    environment: Environment | None = None
    cells: dict[str, Cell] = field(default_factory=dict)
    left_out: dict[LeftOut, None] = field(default_factory=dict)
    samples: dict[str, dict[tuple[bool, int], Sample]] = field(default_factory=dict)
    latest: dict[tuple[str, type[Any]], Any] = field(default_factory=dict)

    def add_cell(self, cell: Cell) -> None:
        """A cell that is not on record yet."""
        self.cells[cell.id] = cell
        self.samples[cell.id] = {}

    def add(self, record: Record) -> None:
        """A sample joins the others; of the rest, a later record of a cell replaces the earlier."""
        if isinstance(record, Sample):
            samples = self.samples[record.cell_id]
            key = (record.is_warmup, record.index)
            assert key not in samples, f"sample {key} of cell {record.cell_id} is on record already"
            samples[key] = record
        else:
            assert record.cell_id in self.cells, record.cell_id
            self.latest[record.cell_id, type(record)] = record

    def results(self) -> tuple[CellResult, ...]:
        """All that is known of every cell."""
        return tuple(self.result(cell_id) for cell_id in self.cells)

    def result(self, cell_id: str) -> CellResult:
        """All that is known of one cell."""
        status: CellStatus | None = self.latest.get((cell_id, CellStatus))
        return CellResult(
            cell=self.cells[cell_id],
            status=status.status if status else None,
            reason=status.reason if status else "",
            samples=tuple(self.samples[cell_id].values()),
            traced=self.latest.get((cell_id, TracedPass)),
            memory=self.latest.get((cell_id, MemoryPass)),
            environment_id=self.environment.id if self.environment else "",
            energy=self.latest.get((cell_id, EnergyPass)),
            order=self.latest.get((cell_id, CommitOrder)),
        )


def cell_record(cell: Cell) -> dict[str, Any]:
    """The cell's line, with its id, so that a reader whose ids differ notices."""
    return {"kind": "cell", "id": cell.id, **asdict(cell)}


def _cell_from(values: Mapping[str, Any]) -> Cell:
    model = from_mapping(ModelSpec, values["model"])
    knobs = tuple((name, value) for name, value in values["knobs"])
    return from_mapping(Cell, {**values, "model": model, "knobs": knobs})


def _take(contents: Contents, values: dict[str, Any]) -> str | None:
    """Add one line to `contents`; returns what is wrong with it, if anything."""
    kind = values.get("kind")
    if kind == "cell":
        cell = _cell_from(values)
        if cell.id != values["id"]:
            return "the cell was recorded by another version of dlmbench"
        contents.add_cell(cell)
    elif kind == "left_out":
        contents.left_out[from_mapping(LeftOut, values)] = None
    elif kind == "environment":
        contents.environment = from_mapping(Environment, values)
    elif kind == "experiment":
        if values["schema_version"] != SCHEMA_VERSION:
            return f"schema version {values['schema_version']}, but this dlmbench reads {SCHEMA_VERSION}"
        contents.name = values["name"]
    elif kind in _TYPE_OF:
        record = from_mapping(_TYPE_OF[kind], values)
        if record.cell_id not in contents.cells:
            return f"cell {record.cell_id} is not on record"
        if isinstance(record, Sample) and (record.is_warmup, record.index) in contents.samples[record.cell_id]:
            return f"repetition {record.index} of cell {record.cell_id} is on record twice"
        contents.add(record)
    else:
        return f"unknown kind of record {kind!r}"
    return None


def read_contents(folder: Path) -> Contents:
    """records.jsonl of a run folder; empty where there is none.

    Raises:
        BenchError: a broken line, naming file and line.
    """
    contents, path = Contents(), folder / RECORDS
    for number, values in read_lines(path):
        try:
            fault = _take(contents, values)
        except (KeyError, TypeError, ValueError) as error:
            raise broken_line(path, number, f"not a whole record ({type(error).__name__}: {error})") from error
        if fault:
            raise broken_line(path, number, fault)
    return contents


def read_generations(folder: Path) -> tuple[StoredGeneration, ...]:
    """The texts of a run folder; of two with the same cell and prompt, the later."""
    path, found = folder / GENERATIONS, {}
    for number, values in read_lines(path):
        try:
            text = from_mapping(StoredGeneration, {**values, "output_ids": tuple(values["output_ids"])})
        except (KeyError, TypeError) as error:
            raise broken_line(path, number, "not a whole generation") from error
        found[text.cell_id, text.prompt_index] = text
    return tuple(found.values())


def read_text_results(folder: Path) -> tuple[TextResult, ...]:
    """What metrics said of each text, or of all texts of a cell; of two of one cell, metric and prompt the later.

    A line is a text's score, with `reason` in place of one a text that has none, or with `value` a whole cell's.
    """
    path, found = folder / TEXT_SCORES, dict[tuple[str, str, int | None], TextResult]()
    for number, values in read_lines(path):
        try:
            result = _text_result(values)
        except (KeyError, TypeError, ValueError) as error:
            raise broken_line(path, number, "not a whole score") from error
        found[result.cell_id, result.metric, getattr(result, "prompt_index", None)] = result
    return tuple(found.values())


def _text_result(values: Mapping[str, Any]) -> TextResult:
    if "reason" in values:
        return from_mapping(Unscored, values)
    if "value" in values:
        return from_mapping(WholeScore, {**values, "value": float(values["value"])})
    numbers = {"total": float(values["total"]), "weight": float(values["weight"])}
    if values.get("stderr") is not None:
        numbers["stderr"] = float(values["stderr"])
    return from_mapping(TextScore, {**values, **numbers})


def read_text_scores(folder: Path) -> tuple[TextScore, ...]:
    """The per-text scores of a run folder."""
    return tuple(r for r in read_text_results(folder) if isinstance(r, TextScore))


def read_scores(folder: Path) -> tuple[Score, ...]:
    """The aggregated scores of a run folder, none before it was scored."""
    path = folder / QUALITY_METRICS
    try:
        return tuple(_score(s) for s in json.loads(path.read_text(encoding="utf-8"))["scores"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(
            f"{path} is not the file dlmbench wrote ({error})", "Delete it and score the folder again"
        ) from error


def _score(values: Mapping[str, Any]) -> Score:
    nested = {
        "in_other_units": tuple(from_mapping(Reading, r) for r in values.get("in_other_units", ())),
        "not_scored": tuple(from_mapping(MissingText, m) for m in values.get("not_scored", ())),
    }
    return from_mapping(Score, {**values, **nested})


def read_run(folder: Path) -> Run:
    """Everything the folder says, read without a lock: also while a run is writing there.

    Raises:
        BenchError: no records there, or a broken one.
    """
    contents = read_contents(folder)
    if not contents.name:
        raise BenchError(f"{folder} holds no run", f"Name the folder given to --output_dir (it contains {RECORDS})")
    results = read_text_results(folder)
    return Run(
        folder=str(folder),
        name=contents.name,
        environment=contents.environment,
        cells=tuple(contents.cells.values()),
        left_out=tuple(contents.left_out),
        results=contents.results(),
        text_scores=tuple(r for r in results if isinstance(r, TextScore)),
        scores=read_scores(folder),
        unscored=tuple(r for r in results if isinstance(r, Unscored)),
    )
