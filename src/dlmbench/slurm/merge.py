"""Shards to one run folder: every repetition once, none lost, none from another environment.

The result depends on the shards alone, so merging again gives the same bytes, and a shard that has grown since is taken
in. Nothing is written before all checks have passed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dlmbench.bench.quality import aggregate
from dlmbench.bench.run import EXPERIMENT
from dlmbench.errors import BenchError
from dlmbench.results import GENERATIONS, RECORDS, TEXT_SCORES, Store, read_run, read_text_scores
from dlmbench.results.journal import lock_folder, read_lines, replace_file
from dlmbench.results.records import RunRecords, cell_record, read_records
from dlmbench.types import Environment, Plan

_NAMED = 3
_KEYS: Mapping[str, tuple[str, ...]] = {
    GENERATIONS: ("cell_id", "prompt_index"),
    TEXT_SCORES: ("cell_id", "metric", "prompt_index"),
}


@dataclass(frozen=True)
class Gap:
    """What a run lacks: cells without an end, of a shard, or (no cells) a shard that has not been scored."""

    shard: str
    labels: tuple[str, ...]

    @property
    def text(self) -> str:
        """In words, at most `_NAMED` cells by name."""
        if not self.labels:
            return f"{self.shard} has not ended"
        more = f" and {len(self.labels) - _NAMED} more" if len(self.labels) > _NAMED else ""
        return f"{self.shard} lacks {len(self.labels)} cells ({'; '.join(self.labels[:_NAMED])}{more})"


@dataclass(frozen=True)
class Merged:
    """What a merge brought together."""

    folder: Path
    shards: int
    cells: int
    repetitions: int
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class _Source:
    folder: Path
    contents: RunRecords
    lines: tuple[dict[str, Any], ...]


def _source(folder: Path) -> _Source | None:
    contents = read_records(folder)
    return _Source(folder, contents, tuple(v for _, v in read_lines(folder / RECORDS))) if contents.name else None


def merge(output: Path, plan: Plan | None, shards: Sequence[Path], gaps: Sequence[Gap], partial: str = "") -> Merged:
    """Bring the records of `shards` together in `output`.

    Args:
        output: the run folder to fill.
        plan: what the whole run was to be, in whose order cells are written; None for what the shards say themselves.
        shards: their folders; those without records are passed over.
        gaps: what is known to be missing.
        partial: how to complete the run; "" allows gaps.

    Raises:
        BenchError: no records, shards that do not belong together (which fields differ), a repetition measured twice,
            a gap while `partial` forbids it, records in `output` that are from no shard, a broken line.
    """
    sources = [source for folder in shards if (source := _source(folder)) is not None]
    if not sources:
        raise BenchError(f"no shard of {output} has any records yet", "Wait until a task has started")
    _check_environments(sources)
    experiment = _one_experiment(sources)
    order = tuple(c for s in sources for c in s.contents.cells.values()) if plan is None else plan.cells
    cells = {cell.id: cell for cell in order}
    _check_cells(sources, set(cells))
    if gaps and partial:
        raise BenchError(f"the run is not whole: {'; '.join(g.text for g in gaps)}", partial)

    by_cell = _records_by_cell(sources)
    left_out = dict.fromkeys(out for s in sources for out in s.contents.left_out)
    environment = _environment(sources)
    lines: list[dict[str, Any]] = [
        {"kind": "environment", **asdict(environment)},
        {"kind": "experiment", "name": sources[0].contents.name, "schema_version": sources[0].contents.schema_version},
        *(cell_record(cell) for cell in cells.values()),
        *({"kind": "left_out", **asdict(out)} for out in left_out),
        *(line for cell_id in cells for line in by_cell.get(cell_id, ())),
    ]
    _write(output, lines, sources, set(cells), experiment)
    with Store.open(output, environment, sources[0].contents.name) as store:
        scored = {cell.id: cell for cell in Plan(tuple(cells.values())).scored_cells}
        store.write_scores(aggregate(scored, read_text_scores(output)))
        store.write_views()
    run = read_run(output)
    return Merged(output, len(sources), len(run.cells), sum(len(r.timed) for r in run.results), tuple(gaps))


# ---------------------------------------------------------------- checks


def _check_environments(sources: Sequence[_Source]) -> None:
    differing = []
    for name in Environment.COMPARABLE:
        values: dict[str, list[str]] = {}
        for source in sources:
            values.setdefault(repr(getattr(source.contents.environment, name)), []).append(source.folder.name)
        if len(values) > 1:
            differing.append(f"{name}: " + ", ".join(f"{v} in {' '.join(where)}" for v, where in values.items()))
    if differing:
        raise BenchError(
            f"the shards were measured in different environments ({'; '.join(differing)})",
            "Times from two environments are not one data set: delete the shards of one, and measure them again",
        )


def _one_experiment(sources: Sequence[_Source]) -> str | None:
    """The text of experiment.json, which all shards must share."""
    if len({s.contents.schema_version for s in sources}) > 1:
        raise BenchError("some shards were written by an earlier version of dlmbench", "Measure those shards again")
    texts = {s.folder.name: (s.folder / EXPERIMENT) for s in sources}
    found = {name: path.read_text(encoding="utf-8") for name, path in texts.items() if path.is_file()}
    first = next(iter(found.values()), None)
    if others := [name for name, text in found.items() if json.loads(text) != json.loads(first or "")]:
        raise BenchError(
            f"shards of different experiments: {next(iter(found))} and {', '.join(others)}",
            f"Compare their {EXPERIMENT}; merge only shards of one submission",
        )
    return first


def _check_cells(sources: Sequence[_Source], planned: set[str]) -> None:
    for source in sources:
        if foreign := [c.label for c in source.contents.cells.values() if c.id not in planned]:
            raise BenchError(f"{source.folder} holds a cell that is not in the plan: {foreign[0]}", "Remove the folder")
    owners: dict[str, list[_Source]] = {}
    for source in sources:
        for cell_id, samples in source.contents.samples.items():
            if samples:
                owners.setdefault(cell_id, []).append(source)
    for cell_id, holding in owners.items():
        first = _of_cell(holding[0], cell_id)
        for other in holding[1:]:
            if _of_cell(other, cell_id) != first:
                label = other.contents.cells[cell_id].label
                raise BenchError(
                    f"{label} was measured twice: in {holding[0].folder} and in {other.folder}",
                    "Remove one of the two folders, then merge again",
                )


def _of_cell(source: _Source, cell_id: str) -> list[dict[str, Any]]:
    return [v for v in source.lines if v.get("cell_id") == cell_id]


def _records_by_cell(sources: Sequence[_Source]) -> dict[str, list[dict[str, Any]]]:
    """Each cell's lines, from the first shard that has any: a copy of a shard adds nothing."""
    found: dict[str, list[dict[str, Any]]] = {}
    for source in sources:
        own: dict[str, list[dict[str, Any]]] = {}
        for values in source.lines:
            if "cell_id" in values:
                own.setdefault(values["cell_id"], []).append(values)
        for cell_id, lines in own.items():
            found.setdefault(cell_id, lines)
    return found


