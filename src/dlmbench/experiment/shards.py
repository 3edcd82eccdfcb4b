"""A plan cut into shards of about equal predicted time, longest first.

What is dealt out is not the single cell but the cells that differ only in batch size: their texts are equal and scored
once, and where one of them runs out of memory the larger ones are not tried. Both hold within one shard only.
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


Setting = tuple[str, ...]


@dataclass
class _Open:
    """A shard while it is being filled. seconds: loading included."""

    cells: list[Cell]
    settings: set[Setting]
    seconds: float = 0.0

    def reloads(self, setting: Setting) -> bool:
        """Whether one model would have to be loaded in turn in two ways."""
        return any(s[0] == setting[0] and s != setting for s in self.settings)


@dataclass(frozen=True)
class _Group:
    """Cells that stay together."""

    cells: tuple[Cell, ...]
    setting: Setting
    seconds: float


def setting_of(cell: Cell) -> Setting:
    """Cells that agree in this run on one loaded model; the model's key comes first."""
    return (cell.model.key, cell.engine, cell.precision, cell.attention)


def balance(
    plan: Plan, count: int, seconds: Mapping[str, float], load_s: Mapping[Setting, float] | None = None
) -> tuple[Shard, ...]:
    """Exactly `count` shards, or fewer where there is less to deal out; the longest is number 0.

    Longest first: each group, from the longest to the shortest, goes where it would be finished earliest (Graham
    1969), either into any shard or into those that are set apart for its model: whichever ends earlier, loading
    counted in. No shard loads the same model in two ways while there are enough shards to avoid it.

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
    by_text: dict[str, list[Cell]] = {}
    for cell in plan.cells:
        by_text.setdefault(cell.quality_key, []).append(cell)
    groups = [
        _Group(tuple(cells), setting_of(cells[0]), math.fsum(seconds.get(c.id, usual) for c in cells))
        for cells in by_text.values()
    ]
    loads = {g.setting: (load_s or {}).get(g.setting, 0.0) for g in groups}
    count = min(count, len(groups))
    mixed = _deal(groups, count, loads)
    apart = [
        shard
        for setting, n in _set_apart(groups, count, loads).items()
        for shard in _deal([g for g in groups if g.setting == setting], n, loads)
    ]
    # Of two that end equally early the mixed one: its shards measure both models side by side.
    chosen = min((c for c in (mixed, apart) if c), key=lambda c: max(s.seconds for s in c))
    place = {cell.id: number for number, cell in enumerate(plan.cells)}
    filled = sorted((s for s in chosen if s.cells), key=lambda s: -s.seconds)
    return tuple(
        Shard(
            index,
            tuple(sorted((c.id for c in shard.cells), key=place.__getitem__)),
            shard.seconds if seconds else None,
        )
        for index, shard in enumerate(filled)
    )


def _deal(groups: Sequence[_Group], count: int, loads: Mapping[Setting, float]) -> list[_Open]:
    """Longest first; equal ones keep the order of the plan, so that every machine gets the same shards."""
    shards = [_Open([], set()) for _ in range(count)]
    for group in sorted(groups, key=lambda g: -g.seconds):

        def cost(shard: _Open, group: _Group = group) -> float:
            return group.seconds + (0.0 if group.setting in shard.settings else loads[group.setting])

        best = min(shards, key=lambda s: (s.reloads(group.setting), s.seconds + cost(s), len(s.cells)))
        best.seconds += cost(best)
        best.settings.add(group.setting)
        best.cells += group.cells
    return shards


def _set_apart(groups: Sequence[_Group], count: int, loads: Mapping[Setting, float]) -> dict[Setting, int]:
    """How many shards to set apart for each loaded model; none where there are fewer shards than models."""
    if len(loads) > count:
        return {}
    total = {setting: math.fsum(g.seconds for g in groups if g.setting == setting) for setting in loads}
    most = {setting: sum(g.setting == setting for g in groups) for setting in loads}
    shares = dict.fromkeys(loads, 1)
    for _ in range(count - len(loads)):
        able = [s for s in shares if shares[s] < most[s]]
        longest = max(able, key=lambda s: total[s] / shares[s] + loads[s])
        shares[longest] += 1
    return shares
