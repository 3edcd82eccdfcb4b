"""How a run looks in a terminal: progress, tables, one-line errors. Talk goes to stderr, data to stdout."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from dlmbench.types import Cell, Finding, LeftOut

if TYPE_CHECKING:
    # Types only: these bring in numpy and scipy, and `plan` is to answer at once.
    from dlmbench.analysis.answer import SummaryRow
    from dlmbench.forecast import Bill, Forecast
    from dlmbench.roofline.bounds import Bounds
    from dlmbench.roofline.calibrate import Calibration

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
            console=TALK,
            disable=not TALK.is_terminal,
        )
        self._task = self._bar.add_task(title, total=visits)
        self._started = time.monotonic()
        self._title = title

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
            TALK.print(f"[{time.monotonic() - self._started:6.1f} s] {doing}: {cell.label}", markup=False)

    def repetition(self, cell: Cell, latency_s: float) -> None:
        """Show the last latency."""
        if TALK.is_terminal:
            self._bar.update(self._task, description=f"{cell.label}: {latency_s * 1e3:.1f} ms")

    def failed(self, cell: Cell, reason: str) -> None:
        """Say at once what could not be done."""
        TALK.print(f"  not measured: {cell.label}: {reason}", style="yellow", markup=False)


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
    for name in ("latency ms", "tokens/s", "memory GB", "fits") if forecast else ():
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
    from dlmbench.forecast import million_tokens

    expected = forecast.of(cell)
    rate = cell.batch_size * cell.new_tokens / expected.latency_s if expected.latency_s else None
    fits = {True: "yes", False: "no", None: "-"}[forecast.fits(cell)]
    money = () if price is None else (_number(million_tokens(cell, expected, price), 1, 3),)
    return (
        _number(expected.latency_s, 1e3, 1),
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
        text += f", nor {bill.too_large} cells that should not fit"
    if bill.without_time:
        text += f", nor {bill.without_time} cells without a predicted time"
    return f"{text}."


def _between(low_s: float, high_s: float) -> str:
    low, high = duration(low_s), duration(high_s)
    return low if low == high else f"{low} (steady latencies) to {high} (noisy ones)"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
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
