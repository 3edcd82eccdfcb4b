"""Every metric on the tiny pair, offline; and docs/replicate.md's own commands, with the tiny pair in place of 8B."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dlmbench import registry
from dlmbench.cli import main
from dlmbench.results import read_run, read_text_results
from dlmbench.types import TextScore
from support.encoders import write_bert

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
CONFIG = """
name: quality
models:
  ar: {family: llama, source: "embedded:ar"}
  llada: {family: llada, source: "embedded:llada"}
grid:
  lengths: {prompt_tokens: 16, new_tokens: 12}
  precision: float32
  attention: auto
  samplers:
    autoregressive: {}
    masked_diffusion: {commit: [low_confidence, random], steps: [4, 12]}
prompts: {source: tiny, count: 4}
protocol: {warmup: 0, pilot: 2, min_repeats: 0, max_repeats: 1, processes: 1, rounds: 1}
metrics: [likelihood, "elbo": {draws: 32}]
""".replace('"elbo": {draws: 32}', "{elbo: {draws: 32}}")
REFUSED = [n for n in registry.names("metrics") if hasattr(registry.load("metrics", n), "REFUSED")]
METRICS = [n for n in registry.names("metrics") if n not in REFUSED]


def dlmbench(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command in this process, which saves the seconds of importing; the models' processes are real."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(a) for a in arguments])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess([], code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run scored by every metric there is, with judge and encoder given on the command line."""
    folder = tmp_path_factory.mktemp("quality")
    (folder / "c.yaml").write_text(CONFIG)
    output = folder / "raw_data"
    done = dlmbench("run", "--config", folder / "c.yaml", "--output_dir", output)
    assert done.returncode == 0, done.stderr
    bert = write_bert(folder / "bert", ("she", "took", "letter", "yellow"), positions=64)
    generations = (output / "generations.jsonl").read_text()
    settings = (f"bertscore.model={bert}", "bertscore.num_layers=2", "mauve.fewest=4", "likelihood.orders=2")
    options = [o for s in settings for o in ("--setting", s)]
    added = dlmbench("score", output, "-m", ",".join(METRICS), "--judge", "embedded:ar", *options)
    assert added.returncode == 0, added.stderr
    assert (output / "generations.jsonl").read_text() == generations, "nothing is generated again"
    return output, added


def test_every_metric_has_a_value_or_a_reason_for_every_cell_and_text(finished):
    output, added = finished
    run = read_run(output)
    document = json.loads((output / "quality_metrics.json").read_text())
    cells = {c.id for c in run.cells}
    assert len(cells) == 5
    for metric in METRICS:
        scores = {s.cell_id: s for s in run.scores if s.metric == metric}
        without = {u.cell_id for u in run.unscored if u.metric == metric and u.prompt_index is None}
        assert set(scores) | without == cells, metric
        assert all(s.n + len(s.unscored) == 4 for s in scores.values()), metric
        assert scores, metric
        assert metric in added.stdout
    for entry in document["scores"]:
        assert {"value", "low", "high", "n", "unit", "higher_is_better", "judge", "steps", "unscored"} <= set(entry)
    elbo_missing = [u for u in document["unscored_cells"] if u["metric"] == "elbo"]
    assert [u["reason"] for u in elbo_missing] == ["only a masked diffusion model has it"]


def test_units_errors_and_judges_are_said(finished):
    output, added = finished
    scores = read_run(output).scores
    cells = {c.id: c for c in read_run(output).cells}
    for s in scores:
        if s.metric in ("likelihood", "elbo", "judge_likelihood"):
            assert [r.unit for r in s.in_other_units] == ["perplexity/token", "perplexity/word", "bits/byte"]
    drawn = {cells[s.cell_id].knob("commit"): s for s in scores if s.metric == "likelihood"}
    assert drawn["random"].monte_carlo_stderr > 0
    assert drawn["low_confidence"].monte_carlo_stderr is None
    assert "estimate" in drawn["random"].note
    elbo = [s for s in scores if s.metric == "elbo"]
    assert len({s.value for s in elbo}) == 1
    assert elbo[0].monte_carlo_stderr > 0
    assert all(s.self_judged for s in scores if s.metric == "judge_likelihood")
    assert "is itself a model of this run" in added.stderr
    assert {s.low for s in scores if s.metric == "mauve"} == {None}


