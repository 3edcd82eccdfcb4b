"""The shortest self-check of this machine, with real processes, and the run that picks it up."""

from __future__ import annotations

import pytest

from dlmbench.results import read_run
from dlmbench.results.selfcheck import read_selfcheck
from support.program import start

pytestmark = pytest.mark.e2e
CONFIG = """
name: smallest
models:
  ar: {family: llama, source: "embedded:ar"}
grid:
  lengths: {prompt_tokens: 8, new_tokens: 4}
  batch_size: 1
  precision: float32
  attention: auto
  samplers:
    autoregressive: {}
prompts: {source: tiny, count: 1}
protocol: {warmup: 1, pilot: 2, min_repeats: 1, max_repeats: 1, processes: 1, rounds: 1}
metrics: []
"""


def test_neighbours_are_measured_beside_a_cell_and_alone():
    from dlmbench.bench.selfcheck import checked_cells, neighbour_cost
    from dlmbench.bench.worker import Placement
    from dlmbench.measure.environment import fingerprint

    cells = checked_cells(fingerprint("cpu"), "cpu", ["hf"])[:1]
    devices = [Placement(threads=1, name=f"CPU {i}") for i in range(2)]
    found = neighbour_cost(cells[0], "cpu", devices)
    assert (found.engine, found.kind, found.gpus) == ("hf", "launch-bound", 2)
    assert 0.3 < found.ratio < 10


def test_three_processes_of_one_engine_and_the_run_that_uses_them(monkeypatch, tmp_path):
    path, config, folder = tmp_path / "check.json", tmp_path / "smallest.yaml", tmp_path / "run"
    done = start("selfcheck", "--engine", "hf", "--budget", "0", "--output", path, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "cannot be shown here" in done.stdout
    found = read_selfcheck(path)
    assert found is not None
    assert {f.processes for f in found.floors} == {3}
    assert all(0.95 < bias.ratio < 1.2 for bias in found.bias)
    assert 0 < found.clock_resolution_s < 1e-3
    assert 0 < found.overhead_s < 0.5

    config.write_text(CONFIG)
    monkeypatch.setenv("DLMBENCH_SELFCHECK", str(path))
    done = start("run", "--config", config, "--output-dir", folder, timeout=200)
    assert done.returncode == 0, done.stderr
    assert read_run(folder).selfcheck == found
    assert "dlmbench selfcheck" not in done.stderr

    path.write_text("{")
    done = start("run", "--config", config, "--output-dir", tmp_path / "other", timeout=200)
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert read_run(tmp_path / "other").results[0].samples == (), "refused before anything is measured"
