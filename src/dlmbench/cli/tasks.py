"""Tasks through lm-eval: `tasks` over the step sweep of an experiment, `lm-eval` for lm-eval's own command line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlmbench.cli.options import Config, KnobOption, Models, OutputDir, Steps, app, load
from dlmbench.errors import BenchError, did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

    from dlmbench.tasks.records import TaskOutcome, TaskRun, TaskScore
    from dlmbench.tasks.sweep import TaskListResult

IncludePath = Annotated[Path | None, typer.Option(help="folder with task YAML files of your own, as config/tasks")]


@app.command()
def tasks(
    tasks: Annotated[list[str], typer.Option("--tasks", "-t", help="names of lm-eval tasks or groups, or of your own")],
    config: Config = Path("config/experiments.yaml"),
    output_dir: OutputDir = Path("results/raw_data"),
    include_path: IncludePath = None,
    steps: Steps = None,
    models: Models = None,
    knob: KnobOption = None,
    likelihood: Annotated[
        str, typer.Option(help="of diffusion models: sampler (depends on K) or elbo (does not; LLaDA's own)")
    ] = "sampler",
    draws: Annotated[int, typer.Option(min=1, help="Monte Carlo draws of the elbo")] = 128,
    limit: Annotated[float | None, typer.Option(min=0, help="documents a task; below 1 a share of them")] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="examples before each question")] = None,
    new_tokens: Annotated[int | None, typer.Option(min=1, help="canvas of a generation; default: the task's")] = None,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="tokens of a request; default: what all models take")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="requests in one forward")] = 8,
    chat: Annotated[bool, typer.Option("--chat", help="put requests into the chat template")] = False,
) -> None:
    """Run tasks for both models of an experiment over its steps, with the difference to the baseline.

    Accuracy with lm-eval's standard error, and the paired 95% interval of target minus baseline over the same
    documents. Resumes where it stopped; what is on record is not run again.
    """
    from dlmbench.tasks import require, sweep
    from dlmbench.tasks.records import SAMPLES, TABLE, TASKS
    from dlmbench.tasks.requests import LIKELIHOODS

    kind = next((k for k in LIKELIHOODS if k == likelihood), None)
    if kind is None:
        raise BenchError(f"unknown likelihood '{likelihood}'", did_you_mean(likelihood, LIKELIHOODS))
    if limit == 0:
        raise BenchError("--limit 0 leaves no document", "Leave the option out for all of them")
    require()
    experiment, _ = load(config, steps=steps, models=models, knob=knob)
    names = tuple(name.strip() for item in tasks for name in item.split(",") if name.strip())
    args = sweep.TaskListArgs(
        tasks=names,
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
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported, by lm-eval: the progress shown is ours
    with _TaskProgress() as progress:
        outcome = sweep.run(experiment, args, output_dir, progress)
    _show(outcome)
    for name in (TASKS, TABLE, SAMPLES):
        print(output_dir / name)
    ended = [outcome.results.outcomes[run.id] for run in outcome.runs]
    failed = [e for e in ended if e.status != "ok"]
    if failed:
        raise BenchError(
            f"{len(failed)} of {len(ended)} runs failed, the first: {failed[0].run.label}: {failed[0].reason}",
            "The same command tries them again",
        )


@app.command(
    name="lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def lm_eval(context: typer.Context) -> None:
    """Hand over to lm-eval's command line, which then knows the model `dlmbench`.

    \b
    dlmbench lm-eval run --model dlmbench --tasks gsm8k \\
      --model_args pretrained=GSAI-ML/LLaDA-8B-Base,steps=64

    --model_args takes pretrained (folder, hub id, embedded:llada, embedded:ar), revision, sampler and every knob of
    it (`dlmbench list samplers`), likelihood (elbo | sampler), draws, new_tokens, max_length, check_greedy, engine,
    precision, attention, seed. `dlmbench lm-eval run --help` shows lm-eval's own options.
    """
    from dlmbench.tasks import require

    require()
    if not context.args:
        print(context.get_help())
        return
    from dlmbench.tasks.lm_eval_cli import run_lm_eval

    # lm-eval spells its options with underscores only; here both spellings are in use.
    run_lm_eval([_underscored(argument) for argument in context.args])


def _underscored(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, sign, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{sign}{value}"


class _TaskProgress:
    """Which run, how many of its requests, and each result as soon as it is there; plain lines without a terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from dlmbench.cli.console import TALK

        self._talk = TALK
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, TimeElapsedColumn(), console=TALK, disable=not TALK.is_terminal)
        self._task = self._bar.add_task("", total=None)
        self._started = time.monotonic()
        self._what = ""

    def __enter__(self) -> _TaskProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _say(self, text: str) -> None:
        self._talk.print(f"[{time.monotonic() - self._started:6.1f} s] {text}", markup=False)

    def reading(self, what: str) -> None:
        self._bar.update(self._task, description=f"reading {what}", completed=0, total=None)
        if not self._talk.is_terminal:
            self._say(f"reading {what}")

    def begin(self, run: TaskRun, number: int, total: int) -> None:
        self._what = f"{number}/{total} {run.label}"
        self._bar.update(self._task, description=self._what, completed=0, total=None)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int], object]]:
        self._bar.update(self._task, description=f"{self._what}: {what}", completed=0, total=total)
        yield lambda count: self._bar.update(self._task, advance=count)

    def ended(self, outcome: TaskOutcome, scores: Sequence[TaskScore]) -> None:
        if outcome.status != "ok":
            self._say(f"{self._what}: not run: {outcome.reason}")
            return
        shown = ", ".join(f"{s.metric} {_number(s.value)}" for s in scores if s.task == outcome.run.task)
        self._say(f"{self._what}: {shown or 'done'}")