def test_the_values_follow_from_the_texts_on_record(finished):
    """What others would resample: totals and weights of scores.jsonl, read here without the package's sums."""
    output, _ = finished
    lines = [r for r in read_text_results(output) if isinstance(r, TextScore)]
    for score in (s for s in read_run(output).scores if s.metric != "mauve"):
        own = [r for r in lines if (r.cell_id, r.metric) == (score.cell_id, score.metric)]
        assert score.value == pytest.approx(sum(r.total for r in own) / sum(r.weight for r in own))


def test_scoring_again_adds_nothing_and_refusals_say_why(finished):
    output, _ = finished
    before = (output / "scores.jsonl").read_text()
    again = dlmbench("score", output, "-m", "elbo,judge_likelihood,oracle_truth", "--judge", "embedded:ar")
    assert again.returncode == 0, again.stderr
    assert (output / "scores.jsonl").read_text() == before
    for arguments, says in (
        (["-m", "perplexity"], "masked diffusion model sees both sides"),
        (["-m", "judge_likelihood", "--judge", "embedded:llada"], "cannot judge"),
        (["-m", "bertscore", "--setting", "bertscore.model=/nowhere/bert"], "num_layers"),
    ):
        refused = dlmbench("score", output, *arguments)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert says in refused.stderr


# ---------------------------------------------------------------- docs/replicate.md

TINY = {
    "GSAI-ML/LLaDA-8B-Instruct": "embedded:llada",
    "GSAI-ML/LLaDA-8B-Base": "embedded:llada",
    " --chat": "",  # the embedded pair has no chat template
    "--steps 128 --new_tokens 128 --block_length 32": "--steps 8 --new_tokens 8 --block_length 4",
    "--draws 128": "--draws 32",
    "config/replicate_wikitext.yaml": "tiny.yaml",
}
OFFICIAL = re.compile(r'"(prompt|reference)": "[^"]+"')


def tiny_config() -> str:
    """The page's experiment on the embedded pair: the same models, rules and metrics, all sizes cut."""
    document = yaml.safe_load((ROOT / "config" / "replicate_wikitext.yaml").read_text())
    document["models"] = {
        k: v | {"source": f"embedded:{k.replace('llama', 'ar')}"} for k, v in document["models"].items()
    }
    for grid in document["grid"]:
        grid |= {"lengths": {"prompt_tokens": 12, "new_tokens": 8}, "precision": "float32", "attention": "auto"}
        diffusion = grid["samplers"]["masked_diffusion"]
        if "steps" in diffusion:
            diffusion["steps"] = [8]
        if "block_length" in diffusion:
            diffusion["block_length"] = 4
        if "threshold" in diffusion:
            diffusion["threshold"] = 0.9
    document["prompts"] = {"source": "tiny", "count": 2}
    document["protocol"]["rounds"] = 1
    document["metrics"] = [{"elbo": {"draws": 32}} if m == "elbo" else m for m in document["metrics"]]
    return yaml.safe_dump(document)


def test_the_commands_of_the_replication_page_run_on_the_tiny_pair(tmp_path):
    page = (ROOT / "docs" / "replicate.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "tiny.yaml").write_text(tiny_config())
    story = {"prompt": "she took the silver letter and gave it to eric .", "reference": " she took the yellow letter ."}
    printed = []
    for block in blocks:
        for theirs, ours in TINY.items():
            block = block.replace(theirs, ours)  # noqa: PLW2901
        script = OFFICIAL.sub(lambda m: f'"{m[1]}": "{story[m[1]]}"', block)
        done = subprocess.run(
            ["bash", "-euc", f'dlmbench() {{ "{sys.executable}" -m dlmbench "$@"; }}\n{script}'],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert len(printed[0].split()) == 8
    bound, own = map(json.loads, printed[1].splitlines())
    assert bound["tokens"] == own["tokens"] == 6
    assert bound["stderr"] > 0
    assert own["stderr"] is None
    assert bound["bits_per_byte"] == pytest.approx(bound["nats"] / 0.6931471805599453 / len(story["reference"]))
    assert "bits/byte" in printed[2]
    assert "low_confidence" in printed[2]
