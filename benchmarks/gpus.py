"""Is a run on all GPUs of a node the run on one, only sooner? A native grid of 8B shapes on one GPU, then on several.

    python benchmarks/gpus.py --output FOLDER [--gpus all]    # FOLDER/one, FOLDER/all: run folders; FOLDER/gpus.json

Random weights. Prints the wall time of both runs, how much the cells differ, and how much the GPUs do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

CONFIG = """
name: gpus
models:
  llama: {family: llama, source: 8b, weights: random}
  llada: {family: llada, source: 8b, weights: random}
grid:
  - &tasks
    lengths: {prompt_tokens: [132, 894], new_tokens: 256}
    batch_size: 1
    precision: bfloat16
    attention: flash
    engine: native
    samplers:
      autoregressive: {temperature: 0}
      masked_diffusion: {steps: [4, 16]}
  - <<: *tasks
    batch_size: 8
    lengths: {prompt_tokens: 132, new_tokens: 256}
prompts: {source: tiny, count: 32}
protocol: {warmup: 1, pilot: 3, min_repeats: 9, max_repeats: 9, max_time_s: 30, processes: 3, rounds: 1}
metrics: []
"""


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


def measure(folder: Path, gpus: str) -> float:
    """The grid into `folder`; returns seconds."""
    from dlmbench.bench import run
    from dlmbench.bench.gpus import find_gpus
    from dlmbench.experiment import load, plan

    config = folder.with_suffix(".yaml")
    config.write_text(CONFIG)
    experiment = load.load(config)
    began = time.perf_counter()
    run.run(experiment, plan.expand(experiment), folder, Told(), placements=find_gpus(gpus))
    return time.perf_counter() - began


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
    """Measure, print and write after each half."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gpus", default="all")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {}
    for name, gpus in (("all", options.gpus), ("one", "1")):
        result[f"{name}, s"] = measure(options.output / name, gpus)
        sys.stdout.write(f"{name}: {result[f'{name}, s']:.1f} s\n")
        (options.output / "gpus.json").write_text(json.dumps(result, indent=1) + "\n")
    result["share of the time"] = result["all, s"] / result["one, s"]
    result |= compared(options.output / "one", options.output / "all")
    sys.stdout.write(json.dumps({k: v for k, v in result.items() if k != "cells"}, indent=1) + "\n")
    (options.output / "gpus.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
