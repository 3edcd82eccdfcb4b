"""On a cluster: `submit` a run as a job array, watch it by `status`, and what its jobs run: shard, merge, finish."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlmbench.cli.options import (
    BatchSize,
    Bertscore,
    Config,
    KnobOption,
    MaxPrompts,
    Models,
    OutputDir,
    PromptFile,
    SeqLen,
    Steps,
    app,
    load,
)
from dlmbench.errors import BenchError

if TYPE_CHECKING:
    from rich.table import Table

    from dlmbench.roofline.hardware import Hardware
    from dlmbench.slurm.merge import Merged
    from dlmbench.slurm.status import ShardProgress
    from dlmbench.slurm.submission import Submission
    from dlmbench.slurm.submit import Order
    from dlmbench.types import Experiment

Submitted = Annotated[Path, typer.Argument(help="run folder, as given to `dlmbench submit`")]
Shared = Annotated[bool, typer.Option("--shared", help="let other jobs onto the node; recorded as a finding")]


@app.command()
def submit(
    context: typer.Context,
    config: Config = Path("config/experiments.yaml"),
    output_dir: OutputDir = Path("results/raw_data"),
    shards: Annotated[int, typer.Option(min=1, help="array tasks to cut the run into")] = 4,
    partition: Annotated[str, typer.Option(help="SLURM partition; default: the cluster's")] = "",
    gres: Annotated[str, typer.Option(help="GPU of each task, as in gpu:a100:1; none for a CPU run")] = "gpu:1",
    time: Annotated[str, typer.Option(help="limit of each task, as in 4:00:00; a task that meets it resumes")] = "",
    account: Annotated[str, typer.Option(help="account to charge")] = "",
    cpus_per_task: Annotated[int | None, typer.Option(min=1, help="cores of each task")] = None,
    shared: Shared = False,
    warn: Annotated[
        int | None,
        typer.Option(min=1, help="seconds before the limit at which a task stops in good order (180)"),
    ] = None,
    sbatch: Annotated[list[str] | None, typer.Option(help="any option of sbatch, as in --sbatch=--mem=64G")] = None,
    hardware: Annotated[str | None, typer.Option(help="device that times are predicted for; default: by gres")] = None,
    allow_cpu: Annotated[bool, typer.Option("--allow-cpu", help="measure on the CPU where no GPU is seen")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show shards and commands, queue nothing")] = False,
    resume: Annotated[
        Path | None, typer.Option(help="complete this run as it was submitted; --time and --warn may be given anew")
    ] = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    seq_len: SeqLen = None,
    max_prompts: MaxPrompts = None,
    prompt_file: PromptFile = None,
    compute_bertscore: Bertscore = False,
    models: Models = None,
    knob: KnobOption = None,
) -> None:
    """Queue a run as a job array whose shards take about equally long, and a job that merges, scores and reports.

    The same command again, or `dlmbench submit --resume RUN`, queues what is left, whatever happened to the jobs.
    """
    from dataclasses import replace

    from dlmbench.cli import console
    from dlmbench.slurm import submission
    from dlmbench.slurm import submit as queueing

    if resume is not None:
        _refuse_beside_resume(context)
        made = submission.load(resume.absolute())
        old = made.resources
        made = replace(made, resources=replace(old, time=time or old.time, warn_s=warn or old.warn_s))
        made.plan()
    else:
        experiment, plan = load(
            config,
            steps=steps,
            batch_size=batch_size,
            seq_len=seq_len,
            max_prompts=max_prompts,
            prompt_file=prompt_file,
            compute_bertscore=compute_bertscore,
            models=models,
            knob=knob,
        )
        gpu = "" if gres == "none" else gres
        resources = submission.Resources(
            partition, gpu, time, account, cpus_per_task, not shared, warn or 180, tuple(sbatch or ())
        )
        device = _device(hardware, gpu, experiment)
        made = queueing.propose(experiment, plan, output_dir, shards, device, resources, allow_cpu)
        queueing.refuse_a_run_of_its_own(output_dir)
        if submission.exists(output_dir):
            before = submission.load(output_dir.absolute())
            queueing.agree(before, made)
            made = replace(before, resources=resources, allow_cpu=allow_cpu)
        console.left_out(plan.left_out)
    if not dry_run:
        queueing.check(made.resources)
    order = queueing.order(made)
    _show_shards(made, order)
    if dry_run:
        if order.todo:
            print(shlex.join(order.array_command()))
        print(shlex.join(order.last_command("ARRAY_JOB" if order.todo else None)))
        return
    queued = queueing.queue(order)
    for job in queued.jobs[-2 if order.todo else -1 :]:
        what = f"shards {_ranges(job.shards)}" if job.shards else "merge, score and report, when all have ended"
        console.say(f"job {job.id}: {what}")
    console.say(f"follow it with `dlmbench status {shlex.quote(str(made.folder))}`; logs: logs/slurm/")
    print(made.folder)


@app.command()
def status(run_folder: Submitted) -> None:
    """Show the shards of a submitted run: cells done and failed, time left. Needs no accounting (sacct)."""
    from rich.console import Console

    from dlmbench.cli import console
    from dlmbench.slurm import scheduler, submission
    from dlmbench.slurm import status as progress
    from dlmbench.slurm import submit as queueing

    made = submission.load(run_folder.absolute())
    shards = progress.examine(made)
    tasks: tuple[scheduler.Task, ...] = ()
    note = ""
    try:
        tasks = scheduler.tasks([job.id for job in made.jobs])
    except BenchError as error:
        note = f"the queue could not be asked ({error.message}); the cells below are from the records"
    states = _states(made, tasks)
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(_progress_table(made, shards, states))
    if note:
        console.say(note)
    done, total = sum(s.ended for s in shards), sum(s.cells for s in shards)
    failed = sum(s.failed for s in shards)
    print(f"{done} of {total} cells have ended, {failed} of them failed.")
    active = [s for s in shards if not s.is_complete and s.index in states and states[s.index][1]]
    idle = [s for s in shards if not s.is_complete and s not in active]
    if active:
        left = [s.left_s for s in active]
        known = [x for x in left if x is not None]
        eta = console.duration(max(known)) if len(known) == len(left) else "unknown"
        print(f"Time left once all queued shards run side by side: {eta} (loading and scoring not in it).")
    if idle and not note:
        print(f"Shards {_ranges([s.index for s in idle])} are in no queue: `{queueing.resume_command(made.folder)}`")
    if not idle and not active:
        is_merged = (made.folder / "records.jsonl").is_file()
        print("All shards are done" + (", and merged." if is_merged else f": `dlmbench finish {made.folder}`"))


@app.command()
def merge(
    run_folder: Annotated[Path, typer.Argument(help="run folder to fill; a submitted one knows its own shards")],
    shard_folders: Annotated[list[Path] | None, typer.Argument(help="run folders made by hand instead")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="merge what is there, though cells are missing")] = False,
) -> None:
    """Bring the records of shards together: each repetition once, none lost, one environment. Safe to repeat."""
    from dlmbench.slurm import finish as finishing

    if shard_folders:
        _say_merged(finishing.merge_folders(run_folder, shard_folders, partial))
    else:
        _say_merged(finishing.merge_submitted(run_folder.absolute(), partial))


@app.command()
def finish(
    run_folder: Submitted,
    partial: Annotated[bool, typer.Option("--partial", help="report what is there, though cells are missing")] = False,
) -> None:
    """End a submitted run: merge its shards, score what is left, report. The last job of `submit` runs this."""
    from dlmbench.cli import console, main
    from dlmbench.slurm import finish as finishing

    _say_merged(finishing.merge_submitted(run_folder.absolute(), partial))
    with console.LiveProgress("scoring", 1) as progress:
        finishing.score_rest(run_folder, progress)
    main(["report", str(run_folder)])


@app.command()
def shard(
    run_folder: Submitted,
    index: Annotated[int, typer.Argument(help="number of the shard, from 0")],
) -> None:
    """Measure and score one shard of a submitted run: what an array task runs. Resumes where it stopped."""
    from dlmbench.bench.stopping import Stopping, resumable
    from dlmbench.cli import console
    from dlmbench.slurm import submission

    made = submission.load(run_folder.absolute())
    plan = made.plan()
    part = made.part(plan, index)
    folder = made.shard_folder(index)
    visits = len(part.cells) * (made.experiment.protocol.rounds + 1) + len(part.scored_cells)
    title = f"{made.experiment.name}, shard {index} of {len(made.shards)}: {len(part.cells)} cells into {folder}"
    with resumable(folder), console.LiveProgress(title, visits) as progress, Stopping(progress) as stopping:
        from dlmbench.slurm import shard as task

        task.run_shard(made, plan, index, stopping)
    console.say(f"shard {index} is done")


# ---------------------------------------------------------------- words and tables


def _refuse_beside_resume(context: typer.Context) -> None:
    """A run goes on as it was submitted; an option that would be passed over is refused."""
    others = [
        p.opts[0]
        for p in context.command.params
        if p.name not in ("resume", "time", "warn", "dry_run")
        and (source := context.get_parameter_source(p.name or "")) is not None
        and source.name == "COMMANDLINE"
    ]
    if others:
        raise BenchError(
            f"{', '.join(others)} cannot be given with --resume: the run goes on as it was submitted",
            "Leave them out (--time, --warn and --dry-run may be given), or submit into a new --output_dir",
        )


def _device(name: str | None, gres: str, experiment: Experiment) -> Hardware:
    """The device of --hardware, of the gres' type, or of the file's note; only shares matter, so any will do."""
    from dlmbench.roofline import hardware

    if name is not None:
        return hardware.find(name)
    parts = gres.split(":")
    guesses = (parts[1] if len(parts) == 3 else "", str(experiment.hardware.get("gpu", "")))
    for guess in guesses:
        for row in hardware.ROWS:
            if guess and guess.lower().removeprefix("nvidia ") in row.name.lower():
                return row
    return hardware.find("h200")


def _show_shards(made: Submission, order: Order) -> None:
    from rich.console import Console
    from rich.table import Table

    from dlmbench.cli import console

    cells = sum(len(s.cell_ids) for s in made.shards)
    console.say(f"{made.experiment.name}: {cells} cells in {len(made.shards)} shards, predicted for {made.device}")
    table = Table(pad_edge=False)
    table.add_column("shard", justify="right")
    table.add_column("cells", justify="right")
    table.add_column("time", justify="right")
    table.add_column("now")
    for s in made.shards:
        now = "to be queued" if s.index in order.todo else "in the queue" if s.index in order.waited_for else "done"
        time = "-" if s.predicted_s is None else console.duration(s.predicted_s)
        table.add_row(str(s.index), str(len(s.cell_ids)), time, now)
    Console(width=None if sys.stdout.isatty() else 120, stderr=True, highlight=False).print(table)


def _states(made: Submission, tasks: tuple[object, ...]) -> dict[int, tuple[str, bool]]:
    """What the queue says of each shard, and whether it will still be worked on; the latest job has the word."""
    from dlmbench.slurm import scheduler
    from dlmbench.slurm import submit as queueing

    found: dict[int, tuple[str, bool]] = {}
    for job in made.jobs:
        for t in tasks:
            assert isinstance(t, scheduler.Task)
            if t.job == job.id:
                why = f" ({t.reason})" if t.state == "PENDING" and t.reason not in ("None", "") else ""
                for index in job.shards if t.index is None else (t.index,):
                    found[index] = (t.state.lower() + why, t.state not in queueing.OVER)
    return found


def _progress_table(made: Submission, shards: tuple[ShardProgress, ...], states: dict[int, tuple[str, bool]]) -> Table:
    from rich.table import Table

    from dlmbench.cli import console

    table = Table(title=f"{made.experiment.name} in {made.folder}", title_justify="left", pad_edge=False)
    for name in ("shard", "cells", "done", "failed", "measured", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("queue", overflow="fold")
    for s in shards:
        left = "-" if s.left_s is None else console.duration(s.left_s)
        state = "complete" if s.is_complete else states.get(s.index, ("not in it", False))[0]
        numbers = (s.index, s.cells, s.ended, s.failed)
        table.add_row(*map(str, numbers), console.duration(s.measured_s), "" if s.is_complete else left, state)
    return table


def _say_merged(merged: Merged) -> None:
    from dlmbench.cli import console

    for gap in merged.gaps:
        console.say(f"missing: {gap.text}")
    console.say(f"merged {merged.shards} shards: {merged.cells} cells, {merged.repetitions} timed repetitions")
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
