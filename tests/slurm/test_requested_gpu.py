"""The forecast of `submit` is of the GPU asked for: a known one, one to be named, or an unknown one with a range."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dlmbench.errors import BenchError
from dlmbench.slurm import submission
from support.experiments import embedded_pair
from support.program import fails, run

CONFIG = embedded_pair(steps="[2, 4]", count=4, metrics="[distinct_1]")


@pytest.mark.parametrize(
    ("gres", "name"),
    [
        ("gpu:rtx_a6000:1", "RTX A6000"),
        ("gpu:rtx_a6000", "RTX A6000"),
        ("gpu:a6000:2", "RTX A6000"),
        ("gpu:H200:1", "H200"),
        ("gpu:nvidia_a100-sxm4-80gb:1", "A100 80GB SXM"),
        ("gpu:nvidia_geforce_rtx_4090:1", "RTX 4090"),
        ("gpu:nvidia_h100_80gb_hbm3:1(S:0-1)", "H100 SXM"),
        ("nvme:1,gpu:l40s:1", "L40S"),
        ("gpu:1", None),
        ("gpu", None),
        ("gpu:v100:1", None),
        ("gpu:1g.10gb:1", None),
        ("", None),
    ],
)
def test_the_device_that_a_gres_names(gres, name):
    device = submission.requested_device(gres)
    assert (device and device.name) == name


@pytest.mark.parametrize("gres", ["gpu:a100:1", "gpu:a100_80gb:1", "gpu:h100:1"])
def test_an_ambiguous_gpu_is_asked_for(gres):
    with pytest.raises(BenchError) as caught:
        submission.requested_device(gres)
    assert "several devices" in caught.value.message
    assert "--hardware" in caught.value.hint


@pytest.fixture
def submit(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "nowhere"))
    # What the experiment file says about hardware is a note, not the GPU of the job.
    Path("small.yaml").write_text(CONFIG + "hardware: {gpu: NVIDIA A100 80GB}\n")
    given = ("submit", "--config", "small.yaml", "--output_dir", "new", "--shards", 2, "--dry-run")
    return lambda *more: (capsys, *given, *more)


def test_submit_predicts_for_the_gpu_asked_for(submit):
    assert "predicted for RTX A6000" in run(*submit("--gres", "gpu:rtx_a6000:1"))[2]
    fails(*submit("--gres", "gpu:a100:1"), says="A100 40GB PCIe ... A100 80GB SXM ... --hardware")
    named = run(*submit("--gres", "gpu:a100:1", "--hardware", "A100 40GB SXM"))
    assert named[0] == 0
    assert "predicted for A100 40GB SXM" in named[2]


def test_without_a_type_the_time_is_unknown_with_a_range(submit):
    code, out, err = run(*submit("--gres", "gpu:1"))
    assert code == 0, err
    assert "predicted for unknown device" in err
    time = r"[\d.]+ (s|min|h)"
    assert len(re.findall(rf"unknown \((about {time}|{time} to {time})\)", err)) == 2
    assert "from the fastest to the slowest known device" in err
    assert "--gres=gpu:1" in out
    # On a CPU a range over GPUs would mean nothing.
    assert "slowest" not in run(*submit("--gres", "none"))[2]


def test_the_status_of_a_run_on_an_unknown_gpu_promises_nothing(capsys, tmp_path, monkeypatch):
    from dlmbench.experiment import load, plan
    from dlmbench.slurm import scheduler

    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(CONFIG)
    experiment = load.load("small.yaml")
    made = submission.create(experiment, plan.expand(experiment), tmp_path / "run", 2, None, submission.Resources())
    made = submission.replace(made, jobs=(submission.Job("7", (0, 1)),))
    made.folder.mkdir()
    made.save()
    tasks = tuple(scheduler.Task("7", index, "PENDING", "Priority") for index in (0, 1))
    monkeypatch.setattr(scheduler, "tasks", lambda jobs: tasks)
    code, out, err = run(capsys, "status", made.folder, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found) <= set(re.findall(r"`(\w+)`", (Path(__file__).parents[2] / "docs/commands.md").read_text()))
    assert (found["device"], found["left_s"], found["cells"], found["ended"]) == ("unknown device", None, 3, 0)
    assert [shard["queue"] for shard in found["shards"]] == ["PENDING", "PENDING"]
    assert "Time left once all queued shards are running: unknown" in run(capsys, "status", made.folder)[1]
