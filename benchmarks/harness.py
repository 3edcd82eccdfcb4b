"""What the harness itself costs: where a run's device time goes, and whether one inspection is as good as three.

    python benchmarks/harness.py --output harness.json               # the embedded pair; minutes on a CPU
    python benchmarks/harness.py --weights 8b --output harness.json  # random weights of 8B shapes; on a GPU
    python benchmarks/harness.py --page                              # the table of docs/reliability.md

First a grid of 13 cells of the native engine is run as `dlmbench run` does it, in one process for each model and in
three. Then some of its cells are inspected twice: memory, step times and commit order from one generation, and each
from a generation of its own, after warm-ups.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tables import markdown, write_part

if TYPE_CHECKING:
    from dlmbench.bench.worker import CellGenerator, WorkerState
    from dlmbench.types import Cell, Experiment, OnStep, PromptBatch

ROOT = Path(__file__).parents[1]
RECORDED, PAGE = ROOT / "docs/study/instrument", ROOT / "docs/reliability.md"
# P = G of the grid, by weights.
LENGTHS = {"tiny": 64, "8b": 256}
CONFIG = """
name: harness
models:
  llama: {{family: llama, {baseline}}}
  llada: {{family: llada, {target}}}
grid:
  - lengths: {{prompt_tokens: {long}, new_tokens: {long}}}
    batch_size: 1
    precision: {precision}
    attention: {attention}
    engine: native
    samplers:
      autoregressive: {{}}
      masked_diffusion: {{steps: [8, 32, {long}]}}
  - lengths: {{prompt_tokens: {long}, new_tokens: {long}}}
    batch_size: 8
    precision: {precision}
    attention: {attention}
    engine: native
    samplers:
      autoregressive: {{}}
      masked_diffusion: {{steps: [4, 16]}}
  - lengths: {{prompt_tokens: {long}, new_tokens: {short}}}
    batch_size: 1
    precision: {precision}
    attention: {attention}
    engine: native
    samplers:
      autoregressive: {{}}
      masked_diffusion: {{steps: [4, 8, 16]}}
  - lengths: {{prompt_tokens: {long}, new_tokens: {long}}}
    batch_size: 1
    precision: {precision}
    attention: {attention}
    engine: native
    samplers:
      masked_diffusion: {{steps: {long}, block_length: 32, cache: [prefix, dual]}}
