"""Published quality with a run's own times: what is joined, what is not, and where it is printed."""

from __future__ import annotations

import csv
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dlmbench.analysis.published import (
    COLUMNS,
    PUBLISHED,
    PublishedScore,
    keep_published,
    published_answers,
    read_published,
)
from dlmbench.analysis.study import analyse
from dlmbench.charts.figure import specification
from dlmbench.cli import main
from dlmbench.errors import BenchError
from dlmbench.experiment import load
from dlmbench.figures import breakeven_map
from dlmbench.report import document, page
from dlmbench.report.source import Source
from dlmbench.report.tables import published_table
from dlmbench.types import ModelSpec, Run
from support.experiments import GOOD
from support.synthetic_run import ENVIRONMENT, baseline_cell, measured, target_cell

STUDY = Path(__file__).parents[2] / "docs/study"
LLAMA = ModelSpec("llama", "llama", "8b", "baseline", weights="random")
LLADA = ModelSpec("llada", "llada", "8b", "target", weights="random")
ROW = PublishedScore(
    *("LLaDA-8B", "target", "base", "gsm8k", "accuracy", 4, "completion", "lm-eval", 1000, 894, 256, 256, 64, None),
    *("none", "low_confidence", None, 50.0, "a paper", "table"),
)
BASELINE = replace(ROW, model="LLaMA-3-8B", role="baseline", steps=None, cache="", commit="", value=48.0)
SCORES = [replace(ROW, steps=k, value=v) for k, v in ((32, 20.0), (64, 60.0), (128, 61.0))]


def run_of(llama: ModelSpec = LLAMA, llada: ModelSpec = LLADA, steps=(32, 64, 128), block=None, folder="") -> Run:
    """LLaMA takes 1 s, LLaDA 10 ms a step."""
    base = baseline_cell(1, 894, 256, llama)
    cells = [(target_cell(k, block, 1, 894, 256, llada), k / 100) for k in steps]
    results = [measured(c, [s * (1 + i / 1000) for i in range(9)], processes=3) for c, s in [(base, 1.0), *cells]]
    return Run(str(folder), "run", ENVIRONMENT, tuple(r.cell for r in results), (), tuple(results))


def answers_of(rows, run=None):
    return published_answers(rows, analyse(run or run_of(), draws=100))


def test_the_speed_is_measured_where_published_quality_is_as_good():
    (answer,) = answers_of([*SCORES, BASELINE])
    assert (answer.steps, answer.reason) == (64, "")
    assert answer.speed.value == pytest.approx(1 / 0.64, rel=1e-3)
    assert answer.curve.parity.steps == 64


def test_without_parity_the_speed_is_at_the_most_steps_and_is_said_not_to_be_at_equal_quality():
    (answer,) = answers_of([*(replace(r, value=r.value - 14) for r in SCORES), BASELINE])
    assert (answer.curve.parity.outcome, answer.steps) == ("undecided", 128)
    assert answer.speed.value == pytest.approx(1 / 1.28, rel=1e-3)
    table = published_table([answer])
    assert "undecided, 64 or more or never" in str(table.in_document.texts)
    assert "no speed at equal quality" in " ".join(table.notes)


@pytest.mark.parametrize(
    "change",
    [
        {"llada": replace(LLADA, source="tiny")},
        {"llama": replace(LLAMA, source="tiny")},
        {"llada": replace(LLADA, family="llama")},
        {"block": 32},
        {"steps": (16,)},
    ],
)
def test_nothing_is_joined_with_times_of_another_model_or_setting(change):
    (answer,) = answers_of([*SCORES, BASELINE], run_of(**change))
    assert (answer.steps, answer.speed) == (None, None)
    assert answer.reason in ("no such cell in this run", "K=64 not timed")


@pytest.mark.parametrize(
    "change", [{"prompt_tokens": 680}, {"new_tokens": 512}, {"cache": "dual"}, {"commit": "random"}]
)
def test_nothing_is_joined_with_scores_of_another_setting(change):
    (answer,) = answers_of([*(replace(r, **change) for r in SCORES), replace(BASELINE, harness="lm-eval")])
    assert answer.reason == "no such cell in this run"


def test_published_checkpoints_are_the_published_models():
    models = {
        "llama": replace(LLAMA, source="meta-llama/Meta-Llama-3-8B"),
        "llada": replace(LLADA, weights="pretrained"),
    }
    (answer,) = answers_of([*SCORES, BASELINE], run_of(**models))
    assert answer.steps == 64


def test_forwards_of_an_adaptive_rule_are_no_steps_that_were_measured():
    rule = [replace(r, steps=None, nfe=float(r.steps), commit="threshold") for r in SCORES]
    (answer,) = answers_of([*rule, BASELINE])
    assert answer.speed is None
    assert "adaptive" in answer.reason


