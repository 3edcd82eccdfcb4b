"""What users expect of any program: version, help, completion, quiet and verbose, JSON, exit codes, a first file."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import dlmbench
from dlmbench import registry
from dlmbench.cli import console
from dlmbench.cli.generate import commitment
from dlmbench.cli.run import failed_cells
from dlmbench.errors import CellsFailedError, StopRequestedError
from dlmbench.experiment import load, plan
from dlmbench.results import Store, read_run
from dlmbench.roofline import hardware
from dlmbench.roofline.predict import predict
from dlmbench.types import CellStatus, Run
from support.experiments import GOOD, H200_RUN
from support.program import command_line, fails, run
from support.synthetic_run import ENVIRONMENT

ROOT = Path(__file__).parents[2]
COMMANDS = (ROOT / "docs/commands.md").read_text()


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    return path


def test_the_version_and_the_help_without_a_command(capsys):
    assert run(capsys, "--version") == (0, f"dlmbench {dlmbench.__version__}\n", "")
    bare, asked = run(capsys), run(capsys, "--help")
    assert bare == asked
    assert bare[0] == 0
    assert bare[1].count("\n") > 20
    assert "--install-completion" in bare[1]


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("dlmbench plan --batch_s", "--batch_size"),
        ("dlmbench plan --batch-s", "--batch-size"),
        ("dlmbench run --batch_size 4 --max_p", "--max_prompts"),
        ("dlmbench list sam", "samplers"),
        ("dlmbench sel", "selfcheck"),
    ],
)
def test_the_shell_completes_in_both_spellings(words, completed):
    asked = {"_DLMBENCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(command_line(), capture_output=True, text=True, env=os.environ | asked)
    assert done.stdout.split() == [completed], done.stderr


# ---------------------------------------------------------------- quiet and verbose


def test_quiet_prints_only_the_answer_and_errors(capsys, config):
    config.write_text(GOOD.replace("steps: [4, 8]", "steps: [4, 1], block_length: [4, 8]"))
    _, _, remarks = run(capsys, "plan", "--config", config)
    assert "left out" in remarks
    code, out, err = run(capsys, "plan", "-q", "--config", config)
    assert (code, err) == (0, "")
    assert "4 cells" in out
    fails(capsys, "plan", "--quiet", "--config", "no.yaml", says="no.yaml")
    run(capsys, "plan", "--config", config)
    assert not console.STDERR.quiet


def test_a_comparison_with_one_side_is_remarked_on(capsys, config):
    for key, role in (("a", "baseline"), ("d", "target")):
        assert f"only a {role} is measured" in run(capsys, "plan", "--config", config, "--models", key)[2]
    assert run(capsys, "plan", "--config", config)[2] == ""


def test_verbose_shows_what_libraries_log(capsys, config, monkeypatch):
    for library in ("TRANSFORMERS", "HF_HUB", "DATASETS"):
        monkeypatch.delenv(f"{library}_VERBOSITY", raising=False)
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    try:
        assert run(capsys, "plan", "--verbose", "--config", config)[0] == 0
        assert root.isEnabledFor(logging.INFO)
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
    finally:
        root.level, root.handlers[:] = before
        for library in ("TRANSFORMERS", "HF_HUB", "DATASETS"):
            os.environ.pop(f"{library}_VERBOSITY", None)


def test_a_step_that_takes_long_is_named(capsys, monkeypatch):
    monkeypatch.setattr(console, "_PATIENCE_S", 0.05)
    with console.waiting("loading torch ..."):
        pass
    assert capsys.readouterr().err == ""
    with console.waiting("loading torch ..."):
        time.sleep(0.3)
    assert capsys.readouterr().err == "loading torch ...\n"
    with console.LiveProgress("t: 1 cells into run", 1):
        time.sleep(0.3)
    assert "reading the checkpoints and starting the models ..." in capsys.readouterr().err


# ---------------------------------------------------------------- JSON


def record(capsys, *arguments: object, code: int = 0) -> dict[str, object]:
    """What a command prints with --json; every field must be in the docs."""
    ended, out, err = run(capsys, *arguments, "--json")
    assert ended == code, err
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    (line,) = re.findall(rf"(?ms)^- `{arguments[0]}`: (.*?)(?=^- |\Z)", COMMANDS)
    if arguments[0] != "list":
        assert set(found) <= set(re.findall(r"`(\w+)`", line))
    return found


def test_a_plan_as_json(capsys, config):
    plain = record(capsys, "plan", "--config", config)
    assert [cell["batch_size"] for cell in plain["cells"]] == [1, 1, 1]
    assert plain["hardware"] is None
    predicted = record(capsys, "plan", "--config", config, "--hardware", "h200", "--price", 2)
    assert predicted["hardware"] == "H200"
    assert all(cell["predicted"]["latency_s"] > 0 and cell["predicted"]["fits"] for cell in predicted["cells"])
    assert predicted["cost"]["price"]["low"] > 0
    surfaces = record(capsys, "plan", "--config", config, "--hardware", "h200", "--break-even")
    assert surfaces["break_even"][0]["points"]


def test_a_calibration_as_json(capsys, tmp_path):
    found = record(capsys, "calibrate", H200_RUN, "--output", tmp_path / "c.json")
    assert found["file"] == str(tmp_path / "c.json")
    assert found["cells"][0]["latency_s"] > found["cells"][0]["floor_s"]


def test_the_doctor_as_json(capsys, monkeypatch):
    from dlmbench.cli import doctor

    checks = [doctor.Check("ok", "disk", "free"), doctor.Check("error", "GPU", "none", "buy one")]
    monkeypatch.setattr(doctor, "run_checks", lambda experiment: checks[:1])
    assert record(capsys, "doctor")["ready"] is True
    monkeypatch.setattr(doctor, "run_checks", lambda experiment: checks)
    found = record(capsys, "doctor", code=2)
    assert found["ready"] is False
    assert found["checks"][1] == {"state": "error", "subject": "GPU", "text": "none", "hint": "buy one"}


def test_lists_as_json_and_the_known_hardware(capsys):
    found = record(capsys, "list")
    assert set(found) == {*registry.KINDS, "hardware"}
    assert {"name", "default", "help"} == set(found["samplers"][0]["knobs"][0])
    assert [row["name"] for row in found["hardware"]] == [row.name for row in hardware.ROWS]
    code, out, _ = run(capsys, "list", "hardware")
    assert code == 0
    assert len(out.splitlines()) == len(hardware.ROWS) + 1
    assert re.search(r"H200 +141 GB, 4800 GB/s, 989 bfloat16 TFLOP/s", out)


def test_an_analysis_as_json(capsys, tmp_path):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(H200_RUN, folder, ignore=shutil.ignore_patterns("figures"))
    found = record(capsys, "analyze", folder, "--price", 2)
    assert found["headline"]
    assert found["verdicts"]
    assert found["files"][-1].endswith("report.html")
    timed = [cell for cell in found["cells"] if cell["status"] == "ok"]
    assert timed
    assert all(cell["latency_s"]["median"] > 0 and cell["cost"]["per_million"] > 0 for cell in timed)
    for command in ("analyze", "report"):
        code, out, err = run(capsys, command, folder, "--quiet")
        assert (code, err) == (0, "")
        assert found["headline"] in " ".join(out.split())
        assert "Summary" not in out
        assert "open " not in out.splitlines()[-1]
    code, out, _ = run(capsys, "analyze", folder, "--price", 2)
    assert out.index("Summary") < out.index("Cost at 2") < out.index(found["headline"])
    assert out.splitlines()[-1] == f"open {folder / 'report.html'}"


# ---------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (StopRequestedError(), 75), (CellsFailedError("2 of 3 cells failed", "look"), 1)],
)
def test_exit_codes_are_those_of_the_docs(capsys, config, monkeypatch, error, code):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(console, "cells", fail)
    found, _, err = run(capsys, "plan", "--config", config)
    assert found == code
    assert re.search(rf"^\| [\d, ]*\b{code}\b", COMMANDS, re.MULTILINE)
    assert "Traceback" not in err


def test_options_without_effect_are_named(capsys, config, tmp_path):
    given = ("plan", "-c", config, "--hardware", "h200", "--break-even", "--price", 2)
    fails(capsys, *given, says="--price has no effect with --break-even")
    (tmp_path / "file").touch()
    code, _, err = run(capsys, "run", "-c", config, "-o", tmp_path / "file", "--concurrent")
    assert (code, "--concurrent has no effect with one GPU." in err) == (2, True)


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["plan", "-c", "config/experiments_full.yaml"]])
def test_a_reader_that_closes_the_pipe_ends_the_command_as_sigpipe_would(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(command_line(*arguments), stdout=closed, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (141, "")
    assert "| 141 |" in COMMANDS


def test_failed_cells_fail_the_run_and_out_of_memory_does_not(capsys, config, tmp_path):
    planned = plan.expand(load.load(config))

    def ended(name: str, *statuses: str | None) -> Run:
        folder = tmp_path / name
        with Store.open(folder, ENVIRONMENT, "t", planned) as store:
            for cell, status in zip(planned.cells, statuses, strict=True):
                if status is not None:
                    store.append(CellStatus(cell.id, status, "why"))
        return read_run(folder)

    assert failed_cells(planned, ended("complete", "ok", "oom", "skipped")) is None
    assert capsys.readouterr().err == "3 of 3 cells done\n"
    assert failed_cells(planned, ended("partly", "ok", "ok", None)) is None
    assert capsys.readouterr().err == "2 of 3 cells done\n"
    for status in ("error", "invalid"):
        failure = failed_cells(planned, ended(status, "ok", status, "ok"))
        assert re.match("1 of 3 cells failed, the first: d B=1 .*: why", failure.message)
        assert isinstance(failure, CellsFailedError)
    # Cells of earlier commands in the same folder do not count.
    assert failed_cells(replace(planned, cells=planned.cells[:1]), read_run(tmp_path / "error")) is None


# ---------------------------------------------------------------- plan


@pytest.mark.parametrize("file", ["experiments.yaml", "experiments_full.yaml", "experiments_tiny.yaml"])
def test_a_plan_fits_100_columns_and_lists_what_is_constant_once(capsys, file):
    given = ("plan", "--config", ROOT / "config" / file)
    for more in ((), ("--hardware", "h200", "--price", "2.5")):
        _, out, _ = run(capsys, *given, *more)
        assert max(map(len, out.splitlines())) <= 100
        assert "…" not in out
        for constant in ("autoregressive", "float" if "tiny" in file else "bfloat16", "low_confidence"):
            assert out.count(constant) == 1


def test_what_varies_has_a_column(capsys, config):
    config.write_text(GOOD.replace("steps: [4, 8]", "steps: [4, 8], cache: [none, prefix], block_length: 4"))
    _, out, _ = run(capsys, "plan", "--config", config)
    header = next(line for line in out.splitlines() if line.startswith("id"))
    assert header.split() == ["id", "model", "K", "knobs"]
    assert out.count("cache=prefix") == 2
    assert "block_length 4" in " ".join(out.split())
    experiment = load.load(config)
    assert predict(plan.expand(experiment), hardware.find("h200")).plan.cells


# ---------------------------------------------------------------- init


def test_init_writes_a_commented_file_that_passes_plan_and_never_overwrites(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair = "meta-llama/Meta-Llama-3-8B,GSAI-ML/LLaDA-8B-Base"
    given = ("init", "-o", "study.yaml", "--models", pair, "--lengths", "384+128,100+50", "--batch_size", "1,8")
    code, out, err = run(capsys, *given, "--hardware", "h200")
    assert (code, out) == (0, "study.yaml\n")
    assert "16 cells; next: dlmbench plan -c study.yaml --hardware h200" in err
    text = Path("study.yaml").read_text()
    assert text.count("#") > 10
    experiment = load.load("study.yaml")
    assert experiment.hardware == {"gpu": "H200"}
    assert [(m.key, m.role) for m in experiment.models] == [("llama", "baseline"), ("llada", "target")]
    assert [g.lengths for g in experiment.grids] == [((384, 128),), ((100, 50),)]
    assert run(capsys, "plan", "-c", "study.yaml")[0] == 0
    fails(capsys, *given, says="study.yaml exists already ... --output")
    assert Path("study.yaml").read_text() == text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--models ... meta-llama"),
        (["--models", "org/unknown"], "family of org/unknown ... --models llada=org/unknown"),
        (["--models", "lama=org/unknown"], "lama ... llama"),
        (["--models", "embedded:ar", "--lengths", "64"], "--lengths ... P+G"),
        (["--models", "embedded:ar", "--batch-size", "0"], "--batch-size"),
        (["--models", "embedded:ar", "--lengths", "600+16"], "no cell ... 616 tokens ... 512 positions ... --lengths"),
        (["--models", "embedded:ar", "--hardware", "a100"], "a100 ... A100 80GB SXM"),
    ],
)
def test_init_refuses_in_one_line_and_writes_nothing(capsys, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    fails(capsys, "init", *options, says=says)
    assert list(tmp_path.iterdir()) == []


def test_init_says_what_cannot_be_compared_or_measured(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "init", "-o", "one.yaml", "--models", "embedded:ar", "--lengths", "24+16")
    assert code == 0
    assert "\n1 cell; next:" in err
    assert "only a baseline is measured" in err
    err = run(capsys, "init", "-o", "b.yaml", "--models", "embedded:ar", "--lengths", "24+16,600+16")[2]
    assert "1 cell would not be measured" in err


def test_init_asks_on_a_terminal(capsys, tmp_path, monkeypatch):
    answers = iter(["embedded:ar,embedded:llada", "24+16", "2", ""])
    asked: list[str] = []

    def prompt(question: str, **_: object) -> str:
        asked.append(question)
        return next(answers)

    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("typer.prompt", prompt)
    path = tmp_path / "e.yaml"
    assert run(capsys, "init", "-o", path)[0] == 0
    assert len(asked) == 4
    experiment = load.load(path)
    assert (experiment.grids[0].lengths, experiment.grids[0].batch_sizes) == (((24, 16),), (2,))
    assert experiment.hardware == {}


# ---------------------------------------------------------------- generate --trace


def test_the_picture_of_commitment():
    assert commitment([2, 1, 3]).splitlines() == [
        "committed in forward 1 to 3: # now, - before, . still masked",
        "        1 |.#.|",
        "        2 |#-.|",
        "        3 |--#|",
    ]
    parts = commitment(range(1, 101), width=40, rows=10).splitlines()
    assert [line for line in parts if line.startswith("tokens")] == [
        "tokens 1 to 40",
        "tokens 41 to 80",
        "tokens 81 to 100",
    ]
    assert "     1-10 |##########" + "." * 30 + "|" in parts
    assert max(map(len, parts)) <= 64


def test_generate_draws_when_each_token_was_committed(capsys, tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("once upon a time\n")
    given = ("generate", "--model", "embedded:llada", "--prompt_file", path, "--new_tokens", 8, "--steps", 4)
    code, out, err = run(capsys, *given, "--trace")
    assert code == 0, err
    assert [line.count("#") for line in out.splitlines()[-4:]] == [2, 2, 2, 2]
    assert "committed" not in run(capsys, *given)[1]


# ---------------------------------------------------------------- texts name what exists


def test_every_option_in_the_docs_and_experiment_files_exists():
    from typer.main import get_command

    from dlmbench.cli import app

    known = {
        name: {option.replace("_", "-") for p in command.params for option in p.opts} | {"--help"}
        for name, command in get_command(app).commands.items()
    }
    files = [*ROOT.glob("config/*.yaml"), *ROOT.glob("docs/*.md"), ROOT / "README.md"]
    wrong = []
    for file in files:
        for line in re.sub(r"\\\n", " ", file.read_text()).splitlines():
            for name, rest in re.findall(r"dlmbench ([a-z]+)\b([^`#\n]*)", line):
                options = [o.partition("=")[0].replace("_", "-") for o in re.findall(r"(?<!\S)--[\w-]+", rest)]
                wrong += [(file.name, name, o) for o in options if name in known and o not in known[name]]
    assert wrong == []
    full = (ROOT / "config/experiments_full.yaml").read_text()
    assert "--shard " not in full
