"""The commit rule of docs/adding.md as a single file in the folder of a copied package: nothing else is edited."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from support.checkpoints import LLADA, write_checkpoint
from support.examples import ROOT, TEXT, examples


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package with the file of the text added; a function that runs Python on it."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "src" / "dlmbench", folder / "dlmbench", ignore=shutil.ignore_patterns("__pycache__"))
    name, code = examples()["commit"]
    (folder / "dlmbench/sampling/commit" / f"{name}.py").write_text(code)

    def python(*arguments: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(folder)},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return python


def test_it_is_listed_planned_and_run(extended, tmp_path):
    assert "leads the second best" in extended("-m", "dlmbench", "list", "commit").stdout
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt_ids": [5, 9, 13]}\n')
    model = write_checkpoint(tmp_path / "m", LLADA)
    given = ["--model", model, "--prompt_file", prompts, "--prompt_ids", "--new_tokens", 8, "--json"]
    made = extended("-m", "dlmbench", "generate", *given, "--commit", "margin", "--knob", "margin_power=0.5")
    assert len(json.loads(made.stdout)["output_ids"]) == 8
    columns = extended("-c", "from dlmbench import registry; print(registry.knob_names())").stdout
    assert "margin_power" in columns


def test_the_conformance_kit_covers_it_without_an_edit(extended):
    done = extended("-m", "pytest", "tests/sampling/test_samplers.py", "-k", "margin", "-p", "no:xdist")
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    assert int(passed[1]) >= 15


def test_its_knob_is_a_grid_axis(extended, tmp_path):
    config = tmp_path / "margin.yaml"
    axes = re.search(r"samplers:\n\s+masked_diffusion: (\{.*\})", TEXT)[1]
    config.write_text(
        "name: margin\nmodels: {d: {family: llada, source: tiny, weights: random}}\n"
        f"grid: {{lengths: {{prompt_tokens: 8, new_tokens: 32}}, samplers: {{masked_diffusion: {axes}}}}}\n"
        "prompts: {source: tiny, count: 2}\n"
    )
    shown = extended("-m", "dlmbench", "plan", "--config", config).stdout
    assert "6 cells" in shown  # two step counts, and for margin two powers each
    assert "margin_power=0.5" in shown
