"""The command line: all commands and options are frozen, every user error is one line with exit code 2."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.checkpoints import LLADA, LLAMA, write_checkpoint
from support.experiments import GOOD
from support.program import fails, run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (b"\x00\xff\xfe\x80binary", "config.yaml"),
        ("- a\n- b\n", "config.yaml"),
        ("a: [1,\n", "config.yaml"),
        (GOOD + "sedd: 3\n", "sedd ... seed"),
        (GOOD.replace("batch_size: [1]", "batch_size: [one]"), "batch_size"),
        (GOOD.replace("batch_size: [1]", "batch_size: []"), "batch_size ... empty"),
        (GOOD.replace("batch_size: [1]", "batch_size: [0]"), "batch_size"),
        (GOOD.replace("steps: [4, 8]", "steps: [4, 8], block_length: 5"), "block_length"),
        (GOOD.replace("steps: [4, 8]", "steps: [4, 3], block_length: 4"), "steps"),
        (GOOD.replace("steps: [4, 8]", "stepz: [4, 8]"), "stepz ... steps"),
        (GOOD.replace("masked_diffusion:", "masked_difusion:"), "masked_difusion ... masked_diffusion"),
        (GOOD.replace("family: llada", "family: lada"), "lada ... llada"),
        (GOOD + "metrics: [likelyhood]\n", "likelyhood ... likelihood"),
        (GOOD.replace("{prompt_tokens: 8, new_tokens: 8}", "{total: 8, prompt_tokens: 8}"), "lengths"),
    ],
)
def test_a_bad_file_is_one_line_with_the_place_and_a_hint(capsys, config, text, says):
    fails(capsys, "plan", "--config", config(text), says=says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--steps", "abc"], "--steps"),
        (["--steps", "0"], "--steps"),
        (["--batch_size", "-4"], "--batch-size"),
        (["--max_prompts", "many"], "--max-prompts"),
        (["--seq_len", "8.5"], "--seq-len"),
        (["--models", "lama"], "lama"),
        (["--knob", "block_len=4"], "block_len ... block_length"),
        (["--knob", "block_length"], "name=value"),
        (["--step_s", "4"], "--step"),
        (["--prompt_file", "/nowhere/prompts.txt"], "/nowhere/prompts.txt"),
    ],
)
def test_a_bad_option_is_one_line(capsys, config, options, says):
    fails(capsys, "plan", "--config", config(GOOD), *options, says=says)


def test_missing_config_and_output_that_is_a_file(capsys, config, tmp_path):
    fails(capsys, "run", "--config", tmp_path / "no.yaml", says="no.yaml")
    taken = tmp_path / "taken"
    taken.write_text("x")
    fails(capsys, "run", "--config", config(GOOD), "--output_dir", taken, says="taken ... --output-dir")
    fails(capsys, "analyze", tmp_path / "nothing", says="nothing")
    fails(capsys, "report", tmp_path / "nothing", says="nothing")


def test_several_values_by_comma_or_by_repeating_and_both_spellings(capsys, config):
    path = config(GOOD)
    shown = [
        json.loads(run(capsys, "plan", "--config", path, "--json", *options)[1])
        for options in (
            ["--steps", "2,4", "--batch_size", "1,2"],
            ["--steps", "2", "--steps", "4", "--batch-size", "1", "--batch-size=2"],
        )
    ]
    assert shown[0] == shown[1]
    assert {cell["knobs"].get("steps") for cell in shown[0]["cells"]} == {None, 2, 4}


def test_help_imports_no_heavy_package():
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "dlmbench", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "generate" in done.stdout
    # Slow help comes from unneeded imports; unlike seconds, these are the same on every machine.
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "pandas", "matplotlib", "pydantic", "scipy"}
    assert time.monotonic() - start < 60


def test_every_help_names_values_and_shows_an_example(capsys):
    for name in surface():
        code, out, err = run(capsys, name, "--help")
        assert code == 0, err
        assert not re.findall(r"<\w*[\[>]|\{RUN", out), f"{name} shows a Python type"
        assert f"Example: dlmbench {name}" in out


def surface() -> dict[str, list[str]]:
    import typer

    from dlmbench.cli import app

    group = typer.main.get_command(app)
    return {
        name: sorted(o for p in command.params for o in p.opts if o.startswith("--"))
        for name, command in sorted(group.commands.items())
    }


def test_the_surface_is_frozen():
    """Users' scripts depend on it; a deliberate change also changes the golden file."""
    golden = json.loads((ROOT / "tests/golden/cli_options.json").read_text())
    assert surface() == golden


