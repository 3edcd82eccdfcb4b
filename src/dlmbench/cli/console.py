"""How a run looks in a terminal: progress, tables, one-line errors. Talk goes to stderr, data to stdout."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from dlmbench.types import Cell, Finding, LeftOut, Run

if TYPE_CHECKING:
    # Types only: these bring in numpy and scipy, and `plan` is to answer at once.
    from dlmbench.analysis.cost import CellCost, CheapestCell
    from dlmbench.analysis.summary_table import SummaryRow
    from dlmbench.bench.forecast import Bill, Forecast
    from dlmbench.roofline.bounds import Bounds
    from dlmbench.roofline.calibrate import Calibration
    from dlmbench.roofline.surface import Surface

TALK = Console(stderr=True, highlight=False, soft_wrap=True)


class LiveProgress:
    """A progress bar over the cells, or plain lines where stderr is no terminal."""

    def __init__(self, title: str, visits: int) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _Left(self),
            console=TALK,
            disable=not TALK.is_terminal,
        )
        self._task = self._bar.add_task(title, total=visits)
        self._started = time.monotonic()
        self._title = title
        self._ends: float | None = None
        self._unknown = 0

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def cell(self, cell: Cell, doing: str) -> None:
        """Show which cell is worked on; the title comes first, once there is something to do."""
        if self._title:
            TALK.print(self._title, markup=False)
            self._title = ""
        self._bar.update(self._task, description=f"{doing}: {cell.label}", advance=1)
        if not TALK.is_terminal:
            left = f"; {self.outlook}" if self.outlook else ""
            TALK.print(f"[{time.monotonic() - self._started:6.1f} s{left}] {doing}: {cell.label}", markup=False)

    def repetition(self, cell: Cell, latency_s: float) -> None:
        """Show the last latency."""
        if TALK.is_terminal:
            self._bar.update(self._task, description=f"{cell.label}: {latency_s * 1e3:.1f} ms")

    def left(self, seconds: float | None, unknown_cells: int) -> None:
        """Take over a new forecast of what the speed pass still takes; it counts down by itself."""
        self._ends = None if seconds is None else time.monotonic() + seconds
        self._unknown = unknown_cells

    @property
    def outlook(self) -> str:
        """The time left in words; "" where nothing is known."""
        if self._ends is None:
            return ""
        seconds = max(0.0, self._ends - time.monotonic())
        if self._unknown:
            return f"over {duration(seconds)} left" if seconds else ""
        return f"about {duration(seconds)} left"

    def failed(self, cell: Cell, reason: str) -> None:
        """Say at once what could not be done."""
        TALK.print(f"  not measured: {cell.label}: {reason}", style="yellow", markup=False)


class _Left(ProgressColumn):
    """The time left, counting down."""

    def __init__(self, progress: LiveProgress) -> None:
        super().__init__()
        self._progress = progress

    def render(self, task: Task) -> Text:
        """One line's worth."""
        return Text(self._progress.outlook)


