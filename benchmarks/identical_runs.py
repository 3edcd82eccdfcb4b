"""Does the instrument call two identical runs different, and does it find a slowdown that was planted?

Pairs of short runs of the embedded models (two cells each) are measured one after the other and compared with
`dlmbench compare`'s own function. The same pairs are then compared once more with the second run's latencies made
longer by a known share, so that the noise is the real one.

    python benchmarks/identical_runs.py [PAIRS] [--planted 0.10] [--output RESULT]
    python benchmarks/identical_runs.py --join RESULT...    # one result of those measured side by side on other cores
    python benchmarks/identical_runs.py --page    # the table of docs/reliability.md, from the recorded results
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tables import markdown, write_part

from dlmbench.analysis.compare import Comparison, compare
from dlmbench.bench import run as session
from dlmbench.bench.forecast import AS_FOUND
from dlmbench.cli import console
from dlmbench.cli.options import PlanOptions
from dlmbench.errors import StopRequestedError
from dlmbench.results import read_run
from dlmbench.types import Run

ROOT = Path(__file__).parents[1]
RECORDED, PAGE = ROOT / "docs/study/instrument", ROOT / "docs/reliability.md"
EXPERIMENT = """
name: identical
models:
  ar: {family: llama, source: "embedded:ar"}
  llada: {family: llada, source: "embedded:llada"}
grid:
  lengths: {prompt_tokens: 32, new_tokens: 16}
  batch_size: 1
  precision: float32
  attention: auto
  engine: hf
  samplers:
    autoregressive: {temperature: 0}
    masked_diffusion: {steps: 8}
prompts: {source: tiny, count: 2}
protocol: {warmup: 2, pilot: 5, min_repeats: 45, max_repeats: 45, max_time_s: 10, processes: 3, rounds: 1}
metrics: []
"""


def measure(folder: Path) -> tuple[Run, float]:
    """One run of EXPERIMENT, and the seconds it took."""
    config = folder.with_suffix(".yaml")
    config.write_text(EXPERIMENT)
    experiment, plan = PlanOptions(config).load()
    started_s = time.perf_counter()
    with console.measuring(experiment.name, experiment.protocol, plan, folder) as progress:
        session.run(experiment, plan, folder, progress, AS_FOUND)
    return read_run(folder), time.perf_counter() - started_s


def slower(run: Run, share: float) -> Run:
    """`run` with every latency longer by `share`."""

    def planted(result):
        samples = (replace(s, latency_s=s.latency_s * (1 + share)) for s in result.samples)
        return replace(result, samples=tuple(samples))

    return replace(run, results=tuple(map(planted, run.results)))


def verdicts(found: Comparison) -> list[str]:
    """The verdicts that call a difference."""
    return [p.verdict for p in found.pairs if p.verdict in ("faster", "slower")]


def page_table(folder: Path) -> str:
    """What docs/reliability.md shows of the recorded results."""
    header = (
        "machine",
        "pairs",
        "a verdict though identical",
        "found where slower",
        "slower by",
        "sd of log ratios",
        "correlation of a pair's two cells",
        "longest run",
    )
    return markdown(header, map(_page_row, sorted(folder.glob("identical-runs-*.json"))))


def _page_row(recorded: Path) -> tuple[object, ...]:
    result = json.loads(recorded.read_text(encoding="utf-8"))
    logs = [[math.log(ratio) for ratio in row["ratios"]] for row in result["rows"]]
    spread = statistics.stdev(value for pair in logs for value in pair)
    return (
        result["machine"],
        result["pairs"],
        result["with a verdict though identical"],
        result["found where planted"],
        f"{result['planted']:.0%}",
        f"{spread:.1%}",
        f"{statistics.correlation(*zip(*logs, strict=True)):.2f}",
        f"{result['longest run, s']:.0f} s",
    )


def result_of(machine: str, planted: float, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The counts over all pairs, with the pairs."""
    return {
        "machine": machine,
        "pairs": len(rows),
        "planted": planted,
        "with a verdict though identical": sum(bool(r["identical"]) for r in rows),
        "found where planted": sum("slower" in r["planted"] for r in rows),
        "longest run, s": max(s for r in rows for s in r["seconds"]),
        "rows": rows,
    }


def measure_pairs(pairs: int, planted: float, rows: list[dict[str, Any]]) -> None:
    """Measure and compare, adding each pair to `rows`."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the model processes, which start later
    with tempfile.TemporaryDirectory() as folder:
        for number in range(pairs):
            (first, a_s), (second, b_s) = (measure(Path(folder) / f"{number}-{side}") for side in "ab")
            as_is, slowed = compare(first, second), compare(first, slower(second, planted))
            rows.append(
                {
                    "seconds": [round(a_s, 1), round(b_s, 1)],
                    "ratios": [round(p.ratio.value, 4) for p in as_is.pairs if p.ratio],
                    "identical": verdicts(as_is),
                    "planted": verdicts(slowed),
                }
            )
            sys.stdout.write(f"pair {number + 1} of {pairs}: {rows[-1]}\n")
            sys.stdout.flush()


def main() -> None:
    """Measure the pairs and print how many got a verdict."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pairs", type=int, nargs="?", default=20)
    parser.add_argument("--planted", type=float, default=0.10, help="share by which the second run is made slower")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--machine", default="", help="what the result calls this machine")
    parser.add_argument("--join", type=Path, nargs="+", help="results to make one of, instead of measuring")
    parser.add_argument("--page", action="store_true", help="only write the table of docs/reliability.md")
    options = parser.parse_args()
    if options.page:
        write_part(PAGE, "identical", page_table(RECORDED))
        return
    machine, planted = options.machine, options.planted
    rows: list[dict[str, Any]] = []
    if options.join:
        results = [json.loads(path.read_text(encoding="utf-8")) for path in options.join]
        rows = [row for result in results for row in result["rows"]]
        machine, planted = results[0]["machine"], results[0]["planted"]
    else:
        with contextlib.suppress(KeyboardInterrupt, StopRequestedError):  # what was measured until then is a result
            measure_pairs(options.pairs, planted, rows)
    result = result_of(machine, planted, rows)
    sys.stdout.write(json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=1) + "\n")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
