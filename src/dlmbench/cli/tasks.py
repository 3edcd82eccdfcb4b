"""lm-eval tasks: `tasks` over the step sweep of an experiment, `lm-eval` for lm-eval's own command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from dlmbench import registry
from dlmbench.cli.options import ExperimentOptions, OutputDir, command, expand_options, respelled, split_names
from dlmbench.errors import BenchError, CellsFailedError, did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

    from dlmbench.tasks.records import TaskRun, TaskScore
    from dlmbench.tasks.sweep import TaskListResult


@command()
@expand_options
def tasks(
    options: ExperimentOptions,
    tasks: Annotated[
        list[str], Option("--tasks", "-t", metavar="NAME[,NAME...]", help="lm-eval tasks or groups, or your own tasks")
    ],
    output_dir: OutputDir = Path("results/raw_data"),
    include_path: Annotated[
        Path | None, Option(metavar="DIR", help="folder with YAML files of further tasks, such as config/tasks")
    ] = None,
    likelihood: Annotated[
        str, Option(metavar="KIND", help="of diffusion models: sampler (depends on the step count) or elbo (does not)")
    ] = "sampler",
    draws: Annotated[int, Option(min=1, metavar="N", help="Monte Carlo draws of the elbo")] = 128,
    limit: Annotated[
        float | None, Option(min=0, metavar="N", help="documents per task; below 1, a share of them")
    ] = None,
    num_fewshot: Annotated[int | None, Option(min=0, metavar="N", help="examples before each question")] = None,
    new_tokens: Annotated[int | None, Option(min=1, metavar="G", help="tokens to generate; default: by task")] = None,
    max_length: Annotated[
        int | None, Option(min=2, metavar="N", help="tokens per request; default: the most that all models accept")
    ] = None,
    batch_size: Annotated[int, Option(min=1, metavar="B", help="requests per forward pass")] = 8,
    chat: Annotated[bool, Option("--chat", help="apply the chat template to requests")] = False,
) -> None:
    """Run lm-eval tasks for the models and steps of an experiment.

    Shows accuracy with lm-eval's standard error, and the paired 95% interval of the difference to the baseline over the
    same documents. The same command resumes; recorded results are not computed again. Exits with code 1 if runs failed.

    \b
    Example: dlmbench tasks -t gsm8k,hellaswag -c config/experiments.yaml --steps 32,128 --limit 200
    """
    from dlmbench.cli import console

    console.load_libraries("torch")
    from dlmbench.tasks import require, sweep
    from dlmbench.tasks.records import LIKELIHOODS, SAMPLES, TABLE, TASKS

    kind = next((k for k in LIKELIHOODS if k == likelihood), None)
    if kind is None:
        raise BenchError(f"unknown likelihood '{likelihood}'", did_you_mean(likelihood, LIKELIHOODS))
    if limit == 0:
        raise BenchError("--limit 0 leaves no document", "Omit the option to use all of them")
    require()
    experiment, _ = options.load()
    args = sweep.TaskListArgs(
        tasks=tuple(split_names(tasks)),
        include_path=include_path,
        likelihood=kind,
        draws=draws,
        limit=None if limit is None else limit if 0 < limit < 1 else int(limit),
        num_fewshot=num_fewshot,
        new_tokens=new_tokens,
        max_length=max_length,
        chat=chat,
        rows=batch_size,
    )
    for variable in ("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(variable, "1")  # read when lm-eval imports its libraries; we show progress ourselves
    with console.LiveTaskProgress() as progress:
        outcome = sweep.run(experiment, args, output_dir, progress)
    out = console.stdout()
    for table in _tables(outcome):
        out.print(table)
    for name in (TASKS, TABLE, SAMPLES):
        print(output_dir / name)
    ended = [outcome.results.outcomes[run.id] for run in outcome.runs]
    failed = [e for e in ended if e.status != "ok"]
    if failed:
        raise CellsFailedError(
            f"{len(failed)} of {len(ended)} runs failed, the first: {failed[0].run.label}: {failed[0].reason}",
            "Repeat the command to try them again",
        )


@command(
    name="lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def lm_eval(context: typer.Context) -> None:
    """Run lm-eval's own command line with the additional model type `dlmbench`.

    \b
    Example: dlmbench lm-eval run --model dlmbench --tasks gsm8k \\
      --model_args pretrained=GSAI-ML/LLaDA-8B-Base,steps=64

    --model_args takes pretrained (folder, hub id, embedded:llada, embedded:ar), revision, sampler and all its
    knobs (`dlmbench list samplers`), likelihood (elbo | sampler), draws, new_tokens, max_length, check_greedy, engine,
    precision, attention, seed. `dlmbench lm-eval run --help` shows lm-eval's own options.
    """
    from dlmbench.tasks import require

    require()
    if not context.args:
        print(context.get_help())
        return
    from dlmbench.tasks.lm_eval_cli import run_lm_eval

    # lm-eval accepts underscores only; we accept both spellings.
    run_lm_eval([respelled(argument, "-", "_") for argument in context.args])


def _tables(outcome: TaskListResult) -> Iterator[Table]:
    """One table for each task, metric and filter, with runs as rows, the baseline first."""
    from dlmbench.cli import console

    runs = {run.id: run for run in outcome.runs}
    differences = {(d.run_id, d.task, d.metric, d.filter): d for d in outcome.results.differences}
    groups: dict[tuple[str, str, str], list[TaskScore]] = {}
    for run_id in runs:
        for score in (s for s in outcome.results.scores if s.run_id == run_id):
            groups.setdefault((score.task, score.metric, score.filter), []).append(score)
    for (task, metric, filter_name), scores in groups.items():
        better = {True: ", higher is better", False: ", lower is better", None: ""}[scores[0].higher_is_better]
        shown = metric if filter_name == "none" else f"{metric} ({filter_name})"
        columns = ("model", ">K", "knobs", ">value", ">stderr", ">95%", ">n", ">minus baseline [95%]")
        table = console.new_table(f"{task}: {shown}{better}", *columns)
        for score in scores:
            run = runs[score.run_id]
            d = differences.get((score.run_id, task, metric, filter_name))
            table.add_row(
                run.model.key,
                _steps(run),
                " ".join(f"{k}={v}" for k, v in run.knobs if k != "steps"),
                console.number(score.value, digits=4),
                console.number(score.stderr, digits=4),
                "-" if score.low is None else f"[{score.low:.4f}, {score.high:.4f}]",
                "-" if score.n is None else str(score.n),
                "-" if d is None else f"{d.value:+.4f} [{d.low:+.4f}, {d.high:+.4f}]",
            )
        yield table


def _steps(run: TaskRun) -> str:
    if registry.load("samplers", run.sampler).PARADIGM == "autoregressive":
        return "-"
    if run.steps is not None:
        return str(run.steps)
    return "any" if run.likelihood == "elbo" else "per token"