def _environment(sources: Sequence[_Source]) -> Environment:
    """The first shard's; a node that any of them had to share is shared for the whole run."""
    environments = [s.contents.environment for s in sources]
    known = [e for e in environments if e is not None]
    shared = [e.node_shared for e in known]
    return replace(known[0], node_shared=True if any(shared) else None if None in shared else False)


# ---------------------------------------------------------------- writing


def _write(
    output: Path,
    records: Sequence[Mapping[str, Any]],
    sources: Sequence[_Source],
    planned: set[str],
    experiment: str | None,
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    lock, _ = lock_folder(output)
    try:
        kept = {json.dumps(r) for r in records}
        for number, values in read_lines(output / RECORDS):
            if values.get("kind") == "sample" and json.dumps(values) not in kept:
                raise BenchError(
                    f"{output / RECORDS}, line {number}: a repetition that is in no shard",
                    "This folder holds a run of its own: merge into another one",
                )
        for name, keys in _KEYS.items():
            replace_file(output / name, _text(_joined(name, keys, [*(s.folder for s in sources), output], planned)))
        if experiment is not None:
            replace_file(output / EXPERIMENT, experiment)
        replace_file(output / RECORDS, _text(records))
    finally:
        os.close(lock)


def _joined(name: str, keys: Sequence[str], folders: Sequence[Path], planned: set[str]) -> Iterator[dict[str, Any]]:
    """The lines of all folders, of equal keys those of the first folder; metrics added to the whole run stay."""
    seen: set[tuple[Any, ...]] = set()
    for folder in folders:
        latest: dict[tuple[Any, ...], dict[str, Any]] = {}
        for _, values in read_lines(folder / name):
            if values.get("cell_id") in planned:
                latest[tuple(values[k] for k in keys)] = values
        yield from (values for key, values in latest.items() if key not in seen)
        seen |= set(latest)


def _text(lines: Sequence[Mapping[str, Any]] | Iterator[dict[str, Any]]) -> str:
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
