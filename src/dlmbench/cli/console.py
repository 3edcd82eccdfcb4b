"""How results look in a terminal: progress, tables, messages. Messages go to stderr, data to stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich import progress as rich_progress
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    RenderableColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from dlmbench.types import Cell, Finding, LeftOut, Plan, Progress, Run

if TYPE_CHECKING:
    # Types only: these import numpy and scipy, and `plan` should start fast.
    from dlmbench.analysis.cost import CellCost, CheapestCell
    from dlmbench.analysis.results import Study
    from dlmbench.bench.forecast import RunCost
    from dlmbench.roofline.break_even import BreakEvenSurface
    from dlmbench.roofline.calibrate import Calibration
    from dlmbench.roofline.corrected import Bounds
    from dlmbench.roofline.predict import Forecast
    from dlmbench.tasks.records import TaskOutcome, TaskRun, TaskScore

# Names and labels come from files, so nothing is parsed as markup.
STDERR = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def stdout(width: int = 160) -> Console:
    """The console for data: as wide as the terminal, `width` columns where stdout is a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else width, highlight=False, markup=False, emoji=False)


def log(text: str) -> None:
    """Write a message to stderr."""
    STDERR.print(text)


def new_table(title: str | Text | None, *columns: str) -> Table:
    """An empty table. A leading `>` aligns a column to the right and keeps its cells on one line."""
    table = Table(title=title, title_justify="left", pad_edge=False)
    for name in columns:
        is_right = name.startswith(">")
        table.add_column(name.removeprefix(">"), justify="right" if is_right else "left", no_wrap=is_right)
    return table


class ProgressBar:
    """A progress bar with a description; disabled where stderr is not a terminal, so that callers log lines."""

    def __init__(self, description: str = "", total: int | None = None, *more: ProgressColumn) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self.is_shown = STDERR.is_terminal
        self._bar = rich_progress.Progress(
            *columns, TimeElapsedColumn(), *more, console=STDERR, disable=not self.is_shown
        )
        self._task = self._bar.add_task(description, total=total)
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def log(self, text: str, remark: str = "") -> None:
        """Write a line with the elapsed time."""
        log(f"[{time.monotonic() - self._started:6.1f} s{remark}] {text}")

    def advance(self, count: int = 1) -> None:
        """Move the bar."""
        self._bar.advance(self._task, count)

    def describe(self, description: str) -> None:
        """Change the description only."""
        self._bar.update(self._task, description=description)

    def restart(self, description: str, total: int | None = None) -> None:
        """Start again from zero."""
        self._bar.update(self._task, description=description, completed=0, total=total)


class LiveProgress(ProgressBar):
    """Progress over cells."""

    def __init__(self, title: str, total: int) -> None:
        super().__init__(title, total, RenderableColumn(self))
        self._title = title
        self._ends: float | None = None
        self._unknown_cells = 0

    def cell(self, cell: Cell, doing: str) -> None:
        """Show the current cell. The title is printed before the first one, so not at all if nothing is to be done."""
        if self._title:
            log(self._title)
            self._title = ""
        self.describe(f"{doing}: {cell.label}")
        self.advance()
        if not self.is_shown:
            self.log(f"{doing}: {cell.label}", f"; {self.time_left}" if self.time_left else "")

    def repetition(self, cell: Cell, latency_s: float) -> None:
        """Show the last latency."""
        self.describe(f"{cell.label}: {latency_s * 1e3:.1f} ms")

    def left(self, seconds: float | None, unknown_cells: int) -> None:
        """Set the forecast of the remaining timed cells; the display counts down from it."""
        self._ends = None if seconds is None else time.monotonic() + seconds
        self._unknown_cells = unknown_cells

    def __rich__(self) -> str:
        return self.time_left

    @property
    def time_left(self) -> str:
        """The remaining time as text; "" if unknown."""
        if self._ends is None:
            return ""
        seconds = max(0.0, self._ends - time.monotonic())
        if self._unknown_cells:
            return f"more than {duration(seconds)} left" if seconds else ""
        return f"about {duration(seconds)} left"

    def failed(self, cell: Cell, reason: str) -> None:
        """Report at once a cell that could not be measured or scored."""
        STDERR.print(f"  failed: {cell.label}: {reason}", style="yellow")


@contextmanager
def measuring(name: str, rounds: int, plan: Plan, folder: Path) -> Iterator[Progress]:
    """Shows the progress of a run into `folder`, which a signal can stop; see `bench.stopping`."""
    from dlmbench.bench.stopping import Stopping, resumable

    total = len(plan.cells) * (rounds + 1) + len(plan.scored_cells)
    title = f"{name}: {len(plan.cells)} cells into {folder}"
    with resumable(folder), LiveProgress(title, total) as progress, Stopping(progress) as stopping:
        yield stopping


