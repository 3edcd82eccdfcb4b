"""The table of benchmarks/instrument.py, on invented runs whose spread is known."""

import json
import math
import sys
from dataclasses import replace

import pytest
from scipy import stats

from dlmbench.types import Run
from support.examples import ROOT
from support.synthetic_run import ENVIRONMENT, baseline_cell, measured

sys.path.insert(0, str(ROOT / "benchmarks"))
import instrument

CELL = baseline_cell()


def a_run(host, centre_s, between, within):
    """Three processes whose medians differ by `between` from one to the next, and their repetitions by `within`."""
    latencies = [
        centre_s * math.exp(process * between + repetition * within)
        for repetition in (-1, 0, 1)
        for process in (-1, 0, 1)
    ]
    return Run("f", "n", replace(ENVIRONMENT, host=host), (CELL,), (), (measured(CELL, latencies, processes=3),))


def test_the_spread_at_each_level():
    runs = [a_run("a", 1.0, 0.02, 0.001), a_run("a", 1.01, 0.02, 0.001), a_run("b", 1.2, 0.0, 0.003)]
    row_a, row_b = instrument.noise_rows(runs)
    assert (row_a["host"], row_a["runs"], row_a["processes"], row_a["repetitions"]) == ("a", 2, 6, 18)
    assert row_a["within_process"] == pytest.approx(0.001)
    assert row_a["between_processes"] == pytest.approx(0.02)
    # Two runs of three processes leave four degrees of freedom.
    assert row_a["between_processes_upper"] == pytest.approx(0.02 * math.sqrt(4 / stats.chi2.ppf(0.05, 4)))
    assert row_a["between_runs"] == pytest.approx(0.01)
    assert row_b["between_runs"] is None
    expected = 1.2 / math.sqrt(1.01) - 1
    assert row_a["between_hosts"] == row_b["between_hosts"] == pytest.approx(expected)


def test_rested_against_sustained():
    samples = tuple((float(t), 1.0 if t < 10 else 1.04) for t in range(60))
    load = instrument.UnderLoad(ENVIRONMENT.device, "a", CELL.engine, CELL.label, samples)
    (row,) = instrument.noise_rows([a_run("a", 1.0, 0.01, 0.001)], [load])
    assert (row["rested_s"], row["sustained_s"]) == (1.0, 1.04)
    assert row["sustained_over_rested"] == pytest.approx(0.04)
    assert "+4.00%" in instrument.page_table([row])


def test_one_process_has_no_spread_between_processes():
    run = a_run("a", 1.0, 0.0, 0.001)
    (result,) = run.results
    own = tuple(s for s in result.samples if s.process_id == 7)
    (row,) = instrument.noise_rows([replace(run, results=(replace(result, samples=own),))])
    assert (row["between_processes"], row["between_processes_upper"], row["between_hosts"]) == (None, None, None)


def test_a_kept_run_has_the_new_name_of_its_host(tmp_path, monkeypatch):
    monkeypatch.setattr(instrument, "FOLDER", tmp_path / "study")
    records = [{"kind": "environment", "host": "secret"}, {"kind": "experiment", "name": "n"}]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    (tmp_path / "experiment.json").write_text("{}")
    instrument.keep(tmp_path, "one", "host-a")
    kept = (tmp_path / "study/one/records.jsonl").read_text()
    assert "secret" not in kept
    assert json.loads(kept.splitlines()[0])["host"] == "host-a"
