"""Does the instrument call two identical runs different, and does it find a slowdown that was planted?

Pairs of short runs of the embedded models (two cells each) are measured one after the other and compared with
`dlmbench compare`'s own function. The same pairs are then compared once more with the second run's latencies made
longer by a known share, so that the noise is the real one.

    python benchmarks/identical_runs.py [PAIRS] [--planted 0.10] [--output docs/study/instrument/identical-runs.json]
    python benchmarks/identical_runs.py --page    # the table of docs/reliability.md, from the recorded result
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tables import markdown, write_part

from dlmbench.analysis.compare import Comparison, compare
from dlmbench.bench import run as session
from dlmbench.bench.forecast import AS_FOUND
from dlmbench.cli import console
from dlmbench.cli.options import PlanOptions
from dlmbench.results import read_run
from dlmbench.types import Run

ROOT = Path(__file__).parents[1]
RECORDED, PAGE = ROOT / "docs/study/instrument/identical-runs.json", ROOT / "docs/reliability.md"
EXPERIMENT = """
name: identical
models:
  ar: {family: llama, source: "embedded:ar"}
  llada: {family: llada, source: "embedded:llada"}
grid:
  lengths: {prompt_tokens: 32, new_tokens: 32}
  batch_size: 1
  precision: float32
  attention: auto
  engine: hf
  samplers:
    autoregressive: {temperature: 0}
    masked_diffusion: {steps: 16}
prompts: {source: tiny, count: 2}
protocol: {warmup: 2, pilot: 5, min_repeats: 4, max_repeats: 4, max_time_s: 10, processes: 3, rounds: 1}
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


def page_table(recorded: Path) -> str:
    """What docs/reliability.md shows of a recorded result."""
    result = json.loads(recorded.read_text(encoding="utf-8"))
    logs = [[math.log(ratio) for ratio in row["ratios"]] for row in result["rows"]]
    spread = statistics.stdev(value for pair in logs for value in pair)
    header = (
        "pairs",
        "a verdict though identical",
        f"found, {result['planted']:.0%} planted",
        "sd of log ratios",
        "correlation of a pair's two cells",
        "longest run",
    )
    row = (
        result["pairs"],
        result["with a verdict though identical"],
        result["found where planted"],
        f"{spread:.1%}",
        f"{statistics.correlation(*zip(*logs, strict=True)):.2f}",
        f"{result['longest run, s']:.0f} s",
    )
    return markdown(header, [row])


def main() -> None:
    """Measure the pairs and print how many got a verdict."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pairs", type=int, nargs="?", default=20)
    parser.add_argument("--planted", type=float, default=0.10, help="share by which the second run is made slower")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--page", action="store_true", help="only write the table of docs/reliability.md")
    options = parser.parse_args()
    if options.page:
        write_part(PAGE, "identical", page_table(RECORDED))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.pairs):
            (first, a_s), (second, b_s) = (measure(Path(folder) / f"{number}-{side}") for side in "ab")
            as_is, planted = compare(first, second), compare(first, slower(second, options.planted))
            rows.append(
                {
                    "seconds": [round(a_s, 1), round(b_s, 1)],
                    "ratios": [round(p.ratio.value, 4) for p in as_is.pairs if p.ratio],
                    "identical": verdicts(as_is),
                    "planted": verdicts(planted),
                }
            )
            sys.stdout.write(f"pair {number + 1} of {options.pairs}: {rows[-1]}\n")
            sys.stdout.flush()
    result = {
        "pairs": options.pairs,
        "planted": options.planted,
        "with a verdict though identical": sum(bool(r["identical"]) for r in rows),
        "found where planted": sum("slower" in r["planted"] for r in rows),
        "longest run, s": max(s for r in rows for s in r["seconds"]),
        "rows": rows,
    }
    sys.stdout.write(json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=1) + "\n")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
