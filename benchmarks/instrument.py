"""How much the same measurement varies: within and between processes, runs and hosts, rested and under load.

    python benchmarks/instrument.py                    # the table of docs/reliability.md, from all recorded runs
    python benchmarks/instrument.py FOLDER...          # the same, from these run folders and files of --sustained
    python benchmarks/instrument.py --keep FOLDER NAME --host h100-a     # copy a run's records into the study
    python benchmarks/instrument.py --sustained FILE.json --config CONFIG --host h100-a    # measure under load

Runs of config/experiments_instrument.yaml are read; `--host` replaces the machine's name in what is kept. The table
reports what was measured and decides nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from tables import markdown, write_csv, write_part

from dlmbench.analysis.stats import group_by
from dlmbench.results import read_run
from dlmbench.types import Architecture, Cell, CellResult, Prompt, PromptBatch, Run

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs/study/instrument"
PAGE = ROOT / "docs/reliability.md"
# Repetitions that began this soon after a rest are rested; those after so much continuous load are sustained.
RESTED_S, SUSTAINED_S = 5.0, 30.0


# ---------------------------------------------------------------- the spread of log latencies


@dataclass(frozen=True)
class Spread:
    """A pooled standard deviation of logs, its degrees of freedom, and its one-sided upper 95% bound."""

    sd: float
    df: int

    @property
    def upper(self) -> float:
        """By chi-square, for normal logs."""
        from scipy import stats

        return self.sd * math.sqrt(self.df / float(stats.chi2.ppf(0.05, self.df)))


def pooled(groups: Iterable[Sequence[float]]) -> Spread | None:
    """The spread of values around the mean of their own group; None where no group has two."""
    squares, df = 0.0, 0
    for values in groups:
        mean = fmean(values)
        squares += math.fsum((v - mean) ** 2 for v in values)
        df += len(values) - 1
    return Spread(math.sqrt(squares / df), df) if df else None


def logs_by_process(result: CellResult) -> dict[int, list[float]]:
    """Log latencies of the timed repetitions of each process."""
    processes = group_by(result.timed, lambda s: s.process_id)
    return {process: [math.log(s.latency_s) for s in own] for process, own in processes.items()}


def run_mean(result: CellResult) -> float:
    """The value of a cell in one run: the mean over processes of their log medians."""
    return fmean(median(logs) for logs in logs_by_process(result).values())


def difference(logs: Sequence[float]) -> float | None:
    """The largest ratio of any two values, as a difference from 1; None for a single one."""
    return math.expm1(max(logs) - min(logs)) if len(logs) > 1 else None


@dataclass(frozen=True)
class UnderLoad:
    """One cell repeated without pause after a rest: pairs (seconds of load before it, latency in seconds)."""

    device: str
    host: str
    engine: str
    cell: str
    samples: tuple[tuple[float, float], ...]

    def median_between(self, first_s: float, last_s: float) -> float | None:
        """The median latency of the repetitions that began between these seconds of load."""
        chosen = [latency for load, latency in self.samples if first_s <= load < last_s]
        return median(chosen) if chosen else None


def noise_rows(runs: Sequence[Run], under_load: Sequence[UnderLoad] = ()) -> list[dict[str, Any]]:
    """One row for each device, engine, cell and host that was measured."""
    found: dict[tuple[str, str, str], dict[str, list[CellResult]]] = {}
    for run in runs:
        assert run.environment is not None, run.folder
        for result in run.results:
            if result.status in ("ok", None) and result.timed:
                key = (run.environment.device, result.cell.engine, result.cell.label)
                found.setdefault(key, {}).setdefault(run.environment.host, []).append(result)
    rows = []
    for (device, engine, label), hosts in found.items():
        run_means = {host: [run_mean(r) for r in results] for host, results in hosts.items()}
        between_hosts = difference([fmean(values) for values in run_means.values()])
        for host, results in hosts.items():
            logs = [logs_by_process(r) for r in results]
            within = pooled([own for processes in logs for own in processes.values()])
            between = pooled([[median(own) for own in processes.values()] for processes in logs])
            key4 = (device, host, engine, label)
            load = next((u for u in under_load if (u.device, u.host, u.engine, u.cell) == key4), None)
            rested = load.median_between(0, RESTED_S) if load else None
            sustained = load.median_between(SUSTAINED_S, math.inf) if load else None
            rows.append(
                {
                    "device": device,
                    "host": host,
                    "engine": engine,
                    "cell": label,
                    "runs": len(results),
                    "processes": sum(len(p) for p in logs),
                    "repetitions": sum(len(own) for p in logs for own in p.values()),
                    "latency_s": math.exp(fmean(run_means[host])),
                    "within_process": within.sd if within else None,
                    "between_processes": between.sd if between else None,
                    "between_processes_upper": between.upper if between else None,
                    "between_runs": difference(run_means[host]),
                    "between_hosts": between_hosts,
                    "rested_s": rested,
                    "sustained_s": sustained,
                    "sustained_over_rested": sustained / rested - 1 if rested and sustained else None,
                }
            )
    return rows


def page_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of docs/reliability.md."""

    def percent(value: float | None, sign: str = "") -> str:
        return "" if value is None else f"{value:{sign}.2%}"

    header = ["device, host", "engine", "cell", "runs, processes", "ms", "within a process", "between processes"]
    header += ["upper bound", "between runs", "between hosts", "sustained over rested"]
    lines = [
        [
            f"{r['device']}, {r['host']}",
            r["engine"],
            re.sub(r" (commit|block_length)=\S+", "", r["cell"]),
            f"{r['runs']}, {r['processes']}",
            f"{1e3 * r['latency_s']:.1f}",
            *(percent(r[k]) for k in ("within_process", "between_processes", "between_processes_upper")),
            *(percent(r[k]) for k in ("between_runs", "between_hosts")),
            percent(r["sustained_over_rested"], "+"),
        ]
        for r in rows
    ]
    return markdown(header, lines)