def test_a_report_from_files_alone_ends_with_the_page(capsys, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(ROOT / "docs/study/h200-random", folder, ignore=shutil.ignore_patterns("figures"))
    code, out, err = run(capsys, "report", folder)
    assert code == 0, err
    assert out.splitlines()[-1] == f"open {folder / 'report.html'}"
    assert "Speed only" in out
    assert all((folder / name).stat().st_size for name in ("report.html", "report.md", "verdicts.json"))
    assert {p.suffix for p in (folder / "figures").iterdir()} == {".png", ".pdf", ".csv"}
    assert "drawing the figures" in err


def test_main_py_runs_from_any_folder(tmp_path):
    for command, folder in (
        ([sys.executable, str(ROOT / "src" / "main.py")], tmp_path),
        ([sys.executable, "-m", "src.main"], ROOT),
    ):
        done = subprocess.run([*command, "--config", "nowhere.yaml"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 2
        assert "nowhere.yaml" in done.stderr


# ---------------------------------------------------------------- generate


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "llada", LLADA, seed=7, scale=0.35)


@pytest.fixture
def ids(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt_ids": [5, 9, 13]}\n{"prompt_ids": [7, 30]}\n')
    return path


def generate(capsys, model, ids, *options):
    given = ["--model", model, "--prompt_file", ids, "--prompt_ids", "--new_tokens", 8, "--json", *options]
    code, out, err = run(capsys, "generate", *given)
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_generate_prints_a_json_line_a_prompt_in_order(capsys, checkpoint, ids):
    alone = generate(capsys, checkpoint, ids, "--steps", 4, "--block_length", 4)
    together = generate(capsys, checkpoint, ids, "--steps", 4, "--block_length", 4, "--batch_size", 2)
    assert [line["prompt_index"] for line in alone] == [0, 1]
    assert [line["forwards"] for line in alone] == [4, 4]
    assert [line["positions"] for line in alone] == [4 * 11, 4 * 10]
    assert [line["output_ids"] for line in alone] == [line["output_ids"] for line in together]
    assert [len(line["output_ids"]) for line in alone] == [8, 8]
    assert alone[0]["text"] is None
    assert "committed_at" not in alone[0]


def test_generate_runs_every_cache_and_rule_and_traces(capsys, checkpoint, ids):
    for cache in ("none", "prefix", "dual"):
        for commit in ("low_confidence", "random", "threshold", "factor"):
            lines = generate(
                capsys, checkpoint, ids, "--cache", cache, "--commit", commit, "--block_length", 4, "--trace"
            )
            assert sorted(set(lines[0]["committed_at"]))[0] == 1


def test_generate_from_an_autoregressive_checkpoint(capsys, tmp_path, ids):
    lines = generate(capsys, write_checkpoint(tmp_path / "llama", LLAMA), ids)
    assert [line["forwards"] for line in lines] == [8, 8]


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        ('{"prompt_ids": [5]}\nnot json\n', [], "line 2 is not JSON"),
        ('{"prompt_ids": [5, 99]}\n', [], "prompt 1 has ... 99 ... vocabulary of 61"),
        ('{"prompt_ids": "5"}\n', [], "prompt_ids"),
        ('{"prompt": "anna"}\n', [], "prompt 1 has no prompt_ids"),
        ("", [], "empty"),
        ('{"prompt_ids": [5]}\n', ["--sampler", "masked_difusion"], "masked_diffusion"),
        ('{"prompt_ids": [5]}\n', ["--cache", "duel"], "dual"),
        ('{"prompt_ids": [5]}\n', ["--steps", "3", "--block_length", "4"], "steps (3) is not a multiple"),
        ('{"prompt_ids": [5]}\n', ["--block_length", "0"], "block_length (0) must be at least 1"),
        ('{"prompt_ids": [5]}\n', ["--seed", "-1"], "--seed"),
        ('{"prompt_ids": [5]}\n', ["--seed", "9" * 23], "--seed"),
        ('{"prompt_ids": [5]}\n', ["--commit", "threshold", "--threshold", "5"], "threshold must be"),
        ('{"prompt_ids": [5]}\n', ["--threshold", "0.5"], "threshold ... commit low_confidence"),
        ('{"prompt_ids": [5]}\n', ["--cfg_scale", "1", "--cache", "dual"], "cfg_scale"),
        ('{"prompt_ids": [5]}\n', ["--precision", "float8"], "precision"),
        ('{"prompt_ids": [5]}\n', ["--sampler", "autoregressive"], "autoregressive"),
    ],
)
def test_generate_refuses_in_one_line(capsys, checkpoint, tmp_path, content, options, says):
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    given = ["generate", "--model", checkpoint, "--prompt_file", path, "--prompt_ids", "--new_tokens", 8, *options]
    fails(capsys, *given, says=says)


@pytest.mark.parametrize(
    ("command", "does"), [("generate", "generate.generate"), ("likelihood", "generate.score_references")]
)
def test_every_attention_kernel_of_the_engines_can_be_named(capsys, checkpoint, ids, monkeypatch, command, does):
    import typer

    from dlmbench.cli import app
    from dlmbench.models.attention import KERNELS

    asked = []
    monkeypatch.setattr(f"dlmbench.bench.{does}", lambda request, *_: asked.append(request.attention) or ())
    given = [command, "--model", checkpoint, "--prompt_file", ids]
    for name in ("auto", *KERNELS):
        assert run(capsys, *given, "--attention", name) == (0, "", "")
    assert asked == ["auto", *KERNELS]
    fails(capsys, *given, "--attention", "flsh", says=f"unknown attention 'flsh' ... {', '.join(sorted(asked))}")
    (option,) = (p for p in typer.main.get_command(app).commands[command].params if p.name == "attention")
    assert option.help.split(" | ") == asked


def test_generate_without_a_tokenizer_or_model(capsys, checkpoint, tmp_path):
    text = tmp_path / "p.txt"
    text.write_text("hello\n")
    fails(capsys, "generate", "--model", checkpoint, "--prompt_file", text, says="tokenizer.json ... --prompt-ids")
    fails(capsys, "generate", "--model", tmp_path / "no", "--prompt_file", text, says="no")
    fails(capsys, "generate", "--model", checkpoint, "--prompt_file", tmp_path / "no.txt", says="no.txt")


@pytest.mark.parametrize(
    ("content", "family", "options", "says"),
    [
        ('{"prompt_ids": [5]}\n', LLADA, [], "prompt 1 has no continuation ... reference_ids"),
        ('{"prompt": "anna", "reference": "gave"}\n', LLADA, [], "no tokenizer.json ... reference_ids"),
        (
            '{"prompt_ids": [5], "reference_ids": [6]}\n',
            LLAMA,
            ["--metric", "elbo"],
            "only a masked diffusion ... --metric likelihood",
        ),
    ],
)
def test_likelihood_refuses_in_one_line(capsys, tmp_path, content, family, options, says):
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    given = ["likelihood", "--model", write_checkpoint(tmp_path / "model", family), "--prompt_file", path, *options]
    fails(capsys, *given, says=says)


# ---------------------------------------------------------------- list and download


def test_list_names_every_plug_in(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    for name in ("llada", "masked_diffusion", "dual", "threshold", "hf", "likelihood", "pareto_frontier", "tiny"):
        assert name in out
    fails(capsys, "list", "sampler", says="sampler ... samplers")


def test_download_checks_offline_and_names_what_is_missing(capsys, config):
    embedded = GOOD.replace("source: tiny, weights: random}\n  d", "source: meta-llama/Meta-Llama-3-8B}\n  d")
    code, _, err = run(capsys, "download", "--config", config(embedded), "--local-files-only")
    assert code == 2
    assert "meta-llama/Meta-Llama-3-8B" in err
