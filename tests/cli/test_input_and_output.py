"""Input that looks like something else, and output that cannot be written."""

from __future__ import annotations

import io
import json
import sys

import pytest

from dlmbench.charts.figure import draw
from dlmbench.cli import console
from dlmbench.errors import BenchError
from dlmbench.experiment import load
from dlmbench.types import Plan, ProtocolSettings
from support.experiments import GOOD
from support.program import fails, run


@pytest.mark.parametrize(("written", "says"), [("010", "010 would be 8"), ("1:30", "1:30 would be 90")])
def test_numbers_that_yaml_reads_in_another_base_are_refused(tmp_path, written, says):
    path = tmp_path / "c.yaml"
    path.write_text(GOOD.replace("batch_size: [1]", f"batch_size: {written}"))
    with pytest.raises(BenchError, match=says):
        load.load(path)


@pytest.mark.parametrize("option", [("--temperature", "nan"), ("--threshold", "nan", "--commit", "threshold")])
def test_options_that_are_no_number(tmp_path, capsys, option):
    path = tmp_path / "p.txt"
    path.write_text("she took the")
    fails(capsys, "generate", "-q", "--model", "embedded:llada", "--prompt-file", path, *option, says="nan")


def test_half_a_surrogate_pair_is_refused_with_file_and_record(tmp_path, capsys):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b \\ud83d c"}\n')
    fails(capsys, "generate", "-q", "--model", "embedded:ar", "--prompt-file", path, says="p.jsonl: line 2 ... ud83d")


def test_a_line_separator_inside_a_record_ends_no_line(tmp_path, capsys):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "she took\u2028the", "reference": "yellow letter"}\n', encoding="utf-8")
    code, out, _ = run(capsys, "likelihood", "--model", "embedded:ar", "--prompt-file", path)
    assert code == 0
    assert json.loads(out)["tokens"] == 2


def test_a_home_folder_is_expanded_in_every_path(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text(GOOD)
    assert run(capsys, "plan", "--config=~/c.yaml")[0] == 0
    fails(capsys, "analyze", "-q", "~/none", says=str(tmp_path / "none"))
    fails(capsys, "plan", "--config=~/c.yaml", "--prompt-file=~/p.txt", says=str(tmp_path / "p.txt"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--output-dir", ""], "--output-dir is empty and names no folder"),
        (["run", "-o", ""], "--output-dir"),
        (["demo", "--output_dir="], "--output-dir"),
        (["submit", "--dry-run", "--output-dir="], "--output-dir"),
        (["submit", "--resume="], "--resume"),
        (["tasks", "-t", "x", "--output-dir="], "--output-dir"),
        (["calibrate", "run", "--output="], "--output is empty and names no file"),
        (["init", "--output="], "--output"),
        (["plan", "--config="], "--config"),
        (["plan", "--prompt-file="], "--prompt-file"),
        (["generate", "--model=", "--prompt-file", "p.txt"], "--model"),
        (["report", "run", ""], "RUN is empty"),
        (["analyze", ""], "RUN"),
        (["status", ""], "RUN"),
        (["compare", "run", ""], "RUN2"),
        (["merge", "run", ""], "SHARD"),
        (["download", "--model-cache-dir="], "--model-cache-dir"),
    ],
)
def test_an_empty_path_is_not_the_working_folder(tmp_path, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    fails(capsys, *arguments, says=f"{says} ... unset")
    assert list(tmp_path.iterdir()) == []


def test_a_dot_is_the_working_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "unset" not in run(capsys, "analyze", ".")[2]


def test_json_has_escapes_where_stdout_takes_no_others(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    text = console.json_text({"text": "é🙂"})
    assert text.isascii()
    assert json.loads(text) == {"text": "é🙂"}


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), UnicodeEncodeError("ascii", "é", 0, 1, "no")]
)
def test_output_that_cannot_be_written_ends_in_one_line(tmp_path, capsys, monkeypatch, error):
    path = tmp_path / "c.yaml"
    path.write_text(GOOD)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(console, "cells", fail)
    fails(capsys, "plan", "-c", path, says="output")


def test_a_figures_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "figures").write_text("")
    with pytest.raises(BenchError, match="could not be written"):
        draw((), tmp_path)


def test_an_interrupted_run_says_how_to_resume(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt), console.measuring("t", ProtocolSettings(), Plan(()), tmp_path / "o"):
        raise KeyboardInterrupt
    assert "the same command resumes" in capsys.readouterr().err
