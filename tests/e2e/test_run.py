"""Whole runs with real processes: all cells measured, a kill costs one repetition, a resume repeats nothing."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

import dlmbench
from dlmbench.results import read_run
from support.experiments import embedded_pair
from support.program import command_line, measured_lines, start
from support.report_values import assert_one_text_each

pytestmark = pytest.mark.e2e
CHECKPOINTS = Path(dlmbench.__file__).parent / "tiny" / "checkpoints"
PROTOCOL = "{warmup: 1, pilot: 5, max_repeats: 10, max_time_s: 20, processes: 1}"
METRICS = "[likelihood, oracle_log_prob, oracle_validity, oracle_truth, distinct_1, repetition]"
CONFIG = embedded_pair(batch_size="[1, 2]", protocol=PROTOCOL, metrics=METRICS)


@pytest.fixture
def command(tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text(CONFIG)
    output = tmp_path / "raw_data"
    return ["run", "--config", config, "--output_dir", output], output


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "raw_metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_everything_and_a_second_one_adds_nothing(command):
    arguments, output = command
    first = start(*arguments, timeout=400)
    assert first.returncode == 0, first.stderr
    table = rows(output)
    assert len({r["cell_id"] for r in table}) == 6
    assert all(r["status"] == "ok" for r in table)
    keys = [(r["cell_id"], r["index"], r["is_warmup"]) for r in table]
    assert len(set(keys)) == len(keys)
    for cell in {r["cell_id"] for r in table}:
        timed = [r for r in table if r["cell_id"] == cell and r["is_warmup"] == "false"]
        assert len(timed) >= 15
    assert first.stdout.rstrip().endswith("report.html")
    page = (output / "report.html").read_text()
    # The page brings Vega and each chart's specification with it, packed.
    assert len(re.search(r'id="vega">([^<]+)', page)[1]) > 250_000
    assert len(re.findall(r'id="plot-\w+"', page)) >= 8
    figures = output.parent / "figures"
    for name in (
        "latency_vs_steps",
        "quality_vs_steps",
        "pareto_frontier",
        "throughput_vs_batch_size",
        "throughput_by_batch_size",
        "memory_heatmap",
    ):
        assert (figures / f"{name}.png").stat().st_size > 10_000
    scores = json.loads((output / "quality_metrics.json").read_text())["scores"]
    likelihood = {s["steps"]: s["value"] for s in scores if s["metric"] == "likelihood" and s["role"] == "target"}
    assert likelihood[16] < likelihood[4]  # more steps, better
    assert {s["n"] for s in scores if s["metric"] == "likelihood"} == {6}

    before = measured_lines(output)
    again = start(*arguments, timeout=100)
    assert again.returncode == 0, again.stderr
    assert measured_lines(output) == before
    assert again.stdout == first.stdout
    assert "6 of 6 cells done" in again.stderr

    edited = arguments[2].with_name("edited.yaml")
    edited.write_text(CONFIG + "seed: 3\n")
    refused = start("run", "--config", edited, "--output_dir", output, timeout=100)
    assert refused.returncode == 2
    assert "seed: 0 on record, 3 now" in refused.stderr
    assert "--extend" in refused.stderr
    assert measured_lines(output) == before


def test_kill_9_in_the_middle_and_the_same_command_again(command):
    arguments, output = command
    process = subprocess.Popen(command_line(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    records = output / "records.jsonl"
    deadline = time.monotonic() + 200
    while not records.exists() or records.read_text().count('"kind": "sample"') < 12:
        assert time.monotonic() < deadline, "no samples"
        assert process.poll() is None
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive, "workers outlived their parent"
    kept = [line for line in records.read_text().splitlines() if '"kind": "sample"' in line]

    done = start(*arguments, timeout=400)
    assert done.returncode == 0, done.stderr
    samples = [line for line in records.read_text().splitlines() if '"kind": "sample"' in line]
    assert samples[: len(kept)] == kept
    table = rows(output)
    keys = [(r["cell_id"], r["index"], r["is_warmup"]) for r in table]
    assert len(set(keys)) == len(keys)
    run = read_run(output)
    assert {r.cell.id for r in run.results} == {c.id for c in run.cells}
    assert len(run.cells) == 6
    assert all(r.status == "ok" and len(r.timed) >= 15 for r in run.results)
    spans = [r for r in run.results if len({s.process_id for s in r.samples}) > 1]
    assert spans, "the kill came too late to prove anything"
    for result in spans:  # a fresh process warms up again
        assert sum(s.is_warmup for s in result.samples) >= 2


def test_two_runs_cannot_write_into_one_folder(command):
    arguments, output = command
    process = subprocess.Popen(command_line(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (output / "records.jsonl").exists():
            time.sleep(0.02)
        second = start(*arguments, timeout=100)
        assert second.returncode == 2
        assert "another run" in second.stderr.lower()
    finally:
        process.kill()
        process.wait()


def test_a_worker_that_dies_costs_its_cell_and_no_other(command):
    arguments, output = command
    process = subprocess.Popen(command_line(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    records = output / "records.jsonl"
    while not records.exists() or records.read_text().count('"kind": "sample"') < 12:
        assert process.poll() is None
        time.sleep(0.02)
    workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
    workers[0].kill()
    _, talk = process.communicate(timeout=400)
    statuses = {r.cell.id: (r.status, r.reason) for r in read_run(output).results}
    assert len(statuses) == 6
    failed = [reason for status, reason in statuses.values() if status != "ok"]
    assert len(failed) <= 1
    assert process.returncode == len(failed), talk
    assert all("died" in reason for reason in failed)


@pytest.mark.timeout(1000)  # as long as the command itself may take
def test_the_embedded_demo_answers_and_resumes(tmp_path):
    output = tmp_path / "raw_data"
    first = start("demo", "--output_dir", output, timeout=900)
    assert first.returncode == 0, first.stderr
    scores = json.loads((output / "quality_metrics.json").read_text())["scores"]

    def curve(metric: str, tokens: int, block: int) -> list[float]:
        wanted = {"metric": metric, "role": "target", "new_tokens": tokens, "block_length": block}
        found = [s for s in scores if all(s[k] == v for k, v in wanted.items())]
        return [s["value"] for s in sorted(found, key=lambda s: s["steps"])]

    sweep = curve("likelihood", 64, 64)
    assert len(sweep) == 4
    assert sweep == sorted(sweep, reverse=True), "the likelihood improves with every step count"
    validity = curve("oracle_validity", 64, 64)
    assert validity[-1] > validity[0], "and the oracle agrees"
    assert len(curve("likelihood", 64, 16)) == 1
    assert len(curve("likelihood", 32, 32)) == 1
    # Two regimes, each with a verdict of its own.
    assert {(r["batch_size"], r["new_tokens"]) for r in rows(output)} == {
        ("1", "64"),
        ("1", "32"),
        ("2", "32"),
        ("4", "32"),
    }
    printed = " ".join(first.stdout.split())
    for workload in ("1, 64+64", "1, 64+32", "2, 64+32", "4, 64+32"):
        assert printed.count(workload) == 1, workload
    assert "faster only up to k*" in printed
    assert "As good: by the likelihood of the true text, a perplexity up to 10% higher" in printed
    assert re.search(r"(?i)undecided|wins", printed)
    page, document = ((output / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    assert_one_text_each(page, document)
    begun = time.monotonic()
    assert start("demo", "--output_dir", output, timeout=100).stdout == first.stdout
    assert time.monotonic() - begun < 60


def test_a_moved_checkpoint_resumes_and_a_replaced_one_is_refused(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    protocol = PROTOCOL.replace("max_repeats: 10", "max_repeats: 10, min_repeats: 0")
    document = embedded_pair(steps="4", protocol=protocol, metrics=METRICS).replace("embedded:", f"{tmp_path}/")
    config, output = tmp_path / "small.yaml", tmp_path / "run" / "raw_data"
    for name in ("ar", "llada"):
        shutil.copytree(CHECKPOINTS / name, tmp_path / name)
    config.write_text(document)
    arguments = ("run", "--config", config, "--output_dir", output)
    first = start(*arguments, timeout=400)
    assert first.returncode == 0, first.stderr
    samples = [line for line in measured_lines(output) if '"kind": "sample"' in line]

    (tmp_path / "ar").rename(tmp_path / "moved")
    config.write_text(
        config.read_text().replace("ar: {", "renamed: {").replace(f'{tmp_path}/ar"', f'{tmp_path}/moved"')
    )
    again = start(*arguments, timeout=100)
    assert again.returncode == 0, again.stderr
    assert [line for line in measured_lines(output) if '"kind": "sample"' in line] == samples
    assert {r["model"] for r in rows(output)} == {"renamed", "llada"}

    path = tmp_path / "llada" / "model.safetensors"
    before = {p: p.read_bytes() for p in output.iterdir() if p.is_file()}
    save_file({name: value + torch.ones_like(value) * 1e-3 for name, value in load_file(path).items()}, path)
    for command in (("run", *arguments[1:], "--batch_size", "2"), ("score", output, "-m", "distinct_2,elbo")):
        refused = start(*command, timeout=100)
        assert refused.returncode == 2, refused.stderr
        assert "model llada" in refused.stderr
        assert "a different checkpoint" in refused.stderr
        assert {p: p.read_bytes() for p in output.iterdir() if p.is_file()} == before
