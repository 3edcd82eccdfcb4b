"""How results look in a terminal: progress, tables, messages. Messages go to stderr, data to stdout."""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich import progress as rich_progress
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
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

from dlmbench.types import Cell, DeviceTime, Finding, Plan, Progress, ProtocolSettings, Run, Selfcheck

if TYPE_CHECKING:
    # Types only: these import numpy and scipy, and `plan` should start fast.
    from dlmbench.analysis.cost import CellCost, CheapestCell
    from dlmbench.analysis.results import Study
    from dlmbench.bench.forecast import RunCost
    from dlmbench.report.answer import Answer
    from dlmbench.roofline.break_even import BreakEvenSurface
    from dlmbench.roofline.calibrate import Calibration
    from dlmbench.roofline.corrected import Bounds
    from dlmbench.roofline.predict import Forecast
    from dlmbench.tasks.records import TaskOutcome, TaskRun, TaskScore

# Names and labels come from files, so nothing is parsed as markup.
STDERR = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


# Columns of the summary, besides the leading metrics of quality.
_SUMMARY = ("model", "steps", "batch", "prompt", "new", "latency", "speedup", "shown", "rate", "memory", "n", "status")
# Seconds after which a step that shows no progress is named, where no spinner can show it.
_PATIENCE_S = 1.0


def configure(*, quiet: bool, verbose: bool) -> None:
    """Show no progress and no remarks, or also what the libraries log. Errors are printed in any case."""
    STDERR.quiet = quiet
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr, force=True)
        for library in ("TRANSFORMERS", "HF_HUB", "DATASETS"):  # read by the worker processes as well
            os.environ.setdefault(f"{library}_VERBOSITY", "info")


def stdout(width: int = 160) -> Console:
    """The console for data: as wide as the terminal, `width` columns where stdout is a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else width, highlight=False, markup=False, emoji=False)


def log(text: str) -> None:
    """Write a message to stderr."""
    STDERR.print(text)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Shows `text` during a step without progress; logged where stderr is not a terminal and the step takes long."""
    late = threading.Timer(_PATIENCE_S, log, [text])
    late.daemon = True
    with STDERR.status(escape(text)):
        if not STDERR.is_terminal:
            late.start()
        try:
            yield
        finally:
            late.cancel()


def load_libraries(*names: str) -> None:
    """Import libraries that take seconds, showing which."""
    for name in names:
        if name not in sys.modules:
            with waiting(f"loading {name} ..."):
                importlib.import_module(name)


