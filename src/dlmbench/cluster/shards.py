"""A plan cut into shards of about equal predicted time, longest first.

What is dealt out is not the single cell but the cells that differ only in batch size: their texts are equal and scored
once, and where one of them runs out of memory the larger ones are not tried. Both hold within one shard only.
"""

from __future__ import annotations

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


@dataclass
class _Open:
    """A shard while it is being filled. settings: what a process loads a model for; seconds: loading included."""

    cells: list[Cell]
    settings: set[tuple[str, ...]]
    seconds: float = 0.0


def setting_of(cell: Cell) -> tuple[str, ...]:
    """Cells that agree in this run on one loaded model."""
    return (cell.model.key, cell.engine, cell.precision, cell.attention)


def balance(
    plan: Plan, count: int, seconds: Mapping[str, float], load_s: Mapping[tuple[str, ...], float] | None = None
) -> tuple[Shard, ...]:
    """Exactly `count` shards, or fewer where there is less to deal out; the longest is number 0.

    Longest first: each group, from the longest to the shortest, goes where it would be finished earliest, a model that
    this shard does not load yet counted in. The longest shard is then at most 4/3 of the best possible one (Graham
    1969), loading aside.

    Args:
        plan: all cells.
        count: how many shards are wanted.
        seconds: predicted time of a cell, all its repetitions, by cell id; cells that it lacks count as the mean.
        load_s: predicted time to load a model, by `setting_of`; what it lacks costs nothing.

    Raises:
        BenchError: fewer than one shard.
    """
    if count < 1:
        raise BenchError(f"--shards {count}: a run has at least one shard", "as in --shards 4")
    usual = statistics.fmean(seconds.values()) if seconds else 1.0
    cost = {cell.id: seconds.get(cell.id, usual) for cell in plan.cells}
    groups: dict[str, list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault(cell.quality_key, []).append(cell)
    # Equal costs keep the order of the plan: the same plan gives the same shards on every machine.
    ordered = sorted(groups.values(), key=lambda cells: -sum(cost[c.id] for c in cells))
    shards = [_Open([], set()) for _ in range(min(count, len(ordered)))]
    for cells in ordered:
        own, setting = sum(cost[c.id] for c in cells), setting_of(cells[0])
        load = (load_s or {}).get(setting, 0.0)
        best = min(shards, key=lambda s: (s.seconds + own + (load if setting not in s.settings else 0.0), len(s.cells)))
        best.seconds += own + (load if setting not in best.settings else 0.0)
        best.settings.add(setting)
        best.cells += cells
    place = {cell.id: number for number, cell in enumerate(plan.cells)}
    known = bool(seconds)
    filled = sorted((s for s in shards if s.cells), key=lambda s: -s.seconds)
    return tuple(
        Shard(index, _ids(shard.cells, place), shard.seconds if known else None) for index, shard in enumerate(filled)
    )


def _ids(cells: Sequence[Cell], place: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(sorted((c.id for c in cells), key=place.__getitem__))
