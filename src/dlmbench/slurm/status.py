"""How far a submitted run is, from the records of its shards alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dlmbench.results.records import RunRecords, read_records
from dlmbench.slurm.submission import Submission

# Written when a shard has measured and scored all it has; its cells alone would not say that it is scored.
ENDED = "ended"


@dataclass(frozen=True)
class ShardProgress:
    """One shard: cells ended (failed ones among them), whether nothing is left, seconds measured and seconds left.

    left_s is None where no cell has a predicted time; before a first cell has ended it is the prediction as it stands.
    """

    index: int
    cells: int
    ended: int
    failed: int
    is_complete: bool
    measured_s: float
    left_s: float | None


def mark_ended(folder: Path) -> None:
    """Note that a shard has nothing left to do."""
    from dlmbench.results.journal import replace_file

    replace_file(folder / ENDED, "all cells of this shard are measured and scored\n")


def examine(submission: Submission) -> tuple[ShardProgress, ...]:
    """The progress of every shard; one that never started has no cells ended."""
    contents = [read_records(submission.shard_folder(s.index)) for s in submission.shards]
    ratio = _measured_to_predicted(contents, submission.predicted)
    found = []
    for shard, held in zip(submission.shards, contents, strict=True):
        results = {r.cell.id: r for r in held.results()}
        ended = [i for i in shard.cell_ids if i in results and results[i].status is not None]
        is_complete = len(ended) == len(shard.cell_ids) and (submission.shard_folder(shard.index) / ENDED).is_file()
        found.append(
            ShardProgress(
                shard.index,
                len(shard.cell_ids),
                len(ended),
                sum(results[i].status != "ok" for i in ended),
                is_complete,
                math.fsum(_seconds(held, i) for i in shard.cell_ids),
                _left(set(shard.cell_ids) - set(ended), held, submission.predicted, ratio),
            )
        )
    return tuple(found)


def _seconds(contents: RunRecords, cell_id: str) -> float:
    return math.fsum(s.wall_s for s in contents.samples.get(cell_id, {}).values())


def _measured_to_predicted(contents: Iterable[RunRecords], predicted: Mapping[str, float]) -> float:
    """How many times as long as predicted the cells took that have ended; 1 before there is one."""
    measured = expected = 0.0
    for held in contents:
        for result in held.results():
            if result.status == "ok" and result.cell.id in predicted:
                measured += _seconds(held, result.cell.id)
                expected += predicted[result.cell.id]
    return measured / expected if measured and expected else 1.0


def _left(cell_ids: set[str], held: RunRecords, predicted: Mapping[str, float], ratio: float) -> float | None:
    if any(i not in predicted for i in cell_ids):
        return None
    return math.fsum(max(0.0, predicted[i] * ratio - _seconds(held, i)) for i in cell_ids)
