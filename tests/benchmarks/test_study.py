"""The table of benchmarks/study.py."""

import sys
from dataclasses import replace

import pytest

from support.examples import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import study

ANSWER = study.Answer(
    *("base", "gsm8k", "low_confidence", 256, 256, "none", "a paper", 50.0, "another paper", 0.0, "reached", 64, 64),
    *(1, 64, 1.0, 1.0, 1.0, "predicted"),
)


def test_curves_of_two_papers_are_two_lines():
    rows = [replace(ANSWER, quality_source=s, batch_size=b) for s in ("a paper", "a third") for b in (1, 8, 32)]
    assert study.page_table(rows).count("GSM8K") == 2


@pytest.mark.parametrize(
    "change", [{"new_tokens": 512}, {"block_length": 32}, {"cache": "dual"}, {"baseline": 49.0}, {"kind": "measured"}]
)
def test_other_settings_and_kinds_of_time_are_other_lines(change):
    rows = [replace(a, batch_size=b) for a in (ANSWER, replace(ANSWER, **change)) for b in (1, 8, 32)]
    assert study.page_table(rows).count("GSM8K") == 2


def test_a_measured_time_stands_under_its_batch_size_and_is_told_from_a_predicted_one():
    rows = [replace(ANSWER, batch_size=b, kind="measured" if b == 8 else "predicted") for b in (1, 8, 32)]
    lines = [[c.strip() for c in line.split("|")[4:-1]] for line in study.page_table(rows).splitlines()[2:]]
    speed = "1x faster (1 to 1)"
    assert lines == [[speed, "", speed, "predicted"], ["", speed, "", "measured"]]


def test_parity_at_the_fewest_steps_published_may_lie_below_them():
    assert study._where(replace(ANSWER, outcome="reached_at_smallest")) == "<= 64"
    assert study._where(ANSWER) == "64"


def test_a_time_is_of_cells_with_as_many_new_tokens():
    times = study.Times()
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
    found = study.on_line(line({4: 1.0, 16: 2.5}, spread=0.01), 64, error=0.02)
    assert found.value == pytest.approx(1.0 + 60 * 0.125)
    # Through 1.01 and 2.475, and through 0.99 and 2.525.
    assert found.low == pytest.approx(0.98 * (1.01 + 5 * 1.465))
    assert found.high == pytest.approx(1.02 * (0.99 + 5 * 1.535))
    assert found.kind == "extrapolated"


def test_how_far_a_line_misses_is_seen_on_curves_of_three_step_counts():
    assert study.line_error([line({4: 1.0, 16: 2.5})]) is None
    bent = line({4: 1.0, 16: 2.5, 32: 5.0, 64: 10.0})
    assert study.line_error([bent, line({1: 1.0, 2: 2.0, 4: 4.0})]) == pytest.approx(1 - 8.5 / 10)


def test_a_ratio_is_of_the_weaker_kind():
    times = [study.Seconds(1.0, 1.0, 1.0, kind) for kind in study.KINDS]
    assert [times[0].over(t).kind for t in times] == [t.over(times[0]).kind for t in times] == [*study.KINDS]


def test_the_committed_pages_are_what_the_command_writes():
    rows = list(study.answers())
    pages = {study.PAGE: [study.page_table(rows)], study.PAPER: [study.summary(rows), study.paper_table(rows)]}
    for page, parts in pages.items():
        assert [p for p in parts if f"\n{p}\n" not in page.read_text()] == []
