"""Splitting a plan into shards of about equal predicted time, the longest first.

Cells that differ only in batch size stay in one shard: their texts are scored once, and if one of them runs out of
memory the larger ones are not tried.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dlmbench.errors import BenchError
from dlmbench.types import Cell, Plan


@dataclass(frozen=True)
class Shard:
    """One array task: its number, the ids of its cells in the order of the plan, and its predicted seconds."""

    index: int
    cell_ids: tuple[str, ...]
    predicted_s: float | None


LoadKey = tuple[str, ...]


@dataclass
class _OpenShard:
    """A shard while it is being filled. seconds: including loading."""

    cells: list[Cell]
    load_keys: set[LoadKey]
    seconds: float = 0.0

    def reloads(self, load_key: LoadKey) -> bool:
        """Whether the shard has to load the same model in a second way."""
        return any(key[0] == load_key[0] and key != load_key for key in self.load_keys)


@dataclass(frozen=True)
class _Group:
    """Cells that stay together."""

    cells: tuple[Cell, ...]
    load_key: LoadKey
    seconds: float


def setting_of(cell: Cell) -> LoadKey:
    """Equal for cells that run on the same loaded model; the model's key comes first."""
    return (cell.model.key, cell.engine, cell.precision, cell.attention)


def balance(
    plan: Plan, count: int, seconds: Mapping[str, float], load_s: Mapping[LoadKey, float] | None = None
) -> tuple[Shard, ...]:
    """`count` shards, or fewer if there are fewer groups of cells; the longest is number 0.

    List scheduling, longest first (Graham 1969): each group goes to the shard that would finish it earliest, loading
    included. This is done twice, over all shards and over shards reserved for one model each, and the assignment that
    ends earlier is taken. No shard loads the same model in two ways while there are enough shards to avoid it.

    Args:
        plan: all cells.
        count: how many shards are wanted.
        seconds: predicted time of a cell with all its repetitions, by cell id; the mean is used for missing cells.
        load_s: predicted time to load a model, by `setting_of`; 0 for missing ones.

    Raises:
        BenchError: fewer than one shard.
    """
    if count < 1:
        raise BenchError(f"--shards {count}: a run has at least one shard", "Write, for example, --shards 4")
    mean = statistics.fmean(seconds.values()) if seconds else 1.0
    by_text: dict[str, list[Cell]] = {}
    for cell in plan.cells:
        by_text.setdefault(cell.quality_key, []).append(cell)
    groups = [
        _Group(tuple(cells), setting_of(cells[0]), math.fsum(seconds.get(c.id, mean) for c in cells))
        for cells in by_text.values()
    ]
    loads = {g.load_key: (load_s or {}).get(g.load_key, 0.0) for g in groups}
    count = min(count, len(groups))
    mixed = _assign(groups, count, loads)
    reserved = [
        shard
        for load_key, n in _reserve(groups, count, loads).items()
        for shard in _assign([g for g in groups if g.load_key == load_key], n, loads)
    ]
    # If both end equally early, the mixed one: its shards measure both models on the same node.
    chosen = min((c for c in (mixed, reserved) if c), key=lambda c: max(s.seconds for s in c))
    position = {cell.id: number for number, cell in enumerate(plan.cells)}
    filled = sorted((s for s in chosen if s.cells), key=lambda s: -s.seconds)
    return tuple(
        Shard(
            index,
            tuple(sorted((c.id for c in shard.cells), key=position.__getitem__)),
            shard.seconds if seconds else None,
        )
        for index, shard in enumerate(filled)
    )


def _assign(groups: Sequence[_Group], count: int, loads: Mapping[LoadKey, float]) -> list[_OpenShard]:
    """Longest first; ties keep the order of the plan, so that every machine gets the same shards."""
    shards = [_OpenShard([], set()) for _ in range(count)]
    for group in sorted(groups, key=lambda g: -g.seconds):

        def cost(shard: _OpenShard, group: _Group = group) -> float:
            return group.seconds + (0.0 if group.load_key in shard.load_keys else loads[group.load_key])

        best = min(shards, key=lambda s: (s.reloads(group.load_key), s.seconds + cost(s), len(s.cells)))
        best.seconds += cost(best)
        best.load_keys.add(group.load_key)
        best.cells += group.cells
    return shards


def _reserve(groups: Sequence[_Group], count: int, loads: Mapping[LoadKey, float]) -> dict[LoadKey, int]:
    """How many shards to reserve for each loaded model; none if there are fewer shards than models."""
    if len(loads) > count:
        return {}
    total = {key: math.fsum(g.seconds for g in groups if g.load_key == key) for key in loads}
    most = {key: sum(g.load_key == key for g in groups) for key in loads}
    shards = dict.fromkeys(loads, 1)
    for _ in range(count - len(loads)):
        candidates = [key for key in shards if shards[key] < most[key]]
        longest = max(candidates, key=lambda key: total[key] / shards[key] + loads[key])
        shards[longest] += 1
    return shards
