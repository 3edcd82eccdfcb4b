"""TERM and Ctrl-C end a run after the repetition under way, say how to resume, and have codes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from dlmbench.results import read_run
from support.experiments import embedded_pair
from support.program import command_line

pytestmark = pytest.mark.e2e


@pytest.fixture
def started(tmp_path):
    (tmp_path / "pair.yaml").write_text(embedded_pair(protocol="{processes: 1, min_repeats: 60, max_repeats: 60}"))
    output = tmp_path / "run"
    command = command_line("run", "--config", str(tmp_path / "pair.yaml"), "--output-dir", str(output))
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    records = output / "records.jsonl"
    deadline = time.monotonic() + 120
    while not records.exists() or records.read_text().count('"kind": "sample"') < 12:
        assert time.monotonic() < deadline, "no samples"
        assert process.poll() is None
        time.sleep(0.02)
    yield process, output
    process.kill()
    process.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_whole_group_keeps_every_repetition_and_fails_no_cell(started, number, code):
    process, output = started
    os.killpg(process.pid, number)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == code
    assert "the same command resumes" in talk
    assert "Traceback" not in talk
    run = read_run(output)
    assert {r.status for r in run.results} <= {"ok", None}
    assert sum(len(r.samples) for r in run.results) >= 12