def test_rows_that_decide_nothing_are_hollow_and_single_scores_derive_nothing():
    hollow = replace(ROW, provenance="second hand", source="a README")
    single = replace(ROW, cache="dual", source="a table")
    table = published_table(answers_of([*SCORES, single, hollow, BASELINE]))
    text = [[t for _, t in row] for row in table.in_document.texts]
    assert [row[0].startswith("○") for row in text] == [False, False, True]
    assert text[1][2].startswith("not derivable")
    assert text[2][2].startswith("decides nothing: read at second hand")


def exit_code(*arguments) -> object:
    try:
        main(list(map(str, arguments)))
    except SystemExit as ended:
        return ended.code
    return 0


def write_rows(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in asdict(r).items()} for r in rows)


@pytest.fixture
def folder(tmp_path):
    write_rows(tmp_path / "rows.csv", [*SCORES, BASELINE])
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_page_and_document_print_it_only_for_a_run_that_has_published_scores(folder):
    run = run_of(folder=folder)
    before = Source(run, analyse(run, draws=100))
    assert not before.published.rows
    assert "Published quality" not in document.compose(before)
    keep_published(folder.parent / "rows.csv", folder)
    after = Source(run, analyse(run, draws=100))
    for text in (document.compose(after), page.compose(after)):
        assert "Published quality, measured time" in text
        assert "1.56" in text
        assert "gsm8k, base, low_confidence (a paper)" in text


def test_bad_files_are_errors_and_leave_the_folder_as_it_was(folder):
    bad = folder.parent / "bad.csv"
    bad.write_text("model,role\n")
    for path in (bad, folder.parent / "nowhere.csv", folder):
        with pytest.raises(BenchError):
            keep_published(path, folder)
    assert list(folder.iterdir()) == []


def test_the_option_joins_a_finished_run_and_a_bad_file_ends_with_2(tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(STUDY / "h200-native", folder, ignore=shutil.ignore_patterns("figures"))
    (tmp_path / "bad.csv").write_text("x")
    assert exit_code("report", folder, "--published", tmp_path / "bad.csv") == 2
    assert "lacks the columns" in capsys.readouterr().err
    assert exit_code("report", folder, "--published", STUDY / "published.csv") == 0
    assert read_published(folder / "published.csv") == read_published(STUDY / "published.csv")
    assert "○ gsm8k, base (arXiv:2506.06295)" in (folder / "report.html").read_text()
    report = (folder / "report.md").read_text()
    assert all(f"{task}, base" in report for task in ("gsm8k", "math", "humaneval", "mbpp", "bbh"))
    assert document.words(report) <= document.MOST_WORDS


def test_an_experiment_file_names_the_scores(tmp_path):
    path = tmp_path / "study.yaml"
    text = (
        Path(STUDY.parents[1] / "config/experiments_study.yaml").read_text() + "published: docs/study/published.csv\n"
    )
    path.write_text(text)
    assert load.load(path).published == "docs/study/published.csv"
    path.write_text(text.replace("published: docs", "published: 5 #"))
    with pytest.raises(BenchError, match="published"):
        load.load(path)


def test_a_run_keeps_its_published_scores_and_stops_at_a_bad_file(tmp_path, capsys):
    fast = "protocol: {warmup: 0, pilot: 2, min_repeats: 0, max_repeats: 1, max_time_s: 1, processes: 1, rounds: 1}\n"
    scores, out = tmp_path / "scores.csv", tmp_path / "out"
    (tmp_path / "e.yaml").write_text(f"{GOOD}{fast}metrics: [repetition]\npublished: {scores}\n")
    for content, code in (("x", 2), ((STUDY / "published.csv").read_text(), 0)):
        scores.write_text(content)
        assert exit_code("run", "--config", tmp_path / "e.yaml", "--output-dir", out) == code, capsys.readouterr().err
        assert (out / "published.csv").is_file() == (code == 0)


def test_the_break_even_map_has_the_published_parity_of_cells_in_its_setting(tmp_path):
    write_rows(tmp_path / PUBLISHED, [*SCORES, BASELINE])
    run = run_of(folder=tmp_path)
    frame = breakeven_map.points(run, analyse(run, draws=100))
    (row,) = frame[frame["kind"] == "published"].to_dict("records")
    assert (row["batch_size"], row["prompt_tokens"], row["steps"], row["steps_high"]) == (1, 894, 64, 64)
    assert "Level bars: S_parity by published scores" in breakeven_map.caption(frame)
    (drawn,) = [r for r in specification(breakeven_map, frame)["datasets"]["points"] if r["kind"] == "published"]
    assert drawn["steps"] == 64
    # Without parity there is a reason in the table and nothing in the picture.
    write_rows(tmp_path / PUBLISHED, [*(replace(r, value=r.value - 14) for r in SCORES), BASELINE])
    frame = breakeven_map.points(run, analyse(run, draws=100))
    (row,) = frame[frame["kind"] == "published"].to_dict("records")
    assert row["steps"] != row["steps"]
    assert row["note"].endswith("undecided")
    assert "published" not in breakeven_map.caption(frame)
