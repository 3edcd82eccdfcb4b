"""Compare two finished runs, cell by cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from dlmbench.cli.options import AsJson, command
from dlmbench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table
    from rich.text import Text

    from dlmbench.analysis.compare import CellPair, Comparison
    from dlmbench.analysis.stats import Interval


@command()
def compare(
    first: Annotated[Path, Argument(metavar="RUN1", help="folder of a finished run, the reference")],
    second: Annotated[Path, Argument(metavar="RUN2", help="folder of the run to compare with it")],
    anyway: Annotated[
        bool, Option("--anyway", help="compare runs that are not comparable; every row is marked")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two runs cell by cell: is the second faster, and do memory and quality differ?

    A difference is shown from three processes on, or beyond the noise floor of the machine; false discoveries among all
    cells are held at 5%. Runs that differ in machine, precision, kernel or prompts are refused without --anyway.

    \b
    Example: dlmbench compare results/before results/after
    """
    from dlmbench.analysis.compare import as_record
    from dlmbench.analysis.compare import compare as side_by_side
    from dlmbench.cli import console
    from dlmbench.results import read_run

    with console.waiting("reading and comparing the runs ..."):
        found = side_by_side(read_run(first), read_run(second))
    if not found.pairs:
        counts = f"{len(found.only_first)} and {len(found.only_second)} cells"
        raise BenchError(
            f"{first} and {second} have no cell in common ({counts})",
            "Compare runs of the same sampler, steps, batch sizes and lengths",
        )
    if found.obstacles and not anyway:
        names = "; ".join(f"{d.name}: {d.first} | {d.second}" for d in found.obstacles)
        raise BenchError(
            f"{first} and {second} are not comparable ({names})",
            "Measure again with the same settings, or compare them anyway with --anyway",
        )
    if as_json:
        console.print_json(as_record(found))
    else:
        _print(found)


def _print(found: Comparison) -> None:
    from dlmbench.cli import console

    out = console.stdout(180)
    out.print(_speed_table(found))
    quality = _quality_table(found)
    if quality.row_count:
        out.print(quality)
    for line in _remarks(found):
        out.print(line, soft_wrap=True)


def _title(found: Comparison, what: str) -> Text:
    from rich.text import Text

    title = Text(f"{what}: {found.second} against {found.first}")
    if found.obstacles:
        names = ", ".join(d.name for d in found.obstacles)
        title.append(f"\nNOT COMPARABLE: {names}", style="bold red")
    return title


def _speed_table(found: Comparison) -> Table:
    from dlmbench.cli import console

    columns = (">first ms", ">second ms", ">n", ">first/second [95%]", "the second is", ">memory MiB")
    table = console.new_table(_title(found, "Speed and memory"), "cell", *columns)
    for pair in found.pairs:
        first, second = pair.first_latency_s, pair.second_latency_s
        reason = f" ({pair.reason})" if pair.reason else ""
        table.add_row(
            pair.label,
            f"{first.median * 1e3:.1f}" if first else "-",
            f"{second.median * 1e3:.1f}" if second else "-",
            f"{first.n if first else 0}, {second.n if second else 0}",
            _ratio(pair.speedup),
            f"{pair.verdict}{reason}{_mark(pair)}",
            _memory(pair),
        )
    return table


def _ratio(ratio: Interval | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio.value:.2f}" + (f" [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio.is_known else "")


def _memory(pair: CellPair) -> str:
    if pair.memory is None:
        return "-"
    first, second = pair.memory.first_bytes, pair.memory.second_bytes
    return f"{first / 2**20:.0f} -> {second / 2**20:.0f} ({second / first - 1:+.1%})"


def _quality_table(found: Comparison) -> Table:
    """A row for each metric that changed; cells that differ only in batch size share their texts and count once."""
    from dlmbench.cli import console

    columns = (">first", ">second", ">change [95%]", ">prompts", "the second is")
    table = console.new_table(_title(found, "Quality"), "cell", "metric", *columns)
    for pair in found.one_per_text:
        for change in (c for c in pair.quality if c.verdict != "equal"):
            by = change.change
            table.add_row(
                pair.label,
                change.metric.title,
                f"{change.first:.4g}",
                f"{change.second:.4g}",
                f"{by.value:+.3g} [{by.low:+.3g}, {by.high:+.3g}]" if by else f"{change.second - change.first:+.3g}",
                str(change.n or "-"),
                f"{change.verdict or 'not tested: no shared prompts scored one by one'}{_mark(pair)}",
            )
    return table


def _mark(pair: CellPair) -> str:
    names = [d.name for d in pair.differs]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" - NOT COMPARABLE: {', '.join(names[:3])}{more}" if names else ""


def _remarks(found: Comparison) -> Iterator[str]:
    verdicts = dict.fromkeys(p.verdict for p in found.pairs)
    counts = ", ".join(f"{found.count(v)} {v}" for v in verdicts)
    yield f"{len(found.pairs)} cells in both runs, the second is: {counts}."
    if found.only_first or found.only_second:
        alone = f"{len(found.only_first)} cells of the first run, {len(found.only_second)} of the second"
        yield f"In one run only: {alone}."
    equal = sum(c.verdict == "equal" for p in found.one_per_text for c in p.quality)
    if equal:
        yield f"Quality: {equal} scores are equal text by text and not listed."
    for d in found.obstacles:
        yield f"NOT COMPARABLE, {d.name}: {d.first} | {d.second}"
    for d in found.circumstances:
        yield f"also differs, {d.name}: {d.first} | {d.second}"
    yield (
        "Intervals are 95% intervals, each by itself. Verdicts hold false discoveries among all cells at 5%. "
        "Differences between hosts are in neither."
    )
