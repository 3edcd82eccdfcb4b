"""The shortest self-check of this machine, with real processes."""

from __future__ import annotations

import pytest

from dlmbench.results.selfcheck import read_selfcheck
from support.program import start

pytestmark = pytest.mark.e2e


def test_three_processes_of_one_engine(tmp_path):
    path = tmp_path / "check.json"
    done = start("selfcheck", "--engine", "hf", "--budget", "0", "--output", path, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "cannot be shown here" in done.stdout
    found = read_selfcheck(path)
    assert found is not None
    assert {f.processes for f in found.floors} == {3}
    assert all(0.95 < bias.ratio < 1.2 for bias in found.bias)
    assert 0 < found.clock_resolution_s < 1e-3
    assert 0 < found.overhead_s < 0.5
