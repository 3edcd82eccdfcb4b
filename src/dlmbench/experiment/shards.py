"""Splitting a plan into shards of about equal predicted time, the longest first.

What is dealt out is one process of some cells: a cell's processes may run in different shards, on different hosts.
Cells that differ only in batch size stay together: where they have the same texts these are scored once, and if one of
them runs out of memory the larger ones are not tried.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dlmbench.errors import BenchError
from dlmbench.types import Cell, Plan


@dataclass(frozen=True)
class Shard:
    """One array task: its number, the ids of its cells in the order of the plan, and its predicted seconds.

    processes: for each cell, which of its processes run here. The shard of process 0 also inspects and scores the cell.
    """

    index: int
    cell_ids: tuple[str, ...]
    predicted_s: float | None
    processes: tuple[tuple[int, ...], ...]


LoadKey = tuple[str, ...]


@dataclass(frozen=True)
class _Unit:
    """One process of the cells of one shape, which stay together."""

    shape_key: str
    cells: tuple[Cell, ...]
    process: int
    load_key: LoadKey
    seconds: float


@dataclass
class _OpenShard:
    """A shard while it is being filled. seconds: including loading."""

    units: list[_Unit]
    seconds: float = 0.0

    def reloads(self, load_key: LoadKey) -> bool:
        """Whether the shard has to load the same model in a second way."""
        return any(u.load_key[0] == load_key[0] and u.load_key != load_key for u in self.units)

    def repeats(self, unit: _Unit) -> bool:
        """Whether the shard has another process of the same cells: it has to load the model once more."""
        return any(u.shape_key == unit.shape_key for u in self.units)

    def loads_with(self, *more: _Unit) -> int:
        """How often the shard loads models: each as often as the shape with most processes needs it."""
        counts = Counter((u.load_key, u.shape_key) for u in (*self.units, *more))
        most: dict[LoadKey, int] = {}
        for (load_key, _), count in counts.items():
            most[load_key] = max(count, most.get(load_key, 0))
        return sum(most.values())


def setting_of(cell: Cell) -> LoadKey:
    """Equal for cells that run on the same loaded model; the model's key comes first."""
    return (cell.model.key, cell.engine, cell.precision, cell.attention)


def balance(
    plan: Plan,
    count: int,
    seconds: Mapping[str, float],
    load_s: Mapping[LoadKey, float] | None = None,
    processes: int | Mapping[str, int] = 1,
) -> tuple[Shard, ...]:
    """`count` shards, or fewer if there is less to deal out; the longest is number 0.

    List scheduling, longest first (Graham 1969): each process goes to the shard that would finish it earliest, loading
    included. This is done over all shards, over all that have no other process of the cell, and over shards reserved
    for one model each, and the assignment that ends earliest is taken. No shard loads the same model in two ways while
    there are enough shards to avoid it.

    seconds: predicted time of a cell in one process, by cell id; the mean is used for missing cells. load_s: predicted
    time to load a model, by `setting_of`; 0 for missing ones. processes: in how many each cell is measured; or by cell
    id, in how many it is still to be.

    Raises:
        BenchError: fewer than one shard.
    """
    if count < 1:
        raise BenchError(f"--shards {count}: a run has at least one shard", "Write, for example, --shards 4")
    mean = statistics.fmean(seconds.values()) if seconds else 1.0
    shapes: dict[str, list[Cell]] = {}
    for cell in plan.cells:
        shapes.setdefault(cell.shape_key, []).append(cell)
    # The processes of a shape follow each other, so that they are dealt out to different shards.
    wanted = dict.fromkeys((c.id for c in plan.cells), processes) if isinstance(processes, int) else processes
    units = []
    for shape_key, cells in shapes.items():
        for process in range(max(wanted[c.id] for c in cells)):
            lacking = tuple(c for c in cells if wanted[c.id] > process)
            total = math.fsum(seconds.get(c.id, mean) for c in lacking)
            units.append(_Unit(shape_key, lacking, process, setting_of(cells[0]), total))
    loads = {u.load_key: (load_s or {}).get(u.load_key, 0.0) for u in units}
    count = min(count, len(units))
    mixed, spread = _assign(units, count, loads), _assign(units, count, loads, spread=True)
    reserved = [
        shard
        for load_key, n in _reserve(units, count, loads).items()
        for shard in _assign([u for u in units if u.load_key == load_key], n, loads)
    ]
    # If they end equally early, a mixed one: its shards measure both models on the same node.
    chosen = min((c for c in (mixed, spread, reserved) if c), key=lambda c: max(s.seconds for s in c))
    filled = sorted((s for s in chosen if s.units), key=lambda s: -s.seconds)
    return tuple(_closed(index, shard, plan, bool(seconds)) for index, shard in enumerate(filled))


def _closed(index: int, shard: _OpenShard, plan: Plan, is_predicted: bool) -> Shard:
    processes: dict[str, list[int]] = {}
    for unit in shard.units:
        for cell in unit.cells:
            processes.setdefault(cell.id, []).append(unit.process)
    ids = tuple(cell.id for cell in plan.cells if cell.id in processes)
    return Shard(index, ids, shard.seconds if is_predicted else None, tuple(tuple(sorted(processes[i])) for i in ids))


def _assign(
    units: Sequence[_Unit], count: int, loads: Mapping[LoadKey, float], *, spread: bool = False
) -> list[_OpenShard]:
    """Longest first; ties keep the order of the plan, so that every machine gets the same shards.

    spread: a cell's processes go to different shards while there are enough.
    """
    shards = [_OpenShard([]) for _ in range(count)]
    for unit in sorted(units, key=lambda u: -u.seconds):

        def cost(shard: _OpenShard, unit: _Unit = unit) -> float:
            return unit.seconds + loads[unit.load_key] * (shard.loads_with(unit) - shard.loads_with())

        def rank(shard: _OpenShard, unit: _Unit = unit) -> tuple[float, ...]:
            again = spread and shard.repeats(unit)
            return shard.reloads(unit.load_key), again, shard.seconds + cost(shard), len(shard.units)

        best = min(shards, key=rank)
        best.seconds += cost(best)
        best.units.append(unit)
    return shards


def _reserve(units: Sequence[_Unit], count: int, loads: Mapping[LoadKey, float]) -> dict[LoadKey, int]:
    """How many shards to reserve for each loaded model; none if there are fewer shards than models."""
    if len(loads) > count:
        return {}
    total = {key: math.fsum(u.seconds for u in units if u.load_key == key) for key in loads}
    most = {key: sum(u.load_key == key for u in units) for key in loads}
    shards = dict.fromkeys(loads, 1)
    for _ in range(count - len(loads)):
        candidates = [key for key in shards if shards[key] < most[key]]
        longest = max(candidates, key=lambda key: total[key] / shards[key] + loads[key])
        shards[longest] += 1
    return shards
