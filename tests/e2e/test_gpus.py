"""Two devices of one machine (threads of its CPU), real processes: the run is the same, a kill loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from dlmbench.results import read_generations, read_run
from support.altered_program import altered
from support.experiments import embedded_pair

pytestmark = pytest.mark.e2e
PROTOCOL = "{warmup: 1, pilot: 3, min_repeats: 9, max_repeats: 9, max_time_s: 60, rounds: 1, processes: 3}"


def start(config: Path, output: Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = altered("run", "--config", config, "--output-dir", output, "--gpus", "2", devices=2)
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def samples_of(output: Path) -> int:
    records = output / "records.jsonl"
    return records.read_text().count('"kind": "sample"') if records.exists() else 0


def wait_for_samples(process: subprocess.Popen, output: Path, number: int) -> None:
    deadline = time.monotonic() + 120
    while samples_of(output) < number:
        assert time.monotonic() < deadline, "no samples"
        assert process.poll() is None
        time.sleep(0.02)


def finished(output: Path):
    run = read_run(output)
    assert len(run.cells) == 3
    for result in run.results:
        assert result.status == "ok", result.reason
        keys = [(s.is_warmup, s.index) for s in result.samples]
        assert len(set(keys)) == len(keys)
        assert sum(n >= 3 for n in Counter(s.process_id for s in result.timed).values()) == 3
        assert result.traced is not None
        assert result.memory is not None
    return run


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("two") / "pair.yaml"
    path.write_text(embedded_pair(protocol=PROTOCOL, count=4))
    return path


@pytest.fixture(scope="module")
def undisturbed(config):
    process = start(config, config.with_name("whole"))
    _, talk = process.communicate(timeout=300)
    assert process.returncode == 0, talk
    assert "CPU 0: process" in talk
    assert "CPU 1: process" in talk
    return config.with_name("whole")


def texts(output: Path) -> dict:
    return {(g.cell_id, g.prompt_index): g.text for g in read_generations(output)}


def test_a_run_on_two_devices_measures_each_process_of_each_cell_once(undisturbed):
    run = finished(undisturbed)
    assert {s.neighbours for r in run.results for s in r.timed} <= {0, 1}
    assert any(s.neighbours == 1 for r in run.results for s in r.timed)
    assert len(texts(undisturbed)) == 3 * 4
    assert {s.metric for s in run.scores} == {"likelihood"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_and_the_same_run_again(config, undisturbed, number, code):
    output = config.with_name(f"stopped-{number}")
    process = start(config, output)
    wait_for_samples(process, output, 12)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == code
    assert number == signal.SIGKILL or "the same command resumes" in talk
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "workers outlived their parent"
    assert not any(r.status in ("error", "invalid") for r in read_run(output).results)
    kept = samples_of(output)
    again = start(config, output)
    _, talk = again.communicate(timeout=300)
    assert again.returncode == 0, talk
    finished(output)
    assert samples_of(output) > kept
    assert texts(output) == texts(undisturbed)


def test_a_worker_that_is_killed_costs_its_cell_alone_and_the_next_run_measures_it(config):
    output = config.with_name("worker")
    process = start(config, output)
    wait_for_samples(process, output, 8)
    workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
    workers[0].kill()
    process.communicate(timeout=300)
    failed = [r.reason for r in read_run(output).results if r.status != "ok"]
    assert len(failed) <= 1
    assert all("died" in reason for reason in failed)
    again = start(config, output)
    again.communicate(timeout=300)
    finished(output)