class LiveTaskProgress(ProgressBar):
    """Progress over lm-eval tasks: the current run, its requests, and each result as soon as it is known."""

    def __init__(self) -> None:
        super().__init__()
        self._title = ""

    def reading(self, what: str) -> None:
        """Show that data are being read."""
        self.restart(f"reading {what}")
        if not self.is_shown:
            self.log(f"reading {what}")

    def begin(self, run: TaskRun, number: int, total: int) -> None:
        """Show that a run begins."""
        self._title = f"{number}/{total} {run.label}"
        self.restart(self._title)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a number of requests; gives the function that counts them."""
        self.restart(f"{self._title}: {what}", total)
        yield self.advance

    def ended(self, outcome: TaskOutcome, scores: Sequence[TaskScore]) -> None:
        """Report the result of a run."""
        values = ", ".join(f"{s.metric} {number(s.value, 1, 4)}" for s in scores if s.task == outcome.run.task)
        result = (values or "done") if outcome.status == "ok" else f"not run: {outcome.reason}"
        self.log(f"{self._title}: {result}")


@contextmanager
def stages(title: str) -> Iterator[Callable[[str], None]]:
    """Shows the current stage of short work, such as writing a report; logged where stderr is not a terminal."""
    with STDERR.status(escape(title)) as status:

        def show(stage: str) -> None:
            text = f"{title}: {stage}"
            status.update(escape(text))
            if not STDERR.is_terminal:
                log(text)

        yield show


# ---------------------------------------------------------------- finished runs


def summary(study: Study, title: str) -> Table:
    """Every cell of a run as a table; a dash where nothing was measured."""
    from dlmbench.analysis.quality import metric_for

    sizes = (">K", ">block", ">B", ">P", ">G")
    columns = (">latency ms [95%]", ">tokens/s", ">memory MiB", ">nats/token", ">valid", ">speedup", ">n")
    table = new_table(title, "model", *sizes, *columns)
    for row in study.cells:
        cell, status, timed = row.cell, row.status_text, row.latency
        latency = number(timed.median if timed else None, 1e3, 1)
        if timed is not None and timed.interval.is_known:
            latency += f" [{timed.low * 1e3:.1f}, {timed.high * 1e3:.1f}]"
        likelihood, validity = (row.quality_in(metric_for(m)) for m in ("likelihood", "validity"))
        table.add_row(
            study.label(cell) + ("" if status == "ok" else f" ({status})"),
            number(cell.steps),
            number(row.block_length),
            str(cell.batch_size),
            str(cell.prompt_tokens),
            str(cell.new_tokens),
            latency,
            number(row.throughput.median if row.throughput else None),
            number(row.memory.bytes if row.memory else None, 2**-20),
            number(likelihood.value if likelihood else None, 1, 3),
            number(validity.value if validity else None, 1, 2),
            f"{row.speedup.value:.2f}x" if row.speedup is not None else "-",
            str(timed.n if timed else 0),
        )
    return table


def number(value: float | None, factor: float = 1, digits: int = 0) -> str:
    """A number, or a dash for an unknown one."""
    return "-" if value is None else f"{value * factor:.{digits}f}"


def cells(planned: Sequence[Cell], forecast: Forecast | None = None, price: float | None = None) -> Table:
    """The plan as a table, with a forecast also the predictions for each cell."""
    title = f"{len(planned)} cells" + (f" on {forecast.hardware.name}, predicted" if forecast else "")
    columns = ["id", "model", "sampler", "B", "P", "G", "precision", "attention", "knobs"]
    if forecast:
        latency = ">latency ms [95%]" if forecast.estimates else ">latency ms"
        columns += [latency, ">tokens/s", ">memory GB", ">fits"]
        columns += [">per M tokens"] if price is not None else []
    table = new_table(title, *columns)
    for cell in planned:
        knobs = cell.label.partition(f"G={cell.new_tokens}")[2].strip()
        sizes = (str(cell.batch_size), str(cell.prompt_tokens), str(cell.new_tokens))
        predicted = _predicted(cell, forecast, price) if forecast else ()
        table.add_row(cell.id, cell.model.key, cell.sampler, *sizes, cell.precision, cell.attention, knobs, *predicted)
    return table


def _predicted(cell: Cell, forecast: Forecast, price: float | None) -> tuple[str, ...]:
    from dlmbench.roofline.predict import per_million_tokens

    expected = forecast.of(cell)
    latency_s, tokens = expected.latency_s, cell.batch_size * cell.new_tokens
    rate = tokens / latency_s if latency_s else None
    fits = {True: "yes", False: "no", None: "-"}[forecast.fits(cell)]
    money: tuple[str, ...] = ()
    if price is not None:
        money = (number(latency_s and per_million_tokens(latency_s, tokens, price), 1, 3),)
    latency = number(latency_s, 1e3, 1)
    if (between := forecast.estimates.get(cell.id)) is not None:
        latency += f" [{_short(between.low_s * 1e3)}, {_short(between.high_s * 1e3)}]"
    return (latency, number(rate, 1, 1), number(expected.peak_bytes, 1e-9, 2), fits, *money)


def total_cost(cost: RunCost, price: float | None) -> str:
    """The predicted time and price of a run, as a sentence."""
    text = f"predicted time of all generations, with warm-ups and repetitions: {_between(cost.low_s, cost.high_s)}"
    if price is not None:
        low, high = (f"{m:.2f}" for m in cost.money(price))
        text += f"; {low if low == high else f'{low} to {high}'} at {price:g} per GPU hour"
    text += ". Not included: loading models and scoring"
    if cost.too_large:
        text += f", {cost.too_large} cells that will probably not fit and that `run` skips without --try-oom"
    if cost.without_time:
        text += f", {cost.without_time} cells without a predicted time"
    return f"{text}."


def _between(low_s: float, high_s: float) -> str:
    low, high = duration(low_s), duration(high_s)
    return low if low == high else f"{low} (steady latencies) to {high} (noisy ones)"


def duration(seconds: float) -> str:
    """Seconds as text in a suitable unit."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def calibrations(fitted: Sequence[Calibration], device: str) -> Table:
    """Efficiencies of each engine and sampler, with their errors on the held-out groups."""
    efficiencies = (">GEMM eff.", ">bandwidth eff.", ">attention eff.", ">host overhead ms")
    errors = (">in-sample error", ">held-out median error", ">held-out p90 error")
    table = new_table(
        f"Efficiencies on {device}", "engine/sampler", ">cells", ">groups held out", *efficiencies, *errors
    )
    for c in fitted:
        e = c.efficiencies
        numbers = [f"{v:.3f}" for v in (e.matrix, e.bandwidth, e.attention)] + [f"{e.host_s * 1e3:.2f}"]
        held_out = ["not known" if v is None else f"{v:.1%}" for v in (c.median_error, c.p90_error)]
        table.add_row(c.label, str(c.cells), str(len(c.held_out)), *numbers, f"{c.fitted_error:.1%}", *held_out)
    return table