def print_json(value: Any) -> None:
    """Print a record, or a mapping of records, as JSON. A number that is not finite is unknown: null."""
    print(json_text(_plain(value), indent=1), flush=True)


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that stdout can write: with escapes, unless it takes all characters."""
    takes_all = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=not takes_all)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def cell_json(cell: Cell) -> dict[str, Any]:
    """A cell as all commands print it with --json."""
    names = ("sampler", "engine", "batch_size", "prompt_tokens", "new_tokens", "precision", "attention")
    values = {name: getattr(cell, name) for name in names}
    return {"id": cell.id, "model": cell.model.key, **values, "knobs": dict(cell.knobs)}


def new_table(title: str | Text | None, *columns: str, rows: Iterable[Iterable[str]] = ()) -> Table:
    """A table of `rows`. A leading `>` aligns a column to the right and keeps its cells on one line."""
    table = Table(title=title, title_justify="left", pad_edge=False)
    for name in columns:
        is_right = name.startswith(">")
        table.add_column(name.removeprefix(">"), justify="right" if is_right else "left", no_wrap=is_right)
    for row in rows:
        table.add_row(*row)
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

    def step(self, description: str, completed: int, total: int) -> None:
        """Set the bar and its description; logged where the bar is not shown."""
        self._bar.update(self._task, description=description, completed=completed, total=total)
        if not self.is_shown:
            self.log(f"{completed}/{total} {description}")


class LiveProgress(ProgressBar):
    """Progress over cells."""

    FIRST = "reading the checkpoints and starting the models"  # what happens before the first cell

    def __init__(self, title: str, total: int) -> None:
        super().__init__(self.FIRST, total, RenderableColumn(self))
        self._title = title
        self._first = threading.Timer(_PATIENCE_S, self.log, [f"{self.FIRST} ..."])
        self._first.daemon = True
        self._ends: float | None = None
        self._unknown_cells = 0

    def __enter__(self) -> Self:
        if not self.is_shown:
            self._first.start()
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._first.cancel()
        super().__exit__(kind, error, at)

    def cell(self, cell: Cell, doing: str) -> None:
        """Show the current cell. The title is printed before the first one, so not at all if nothing is to be done."""
        if self._title:
            self._first.cancel()
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
def measuring(name: str, protocol: ProtocolSettings, plan: Plan, folder: Path) -> Iterator[Progress]:
    """Shows the progress of a run into `folder`, which a signal can stop; see `bench.stopping`."""
    from dlmbench.bench.stopping import stoppable

    total = len(plan.cells) * (protocol.processes * protocol.rounds + 1) + len(plan.scored_cells)
    title = f"{name}: {len(plan.cells)} cells into {folder}"
    try:
        with LiveProgress(title, total) as progress, stoppable(progress, folder, protocol.processes) as stopping:
            yield stopping
    except KeyboardInterrupt:
        log("stopped: everything measured is kept, and the same command resumes")
        raise


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


def summary(study: Study) -> Iterator[Table | str]:
    """Every cell of a run in the numbers of its report, the latency with its interval. The page has all columns."""
    from dlmbench.analysis.stats import Interval
    from dlmbench.report.tables import cell_table, text_of
    from dlmbench.report.text import rounded

    found = cell_table(study)
    wanted = {*_SUMMARY, *[m.name for m in study.metrics if m.decides][:2]}
    table, shown = new_table("Summary"), []
    for column, values in zip(found.columns, zip(*found.rows, strict=True), strict=True):
        if column.key in wanted:
            is_text = any(isinstance(v, str) for v in values)
            heading = "\n".join([*column.title.split(), column.unit]).strip()  # a word on a line, to be narrow
            table.add_column(heading, justify="left" if is_text else "right", no_wrap=not is_text)
            spread = column.key == "latency"
            shown.append([text_of(v) if spread or not isinstance(v, Interval) else rounded(v) for v in values])
    for texts in zip(*shown, strict=True):
        table.add_row(*(text or "-" for text in texts))
    yield table
    if found.constant:
        yield f"The same in all rows: {found.constants}."


def answer(found: Answer, report: Path) -> None:
    """Print the answer of a run: headline, a row for each workload, notes, and unless quiet where the report is."""
    out = stdout()
    out.print(Text(f"\n{found.headline}", style="bold"), soft_wrap=True)
    for caveat in found.caveats:
        out.print(caveat, style="bold red", soft_wrap=True)
    if found.rows:
        headings = [column.heading for column in found.table.columns]
        out.print(new_table(None, *headings, rows=[[t for _, t in row] for row in found.table.texts]))
    for note in found.notes:
        out.print(note, soft_wrap=True)
    if not STDERR.quiet:
        out.print(f"open {report}", soft_wrap=True)


def number(value: float | None, factor: float = 1, digits: int = 0) -> str:
    """A number, or a dash for an unknown one."""
    return "-" if value is None else f"{value * factor:.{digits}f}"


def cells(planned: Sequence[Cell], forecast: Forecast | None = None, price: float | None = None) -> Group:
    """The plan as a table, with a forecast also the predictions for each cell.

    What all cells have in common, or all cells of a sampler, is in a line below it.
    """
    title = f"{len(planned)} cells" + (f" on {forecast.hardware.name}, predicted" if forecast else "")
    columns = {} if forecast else {"id": [cell.id for cell in planned]}
    columns |= {
        "model": [cell.model.key for cell in planned],
        "sampler": [cell.sampler for cell in planned],
        "engine": [cell.engine for cell in planned],
        ">B": [str(cell.batch_size) for cell in planned],
        ">P": [str(cell.prompt_tokens) for cell in planned],
        ">G": [str(cell.new_tokens) for cell in planned],
        "precision": [cell.precision for cell in planned],
        "attention": [cell.attention for cell in planned],
    }
    common = {name.removeprefix(">"): values[0] for name, values in columns.items() if len(set(values)) == 1}
    models = dict.fromkeys((cell.model.key, cell.sampler) for cell in planned)
    if "sampler" not in common and len(models) == len({key for key, _ in models}):
        common["sampler"] = ", ".join(f"{sampler} ({key})" for key, sampler in models)
    columns = {name: values for name, values in columns.items() if name.removeprefix(">") not in common}
    knobs = [_shown_knobs(cell) for cell in planned]
    constant = _constant_knobs(planned, knobs)
    common |= constant
    varied = [{name: value for name, value in own.items() if name not in constant} for own in knobs]
    for name, header in (("steps", ">K"), ("block_length", ">block")):
        if any(name in own for own in varied):
            columns[header] = [own.pop(name, "-") for own in varied]
    if any(varied):
        columns["knobs"] = [" ".join(f"{name}={value}" for name, value in own.items()) for own in varied]
    if forecast:
        latency = ">latency ms [95%]" if forecast.estimates else ">latency ms"
        names = [latency, ">tokens/s", ">memory GB", ">fits", *([">per M tokens"] if price is not None else [])]
        predicted = [_predicted(cell, forecast, price) for cell in planned]
        columns |= {name: [row[i] for row in predicted] for i, name in enumerate(names)}
    table = new_table(title, *columns, rows=zip(*columns.values(), strict=True))
    table.box, table.show_edge, table.collapse_padding = SIMPLE_HEAD, False, True
    return Group(table, f"all cells: {', '.join(f'{name} {value}' for name, value in common.items())}")


def _shown_knobs(cell: Cell) -> dict[str, str]:
    """The knobs in a cell's label, by name."""
    text = cell.label.partition(f"G={cell.new_tokens}")[2].split()
    return dict(part.split("=", 1) for part in text)


