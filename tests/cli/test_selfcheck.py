"""`selfcheck` and the line of `doctor` about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlmbench.bench import selfcheck as check
from dlmbench.cli import console
from dlmbench.measure.environment import fingerprint
from dlmbench.results.selfcheck import read_selfcheck, selfcheck_path
from dlmbench.types import NeighbourCost
from support.program import run
from support.selfchecks import a_selfcheck


@pytest.fixture(autouse=True)
def state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_the_table_ends_with_what_cannot_be_shown(capsys, monkeypatch):
    environment, asked = fingerprint("cpu"), []

    def run_selfcheck(found, device, on_progress, engines, budget_s, placements):
        assert placements == ()
        on_progress("process 1: start", 0, 2)
        asked.append((found.id, device, tuple(engines), budget_s))
        beside = NeighbourCost("busy", "hf", 4, 1.25)
        broken = ("native, busy: no such kernel",)
        return replace(a_selfcheck(found), other_cores=1.5, not_measured=broken, neighbours=(beside,))

    monkeypatch.setattr(check, "run_selfcheck", run_selfcheck)
    monkeypatch.setattr("dlmbench.bench.generate.default_device", lambda: "cpu")
    code, out, err = run(capsys, "selfcheck", "--engine", "hf", "--budget", "7")
    assert code == 0, err
    assert asked == [(environment.id, "cpu", ("hf",), 7.0)]
    assert "0/2 process 1: start" in err
    # The noisier kind has sd 0.02: exp(1.96 x 0.02 sqrt(2 / n)) - 1
    assert "Differences under 5.7% cannot be shown here by a run with 1 process, under 3.3% by one with 3" in out
    assert "3% planted" in out
    assert "no such kernel" in out
    assert "Beside 3 busy GPUs hf, busy, takes +25.0%." in out
    assert "disturbed" in out
    path = selfcheck_path(environment.id)
    assert out.splitlines()[-1] == str(path)
    assert read_selfcheck(path) is not None
    run(capsys, "selfcheck")
    assert asked[-1][2:] == (check.ENGINES, check.BUDGET_S["cpu"])


def test_a_machine_too_noisy_to_compare_has_no_absurd_figures():
    noisy = a_selfcheck(sd_log_upper=10.0)
    assert any(line.startswith("Differences under 100.0% cannot be shown") for line in console.selfcheck_remarks(noisy))
    assert list(console.selfcheck(noisy).columns[2].cells) == ["over 100%", "over 100%"]


def test_the_doctor_says_whether_there_is_one(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, out, _ = run(capsys, "doctor")
    assert "ok       selfcheck: none for this environment" in out
    assert "dlmbench selfcheck" in out
    path = tmp_path / "mine.json"
    monkeypatch.setenv("DLMBENCH_SELFCHECK", str(path))
    path.write_text("{")
    _, out, _ = run(capsys, "doctor")
    assert f"error    selfcheck: {path}" in out
