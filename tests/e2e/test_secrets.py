"""What must not leave the machine: tokens and keys of the environment, and the paths of whoever ran the benchmark."""

from __future__ import annotations

import os

import pytest

from support.experiments import embedded_pair
from support.program import start

pytestmark = pytest.mark.e2e
SECRETS = {"HF_TOKEN": "hf_never_written", "OPENAI_API_KEY": "sk-never-written", "AWS_SECRET_ACCESS_KEY": "aws-never"}


def test_no_token_and_no_absolute_path_is_in_any_file_or_message(tmp_path):
    home = tmp_path / "home-of-somebody"
    home.mkdir()
    (home / "pair.yaml").write_text(embedded_pair(steps="[4]", count=2, protocol="{processes: 1, max_repeats: 10}"))
    environment = os.environ | SECRETS | {"HOME": str(home)}
    done = start("run", "-c", "pair.yaml", "-o", "run", timeout=300, cwd=home, env=environment)
    assert done.returncode == 0, done.stderr
    files = [path for path in (home / "run").rglob("*") if path.is_file()]
    assert {"records.jsonl", "report.html", "report.md", "experiment.json"} <= {path.name for path in files}
    written = {path.name: path.read_bytes() for path in files} | {
        "stdout": done.stdout.encode(),
        "stderr": done.stderr.encode(),
    }
    for secret in (*SECRETS.values(), "home-of-somebody"):
        assert [name for name, data in written.items() if secret.encode() in data] == []