def _constant_knobs(planned: Sequence[Cell], knobs: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The knobs that have one value in all cells of every sampler that has them."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(name for own in knobs for name in own):
        samplers = {cell.sampler for cell, own in zip(planned, knobs, strict=True) if name in own}
        pairs = zip(planned, knobs, strict=True)
        values = {own.get(name) for cell, own in pairs if cell.sampler in samplers}
        if len(values) == 1 and (value := values.pop()) is not None:
            found[name] = value
    return found


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
    text = f"predicted time of loading and of all generations, warm-ups included: {_between(cost.low_s, cost.high_s)}"
    if price is not None:
        low, high = (f"{m:.2f}" for m in cost.money(price))
        text += f"; {low if low == high else f'{low} to {high}'} at {price:g} per GPU hour"
    text += ". Not included: scoring"
    if cost.too_large:
        text += f", {cost.too_large} cells that will probably not fit and that `run` skips without --try-oom"
    if cost.without_time:
        text += f", {cost.without_time} cells without a predicted time"
    return f"{text}."


def _between(low_s: float, high_s: float) -> str:
    low, high = duration(low_s), duration(high_s)
    return low if low == high else f"{low} (steady latencies) to {high} (noisy ones)"


def device_time(spent: Sequence[DeviceTime]) -> str:
    """What the speed pass of a run spent its time on, over all starts; "" where that is not on record."""
    total = math.fsum(s.seconds for s in spent)
    if not total:
        return ""
    shares = {
        "timed repetitions and energy windows": math.fsum(s.measuring_s for s in spent),
        "loading": math.fsum(s.loading_s for s in spent),
        "warm-ups": math.fsum(s.warmup_s for s in spent),
        "step times, memory and texts": math.fsum(s.inspection_s for s in spent),
    }
    parts = ", ".join(f"{seconds / total:.0%} {what}" for what, seconds in shares.items())
    return f"Of {duration(total)} on the device: {parts}"


def duration(seconds: float) -> str:
    """Seconds as text in a suitable unit."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def calibrations(fitted: Sequence[Calibration], device: str) -> Table:
    """Efficiencies of each engine and sampler, with their errors on the held-out groups."""
    efficiencies = (">GEMM eff.", ">bandwidth eff.", ">attention eff.", ">host overhead ms")
    errors = (">in-sample error", ">held-out median error", ">held-out p90 error")
    rows = []
    for c in fitted:
        e = c.efficiencies
        numbers = [f"{v:.3f}" for v in (e.matrix, e.bandwidth, e.attention)] + [f"{e.host_s * 1e3:.2f}"]
        held_out = ["not known" if v is None else f"{v:.1%}" for v in (c.median_error, c.p90_error)]
        rows.append([c.label, str(c.cells), str(len(c.held_out)), *numbers, f"{c.fitted_error:.1%}", *held_out])
    columns = ("engine/sampler", ">cells", ">groups held out", *efficiencies, *errors)
    return new_table(f"Efficiencies on {device}", *columns, rows=rows)


def bounds(measured: Sequence[Bounds]) -> Table:
    """Every measured cell with its roofline floor."""
    columns = ("cell", ">measured ms", ">floor ms", ">measured/floor", ">MFU", ">MBU")
    rows = [
        (
            b.cell.label,
            number(b.latency_s, 1e3, 1),
            number(b.floor_s, 1e3, 1),
            f"{b.floor_ratio:.2f}" if b.is_possible else f"{b.floor_ratio:.3g} (below)",
            f"{b.mfu:.1%}",
            f"{b.mbu:.1%}",
        )
        for b in measured
    ]
    return new_table(f"{len(measured)} measured cells", *columns, rows=rows)


def surfaces(predicted: Sequence[BreakEvenSurface], device: str) -> Iterator[str | Table]:
    """Break-even step counts: one table for each way to run diffusion, with lengths as rows, batch sizes as columns."""
    for surface in predicted:
        batches = sorted({p.batch_size for p in surface.points})
        steps = {(p.prompt_tokens, p.new_tokens, p.batch_size): p.steps for p in surface.points}
        rows = [
            (str(prompt), str(new), *(_break_even(steps.get((prompt, new, b)), new) for b in batches))
            for prompt, new in dict.fromkeys((p, g) for p, g, _ in steps)
        ]
        yield f"Break-even k* on {device}, predicted: {surface.target} against {surface.baseline}"
        yield new_table(None, ">P", ">G", *(f">B={b}" for b in batches), rows=rows)
    if not predicted:
        yield "No break-even can be predicted without a baseline and a scheduled diffusion model of known shapes."
    else:
        yield (
            "Up to k* steps diffusion is faster. +: k* is at least G, so it is faster even with one step "
            "per token; none: it is slower even with a single step."
        )


def _break_even(steps: float | None, new_tokens: int) -> str:
    from dlmbench.analysis.break_even import whole_steps

    if steps is None:
        return "-"
    if steps < 1:
        return "none"
    return f"{whole_steps(steps)}" + ("+" if steps >= new_tokens else "")


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


# ---------------------------------------------------------------- the self-check


def selfcheck(found: Selfcheck) -> Table:
    """Noise floor and smallest planted slowdown found, for each engine and kind of cell."""
    columns = ("engine", "cells", ">floor, 1 process", ">3 processes", ">5 processes", ">smallest slowdown found")
    table = new_table(f"Self-check on {found.device}, {found.duration_s:.0f} s", *columns, ">measured in")
    for f in found.floors:
        floors = (_percent(f.floor(n)) for n in (1, 3, 5))
        smallest = found.smallest_found(f.engine, f.kind)
        share = f"{smallest:.0%} planted" if smallest is not None else "none"
        table.add_row(f.engine, f.kind, *floors, share, f"{f.processes} processes")
    return table


def selfcheck_remarks(found: Selfcheck) -> list[str]:
    """What the table does not show, and what it means, as sentences."""
    bias = ", ".join(f"{b.workload} {b.length_s * 1e3:g} ms: {b.ratio - 1:+.3%}" for b in found.bias)
    lines = [
        f"Clock: resolution {found.clock_resolution_s * 1e6:.3g} us; bias {bias}.",
        f"Harness: {found.overhead_s * 1e3:.2f} ms a repetition, outside the timed region.",
    ]
    lines += [f"Not measured: {reason}." for reason in found.not_measured]
    lines += [
        f"Beside {n.gpus - 1} busy GPUs {n.engine}, {n.kind}, takes {n.ratio - 1:+.1%}." for n in found.neighbours
    ]
    one, three, five = (_percent(min(1.0, max(f.floor(n) for f in found.floors))) for n in (1, 3, 5))
    lines.append(
        f"Differences under {one} cannot be shown here by a run with 1 process, under {three} by one with 3, "
        f"under {five} by one with 5, whatever the engine and kind of cell."
    )
    if found.is_disturbed:
        others = f", {found.other_processes} other processes on the GPU" if found.other_processes else ""
        busy = f"load {found.load_average:.1f} before, {found.other_cores:.1f} of {found.cores} cores busy during it"
        lines.append(f"Other programs disturbed this check ({busy}{others}): repeat it on an idle machine.")
    return lines


def _percent(share: float) -> str:
    if share > 1:
        return "over 100%"
    return f"{share:.1%}" if share >= 0.00995 else f"{share:.2%}"


def left_out(plan: Plan) -> None:
    """Report which combinations of the grid are not run, and why, and a comparison that lacks one side."""
    for out in plan.left_out:
        STDERR.print(f"left out: {out.label}: {out.reason}", style="dim")
    roles = {cell.model.role for cell in plan.cells}
    if len(roles) == 1:
        STDERR.print(f"only a {roles.pop()} is measured: a comparison needs a baseline and a target", style="yellow")


def findings(found: Sequence[Finding]) -> None:
    """Report the findings about a run: one line per kind, however many cells show it."""
    from dlmbench.analysis.findings import by_kind, in_one_line

    for group in by_kind(found):
        times = f", {len(group)} times" if len(group) > 1 else ""
        style = {"error": "red", "warning": "yellow"}.get(group[0].severity, "dim")
        STDERR.print(f"{group[0].severity}{times}: {in_one_line(group)}: {group[0].hint}", style=style)
