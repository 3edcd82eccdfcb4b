"""The checks of the fault campaign find what they look for: on a recorded run, without measuring anything."""

from __future__ import annotations

import json
import shutil

import pytest

from faults.campaign import ROOT, Campaign, Fault, repetitions, table
from faults.campaign import killed as kill_after

WHOLE = ROOT / "docs/study/h200-native"


@pytest.fixture
def output(tmp_path):
    return shutil.copytree(WHOLE, tmp_path / "run")


def compared(output, kept=None):
    """The row of a fault after which a run ended as in `output`."""
    campaign, fault = object.__new__(Campaign), Fault("fault")
    campaign.whole = WHOLE
    before = repetitions(WHOLE) if kept is None else kept
    campaign.compare(fault, output, before, [])
    return fault


def rewrite(output, change):
    records = output / "records.jsonl"
    lines = records.read_text().splitlines()
    records.write_text("\n".join(change(lines)) + "\n")


def samples(lines):
    return [i for i, line in enumerate(lines) if '"kind": "sample"' in line and '"is_warmup": false' in line]


def test_a_run_that_ended_as_undisturbed(output):
    row = compared(output)
    assert (row.tries, row.runs, row.lost) == (1, 1, 0)
    assert row.kept == len(repetitions(WHOLE)) > 10


def test_a_repetition_that_is_gone_is_counted_as_lost(output):
    warm_up = next(line for line in repetitions(WHOLE) if '"is_warmup": true' in line)
    rewrite(output, lambda lines: [line for line in lines if line != warm_up])
    assert compared(output).lost == 1


def test_a_repetition_that_was_recorded_twice_is_found(output):
    def under_a_new_number(lines):
        last = json.loads(lines[samples(lines)[-1]])
        return [*lines, json.dumps(last | {"index": 10_000})]

    rewrite(output, under_a_new_number)
    with pytest.raises(AssertionError):
        compared(output)


def test_two_repetitions_under_one_number_are_found(output):
    def at_another_time(lines):
        last = json.loads(lines[samples(lines)[-1]])
        return [*lines, json.dumps(last | {"started_at": "2031-01-01T00:00:00.000+00:00"})]

    rewrite(output, at_another_time)
    with pytest.raises(AssertionError):
        compared(output)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [line for line in lines if '"kind": "memory"' not in line],
        lambda lines: [line for line in lines if '"kind": "status"' not in line],
        lambda lines: [line.replace('"status": "ok"', '"status": "error"') for line in lines],
    ],
)
def test_a_run_that_ended_otherwise_is_found(output, change):
    rewrite(output, change)
    with pytest.raises(AssertionError):
        compared(output)


def test_a_page_that_was_not_written_is_found(output):
    (output / "report.md").unlink(missing_ok=True)
    (output / "report.html").write_text("")
    campaign, fault = object.__new__(Campaign), Fault("fault")
    campaign.whole = shutil.copytree(output, output.with_name("whole"))
    (campaign.whole / "report.md").write_text("")
    with pytest.raises(AssertionError):
        campaign.compare(fault, output, [], [])
    (output / "report.md").write_text("")
    campaign.compare(fault, output, [], [])


def test_what_the_user_sees_is_compared():
    fault = Fault("fault")
    fault.shows(2, "the disk is full: ...", 2, "the disk is full")
    assert fault.seen == '"the disk is full", exit code 2'
    for code, text in ((1, "the disk is full"), (2, "something else"), (2, "the disk is full\nTraceback ...")):
        with pytest.raises(AssertionError):
            fault.shows(code, text, 2, "the disk is full")


@pytest.mark.parametrize(("command", "was_killed"), [(["sleep", "20"], True), (["true"], False)])
def test_only_a_command_that_a_kill_ended_was_killed(command, was_killed):
    assert kill_after(command, 1 if was_killed else 20) is was_killed


def test_a_command_that_failed_before_its_kill_is_an_error():
    with pytest.raises(AssertionError):
        kill_after(["false"], 20)


def test_the_table_says_only_what_was_counted_and_seen():
    fault = Fault("fault", tries=4)
    assert "| fault | 4 | – | – | – | 0 ended as undisturbed |" in table([fault])
    fault.count(["a", "b", "b"], ["b", "c"])
    fault.count(["a"], ["a"])
    assert "| fault | 4 | – | 4 | 2 |" in table([fault])