# ---------------------------------------------------------------- files


def recorded() -> list[Path]:
    """All runs and measurements under load of the study."""
    return sorted([p.parent for p in FOLDER.glob("*/records.jsonl")] + list(FOLDER.glob("sustained-*.json")))


def write_noise(paths: Sequence[Path]) -> None:
    """Write docs/study/instrument/noise.csv and the table of docs/reliability.md."""
    runs = [read_run(path) for path in paths if path.is_dir()]
    files = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.suffix == ".json"]
    under_load = [UnderLoad(**entry | {"samples": tuple(map(tuple, entry["samples"]))}) for f in files for entry in f]
    rows = noise_rows(runs, under_load)
    assert rows, "no measured cell"
    write_csv(FOLDER / "noise.csv", rows)
    write_part(PAGE, "noise", page_table(rows))


def keep(folder: Path, name: str, host: str | None) -> None:
    """Copy what the table needs of a run into the study: its experiment, and its records under the host's new name."""
    target = FOLDER / name
    target.mkdir(parents=True, exist_ok=True)
    lines = []
    for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["kind"] == "environment" and host:
            record["host"] = host
        lines.append(json.dumps(record, separators=(",", ":")))
    (target / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (target / "experiment.json").write_bytes((folder / "experiment.json").read_bytes())


# ---------------------------------------------------------------- under load


def random_batch(cell: Cell, architecture: Architecture) -> PromptBatch:
    """Prompts of random tokens, none of which is the mask."""
    import random

    draw = random.Random(cell.seed)
    ids = [i for i in range(min(architecture.vocab_size, 1000)) if i != architecture.mask_id]
    rows = (tuple(draw.choices(ids, k=cell.prompt_tokens)) for _ in range(cell.batch_size))
    return PromptBatch(tuple(Prompt(i, row) for i, row in enumerate(rows)), "random")


def measure_under_load(config: Path, output: Path, host: str, idle_s: float, busy_s: float, cells: list[int]) -> None:
    """Repeat cells of an experiment without pause for `busy_s` seconds, each after a rest of `idle_s`.

    A warm-up precedes the rest, so that nothing is compiled afterwards. `cells`: places in the plan; all if empty.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as in a worker process: on a CPU a spinning thread takes a core
    import torch

    from dlmbench import models
    from dlmbench.bench.generate import default_device
    from dlmbench.experiment import load, plan
    from dlmbench.measure.clock import clock_for
    from dlmbench.measure.environment import fingerprint
    from dlmbench.sampling.generator import generator_for

    device = default_device()
    every = plan.expand(load.load(config)).cells
    found: list[UnderLoad] = []
    for cell in [every[i] for i in cells] or every:
        model = models.load(
            cell.model, engine=cell.engine, precision=cell.precision, attention=cell.attention, device=device
        )
        generator = generator_for(model, cell.sampler)
        batch = random_batch(cell, model.architecture)
        clock = clock_for(device)
        for _ in range(3):
            generator.generate(batch, cell.new_tokens, dict(cell.knobs), cell.seed)
        clock.synchronize()
        time.sleep(idle_s)
        samples: list[tuple[float, float]] = []
        began = time.perf_counter()
        while (load_s := time.perf_counter() - began) < busy_s:
            start = clock.mark()
            generator.generate(batch, cell.new_tokens, dict(cell.knobs), cell.seed)
            end = clock.mark()
            clock.synchronize()
            samples.append((round(load_s, 4), round(clock.seconds(start, end), 7)))
        found.append(UnderLoad(fingerprint(device).device, host, cell.engine, cell.label, tuple(samples)))
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps([asdict(u) for u in found]) + "\n", encoding="utf-8")
        del model, generator
        if device != "cpu":
            torch.cuda.empty_cache()


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="run folders, and files of --sustained (default: all kept)")
    parser.add_argument("--keep", action="store_true", help="copy a run: FOLDER NAME")
    parser.add_argument("--host", help="the machine's name in what is kept")
    parser.add_argument("--sustained", type=Path, metavar="FILE", help="measure the cells of --config under load")
    parser.add_argument("--config", type=Path, default=ROOT / "config/experiments_instrument.yaml")
    parser.add_argument("--cells", nargs="+", type=int, default=[], help="places in the plan, from 0 (default: all)")
    parser.add_argument("--idle-s", type=float, default=30.0)
    parser.add_argument("--busy-s", type=float, default=60.0)
    arguments = parser.parse_args()
    if arguments.sustained:
        where = (arguments.idle_s, arguments.busy_s, arguments.cells)
        measure_under_load(arguments.config, arguments.sustained, arguments.host or "host", *where)
    elif arguments.keep:
        folder, name = arguments.paths
        keep(folder, str(name), arguments.host)
    else:
        write_noise(arguments.paths or recorded())


if __name__ == "__main__":
    main()
