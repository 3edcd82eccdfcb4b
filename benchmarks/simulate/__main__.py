"""The simulation campaign: every rule that a verdict rests on, tried on data whose truth is known.

    python -m benchmarks.simulate            # write the table of docs/reliability.md and its CSV: make simulate
    python -m benchmarks.simulate --check    # write nothing
    python -m benchmarks.simulate --page     # the table on stdout, from the CSV alone
    python -m benchmarks.simulate --rule k*  # only the rules whose names hold this; the rest is kept

Synthetic latencies and scores go through the program's own functions; only the rules that they replaced, for the column
"before", are written here. Random numbers are fixed, so the table is the same every time. Exit status 1: a bound is not
kept, and no limit is documented.
"""

from __future__ import annotations

import os

# Each worker uses one core. This must stand before numpy is imported.
os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import argparse
import csv
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from benchmarks.simulate import qualities, times
from benchmarks.simulate.campaign import Row, table

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- simulate:begin -->\n", "<!-- simulate:end -->\n"
SCENARIOS = (*times.SCENARIOS, *qualities.SCENARIOS)
NOTES = times.NOTES | qualities.NOTES


def run(job: tuple[int, int]) -> tuple[int, Row]:
    """One scenario by its number, with so many trials."""
    return job[0], SCENARIOS[job[0]].run(job[1])


def rows_of(trials: int, numbers: Sequence[int], workers: int = 2) -> dict[int, Row]:
    """The rows of these scenarios, by number."""
    with multiprocessing.Pool(workers) as pool:
        return dict(pool.imap_unordered(run, [(i, trials) for i in numbers]))


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Every field of every row, six digits of a number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(f.name for f in fields(Row))
        for row in rows:
            writer.writerow(f"{v:.6g}" if isinstance(v, float) else v for v in asdict(row).values())


def read_csv(path: Path) -> list[Row]:
    """What `write_csv` wrote."""
    texts = {"rule", "scenario", "quantity", "limit"}

    def value(name: str, text: str) -> object:
        return text if name in texts else int(text) if name == "trials" else float(text) if text else None

    with path.open(newline="") as file:
        return [Row(**{name: value(name, text) for name, text in line.items()}) for line in csv.DictReader(file)]


def write_page(rows: Sequence[Row], page: Path) -> None:
    """Replace the generated part of the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, marker, after = rest.partition(END)
    assert marker, f"{page} has no markers"
    page.write_text(before + BEGIN + "\n" + table(rows, NOTES) + "\n" + END + after, encoding="utf-8")


def main() -> int:
    """Run the campaign, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--page", action="store_true", help="print the table of the CSV")
    parser.add_argument("--rule", default="", help="only rules whose names hold this; other rows are kept")
    parser.add_argument("--trials", type=int, default=1000, help="trials of each scenario")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of reliability.md")
    options = parser.parse_args()
    page, data = options.docs / "reliability.md", options.docs / "reliability/simulation.csv"
    if options.page:
        sys.stdout.write(table(read_csv(data), NOTES))
        return 0
    chosen = [i for i, s in enumerate(SCENARIOS) if options.rule in s.rule]
    kept = {} if not options.rule else {(r.rule, r.scenario): r for r in read_csv(data)}
    made = rows_of(options.trials, chosen)
    rows = [made[i] if i in made else kept[s.rule, s.name] for i, s in enumerate(SCENARIOS)]
    if not options.check:
        write_csv(rows, data)
        write_page(read_csv(data), page)
    missed = [row for row in rows if not row.is_kept and not row.limit]
    for row in missed:
        sys.stderr.write(f"not kept: {row.rule}; {row.scenario}: {row.found}; asked for {row.bound}\n")
    sys.stderr.write(f"{len(rows)} scenarios, {len(missed)} bounds not kept\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
