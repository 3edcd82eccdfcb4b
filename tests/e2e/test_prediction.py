"""What a run does with predictions: it says how long it takes, and skips what should not fit until told to try."""

from __future__ import annotations

import csv
import functools
import re
from pathlib import Path

import pytest

from dlmbench.results import read_run
from support.experiments import embedded_pair
from support.program import measured_lines, start

# Several runs of several processes each, on whatever machine there is.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
PROTOCOL = "{warmup: 1, pilot: 2, min_repeats: 1, max_repeats: 1, max_time_s: 60, processes: 1}"
CONFIG = embedded_pair(steps="[4]", batch_size="[1, 64]", count=2, protocol=PROTOCOL, metrics="[distinct_1]")
# Room for the embedded pair at batch size 1 (about 57 MB by the model), and not at 64 (over 80 MB).
DEVICE = """
- {name: Small box, bf16_flops: 5e10, fp32_flops: 5e10, bandwidth: 1e10, memory_bytes: 70e6, source: me, date: 2026}
"""


@pytest.fixture
def command(tmp_path):
    (tmp_path / "small.yaml").write_text(CONFIG)
    (tmp_path / "box.yaml").write_text(DEVICE)
    given = ("--config", tmp_path / "small.yaml", "--output_dir", tmp_path / "raw_data")
    return functools.partial(start, "run", *given, timeout=700), tmp_path


def statuses(folder: Path) -> dict[str, set[str | None]]:
    found: dict[str, set[str | None]] = {}
    for result in read_run(folder / "raw_data").results:
        found.setdefault(f"{result.cell.model.key} B={result.cell.batch_size}", set()).add(result.status)
    return found


def test_what_should_not_fit_is_skipped_until_it_is_tried(command):
    run, folder = command
    box = ["--hardware", "small box", "--hardware_file", str(folder / "box.yaml")]
    first = run(*box)
    assert first.returncode == 0, first.stderr
    fits, skipped = {"ok"}, {"skipped"}
    assert statuses(folder) == {"ar B=1": fits, "llada B=1": fits, "ar B=64": skipped, "llada B=64": skipped}
    assert re.search(r"not tried \(predicted not to fit: .* GB of the 0\.07 GB of Small box\).*--try-oom", first.stderr)
    # Before anything is timed the box's own prediction is shown: a known device needs no cell for it.
    assert re.search(r"about [\d.]+ s left\] process 1 of 1, round 1 of 2", first.stderr)
    with (folder / "raw_data/raw_metrics.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["batch_size"] == "64"]
    assert [(r["status"], r["latency_s"]) for r in rows] == [("skipped", ""), ("skipped", "")]
    assert all(r["reason"].startswith("predicted not to fit") for r in rows)
    assert first.stdout.count("skipped: predicted not to fit") == 2  # in the table as well

    before = measured_lines(folder / "raw_data")
    again = run(*box)
    assert again.returncode == 0, again.stderr
    assert measured_lines(folder / "raw_data") == before

    tried = run(*box, "--try_oom")
    assert tried.returncode == 0, tried.stderr
    assert set().union(*statuses(folder).values()) == {"ok"}
    for result in read_run(folder / "raw_data").results:
        assert len(result.timed) >= 2  # the pilot; a slow machine has no time for more
    assert "skipped" not in tried.stdout


def test_a_machine_that_is_another_is_refused_and_one_that_is_unknown_learns_as_it_goes(command):
    run, _ = command
    wrong = run("--hardware", "h200")
    assert wrong.returncode == 2
    assert "the device is CPU" in wrong.stderr
    assert ", not H200." in wrong.stderr
    assert sum(line.startswith("dlmbench: ") for line in wrong.stderr.splitlines()) == 1
    assert "Traceback" not in wrong.stderr
    plain = run("--batch_size", "1")
    assert plain.returncode == 0, plain.stderr
    visits = [line for line in plain.stderr.splitlines() if "round 1 of 2" in line]
    assert "left" not in visits[0]  # nothing is known yet
    assert "more than " in visits[1]  # of the other model nothing is
    assert re.search(r"about [\d.]+ s left\] process 1 of 1, round 2 of 2", plain.stderr)
