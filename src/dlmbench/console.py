"""How a run looks in a terminal: progress, tables, one-line errors. Talk goes to stderr, data to stdout."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from dlmbench.analysis.answer import SummaryRow
from dlmbench.types import Cell, Finding, LeftOut

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


def cells(planned: Sequence[Cell]) -> Table:
    """The plan as a table."""
    table = Table(title=f"{len(planned)} cells", title_justify="left", pad_edge=False)
    for name in ("id", "model", "sampler", "B", "P", "G", "precision", "attention", "knobs"):
        table.add_column(name)
    for cell in planned:
        knobs = cell.label.partition(f"G={cell.new_tokens}")[2].strip()
        sizes = (str(cell.batch_size), str(cell.prompt_tokens), str(cell.new_tokens))
        table.add_row(cell.id, cell.model.key, cell.sampler, *sizes, cell.precision, cell.attention, knobs)
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
