"""How many branches of each package the tests take, from coverage's JSON, as a table of docs/reliability.md."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

from tables import markdown, write_part

ROOT = Path(__file__).parents[1]

# What a number in a report depends on.
MEASURING = ("analysis", "bench", "measure", "results", "roofline", "sampling")
LEAST = 0.9


def main() -> None:
    """Write the table; fail where a measuring package has too few."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, file in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["files"].items():
        package, _, inner = name.partition("src/dlmbench/")[2].partition("/")
        if inner:
            for i, key in enumerate(("covered_branches", "num_branches")):
                counts[package][i] += file["summary"][key]
    shares = {package: taken / of for package, (taken, of) in counts.items() if of}
    rows = [(p, "{} of {}".format(*counts[p]), f"{share:.1%}") for p, share in sorted(shares.items())]
    table = markdown(("package", "branches taken", "share"), rows)
    sys.stdout.write(table + "\n")
    write_part(ROOT / "docs/reliability.md", "coverage", table)
    if short := [f"{p}: {shares[p]:.1%}" for p in MEASURING if shares[p] < LEAST]:
        sys.exit(f"fewer than {LEAST:.0%} of the branches are taken: {', '.join(short)}")


if __name__ == "__main__":
    main()