def _show(outcome: TaskListResult) -> None:
    from rich.console import Console

    out = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for table in _tables(outcome):
        out.print(table)


def _tables(outcome: TaskListResult) -> Iterator[Table]:
    """A table for each task, metric and filter: a row a run, baseline first."""
    from rich.table import Table

    runs = {run.id: run for run in outcome.runs}
    differences = {(d.run_id, d.task, d.metric, d.filter): d for d in outcome.results.differences}
    groups: dict[tuple[str, str, str], list[TaskScore]] = {}
    for run_id in runs:
        for score in (s for s in outcome.results.scores if s.run_id == run_id):
            groups.setdefault((score.task, score.metric, score.filter), []).append(score)
    for (task, metric, filter_name), scores in groups.items():
        better = {True: ", higher is better", False: ", lower is better", None: ""}[scores[0].higher_is_better]
        shown = metric if filter_name == "none" else f"{metric} ({filter_name})"
        table = Table(title=f"{task}: {shown}{better}", title_justify="left", pad_edge=False)
        table.add_column("model", no_wrap=True)
        table.add_column("K", justify="right")
        table.add_column("knobs")
        for name in ("value", "stderr", "95%", "n", "minus baseline [95%]"):
            table.add_column(name, justify="right", no_wrap=True)
        for score in scores:
            run = runs[score.run_id]
            d = differences.get((score.run_id, task, metric, filter_name))
            table.add_row(
                run.model.key,
                _steps(run),
                " ".join(f"{k}={v}" for k, v in run.knobs if k != "steps"),
                _number(score.value),
                _number(score.stderr),
                "-" if score.low is None else f"[{_number(score.low)}, {_number(score.high)}]",
                "-" if score.n is None else str(score.n),
                "-" if d is None else f"{d.value:+.4f} [{d.low:+.4f}, {d.high:+.4f}]",
            )
        yield table


def _steps(run: TaskRun) -> str:
    if run.sampler == "autoregressive":
        return "-"
    if run.steps is not None:
        return str(run.steps)
    return "any" if run.likelihood == "elbo" else "a token"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
