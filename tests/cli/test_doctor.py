"""The doctor: every state of a machine, the advice for it, and the exit code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dlmbench.cli import doctor
from dlmbench.measure.nvml import GpuCondition, GpuMeter, driver_gpu_count
from support.program import run

ROOT = Path(__file__).parents[2]
SOUND = GpuCondition(
    is_persistent=True, has_ecc=True, ecc_errors=0, sm_clock_mhz=1410, max_sm_clock_mhz=1410, throttle="",
    compute_mode="default", is_divided=False, power_cap_w=400.0, default_power_cap_w=400.0, other_processes=0,
    counts_energy=True,
)  # fmt: skip


def found(condition):
    return {e.subject: e for e in doctor.gpu_checks(condition)}


def test_a_sound_gpu_is_ok_in_every_respect():
    checks = found(SOUND)
    assert set(checks) == {"exclusivity", "clocks", "persistence", "ECC", "power"}
    assert {e.state for e in checks.values()} == {"ok"}
    assert not any(e.hint for e in checks.values())


@pytest.mark.parametrize(
    ("changes", "subject", "state", "text"),
    [
        ({"other_processes": 2}, "exclusivity", "warning", "2 other processes"),
        ({"other_processes": None}, "exclusivity", "ok", "cannot be detected"),
        ({"compute_mode": "prohibited"}, "compute mode", "error", "nvidia-smi -c DEFAULT"),
        ({"is_divided": True}, "MIG", "warning", "a slice is measured"),
        ({"throttle": "hw_thermal"}, "clocks", "warning", "throttled by hw_thermal"),
        ({"is_persistent": False}, "persistence", "warning", "nvidia-smi -pm 1"),
        ({"ecc_errors": 3}, "ECC", "warning", "3 uncorrected errors"),
        ({"has_ecc": False, "ecc_errors": None}, "ECC", "ok", "off"),
        ({"power_cap_w": 250.0}, "power", "warning", "below the default 400 W"),
        ({"counts_energy": False}, "energy", "warning", "Energy will be unknown"),
    ],
)
def test_a_problem_of_a_gpu_is_reported_with_a_hint(changes, subject, state, text):
    checks = found(replace(SOUND, **changes))[subject]
    assert checks.state == state
    assert text in checks.line
    assert bool(checks.hint) == (state != "ok")


def test_a_gpu_that_reports_nothing_raises_no_alarm():
    silent = GpuMeter().condition()
    assert silent == GpuCondition(*[None] * 11, counts_energy=False)
    assert {e.subject for e in doctor.gpu_checks(silent) if e.state == "warning"} == {"energy"}
    assert driver_gpu_count() >= 0


def test_this_machine(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none"))
    code, out, err = run(capsys, "doctor", "--config", ROOT / "config" / "experiments_tiny.yaml")
    assert code == 0, err
    assert err == ""
    subjects = {line[9:].partition(":")[0] for line in out.splitlines()}
    assert {"python", "packages", "device", "memory", "cores", "disk", "caches", "SLURM", "model embedded"} <= subjects
    assert {line[:8].strip() for line in out.splitlines()} <= {"ok", "warning"}
    for line in out.splitlines():
        if line.startswith("warning"):
            assert line.count(". ") >= 1 or "(" in line, f"a warning without a hint: {line}"


def test_an_error_decides_the_exit_code(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    code, out, err = run(capsys, "doctor", "--config", ROOT / "config" / "experiments.yaml")
    assert code == 2
    assert "error    model GSAI-ML/LLaDA-8B-Base: it is not in the cache" in out
    assert "3 checks failed: this machine is not ready to measure" in err


def test_one_problem_is_counted_in_the_singular(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "run_checks", lambda experiment: [doctor.Check("error", "disk", "full", "tidy")])
    code, _, err = run(capsys, "doctor")
    assert code == 2
    assert "1 check failed: this machine is not ready to measure" in err


def test_a_package_of_another_version_is_an_error(monkeypatch):
    real = doctor.metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "1.0" if name == "transformers" else real(name))
    wrong = [e for e in doctor._packages() if e.state == "error"]
    assert [e.subject for e in wrong] == ["packages"]
    assert "transformers 1.0, needed" in wrong[0].text
    assert "make setup" in wrong[0].hint


def test_a_job_knows_whether_its_node_is_shared(monkeypatch, tmp_path):
    if not doctor.scheduler.is_available():
        pytest.skip("SLURM's commands are not here")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("DLMBENCH_NODE_SHARED", "1")
    checks = {e.subject: e for e in doctor._cluster()}
    assert checks["SLURM"].state == "warning"
    assert "shares it with other jobs" in checks["node"].text
    monkeypatch.setenv("DLMBENCH_NODE_SHARED", "0")
    assert {e.subject: e.state for e in doctor._cluster()}["node"] == "ok"


def test_a_source_tree_that_is_not_installed_gets_the_command(monkeypatch):
    def missing(name):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "metadata", missing)
    (only,) = doctor._packages()
    assert (only.state, only.subject) == ("error", "packages")
    assert "make setup" in only.hint