prompts: {{source: tiny, count: 8}}
protocol: {{warmup: 2, pilot: 5, min_repeats: 10, max_repeats: 10, max_time_s: {limit_s}, processes: 1, rounds: 1}}
metrics: []
"""
INSPECTED = 4  # cells


class Quiet:
    """Progress that nobody watches."""

    def cell(self, *_: object) -> None:
        """Nothing is shown."""

    repetition = left = failed = cell


def experiment_of(weights: str, limit_s: float) -> Experiment:
    """The grid of 13 cells."""
    from dlmbench.experiment import load

    is_tiny = weights == "tiny"
    values = {
        "baseline": 'source: "embedded:ar"' if is_tiny else f"source: {weights}, weights: random",
        "target": 'source: "embedded:llada"' if is_tiny else f"source: {weights}, weights: random",
        "precision": "float32" if is_tiny else "bfloat16",
        "attention": "auto" if is_tiny else "flash",
        "long": LENGTHS[weights],
        "short": LENGTHS[weights] // 2,
        "limit_s": limit_s,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "harness.yaml"
        path.write_text(CONFIG.format(**values))
        return load.load(path)


def run_share(experiment: Experiment, processes: int) -> dict[str, Any]:
    """Where the device time of a run in `processes` processes went."""
    from dlmbench.bench import run
    from dlmbench.cli.console import device_time
    from dlmbench.experiment import plan
    from dlmbench.results import read_run

    experiment = replace(experiment, protocol=replace(experiment.protocol, processes=processes))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run.run(experiment, plan.expand(experiment), Path(folder) / "run", Quiet())
        whole_s = time.perf_counter() - began
        finished = read_run(Path(folder) / "run")
    (spent,) = finished.device_time
    sys.stderr.write(f"{processes} processes, {len(finished.cells)} cells. {device_time(finished.device_time)}\n")
    timed = sum(len(r.timed) for r in finished.results)
    assert all(r.status == "ok" for r in finished.results), [r.reason for r in finished.results]
    return {
        "processes": processes,
        "cells": len(finished.cells),
        "repetitions": timed,
        "share": spent.measuring_s / spent.seconds,
        "timed_share": spent.timed_s / spent.seconds,
        "whole_s": whole_s,
        **asdict(spent),
    }


def inspections(experiment: Experiment) -> Iterator[dict[str, Any]]:
    """For some cells, how one inspection differs from separate passes."""
    from dlmbench import models, prompts
    from dlmbench.bench.generate import default_device
    from dlmbench.bench.worker import WorkerState
    from dlmbench.experiment import plan

    cells = plan.expand(experiment).cells
    state = WorkerState(default_device())
    for cell in cells[:: max(1, len(cells) // INSPECTED)]:
        tokenizer = models.find(cell.model).tokenizer
        own = prompts.Tokenizer(tokenizer.encode, tokenizer.decode, tokenizer.chat) if tokenizer else prompts.BYTES
        taken = prompts.take(experiment.prompts, own, cell.prompt_tokens, cell.new_tokens, (), references=False)
        batch = prompts.in_batches(taken, cell.batch_size)[0]
        yield {"cell": cell.label, **compared(state, cell, batch)}


def compared(state: WorkerState, cell: Cell, batch: PromptBatch) -> dict[str, Any]:
    """Values of one inspection and of separate passes, and what the two took."""
    from dlmbench.bench.worker import ProfileCell
    from dlmbench.measure.memory import measure_memory
    from dlmbench.measure.protocol import traced_pass
    from dlmbench.types import CommitOrder, MemoryPass, TracedPass

    generator: CellGenerator = state.generator(cell)
    latencies = [seconds_of(state, partial(generator.generate, batch)) for _ in range(5)][2:]
    latency_s = statistics.median(latencies)

    def traced(on_step: OnStep) -> Any:
        return generator.generate(batch, on_step, trace=True)

    began = time.perf_counter()
    traced(lambda forwards: None)
    is_autoregressive = cell.sampler == "autoregressive"
    times = traced_pass(traced, state.clock, cell_id="", process_id=0, is_autoregressive=is_autoregressive)
    generator.generator.reset()
    memory = measure_memory("", 0, partial(generator.generate, batch), state.device)
    separate_s = time.perf_counter() - began

    _ = state.idle_power_w  # measured once in a process, by neither way
    began = time.perf_counter()
    replies = list(ProfileCell(cell, batch, latency_s).run(state))
    joint_s = time.perf_counter() - began
    joint = {kind: r for r in replies for kind in (TracedPass, MemoryPass, CommitOrder) if isinstance(r, kind)}
    names = ("prefill_s", "inter_token_p50_s", "first_block_s", "step_p50_s", "traced_s")
    sizes = ("peak_allocated_bytes", "peak_reserved_bytes", "peak_process_bytes")
    result = {"latency_s": latency_s, "separate_s": separate_s, "joint_s": joint_s}
    pairs = [(name, getattr(times, name), getattr(joint[TracedPass], name)) for name in names]
    pairs += [(name, getattr(memory, name), getattr(joint[MemoryPass], name)) for name in sizes]
    result |= {name: {"separate": a, "joint": b, "ratio": b / a} for name, a, b in pairs if a and b}
    ratios = ", ".join(f"{name} {v['ratio']:.3f}" for name, v in result.items() if isinstance(v, dict))
    took = f"{separate_s:.2f} s apart, {joint_s:.2f} s together"
    sys.stderr.write(f"{cell.label}: {took}; together over apart: {ratios}\n")
    return result


def page_table(folder: Path) -> str:
    """What docs/reliability.md shows of the recorded runs."""
    parts = ("timed", "windows", "loading", "warmup", "inspection")
    header = ("device", "processes", "cells", "seconds", "timed repetitions", "energy windows", "loading", "warm-ups")
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("harness-*.json"))]
    rows = [
        (
            result["device"],
            run["processes"],
            run["cells"],
            f"{run['seconds']:.0f}",
            *(f"{run[f'{part}_s'] / run['seconds']:.0%}" for part in parts),
        )
        for result in results
        for run in result["runs"]
    ]
    return markdown((*header, "step times, memory, texts"), rows)


def seconds_of(state: WorkerState, generate: partial[Any]) -> float:
    """Seconds of one generation on the device."""
    state.clock.synchronize()
    start = state.clock.mark()
    generate()
    end = state.clock.mark()
    state.clock.synchronize()
    return state.clock.seconds(start, end)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", choices=sorted(LENGTHS), default="tiny")
    parser.add_argument("--limit", type=float, default=3.0, help="seconds of timed repetitions of a cell (3)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--page", action="store_true", help="only write the table, from the files harness-*.json")
    options = parser.parse_args()
    if options.page:
        write_part(PAGE, "devices", page_table(RECORDED))
        return
    from dlmbench.bench.generate import default_device
    from dlmbench.measure.environment import fingerprint

    experiment = experiment_of(options.weights, options.limit)
    result = {
        "weights": options.weights,
        "device": fingerprint(default_device()).device,
        "runs": [run_share(experiment, n) for n in options.processes],
        "inspections": list(inspections(experiment)),
    }
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
