"""Merging shards into one run folder: every repetition once, none lost, all from one environment.

The result depends on the shards alone: merging again gives the same bytes and includes what has been measured since.
Nothing is written before all checks have passed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dlmbench.analysis.published import PUBLISHED, keep_published
from dlmbench.bench import run
from dlmbench.bench.quality import aggregate
from dlmbench.errors import BenchError
from dlmbench.results import GENERATIONS, RECORDS, TEXT_SCORES, Store, read_run, read_text_results
from dlmbench.results.journal import LockedFolder, read_lines, replace_file
from dlmbench.results.records import RunRecords, cell_record, read_records
from dlmbench.results.selfcheck import merge_selfchecks
from dlmbench.results.settings import EXPERIMENT
from dlmbench.slurm import submission as submissions
from dlmbench.slurm.shards import ENDED
from dlmbench.types import Cell, Environment, Plan, Progress

_NAMED = 3
_KEYS: Mapping[str, tuple[str, ...]] = {
    GENERATIONS: ("cell_id", "prompt_index"),
    TEXT_SCORES: ("cell_id", "metric", "prompt_index"),
}


@dataclass(frozen=True)
class Merged:
    """The merged run folder, with counts, and as text what is still missing."""

    folder: Path
    shards: int
    cells: int
    repetitions: int
    gaps: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """A shard. lines: as they are in the file, by cell id; "" for those that belong to no cell."""

    folder: Path
    contents: RunRecords
    lines: Mapping[str, list[dict[str, Any]]]


def merge_submitted(folder: Path, partial: bool = False) -> Merged:
    """Merge the shards of a submitted run into its folder.

    Raises:
        BenchError: see `merge`; also for unfinished shards unless `partial`.
    """
    submission = submissions.load(folder)
    plan = submission.plan()
    labels = {cell.id: cell.label for cell in plan.cells}
    gaps = []
    for shard in submission.shards:
        path = submission.shard_folder(shard.index)
        ended = {r.cell.id for r in read_records(path).results() if r.status is not None}
        missing = tuple(labels[i] for i in shard.cell_ids if i not in ended)
        if missing or not (path / ENDED).is_file():
            gaps.append(_gap(f"shard {shard.index}", missing))
    hint = f"`{submissions.resume_command(folder)}` completes it; `--partial` merges what has been measured"
    shards = [submission.shard_folder(s.index) for s in submission.shards]
    return merge(folder, plan, shards, gaps, "" if partial else hint, are_dealt=True)


def merge_folders(output: Path, folders: list[Path], partial: bool = False) -> Merged:
    """Merge run folders made with `dlmbench run`, of one experiment in one environment.

    Raises:
        BenchError: see `merge`; also for a folder without records, and for unfinished cells unless `partial`.
    """
    gaps, contents = [], [read_records(folder) for folder in folders]
    ended: set[str] = set()
    for folder, recorded in zip(folders, contents, strict=True):
        if not recorded.name:
            raise BenchError(f"there is no run in {folder}", "Use folders given to `dlmbench run --output-dir`")
        ended |= {r.cell.id for r in recorded.results() if r.status is not None}
    cells: dict[str, Cell] = {}
    for folder, recorded in zip(folders, contents, strict=True):
        if missing := tuple(c.label for c in recorded.cells.values() if c.id not in ended):
            gaps.append(_gap(str(folder), missing))
        cells |= {c.id: c for c in recorded.cells.values() if c.id not in cells}
    hint = "The same `dlmbench run` command completes it; `--partial` merges what has been measured"
    return merge(output, Plan(tuple(cells.values())), folders, gaps, "" if partial else hint)


def score_rest(folder: Path, progress: Progress) -> None:
    """Score what no shard has scored; loads nothing when nothing is left."""
    metrics = submissions.load(folder).experiment.metrics
    if read_run(folder).cells and metrics:
        run.score(folder, metrics, {}, progress)


def merge(
    output: Path, plan: Plan, shards: Sequence[Path], gaps: Sequence[str], hint: str = "", *, are_dealt: bool = False
) -> Merged:
    """Merge the records of `shards` into `output`.

    Args:
        output: the run folder to fill.
        plan: the whole run; cells are written in its order.
        shards: their folders; those without records are skipped.
        gaps: what is known to be missing.
        hint: how to complete the run, for the error about gaps; "" allows gaps.
        are_dealt: whether the processes of one cell may be in several shards.

    Raises:
        BenchError: no records; shards of different experiments or environments (which fields differ); a cell measured
            twice; gaps without permission; records in `output` that no shard has; an invalid line.
    """
    sources = [source for source in map(_source, shards) if source.contents.name]
    if not sources:
        raise BenchError(f"no shard of {output} has any records yet", "Wait until a task has started")
    _check_environments(sources)
    experiment = _common_experiment(sources)
    cells = {cell.id: cell for cell in plan.cells}
    _check_cells(sources, set(cells), are_dealt)
    if gaps and hint:
        raise BenchError(f"the run is incomplete: {'; '.join(gaps)}", hint)

    left_out = dict.fromkeys(out for s in sources for out in s.contents.left_out)
    environment = _environment(sources)
    no_cell = [line for source in sources for line in source.lines[""]]
    device_times = {
        json.dumps(line): line for line in no_cell if line["kind"] == "device_time"
    }  # equal ones are copies
    lines: list[dict[str, Any]] = [
        {"kind": "environment", **asdict(environment)},
        {"kind": "experiment", "name": sources[0].contents.name, "schema_version": sources[0].contents.schema_version},
        *(cell_record(cell) for cell in cells.values()),
        *({"kind": "left_out", **asdict(out)} for out in left_out),
        *(line for i in cells for line in _cell_lines(i, sources)),
        *device_times.values(),
    ]
    _write(output, lines, sources, set(cells), experiment)
    merge_selfchecks(output, (source.folder for source in sources))
    with Store.open(output, environment, sources[0].contents.name) as store:
        scored = {cell.id: cell for cell in Plan(tuple(cells.values())).scored_cells}
        store.write_scores(aggregate(scored, read_text_results(output)))
        store.write_views()
    merged = read_run(output)
    repetitions = sum(len(r.timed) for r in merged.results)
    return Merged(output, len(sources), len(merged.cells), repetitions, tuple(gaps))


def _gap(shard: str, labels: Sequence[str]) -> str:
    """What a shard is missing: cells, of which the first are named, or (no labels) its scores."""
    if not labels:
        return f"{shard} is not finished"
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    cells = "1 cell" if len(labels) == 1 else f"{len(labels)} cells"
    return f"{shard} is missing {cells} ({'; '.join(labels[:_NAMED])}{more})"


def _source(folder: Path) -> _Source:
    lines: dict[str, list[dict[str, Any]]] = {}
    for _, values in read_lines(folder / RECORDS):
        lines.setdefault(values.get("cell_id", ""), []).append(values)
    return _Source(folder, read_records(folder), lines)


def _cell_lines(cell_id: str, sources: Sequence[_Source]) -> Iterator[dict[str, Any]]:
    """The lines of a cell from all shards. Repetitions of later ones get the next free numbers.

    A copy of a shard adds nothing: processes have ids of their own. A cell that failed anywhere has failed.
    """
    processes, statuses = set[int](), list[dict[str, Any]]()
    next_index = {True: 0, False: 0}
    for source in sources:
        lines = source.lines.get(cell_id, [])
        statuses += [line for line in lines if line["kind"] == "status"]
        own = {line["process_id"] for line in lines if "process_id" in line} - processes
        first = dict(next_index)
        for line in lines:
            if not own or line["kind"] == "status" or line.get("process_id", min(own)) not in own:
                continue
            if line["kind"] != "sample":
                yield line
                continue
            is_warmup, index = line["is_warmup"], line["index"] + first[line["is_warmup"]]
            next_index[is_warmup] = max(next_index[is_warmup], index + 1)
            yield {**line, "index": index}
        processes |= own
    yield from sorted({json.dumps(s): s for s in statuses}.values(), key=lambda s: s["status"] != "ok")


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
            "Such times cannot be merged: delete the shards of one environment and measure them again",
        )


def _common_experiment(sources: Sequence[_Source]) -> str | None:
    """The text of experiment.json, which must be the same in all shards."""
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


def _check_cells(sources: Sequence[_Source], planned: set[str], are_dealt: bool) -> None:
    for source in sources:
        if unknown := [c.label for c in source.contents.cells.values() if c.id not in planned]:
            raise BenchError(
                f"{source.folder} contains a cell that is not in the plan: {unknown[0]}",
                "Merge only folders of this experiment",
            )
    if are_dealt:
        return
    owners: dict[str, list[_Source]] = {}
    for source in sources:
        for cell_id, samples in source.contents.samples.items():
            if samples:
                owners.setdefault(cell_id, []).append(source)
    for cell_id, (first, *others) in owners.items():
        for other in others:
            if other.lines[cell_id] != first.lines[cell_id]:
                label = other.contents.cells[cell_id].label
                raise BenchError(
                    f"{label} was measured twice: in {first.folder} and in {other.folder}",
                    "Remove one of the two folders, then merge again",
                )


def _environment(sources: Sequence[_Source]) -> Environment:
    """The first shard's environment; the node counts as shared if it was shared for any shard."""
    known = [s.contents.environment for s in sources if s.contents.environment is not None]
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
    with LockedFolder(output):
        # Without numbers: a shard that has grown since an earlier merge moves those of later ones.
        known = {json.dumps({**r, "index": 0}) for r in records}
        for number, values in read_lines(output / RECORDS):
            if values.get("kind") == "sample" and json.dumps({**values, "index": 0}) not in known:
                raise BenchError(
                    f"{output / RECORDS}, line {number}: a repetition that is in no shard",
                    "This folder contains a run that was measured here: merge into another folder",
                )
        for name, keys in _KEYS.items():
            replace_file(output / name, _jsonl(_joined(name, keys, [*(s.folder for s in sources), output], planned)))
        if experiment is not None:
            replace_file(output / EXPERIMENT, experiment)
        if (published := sources[0].folder / PUBLISHED).is_file():
            keep_published(published, output)
        replace_file(output / RECORDS, _jsonl(records))


def _joined(name: str, keys: Sequence[str], folders: Sequence[Path], planned: set[str]) -> Iterator[dict[str, Any]]:
    """The lines of all folders; of lines with equal keys those of the first folder.

    `output` comes last, so that metrics added to the merged run are kept.
    """
    seen: set[tuple[Any, ...]] = set()
    for folder in folders:
        latest: dict[tuple[Any, ...], dict[str, Any]] = {}
        for _, values in read_lines(folder / name):
            if values.get("cell_id") in planned:
                latest[tuple(values[k] for k in keys)] = values
        yield from (values for key, values in latest.items() if key not in seen)
        seen |= set(latest)


def _jsonl(lines: Sequence[Mapping[str, Any]] | Iterator[dict[str, Any]]) -> str:
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