def bounds(measured: Sequence[Bounds]) -> Table:
    """Every measured cell with its roofline floor."""
    columns = (">measured ms", ">floor ms", ">measured/floor", ">MFU", ">MBU")
    table = new_table(f"{len(measured)} measured cells", "cell", *columns)
    for b in measured:
        ratio = f"{b.floor_ratio:.2f}" if b.is_possible else f"{b.floor_ratio:.3g} (below)"
        times = (number(b.latency_s, 1e3, 1), number(b.floor_s, 1e3, 1))
        table.add_row(b.cell.label, *times, ratio, f"{b.mfu:.1%}", f"{b.mbu:.1%}")
    return table


def surfaces(predicted: Sequence[BreakEvenSurface], device: str) -> Iterator[str | Table]:
    """Break-even step counts: one table for each way to run diffusion, with lengths as rows, batch sizes as columns."""
    for surface in predicted:
        batches = sorted({p.batch_size for p in surface.points})
        table = new_table(None, ">P", ">G", *(f">B={b}" for b in batches))
        steps = {(p.prompt_tokens, p.new_tokens, p.batch_size): p.steps for p in surface.points}
        for prompt, new in dict.fromkeys((p, g) for p, g, _ in steps):
            table.add_row(str(prompt), str(new), *(_break_even(steps.get((prompt, new, b)), new) for b in batches))
        yield f"Break-even k* on {device}, predicted: {surface.target} against {surface.baseline}"
        yield table
    if not predicted:
        yield "No break-even can be predicted without a baseline and a scheduled diffusion model of known shapes."
    else:
        yield (
            "With fewer steps than k*, diffusion is faster. +: k* is at least G, so it is faster even with one step "
            "per token; none: it is slower even with a single step."
        )


def _break_even(steps: float | None, new_tokens: int) -> str:
    if steps is None:
        return "-"
    if steps < 1:
        return "none"
    return (f"{steps:.1f}" if steps < 10 else f"{steps:.0f}") + ("+" if steps >= new_tokens else "")


