"""All eight examples of docs/adding.md as a separate package: listed, planned, run and reported from a YAML."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest

from dlmbench import registry
from dlmbench.results import read_run
from support.checkpoints import LLADA, LLAMA, write_checkpoint
from support.examples import PACKAGE, ROOT, examples, install

CONFIG = """
name: plug-ins
models:
  ar: {{family: mistral, source: "{mistral}"}}
  dlm: {{family: llada, source: "{llada}"}}
grid:
  lengths: {{prompt_tokens: 12, new_tokens: 16}}
  precision: float32
  attention: auto
  engine: single_thread
  samplers:
    autoregressive: {{}}
    recompute: {{}}
    masked_diffusion: {{commit: margin, cache: lookahead, block_length: 4, steps: [4, 8, 16], margin_power: 0.5}}
prompts: {{source: number-words, count: 3}}
protocol: {{warmup: 1, pilot: 3, min_repeats: 1, max_repeats: 3, max_time_s: 5, processes: 1, rounds: 1}}
metrics: [longest_run, likelihood]
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The program with the package of examples installed beside it: a function of its arguments."""
    folder = tmp_path_factory.mktemp("package")
    found = examples()
    points = {kind: {name: f"{PACKAGE}.{name}"} for kind, (name, _) in found.items()}
    install(folder / "source", folder / "target", points, dict(found.values()))
    path = os.pathsep.join([str(ROOT / "src"), str(folder / "target")])

    def program(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dlmbench", *map(str, arguments)]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return program


def test_there_is_an_example_of_every_kind():
    assert set(examples()) == set(registry.KINDS)


@pytest.mark.e2e
def test_the_examples_run_from_yaml_to_report(package, tmp_path):
    write_checkpoint(tmp_path / "ar", LLAMA | {"vocab_size": 384})
    config = json.loads((tmp_path / "ar/config.json").read_text())
    (tmp_path / "ar/config.json").write_text(json.dumps(config | {"model_type": "mistral", "sliding_window": None}))
    write_checkpoint(tmp_path / "dlm", LLADA | {"vocab_size": 384, "embedding_size": 384, "mask_token_id": 383})
    file, output = tmp_path / "plug-ins.yaml", tmp_path / "out/raw_data"
    file.write_text(CONFIG.format(mistral=tmp_path / "ar", llada=tmp_path / "dlm"))

    shown = package("list").stdout
    for name, code in examples().values():
        assert name.replace("_", "-") in shown or name in shown
        assert code.splitlines()[0].strip('"') in shown
    planned = package("plan", "--config", file, "--hardware", "h200")
    assert "5 cells" in planned.stdout
    assert "no efficiencies known, hence no times" in planned.stderr

    package("run", "--config", file, "--output_dir", output)
    written = package("report", output).stdout
    run = read_run(output)
    assert {r.status for r in run.results} == {"ok"}
    cells = [r.cell for r in run.results]
    assert {c.model.family for c in cells} == {"mistral", "llada"}
    assert {c.engine for c in cells} == {"single_thread"}
    assert {c.sampler for c in cells} == {"autoregressive", "recompute", "masked_diffusion"}
    diffusion = [c for c in cells if c.sampler == "masked_diffusion"]
    assert {(c.knob("commit"), c.knob("cache"), c.knob("margin_power")) for c in diffusion} == {
        ("margin", "lookahead", 0.5)
    }
    assert all(c.prompts.startswith("number-words ") for c in cells)
    assert "margin_power" in (output / "raw_metrics.csv").read_text().splitlines()[0]

    # The lookahead cache computes one whole canvas and then 8 positions in each block, 4 in the last.
    work = {c.steps: r.timed[0] for r in run.results for c in [r.cell] if c.sampler == "masked_diffusion"}
    assert work[16].positions == 4 * 28 + 3 * (8 + 8 + 8 + 4)
    # Without a cache every token computes the whole text: one forward each, over 12 to 27 positions.
    recompute = next(r for r in run.results if r.cell.sampler == "recompute").timed[0]
    assert recompute.positions == sum(range(12, 28))

    scores = json.loads((output / "quality_metrics.json").read_text())
    assert "longest_run" in json.dumps(scores)
    values = {s.cell_id: s.value for s in run.scores if s.metric == "longest_run"}
    assert len(values) == 5
    assert all(v is not None and 1 / 16 <= v <= 1 for v in values.values())
    for suffix in ("png", "pdf", "csv"):
        assert (tmp_path / "out/figures" / f"throughput_bars.{suffix}").stat().st_size > 0, written
    with (tmp_path / "out/figures/throughput_bars.csv").open() as table:
        assert len(list(csv.DictReader(table))) == 5
    document = next(tmp_path.glob("out/**/report.md")).read_text()
    assert "throughput_bars" in document
    assert "longest run" in document
