"""The end of a submitted run: its shards merged, what is not scored yet scored, and the way to the report."""

from __future__ import annotations

from pathlib import Path

from dlmbench.bench import run
from dlmbench.errors import BenchError
from dlmbench.results import read_run
from dlmbench.results.records import read_records
from dlmbench.slurm import submission
from dlmbench.slurm.merge import Gap, Merged, merge
from dlmbench.slurm.status import ENDED
from dlmbench.slurm.submit import resume_command
from dlmbench.types import Cell, Plan, Progress


def merge_submitted(folder: Path, partial: bool = False) -> Merged:
    """Merge the shards of a submitted run into its folder.

    Raises:
        BenchError: see `merge`; cells that no shard has measured, unless `partial`.
    """
    made = submission.load(folder)
    plan = made.plan()
    labels = {cell.id: cell.label for cell in plan.cells}
    gaps = []
    for shard in made.shards:
        own = made.shard_folder(shard.index)
        ended = {r.cell.id for r in read_records(own).results() if r.status is not None}
        missing = tuple(labels[i] for i in shard.cell_ids if i not in ended)
        if missing or not (own / ENDED).is_file():
            gaps.append(Gap(f"shard {shard.index}", missing))
    advice = f"`{resume_command(folder)}` completes it; `--partial` merges what is there"
    return merge(folder, plan, [made.shard_folder(s.index) for s in made.shards], gaps, "" if partial else advice)


def merge_folders(output: Path, folders: list[Path], partial: bool = False) -> Merged:
    """Merge run folders made by hand, of one experiment in one environment.

    Raises:
        BenchError: see `merge`; a folder without records, cells without an end, unless `partial`.
    """
    gaps, held = [], [read_records(folder) for folder in folders]
    ended: set[str] = set()
    for folder, contents in zip(folders, held, strict=True):
        if not contents.name:
            raise BenchError(f"{folder} holds no run", "Name folders given to `dlmbench run --output_dir`")
        ended |= {r.cell.id for r in contents.results() if r.status is not None}
    for folder, contents in zip(folders, held, strict=True):
        if missing := tuple(c.label for c in contents.cells.values() if c.id not in ended):
            gaps.append(Gap(str(folder), missing))
    advice = "The `dlmbench run` that made it goes on with it; `--partial` merges what is there"
    cells: dict[str, Cell] = {}
    for contents in held:
        cells |= {c.id: c for c in contents.cells.values() if c.id not in cells}
    return merge(output, Plan(tuple(cells.values())), folders, gaps, "" if partial else advice)


def score_rest(folder: Path, progress: Progress) -> None:
    """Score what no shard has scored; nothing is loaded when nothing is left."""
    metrics = submission.load(folder).experiment.metrics
    if read_run(folder).cells and metrics:
        run.score(folder, metrics, {}, progress)
