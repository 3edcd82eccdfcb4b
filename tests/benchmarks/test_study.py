"""The table of benchmarks/study.py."""

import csv
import io
import sys
from dataclasses import replace

import pandas as pd
import pytest

from dlmbench.analysis.replication import latencies
from dlmbench.analysis.study import analyse
from dlmbench.results import read_run
from dlmbench.types import Run
from support.examples import ROOT
from support.synthetic_run import ENVIRONMENT, baseline_cell, measured, target_cell

sys.path.insert(0, str(ROOT / "benchmarks"))
import speeds
import study
import study_times

ANSWER = study.Answer(
    *(
        "base",
        "gsm8k",
        "low_confidence",
        256,
        256,
        "none",
        "native",
        "a paper",
        50.0,
        "another paper",
        0.0,
        "reached",
        256,
        64,
        64,
    ),
    *(1, 64, 1.0, 1.0, 1.0, "predicted"),
)


def test_curves_of_two_papers_are_two_lines():
    rows = [replace(ANSWER, quality_source=s, batch_size=b) for s in ("a paper", "a third") for b in (1, 8, 32)]
    assert study.page_table(rows).count("GSM8K") == 2


@pytest.mark.parametrize("change", [{"new_tokens": 512}, {"block_length": 32}, {"cache": "dual"}, {"baseline": 49.0}])
def test_other_settings_are_other_lines(change):
    rows = [replace(a, batch_size=b) for a in (ANSWER, replace(ANSWER, **change)) for b in (1, 8, 32)]
    assert study.page_table(rows).count("GSM8K") == 2


def test_a_measured_time_is_told_from_a_predicted_one():
    rows = [replace(ANSWER, batch_size=b, kind="measured" if b == 8 else "predicted") for b in (1, 8, 32)]
    (line,) = ([c.strip() for c in line.split("|")] for line in study.page_table(rows).splitlines()[2:])
    assert line[-5:-1] == ["1x faster (1 to 1)"] * 3 + ["predicted at B=1, B=32, measured at B=8"]


def test_steps_between_two_published_ones_are_named():
    assert study._where(replace(ANSWER, not_at=32.0)) == "64, not 32"
    assert study._where(replace(ANSWER, from_steps=32, not_at=16.0)) == "64 (perhaps 32), not 16"


def test_a_speed_without_parity_is_of_all_steps_where_it_may_lie():
    undecided = replace(ANSWER, outcome="undecided", to_steps=None, at_steps=256, ratio=0.5, low=0.45, high=0.55)
    assert study._speed(undecided) == "2x slower (1.8 to 2.2) at 64 to 256"
    assert study._speed(replace(undecided, from_steps=256)) == "2x slower (1.8 to 2.2) at 256"


def test_a_speed_on_either_side_of_one_is_a_range():
    assert study._speed(replace(ANSWER, ratio=0.9, low=0.5, high=1.25)) == "2x slower to 1.2x faster"


def test_parity_at_the_fewest_steps_published_may_lie_below_them():
    assert study._where(replace(ANSWER, outcome="reached_at_smallest")) == "64 or fewer"
    assert study._where(ANSWER) == "64"


def test_a_time_is_of_cells_with_as_many_new_tokens():
    times = study.Times("native")
    (row, *_) = (r for r in study.read_published(study.PUBLISHED) if r.source.startswith("arXiv:2602.01362, Table 16"))
    row = replace(row, task="gsm8k", prompt_tokens=894)
    assert times.target(1, row) is not None
    assert times.baseline(1, row) is not None
    assert times.target(1, replace(row, new_tokens=512)) is None
    assert times.baseline(1, replace(row, new_tokens=512)) is None
    assert times.target(1, replace(row, steps=None, nfe=40.0, cache="dual", block_length=32)) is None


def line(seconds, spread=0.0):
    return {k: study.Seconds(s, s * (1 - spread), s * (1 + spread), "measured") for k, s in seconds.items()}


def test_times_of_more_steps_lie_on_the_line_of_those_measured():
    found = study_times.on_line(line({4: 1.0, 16: 2.5}, spread=0.01), 64, error=0.02)
    assert found.value == pytest.approx(1.0 + 60 * 0.125)
    # Through 1.01 and 2.475, and through 0.99 and 2.525.
    assert found.low == pytest.approx(0.98 * (1.01 + 5 * 1.465))
    assert found.high == pytest.approx(1.02 * (0.99 + 5 * 1.535))
    assert found.kind == "extrapolated"