def _short(value: float) -> str:
    """Two or three digits, never an exponent."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"


def costs(priced: Sequence[CellCost], price: float) -> Table:
    """The cost of a million tokens in every timed cell."""
    columns = (">B", ">P", ">G", ">K", ">per M tokens [95%]", ">tokens per generation")
    table = new_table(f"Cost at {price:g} per GPU hour", "cell", *columns)
    for c in priced:
        sizes = (str(c.cell.batch_size), str(c.cell.prompt_tokens), str(c.cell.new_tokens), number(c.cell.steps))
        money = _short(c.per_million)
        if c.low is not None and c.high is not None:
            money += f" [{_short(c.low)}, {_short(c.high)}]"
        table.add_row(c.label, *sizes, money, f"{c.tokens:.0f} {c.counted}")
    return table


def cheapest(found: Sequence[CheapestCell]) -> list[str]:
    """The cheapest cell that reaches the quality goal at each length, as sentences."""
    if not found:
        return ["The cheapest way to a given quality is unknown: no metric was scored for both models."]
    lines = []
    for best in found:
        where = f"{best.prompt_tokens} prompt and {best.new_tokens} new tokens: the cheapest way to {best.goal} is"
        if best.cost is None:
            lines.append(f"{where} unknown: no timed cell reaches it.")
            continue
        cell = best.cost.cell
        steps = "" if cell.steps is None else f", K={cell.steps}"
        lines.append(
            f"{where} {best.cost.label}, B={cell.batch_size}{steps}: {_short(best.cost.per_million)} per million "
            f"{best.cost.counted} tokens (of {best.candidates} cells that reach it)."
        )
    return lines


def scores(run: Run, metrics: Sequence[str]) -> Table:
    """The scores of a run by some metrics, cell by cell; a cell without a value gives the reason."""
    table = new_table("Scores", "metric", "cell", ">value [95%]", ">unit", ">word ppl", ">bits/byte", ">texts")
    labels = {cell.id: cell.label for cell in run.cells}
    for metric in metrics:
        own = {s.cell_id: s for s in run.scores if s.metric == metric}
        for s in own.values():
            interval = f" [{s.low:.3f}, {s.high:.3f}]" if s.low is not None and s.high is not None else ""
            units = {r.unit: r.value for r in s.in_other_units}
            others = (number(units.get("perplexity/word"), 1, 2), number(units.get("bits/byte"), 1, 3))
            texts = f"{s.n} of {s.n + len(s.unscored)}"
            table.add_row(metric, labels[s.cell_id], f"{number(s.value, 1, 3)}{interval}", s.unit, *others, texts)
        for missing in run.unscored:
            if missing.metric == metric and missing.prompt_index is None and missing.cell_id not in own:
                table.add_row(metric, f"{labels[missing.cell_id]}: {missing.reason}", *("-" for _ in range(4)), "0")
    return table


def remarks(run: Run, metrics: Sequence[str]) -> list[str]:
    """Notes on the values of `scores`: judge, unscored texts and so on, each once."""
    lines: dict[str, None] = {}
    for s in (s for s in run.scores if s.metric in metrics):
        judge = f"judged by {s.judge}" + (", a model of this run (self-judging)" if s.self_judged else "")
        error = f"Monte Carlo error {s.monte_carlo_stderr:.2g}" if s.monte_carlo_stderr is not None else ""
        missing = dict.fromkeys(m.reason for m in s.unscored)
        left = f"{len(s.unscored)} texts not scored: {', '.join(missing)}" if missing else ""
        parts = [judge if s.judge else "", s.note, error, left]
        if note := "; ".join(part for part in parts if part):
            lines[f"{s.metric}: {note}"] = None
    return list(lines)


def left_out(combinations: Sequence[LeftOut]) -> None:
    """Report which combinations of the grid are not run, and why."""
    for out in combinations:
        STDERR.print(f"left out: {out.label}: {out.reason}", style="dim")


def findings(found: Sequence[Finding]) -> None:
    """Report the findings about a run: one line per kind, however many cells show it."""
    by_code: dict[str, list[Finding]] = {}
    for finding in found:
        by_code.setdefault(finding.code, []).append(finding)
    for group in by_code.values():
        more = f" (and {len(group) - 1} more)" if len(group) > 1 else ""
        first = group[0]
        style = {"error": "red", "warning": "yellow"}.get(first.severity, "dim")
        STDERR.print(f"{first.severity}: {first.message}{more}: {first.hint}", style=style)