class Stages:
    """What is being done now, for work that is quick but not instant; plain lines where stderr is no terminal."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._status = TALK.status(title)

    def __enter__(self) -> Stages:
        self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._status.stop()

    def say(self, stage: str) -> None:
        """Show the next stage."""
        text = f"{self._title}: {stage}"
        self._status.update(escape(text))
        if not TALK.is_terminal:
            TALK.print(text, markup=False)


def summary(rows: Sequence[SummaryRow], title: str) -> Table:
    """The summary as a table; what was not measured is a dash."""
    table = Table(title=title, title_justify="left", pad_edge=False)
    for name in ("model", "K", "block", "B", "P", "G", "latency ms [95%]", "tokens/s"):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for name in ("memory MiB", "nats/token", "valid", "speedup", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        latency = _number(row.latency_s, 1e3, 1)
        if row.latency_low_s is not None and row.latency_high_s is not None:
            latency += f" [{row.latency_low_s * 1e3:.1f}, {row.latency_high_s * 1e3:.1f}]"
        table.add_row(
            row.model if row.status == "ok" else f"{row.model} ({row.status})",
            _number(row.steps),
            _number(row.block_length),
            str(row.batch_size),
            str(row.prompt_tokens),
            str(row.new_tokens),
            latency,
            _number(row.tokens_per_s, 1, 0),
            _number(row.memory_bytes, 2**-20, 0),
            _number(row.likelihood, 1, 3),
            _number(row.validity, 1, 2),
            f"{row.speedup:.2f}x" if row.speedup is not None else "-",
            str(row.n),
        )
    return table


def _number(value: float | None, factor: float = 1, digits: int = 0) -> str:
    return "-" if value is None else f"{value * factor:.{digits}f}"


def cells(planned: Sequence[Cell], forecast: Forecast | None = None, price: float | None = None) -> Table:
    """The plan as a table, with what is predicted of each cell where there is a forecast."""
    title = f"{len(planned)} cells" + (f" on {forecast.hardware.name}, predicted" if forecast else "")
    table = Table(title=title, title_justify="left", pad_edge=False)
    for name in ("id", "model", "sampler", "B", "P", "G", "precision", "attention", "knobs"):
        table.add_column(name)
    latency = "latency ms [95%]" if forecast and forecast.estimates else "latency ms"
    for name in (latency, "tokens/s", "memory GB", "fits") if forecast else ():
        table.add_column(name, justify="right", no_wrap=True)
    if forecast and price is not None:
        table.add_column("per M tokens", justify="right", no_wrap=True)
    for cell in planned:
        knobs = cell.label.partition(f"G={cell.new_tokens}")[2].strip()
        sizes = (str(cell.batch_size), str(cell.prompt_tokens), str(cell.new_tokens))
        predicted = _predicted(cell, forecast, price) if forecast else ()
        table.add_row(cell.id, cell.model.key, cell.sampler, *sizes, cell.precision, cell.attention, knobs, *predicted)
    return table


def _predicted(cell: Cell, forecast: Forecast, price: float | None) -> tuple[str, ...]:
    from dlmbench.bench.forecast import million_tokens

    expected = forecast.of(cell)
    rate = cell.batch_size * cell.new_tokens / expected.latency_s if expected.latency_s else None
    fits = {True: "yes", False: "no", None: "-"}[forecast.fits(cell)]
    money = () if price is None else (_number(million_tokens(cell, expected, price), 1, 3),)
    latency = _number(expected.latency_s, 1e3, 1)
    if (between := forecast.estimates.get(cell.id)) is not None:
        latency += f" [{_short(between.low_s * 1e3)}, {_short(between.high_s * 1e3)}]"
    return (
        latency,
        _number(rate, 1, 1),
        _number(expected.peak_bytes, 1e-9, 2),
        fits,
        *money,
    )


def total(bill: Bill, price: float | None) -> str:
    """What a run should take, in words."""
    text = f"predicted time of all generations, warm-ups and repetitions included: {_between(bill.low_s, bill.high_s)}"
    if price is not None:
        low, high = (f"{m:.2f}" for m in bill.money(price))
        text += f"; {low if low == high else f'{low} to {high}'} at {price:g} a GPU hour"
    text += ". Loading models and scoring are not in it"
    if bill.too_large:
        text += f", nor {bill.too_large} cells that should not fit and that `run` skips without --try-oom"
    if bill.without_time:
        text += f", nor {bill.without_time} cells without a predicted time"
    return f"{text}."


def _between(low_s: float, high_s: float) -> str:
    low, high = duration(low_s), duration(high_s)
    return low if low == high else f"{low} (steady latencies) to {high} (noisy ones)"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def calibrations(fitted: Sequence[Calibration], device: str) -> Table:
    """Efficiencies of each engine and sampler, with their error on the groups left out."""
    table = Table(title=f"Efficiencies on {device}", title_justify="left", pad_edge=False)
    table.add_column("engine/sampler", no_wrap=True)
    for name in ("cells", "groups left out", "matrix", "bandwidth", "attention", "host ms", "fitted"):
        table.add_column(name, justify="right")
    for name in ("left out, median", "left out, 90%"):
        table.add_column(name, justify="right")
    for c in fitted:
        e = c.efficiencies
        numbers = [f"{v:.3f}" for v in (e.matrix, e.bandwidth, e.attention)] + [f"{e.host_s * 1e3:.2f}"]
        errors = ["not known" if v is None else f"{v:.1%}" for v in (c.median_error, c.p90_error)]
        table.add_row(c.label, str(c.cells), str(len(c.held_out)), *numbers, f"{c.fitted_error:.1%}", *errors)
    return table


def bounds(measured: Sequence[Bounds]) -> Table:
    """Every measured cell beside its floor."""
    table = Table(title=f"{len(measured)} measured cells", title_justify="left", pad_edge=False)
    table.add_column("cell")
    for name in ("measured ms", "floor ms", "measured/floor", "MFU", "MBU"):
        table.add_column(name, justify="right", no_wrap=True)
    for b in measured:
        ratio = f"{b.floor_ratio:.2f}" if b.is_possible else f"{b.floor_ratio:.3g} (below)"
        times = (_number(b.latency_s, 1e3, 1), _number(b.floor_s, 1e3, 1))
        table.add_row(b.cell.label, *times, ratio, f"{b.mfu:.1%}", f"{b.mbu:.1%}")
    return table


def surfaces(predicted: Sequence[Surface], device: str) -> Iterator[str | Table]:
    """Break-even step counts: a table for each way to run diffusion, a row a length, a column a batch size."""
    for surface in predicted:
        batches = sorted({p.batch_size for p in surface.points})
        table = Table(pad_edge=False)
        for name in ("P", "G", *(f"B={b}" for b in batches)):
            table.add_column(name, justify="right", no_wrap=True)
        steps = {(p.prompt_tokens, p.new_tokens, p.batch_size): p.steps for p in surface.points}
        for prompt, new in dict.fromkeys((p, g) for p, g, _ in steps):
            table.add_row(str(prompt), str(new), *(_break_even(steps.get((prompt, new, b)), new) for b in batches))
        yield f"Break-even k* on {device}, predicted: {surface.target} against {surface.baseline}"
        yield table
    if not predicted:
        yield "No break-even is predicted: it needs a baseline and a scheduled diffusion model whose shapes are known."
    else:
        yield (
            "With fewer steps than k* diffusion is faster. +: k* is at least G, so it is faster with one step a token; "
            "none: not even with a single step."
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
    """What a million tokens of every timed cell cost."""
    table = Table(title=f"Cost at {price:g} a GPU hour", title_justify="left", pad_edge=False)
    table.add_column("cell")
    for name in ("B", "P", "G", "K", "per M tokens [95%]", "tokens a generation"):
        table.add_column(name, justify="right", no_wrap=True)
    for c in priced:
        sizes = (str(c.cell.batch_size), str(c.cell.prompt_tokens), str(c.cell.new_tokens), _number(c.cell.steps))
        money = _short(c.per_million) + (
            "" if c.low is None or c.high is None else f" [{_short(c.low)}, {_short(c.high)}]"
        )
        table.add_row(c.label, *sizes, money, f"{c.tokens:.0f} {c.counted}")
    return table


def cheapest(found: Sequence[CheapestCell]) -> list[str]:
    """The cheapest way of each length in words."""
    if not found:
        return ["The cheapest way to a given quality is not known: no metric was scored for both models."]
    lines = []
    for best in found:
        where = f"{best.prompt_tokens} prompt and {best.new_tokens} new tokens: the cheapest way to {best.goal} is"
        if best.cost is None:
            lines.append(f"{where} not known: no timed cell reaches it.")
            continue
        cell = best.cost.cell
        steps = "" if cell.steps is None else f", K={cell.steps}"
        lines.append(
            f"{where} {best.cost.label}, B={cell.batch_size}{steps}: {_short(best.cost.per_million)} a million "
            f"{best.cost.counted} tokens (of {best.candidates} cells that reach it)."
        )
    return lines


def scores(run: Run, metrics: Sequence[str]) -> Table:
    """What a run's folder says by some metrics, cell by cell; a cell without a value says why."""
    table = Table(title="Scores", title_justify="left", pad_edge=False)
    for name in ("metric", "cell"):
        table.add_column(name)
    for name in ("value [95%]", "unit", "word ppl", "bits/byte", "texts"):
        table.add_column(name, justify="right", no_wrap=True)
    labels = {cell.id: cell.label for cell in run.cells}
    for metric in metrics:
        own = {s.cell_id: s for s in run.scores if s.metric == metric}
        for s in own.values():
            interval = f" [{s.low:.3f}, {s.high:.3f}]" if s.low is not None and s.high is not None else ""
            units = {r.unit: r.value for r in s.in_other_units}
            others = (_number(units.get("perplexity/word"), 1, 2), _number(units.get("bits/byte"), 1, 3))
            texts = f"{s.n} of {s.n + len(s.not_scored)}"
            table.add_row(metric, labels[s.cell_id], f"{_number(s.value, 1, 3)}{interval}", s.unit, *others, texts)
        for missing in run.unscored:
            if missing.metric == metric and missing.prompt_index is None and missing.cell_id not in own:
                table.add_row(metric, f"{labels[missing.cell_id]}: {missing.reason}", *("-" for _ in range(4)), "0")
    return table