def test_how_far_a_line_misses_is_seen_on_curves_of_three_step_counts():
    assert study_times.line_error([line({4: 1.0, 16: 2.5})]) is None
    bent = line({4: 1.0, 16: 2.5, 32: 5.0, 64: 10.0})
    assert study_times.line_error([bent, line({1: 1.0, 2: 2.0, 4: 4.0})]) == pytest.approx(1 - 8.5 / 10)


def test_every_task_with_prompts_has_its_speed_with_both_engines_at_every_batch_size():
    rows = [r for r in study.answers() if r.outcome != "not_reached"]
    assert {r.task for r in rows} == {"gsm8k", "math", "humaneval", "mbpp"}
    for of in study.group_by(rows, study._question).values():
        assert {(r.engine, r.batch_size) for r in of} == {(e, b) for e in study.RUNS for b in study.BATCH_SIZES}


def test_lines_of_four_and_five_step_counts_are_straight_within_the_error_that_is_added():
    times = study.times_of("native")
    lines = [points for points in times.measured.values() if len(points) > 3]
    assert sorted(map(len, lines)) == [4, 5, 5, 5, 5, 5]
    for points in lines:
        ends = {k: points[k] for k in (min(points), max(points))}
        missed = [abs(study_times.on_line(ends, k, 0).value / s.value - 1) for k, s in points.items()]
        assert max(missed) < times.line_error


def test_a_single_step_count_is_an_answer_only_with_a_cache():
    (cached,) = {(r.task, r.cache, r.at_steps) for r in study.answers() if r.cache != "none"}
    assert cached == ("gsm8k", "prefix", 256)


def test_no_speed_is_predicted_where_the_memory_is_too_small():
    lines = [line for line in study.elsewhere().splitlines() if "RTX 4090 | hf" in line]
    assert [line.count("does not fit") for line in lines] == [1]


def test_a_ratio_of_times_in_words():
    ratio = study.Seconds(0.4, 0.35, 0.5, "measured")
    assert study.in_words(ratio) == "2.5x slower (2 to 2.9)"
    assert study.in_words(study.Seconds(12.0, 10.6, 14.0, "measured")) == "12x faster (11 to 14)"


def test_the_cells_behind_a_time_lead_back_to_it():
    """From the rows of the CSV and the records alone: LLaMA's median over LLaDA's, or the line through two of them."""
    runs = {f.name: read_run(f) for folders in study_times.RUNS.values() for f in folders}
    seconds = {
        f"{name}/{result.cell.id}": (result.cell, found[result.cell.id].value)
        for name, run in runs.items()
        for found in [latencies(run.results, run.selfcheck)]
        for result in run.results
        if result.cell.id in found
    }
    with study.ANSWER.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] in ("measured", "extrapolated")]
    followed = 0
    for row in rows:
        (base, baseline_s), *targets = (seconds[cell] for cell in row["cells"].split())
        assert base.model.role == "baseline"
        assert {c.model.role for c, _ in targets} == {"target"}
        assert {c.batch_size for c, _ in (*targets, (base, 0))} == {int(row["batch_size"])}
        assert {c.prompt_tokens for c, _ in (*targets, (base, 0))} == {int(row["prompt_tokens"])}
        (first, first_s), (last, last_s) = targets[0], targets[-1]
        share = (float(row["at_steps"]) - first.steps) / ((last.steps - first.steps) or 1)
        assert float(row["ratio"]) == pytest.approx(baseline_s / (first_s + share * (last_s - first_s)), abs=1e-4)
        followed += 1
    assert followed == 23
    assert {r.cells for r in study.answers() if r.kind == ""} == {""}


def test_a_predicted_time_names_the_runs_that_the_cost_model_is_fitted_to():
    rows = [r for r in study.answers() if r.kind == "predicted"]
    fitted = {e: {f.name for f in folders} for e, folders in study_times.RUNS.items()}
    assert rows
    for row in rows:
        assert {cell for cell in row.cells.split() if "/" not in cell} == fitted[row.engine]


def test_a_ratio_is_of_the_weaker_kind():
    times = [study.Seconds(1.0, 1.0, 1.0, kind) for kind in study.KINDS]
    assert [times[0].over(t).kind for t in times] == [t.over(times[0]).kind for t in times] == [*study.KINDS]


