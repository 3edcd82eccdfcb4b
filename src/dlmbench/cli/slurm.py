"""On a SLURM cluster: `submit` a run as a job array and follow its `status`; its jobs run `shard` and `finish`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from dlmbench.cli.options import AsJson, OutputDir, RunOptions, command, expand_options
from dlmbench.errors import BenchError

if TYPE_CHECKING:
    from dlmbench.slurm.merge import Merged
    from dlmbench.slurm.scheduler import Task
    from dlmbench.slurm.shards import ShardProgress
    from dlmbench.slurm.submission import QueueRequest, Submission

SubmittedRun = Annotated[Path, Argument(metavar="RUN", help="run folder, as given to `dlmbench submit`")]


@command()
@expand_options
def submit(
    context: typer.Context,
    options: RunOptions,
    output_dir: OutputDir = Path("results/raw_data"),
    shards: Annotated[int, Option(min=1, metavar="N", help="number of array tasks")] = 4,
    partition: Annotated[str, Option(metavar="NAME", help="SLURM partition; default: the cluster's default")] = "",
    gres: Annotated[
        str, Option(metavar="GRES", help="GPU of each task, such as gpu:a100:1; none for a CPU run")
    ] = "gpu:1",
    time: Annotated[
        str, Option(metavar="TIME", help="time limit of each task, such as 4:00:00; tasks resume after it")
    ] = "",
    account: Annotated[str, Option(metavar="NAME", help="account to charge")] = "",
    cpus_per_task: Annotated[int | None, Option(min=1, metavar="N", help="CPU cores of each task")] = None,
    shared: Annotated[bool, Option("--shared", help="allow other jobs on the node; recorded in the results")] = False,
    warn: Annotated[
        int | None,
        Option(min=1, metavar="SECONDS", help="stop this long before the time limit; default 180"),
    ] = None,
    sbatch: Annotated[
        list[str] | None, Option(metavar="OPTION", help="pass an option to sbatch, as in --sbatch=--mem=64G")
    ] = None,
    hardware: Annotated[
        str | None, Option(metavar="NAME", help="device to predict times for; default: the GPU that --gres names")
    ] = None,
    allow_cpu: Annotated[bool, Option("--allow-cpu", help="measure on the CPU if there is no GPU")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="show shards and commands, queue nothing")] = False,
    resume: Annotated[
        Path | None, Option(metavar="RUN", help="complete this run; only --time and --warn may be changed")
    ] = None,
) -> None:
    """Run an experiment as a SLURM job array, followed by a job that merges, scores and reports.

    Shards are cut to take about equal time on the GPU that --gres names; a name that fits several devices needs
    --hardware as well. Repeating the command, or `dlmbench submit --resume RUN`, queues what is left, whatever happened
    to the jobs.

    \b
    Example: dlmbench submit -c config/experiments.yaml --shards 8 --gres gpu:h200:1 --time 4:00:00
    """
    from dataclasses import replace

    from dlmbench.cli import console

    console.load_libraries("torch")
    from dlmbench.roofline.hardware import find
    from dlmbench.slurm import submission
    from dlmbench.slurm.shards import shard_progress

    if resume is not None:
        _check_resume_options(context)
        made = submission.load(resume.absolute())
        old = made.resources
        made = replace(made, resources=replace(old, time=time or old.time, warn_s=warn or old.warn_s))
        submission.check_time(made.resources)
        made.plan()
    else:
        experiment, plan = options.load()
        gpu = "" if gres == "none" else gres
        resources = submission.Resources(
            partition, gpu, time, account, cpus_per_task, not shared, warn or 180, tuple(sbatch or ())
        )
        submission.check_time(resources)
        device = find(hardware) if hardware is not None else submission.requested_device(gpu)
        made = submission.create(experiment, plan, output_dir, shards, device, resources, allow_cpu)
        submission.check_not_serial_run(output_dir)
        if submission.exists(output_dir):
            before = submission.load(output_dir.absolute())
            submission.check_same_run(before, made)
            made = replace(before, resources=resources, allow_cpu=allow_cpu)
        console.left_out(plan)
    if not dry_run:
        submission.check_resources(made.resources)
    request = submission.request_for(made, [s.index for s in shard_progress(made) if s.broken or not s.is_complete])
    _show_shards(request)
    if dry_run:
        if request.todo:
            print(shlex.join(request.array_command()))
        print(shlex.join(request.report_command("ARRAY_JOB" if request.todo else None)))
        return
    queued = submission.queue(request)
    for job in queued.jobs[-2 if request.todo else -1 :]:
        what = f"shards {_ranges(job.shards)}" if job.shards else "merge, score and report after all shards"
        console.log(f"job {job.id}: {what}")
    console.log(f"follow it with `dlmbench status {shlex.quote(str(made.folder))}`; logs: logs/slurm/")
    print(made.folder)


@command()
def status(run_folder: SubmittedRun, as_json: AsJson = False) -> None:
    """Show the progress of a submitted run: cells done and failed, time left, place in the queue.

    \b
    Example: dlmbench status results/raw_data
    """
    from dlmbench.cli import console
    from dlmbench.slurm import scheduler, submission
    from dlmbench.slurm.shards import shard_progress

    submitted = submission.load(run_folder.absolute())
    shards = shard_progress(submitted)
    tasks: tuple[Task, ...] = ()
    note = ""
    try:
        tasks = scheduler.tasks([job.id for job in submitted.jobs])
    except BenchError as error:
        note = f"the queue could not be read ({error.message}); the numbers of cells come from the records"
    latest = submitted.tasks_by_shard(tasks)
    unfinished = [s for s in shards if not s.is_complete]
    active = [s for s in unfinished if s.index in latest and not latest[s.index].is_over]
    idle = [s for s in unfinished if s not in active]
    ended, total, failed = (sum(getattr(s, name) for s in shards) for name in ("ended", "cells", "failed"))
    left = [s.left_s for s in active]
    is_guess = submitted.device == submission.UNKNOWN and not any(s.measured_s for s in shards)
    left_s = None if not active or is_guess or None in left else max(s for s in left if s is not None)
    is_merged = (submitted.folder / "records.jsonl").is_file()
    if as_json:
        names = {"folder": submitted.folder, "experiment": submitted.experiment.name, "device": submitted.device}
        counts = {"cells": total, "ended": ended, "failed": failed, "left_s": left_s, "merged": is_merged}
        rows = [{**vars(s), "queue": latest[s.index].state if s.index in latest else None} for s in shards]
        console.print_json({**names, **counts, "note": note, "shards": rows})
        return
    _show_progress(submitted, shards, latest)
    if note:
        console.log(note)
    print(f"{ended} of {total} cells have ended, {failed} of them failed.")
    if active:
        eta = "unknown" if left_s is None else console.duration(left_s)
        print(f"Time left once all queued shards are running: {eta} (without loading and scoring).")
    if idle and not note:
        command = submission.resume_command(submitted.folder)
        print(f"Shards {_ranges([s.index for s in idle])} are not in the queue: `{command}`")
    if not unfinished:
        print("All shards are done" + (", and merged." if is_merged else f": `dlmbench finish {submitted.folder}`"))


@command()
def merge(
    run_folder: Annotated[Path, Argument(metavar="RUN", help="folder to merge into; a submitted run's is enough")],
    shard_folders: Annotated[
        list[Path] | None, Argument(metavar="SHARD", help="run folders made with `dlmbench run`")
    ] = None,
    partial: Annotated[bool, Option("--partial", help="merge even if cells are missing")] = False,
) -> None:
    """Merge the shards of a submitted run, or run folders of one experiment, into one run folder.

    Each repetition is included once. Folders from different environments are refused. Can be repeated safely.

    \b
    Example: dlmbench merge results/all results/part1 results/part2
    """
    from dlmbench.slurm import merge

    if shard_folders:
        _print_merged(merge.merge_folders(run_folder, shard_folders, partial))
    else:
        _print_merged(merge.merge_submitted(run_folder.absolute(), partial))


@command()
def finish(
    run_folder: SubmittedRun,
    partial: Annotated[bool, Option("--partial", help="report even if cells are missing")] = False,
) -> None:
    """Finish a submitted run: merge its shards, score what is left, write the report.

    The last job of `dlmbench submit` runs this. Exits with code 1 if cells failed.

    \b
    Example: dlmbench finish results/raw_data --partial
    """
    from dlmbench.cli import console

    console.load_libraries("torch")
    from dlmbench.cli.report import conclude
    from dlmbench.cli.run import failed_cells
    from dlmbench.results import read_run
    from dlmbench.slurm import merge, submission

    _print_merged(merge.merge_submitted(run_folder.absolute(), partial))
    with console.LiveProgress("scoring", 1) as progress:
        merge.score_rest(run_folder, progress)
    failure = failed_cells(submission.load(run_folder.absolute()).plan(), read_run(run_folder))
    conclude(run_folder)
    if failure is not None:
        raise failure


@command()
def shard(
    run_folder: SubmittedRun,
    index: Annotated[int, Argument(metavar="INDEX", help="number of the shard, from 0")],
) -> None:
    """Measure and score one shard of a submitted run. The tasks of the job array run this; it resumes.

    \b
    Example: dlmbench shard results/raw_data 0
    """
    from dlmbench.cli import console
    from dlmbench.slurm import submission
    from dlmbench.slurm.shards import run_shard

    submitted = submission.load(run_folder.absolute())
    plan = submitted.plan()
    part = submitted.shard_plan(plan, index)
    name = f"{submitted.experiment.name}, shard {index} of {len(submitted.shards)}"
    protocol = submitted.experiment.protocol
    with console.measuring(name, protocol, part, submitted.shard_folder(index)) as progress:
        run_shard(submitted, plan, index, progress)
    console.log(f"shard {index} is done")


# ---------------------------------------------------------------- checks and tables


def _check_resume_options(context: typer.Context) -> None:
    """Refuse options that --resume would ignore: a resumed run keeps what it was submitted with."""
    others = [
        p.opts[0]
        for p in context.command.params
        if p.name not in ("resume", "time", "warn", "dry_run", "quiet", "verbose")
        and (source := context.get_parameter_source(p.name or "")) is not None
        and source.name == "COMMANDLINE"
    ]
    if others:
        raise BenchError(
            f"{', '.join(others)} cannot be combined with --resume, which resumes the run as it was submitted",
            "Leave them out (only --time, --warn and --dry-run are possible), or submit to a new --output-dir",
        )


def _show_shards(request: QueueRequest) -> None:
    from dlmbench.cli import console
    from dlmbench.slurm.submission import UNKNOWN

    made = request.submission
    cells = sum(len(s.cell_ids) for s in made.shards)
    is_unknown = made.device == UNKNOWN
    console.log(f"{made.experiment.name}: {cells} cells in {len(made.shards)} shards, predicted for {made.device}")
    ranges = _ranges_s(made) if is_unknown and made.resources.wants_gpu else {}
    table = console.new_table(None, ">shard", ">cells", ">time", "state")
    for s in made.shards:
        state = "to be queued" if s.index in request.todo else "in the queue" if s.index in request.queued else "done"
        time = "unknown" if is_unknown else "-" if s.predicted_s is None else console.duration(s.predicted_s)
        if s.index in ranges:
            low, high = map(console.duration, ranges[s.index])
            time += f" (about {low})" if low == high else f" ({low} to {high})"
        table.add_row(str(s.index), str(len(s.cell_ids)), time, state)
    console.STDERR.print(table)
    if ranges:
        console.log("--gres names no GPU type that is known here; ranges: from the fastest to the slowest known device")


def _ranges_s(made: Submission) -> dict[int, tuple[float, float]]:
    """The shortest and longest predicted seconds of each shard over all known devices."""
    from dlmbench.roofline.hardware import ROWS
    from dlmbench.slurm.submission import predicted_s

    plan = made.plan()
    everywhere = [predicted_s(plan, made.experiment, row) for row in ROWS]
    times = {s.index: [sum(one.get(i, 0.0) for i in s.cell_ids) for one in everywhere] for s in made.shards}
    return {index: (min(seconds), max(seconds)) for index, seconds in times.items() if any(seconds)}


def _show_progress(submission: Submission, shards: tuple[ShardProgress, ...], tasks: dict[int, Task]) -> None:
    from dlmbench.cli import console

    title = f"{submission.experiment.name} in {submission.folder}"
    table = console.new_table(title, ">shard", ">cells", ">done", ">failed", ">measured", ">left", "queue")
    for s in shards:
        left = "-" if s.left_s is None else console.duration(s.left_s)
        state = "complete" if s.is_complete else "not queued"
        if not s.is_complete and (task := tasks.get(s.index)) is not None:
            reason = f" ({task.reason})" if task.state == "PENDING" and task.reason not in ("None", "") else ""
            state = task.state.lower() + reason
        numbers = (s.index, s.cells, s.ended, s.failed)
        table.add_row(*map(str, numbers), console.duration(s.measured_s), "" if s.is_complete else left, state)
    console.stdout(120).print(table)


def _print_merged(merged: Merged) -> None:
    from dlmbench.cli import console

    for gap in merged.gaps:
        console.log(f"missing: {gap}")
    console.log(f"merged {merged.shards} shards: {merged.cells} cells, {merged.repetitions} timed repetitions")
    print(merged.folder)


def _ranges(numbers: tuple[int, ...] | list[int]) -> str:
    """0, 1, 2, 5 as 0-2, 5."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and parts[-1][-1] == n - 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