def remarks(run: Run, metrics: Sequence[str]) -> list[str]:
    """What the values of `scores` are and are not, each said once."""
    lines: dict[str, None] = {}
    for s in (s for s in run.scores if s.metric in metrics):
        judge = f"judged by {s.judge}" + (", a model of this run (self-judging)" if s.self_judged else "")
        error = f"Monte Carlo error {s.monte_carlo_stderr:.2g}" if s.monte_carlo_stderr is not None else ""
        missing = dict.fromkeys(m.reason for m in s.not_scored)
        left = f"{len(s.not_scored)} texts not scored: {', '.join(missing)}" if missing else ""
        parts = [judge if s.judge else "", s.note, error, left]
        if said := "; ".join(part for part in parts if part):
            lines[f"{s.metric}: {said}"] = None
    return list(lines)


def left_out(combinations: Sequence[LeftOut]) -> None:
    """Say which combinations of the grid are not run, and why."""
    for out in combinations:
        TALK.print(f"left out: {out.label}: {out.reason}", style="dim", markup=False)


def findings(found: Sequence[Finding]) -> None:
    """Say what a reader of the results should know: one line a kind, however many cells show it."""
    by_code: dict[str, list[Finding]] = {}
    for finding in found:
        by_code.setdefault(finding.code, []).append(finding)
    for group in by_code.values():
        more = f" (and {len(group) - 1} more)" if len(group) > 1 else ""
        first = group[0]
        style = {"error": "red", "warning": "yellow"}.get(first.severity, "dim")
        TALK.print(f"{first.severity}: {first.message}{more}: {first.hint}", style=style, markup=False)


def say(text: str) -> None:
    """A line of talk."""
    TALK.print(text, markup=False)