def test_the_committed_pages_are_what_the_command_writes():
    rows = sorted(study.answers(), key=lambda r: r.variant)
    in_paper = [study.summary(rows), study.paper_table(rows), speeds.caption(speeds.read())]
    in_paper.append(study.figures_part(study.task_figures()))
    in_paper += [part() for part in (study.at_fixed_steps, study.resources, study.memory_law, study.elsewhere)]
    pages = {study.PAGE: [study.page_table(rows), study.break_even_part(study.break_evens())], study.PAPER: in_paper}
    for page, parts in pages.items():
        assert [p for p in parts if f"\n{p}\n" not in page.read_text()] == []


def test_the_committed_break_evens_have_every_published_parity_at_every_batch_size():
    frame = study.break_evens()
    committed = pd.read_csv(study.BREAK_EVENS.with_suffix(".csv"))
    now = pd.read_csv(io.StringIO(speeds.figure.csv_of(frame)))
    pd.testing.assert_frame_equal(committed, now, rtol=1e-5)  # a sixth digit may be rounded either way
    reached = frame[(frame["kind"] == "published") & frame["steps"].notna()]
    rows = [r for r in study.answers() if r.to_steps is not None and r.rule != "threshold" and r.cache == "none"]
    expected = {(r.batch_size, r.from_steps or r.to_steps, r.to_steps) for r in rows if r.batch_size is not None}
    assert set(zip(reached["batch_size"], reached["steps_low"], reached["steps_high"], strict=True)) == expected
    assert set(reached["prompt_tokens"]) == {680, 894}


def test_break_evens_measured_at_the_tasks_shapes_are_marks_on_the_map():
    base = baseline_cell(1, 894, 256)
    cells = [(base, 1.0), *((target_cell(k, 32, 1, 894, 256), k / 100) for k in (32, 64, 128))]
    cells += [(target_cell(k, 64, 1, 894, 256), k / 100) for k in (32, 64, 128)]  # in no published setting
    results = tuple(measured(c, [s * (1 + i / 1000) for i in range(9)], processes=3) for c, s in cells)
    run = Run("", "run", ENVIRONMENT, tuple(r.cell for r in results), (), results)
    (row,) = study.measured_break_evens(analyse(run, draws=20))
    assert (row["kind"], row["series"], row["prompt_tokens"]) == ("measured", "LLaDA, block 32", 894)
    assert row["steps"] == pytest.approx(100, rel=1e-3)


SPEED = speeds.PublishedSpeed(
    *("LLaDA-8B", "base", "gsm8k", "H200", 1, 256, 256, 256, 256, "none", None, 20.0, "all", "a paper, Table 1"),
    *("table", None),
)


def test_the_committed_points_of_published_speeds_are_what_the_command_writes():
    rows = speeds.read()
    committed = pd.read_csv(speeds.FIGURE.with_suffix(".csv"))
    now = pd.read_csv(io.StringIO(speeds.figure.csv_of(speeds.points(rows))))
    pd.testing.assert_frame_equal(committed, now, rtol=1e-5)
    assert len(rows) >= 24


def test_a_time_of_a_generation_is_the_rate_of_all_its_tokens():
    timed = replace(SPEED, tokens_per_s=None, seconds=12.8, batch_size=2)
    assert timed.measured == pytest.approx(40.0)


@pytest.mark.parametrize("change", [{"counted": "answer"}, {"counted": "unknown"}, {"provenance": "second hand"}])
def test_rates_of_other_tokens_and_second_hand_rows_do_not_count_in_the_error(change):
    row = replace(SPEED, tokens_per_s=SPEED.predicted / 1.1)
    off = replace(row, tokens_per_s=SPEED.predicted / 3, **change)
    assert row.decides
    assert not off.decides
    text = speeds.caption([row, off])
    assert "median error 10% of 1 in 1 settings" in text
    assert "- a paper (1), predicted over published 3: unexplained." in text
    assert list(speeds.points([row, off])["kind"]) == ["decides", "hollow"]


def test_both_directions_beyond_the_limit_are_outliers():
    assert replace(SPEED, tokens_per_s=SPEED.predicted * 1.3).is_outlier
    assert replace(SPEED, tokens_per_s=SPEED.predicted / 1.3).is_outlier
    assert not replace(SPEED, tokens_per_s=SPEED.predicted / 1.2).is_outlier
