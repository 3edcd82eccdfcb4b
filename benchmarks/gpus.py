"""Is a run on all GPUs of a node the run on one, only sooner? One grid of 8B shapes, on one GPU and on all.

    python benchmarks/gpus.py --output FOLDER [RUN...]    # FOLDER/RUN: run folders; FOLDER/gpus.json

A RUN is one, all, or all-again: on a node that has compiled nothing yet, the first run compiles for the others. A run
that was cut goes on, and its times add up. Prints the wall time of each, how much the cells of one and all differ, and
how much the GPUs do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config/experiments_h200_native.yaml"
RUNS = {"all": "all", "one": "1", "all-again": "all"}


class Told:
    """Progress as lines on stderr."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    def cell(self, cell: Any, doing: str) -> None:
        """Say what begins."""
        sys.stderr.write(f"[{time.perf_counter() - self.began:6.1f} s] {doing}: {cell.label}\n")

    def failed(self, cell: Any, reason: str) -> None:
        """Say what failed."""
        sys.stderr.write(f"failed: {cell.label}: {reason}\n")

    def repetition(self, *_: object) -> None:
        """Nothing is shown."""

    left = repetition


def measure(config: Path, folder: Path, gpus: str) -> None:
    """The grid into `folder`."""
    from dlmbench.bench import run
    from dlmbench.bench.gpus import find_gpus
    from dlmbench.experiment import load, plan

    experiment = load.load(config)
    run.run(experiment, plan.expand(experiment), folder, Told(), placements=find_gpus(gpus))


def compared(one: Path, several: Path) -> dict[str, Any]:
    """The cells of two run folders, beside the spread between processes and between GPUs."""
    from dlmbench.analysis.replication import card_ratios, latencies
    from dlmbench.results import read_run

    first, second = read_run(one), read_run(several)
    ours, theirs = latencies(first.results), latencies(second.results)
    cells = [
        {
            "cell": result.cell.label,
            "one_s": ours[result.cell.id].value,
            "all_s": theirs[result.cell.id].value,
            "ratio": theirs[result.cell.id].value / ours[result.cell.id].value,
            "p_value": theirs[result.cell.id].over(ours[result.cell.id]).p_value,
        }
        for result in second.results
        if result.cell.id in ours and result.cell.id in theirs
    ]
    off = [abs(c["ratio"] - 1) for c in cells]
    return {
        "cells": cells,
        "median difference": statistics.median(off),
        "largest difference": max(off),
        "ratio of each GPU to the average": sorted(card_ratios(second.results).values()),
        "statuses": sorted({r.status or "" for r in second.results}),
    }


def main() -> None:
    """Measure, print and write after each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=", ".join(RUNS))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    kept = options.output / "gpus.json"
    result: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in options.runs or RUNS:
        began, before_s = time.perf_counter(), result.get(f"{name}, s", 0.0)
        try:
            measure(options.config, options.output / name, RUNS[name])
            sys.stdout.write(f"{name}: finished\n")
        finally:
            result[f"{name}, s"] = before_s + time.perf_counter() - began
            kept.write_text(json.dumps(result, indent=1) + "\n")
    one, several = (options.output / name for name in ("one", "all"))
    if one.exists() and several.exists():
        result |= compared(one, several)
    kept.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps({k: v for k, v in result.items() if k != "cells"}, indent=1) + "\n")


if __name__ == "__main__":
    main()
