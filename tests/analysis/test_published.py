"""Published scores: what is a curve, what is refused, and where parity lies without pairs."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

from dlmbench.analysis.proportions import unpaired_difference, unpaired_score
from dlmbench.analysis.published import COLUMNS, PublishedScore, curves, harness_gaps, read_published
from dlmbench.errors import BenchError

DATA = Path(__file__).parents[2] / "docs/study/published.csv"
ROW = PublishedScore(
    *("LLaDA-8B", "target", "base", "gsm8k", "accuracy", 4, "completion", "OpenCompass", 1000, 894, 256, 256, 64, None),
    *("none", "low_confidence", None, 50.0, "a paper", "table"),
)
BASELINE = replace(ROW, model="LLaMA-3-8B", role="baseline", steps=None, cache="", commit="", value=48.0)


# Two papers that ran one harness on one model, and got the same.
EQUAL_RUNS = [replace(ROW, steps=7, source=source) for source in ("one paper", "another paper")]


def outcome(*rows, baseline=BASELINE):
    (curve,) = curves([*rows, *EQUAL_RUNS, baseline])
    return curve.parity


def test_the_score_statistic_is_that_of_the_restricted_likelihood():
    for first, n1, second, n2, d in [
        (30, 50, 20, 60, 0.1),
        (3, 20, 9, 25, -0.3),
        (0, 40, 5, 30, 0.05),
        (7, 9, 2, 50, 0.4),
    ]:
        low, high = max(0.0, -d) + 1e-9, min(1.0, 1.0 - d) - 1e-9

        def loss(q2, first=first, n1=n1, second=second, n2=n2, d=d):
            q1 = q2 + d
            return -(
                first * math.log(q1)
                + (n1 - first) * math.log(1 - q1)
                + second * math.log(q2)
                + (n2 - second) * math.log(1 - q2)
            )

        q2 = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
        error = math.sqrt((q2 + d) * (1 - q2 - d) / n1 + q2 * (1 - q2) / n2)
        assert unpaired_score(first, n1, second, n2, d) == pytest.approx(
            (first / n1 - second / n2 - d) / error, rel=1e-4
        )


@pytest.mark.parametrize(
    ("p1", "p2", "n1", "n2"), [(0.5, 0.4, 100, 80), (0.05, 0.35, 164, 164), (0.02, 0.01, 150, 300)]
)
def test_its_interval_covers(p1, p2, n1, n2):
    rng = np.random.default_rng(5)
    pairs = zip(rng.binomial(n1, p1, 1000), rng.binomial(n2, p2, 1000), strict=True)
    found = [unpaired_difference(int(a), n1, int(b), n2) for a, b in pairs]
    covered = np.mean([i.low <= p1 - p2 <= i.high for i in found])
    assert covered >= 0.93
    widths = np.median([i.high - i.low for i in found])
    assert widths <= 1.3 * 2 * 1.96 * math.sqrt(p1 * (1 - p1) / n1 + p2 * (1 - p2) / n2)


def test_parity_needs_the_gap_and_not_only_the_value():
    points = [replace(ROW, steps=k, value=v) for k, v in ((16, 20.0), (32, 47.5), (64, 60.0), (128, 61.0))]
    parity = outcome(*points)
    assert [parity.state_of(p) for p in parity.points] == ["worse", "undecided", "as good", "as good"]
    assert (parity.outcome, parity.low_steps, parity.steps) == ("reached", 32, 64)
    never = outcome(*(replace(p, value=p.value - 30) for p in points[1:]), baseline=replace(BASELINE, value=50.0))
    assert never.outcome == "not_reached"


def test_two_harnesses_widen_the_test_by_what_they_differ_on_one_model():
    points = [replace(ROW, steps=k, value=v) for k, v in ((32, 20.0), (64, 52.0), (128, 60.0))]
    again = replace(ROW, steps=128, value=60.5, source="another paper")
    (same,) = curves([*points, again, BASELINE])
    assert (same.allowance, same.parity.steps) == (0.5, 64)
    other = replace(BASELINE, harness="lm-eval")
    same_model_twice = replace(ROW, steps=128, value=56.5, harness="lm-eval", source="another paper")
    found = [c for c in curves([*points, same_model_twice, other]) if len(c.points) == 3]
    assert harness_gaps([*points, same_model_twice]) == {("base", frozenset({"OpenCompass", "lm-eval"})): 3.5}
    assert [c.allowance for c in found] == [3.5]
    assert found[0].parity.steps == 128
    assert found[0].parity.low_steps == 64


@pytest.mark.parametrize(
    ("change", "allowance"),
    [
        ({}, 0.5),
        ({"shots": 5}, 3.5),
        ({"harness": ""}, 3.5),
        ({"harness": "lm-eval"}, 1.5),
        ({"harness": "d1"}, 3.5),
    ],
)
def test_what_two_harnesses_may_differ_by(change, allowance):
    """That of their own pair; the largest of any where they never met, are unknown, or the shots differ."""
    points = [replace(ROW, steps=k) for k in (32, 64)]
    scored = (("lm-eval", 51.5), ("Meta", 53.5), ("OpenCompass", 50.5))
    met = [replace(points[0], harness=h, value=v, source=h) for h, v in scored]
    (curve,) = (c for c in curves([*points, *met, replace(BASELINE, **change)]) if len(c.points) == 2)
    assert curve.allowance == allowance
    (unmet,) = curves([*points, replace(BASELINE, harness="d1")])
    assert unmet.allowance == 2.0


def test_unknown_harnesses_are_not_the_same_one():
    points = [replace(ROW, steps=k, harness="") for k in (32, 64)]
    (curve,) = curves([*points, replace(BASELINE, harness="")])
    assert curve.allowance == 2.0


def test_the_interval_is_as_wide_as_the_test():
    points = [replace(ROW, steps=k) for k in (32, 64)]
    (curve,) = curves([*points, replace(BASELINE, harness="d1")])
    wide, one = curve.parity.points[0].gap, unpaired_difference(500, 1000, 480, 1000).times(100)
    assert (wide.value, wide.low, wide.high) == pytest.approx((one.value, one.low - 2.0, one.high + 2.0))


def test_two_runs_of_one_harness_may_differ_as_much_as_such_runs_did():
    one = replace(ROW, steps=256, value=40.4)
    other = replace(one, value=38.8, source="another paper")
    assert harness_gaps([one, other]) == {("base", frozenset({"OpenCompass"})): pytest.approx(1.6)}
    assert harness_gaps([one, replace(other, source=one.source)]) == {}


def test_a_row_that_decides_nothing_widens_no_test():
    doubtful = replace(ROW, value=55.0, harness="lm-eval", source="a README", provenance="second hand")
    assert harness_gaps([ROW, doubtful]) == {}
    assert harness_gaps([ROW, replace(doubtful, provenance="text")]) == {
        ("base", frozenset({"OpenCompass", "lm-eval"})): 5.0
    }
    (curve,) = curves([replace(ROW, steps=32), ROW, doubtful, replace(BASELINE, harness="d1")])
    assert curve.allowance == 2.0


@pytest.mark.parametrize("change", [{"prompt_format": "chat"}, {"items": 500}, {"shots": 5}, {"steps": 32}])
def test_models_asked_differently_show_no_difference_of_harnesses(change):
    other = replace(ROW, value=55.0, harness="lm-eval", source="another paper")
    assert harness_gaps([ROW, other]) != {}
    assert harness_gaps([ROW, replace(other, **change)]) == {}


def test_unknown_shots_are_not_the_same_number():
    points = [replace(ROW, steps=k, shots=None) for k in (32, 64)]
    met = [replace(points[0], harness=h, value=v, source=h) for h, v in (("OpenCompass", 50.5), ("Meta", 53.5))]
    (curve,) = (c for c in curves([*points, *met, replace(BASELINE, shots=None)]) if len(c.points) == 2)
    assert curve.allowance == 3.5


def test_a_fall_beyond_noise_is_no_monotone_curve():
    def monotone(*values):
        points = [replace(ROW, steps=2**i, value=v) for i, v in enumerate(values)]
        return outcome(*points).is_monotone

    assert monotone(30.0, 50.0, 60.0)
    assert monotone(30.0, 50.0, 46.0)  # p = 0.037: by chance in one of two pairs
    assert not monotone(30.0, 50.0, 44.0)


def test_two_scores_for_as_many_forwards_are_both_kept():
    rule = replace(ROW, steps=None, commit="threshold")
    low = replace(rule, nfe=36.2, threshold=0.5, value=60.0)
    near = replace(rule, nfe=36.8, threshold=0.6, value=20.0)
    high = replace(rule, nfe=78.8, threshold=0.9, value=61.0)
    parity = outcome(high, near, low)
    assert [(p.steps, p.value) for p in parity.points] == [(37, 60.0), (37, 20.0), (79, 61.0)]
    assert parity.steps == 79
    same = outcome(replace(ROW, value=20.0), replace(ROW, value=60.0), replace(ROW, steps=32, value=60.0))
    assert (len(same.points), same.outcome) == (3, "undecided")
    assert curves([low, near, BASELINE]) == ()


def test_a_step_count_is_worse_only_beyond_what_one_of_several_is_by_chance():
    low, high = (replace(ROW, steps=k, value=v) for k, v in ((32, 41.5), (64, 60.0)))
    one_of_two = outcome(low, high)
    assert 0.0125 < one_of_two.points[0].p_worse < 0.025
    assert one_of_two.state_of(one_of_two.points[0]) == "undecided"
    lower = outcome(replace(low, value=40.0), high)
    assert lower.state_of(lower.points[0]) == "worse"


def test_few_items_or_an_unknown_number_decide_nothing():
    few = [replace(ROW, steps=k, items=20, value=100.0) for k in (32, 64)]
    parity = outcome(*few, baseline=replace(BASELINE, items=20, value=0.0))
    assert (parity.outcome, parity.state_of(parity.points[0])) == ("undecided", "too few prompts")
    assert curves([*(replace(r, items=None) for r in few), BASELINE]) == ()
    assert curves([*(replace(ROW, steps=k) for k in (32, 64)), replace(BASELINE, items=None)]) == ()


def test_rows_of_different_protocol_are_never_one_curve():
    one = [replace(ROW, steps=k) for k in (32, 64)]
    for change in ({"shots": 5}, {"new_tokens": 512}, {"block_length": 32}, {"cache": "dual"}, {"commit": "random"}):
        mixed = [one[0], replace(one[1], **change)]
        assert curves([*mixed, BASELINE]) == ()
    assert len(curves([*one, BASELINE])) == 1
    assert curves([*one, replace(BASELINE, task="math")]) == ()


def test_a_mean_over_parts_is_not_compared_with_a_share_of_all_items():
    points = [replace(ROW, steps=k, metric="macro_accuracy") for k in (32, 64)]
    assert curves([*points, BASELINE]) == ()
    assert len(curves([*points, replace(BASELINE, metric="macro_accuracy")])) == 1


def test_two_thresholds_are_no_difference_of_harnesses():
    one = replace(ROW, steps=None, nfe=36.5, commit="threshold", threshold=0.5, value=40.0)
    other = replace(one, nfe=78.8, threshold=0.9, value=60.0, harness="lm-eval")
    assert harness_gaps([one, other]) == {}
    assert harness_gaps([one, replace(other, threshold=0.5)]) == {("base", frozenset({"OpenCompass", "lm-eval"})): 20.0}


def test_what_was_read_at_second_hand_or_cannot_be_a_share_of_the_items_decides_nothing():
    assert ROW.problem == ""
    assert "second hand" in replace(ROW, provenance="second hand").problem
    assert "no multiple of 1/164" in replace(ROW, items=164, value=41.7).problem
    assert replace(ROW, items=164, value=41.5).problem == ""
    assert replace(ROW, items=164, value=41.46).problem == ""
    doubtful = [replace(ROW, steps=k, provenance="second hand") for k in (32, 64)]
    assert curves([*doubtful, BASELINE]) == ()


def test_a_score_is_checked_to_the_digits_that_were_printed(tmp_path):
    for text, problem in (("65", ""), ("65.0", "65% is no multiple of 1/164"), ("65.2", "")):
        row = {k: "" if v is None else str(v) for k, v in asdict(replace(ROW, items=164)).items()} | {"value": text}
        path = tmp_path / "rows.csv"
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            table.writeheader()
            table.writerow(row)
        (read,) = read_published(path)
        assert (read.value, read.problem) == (float(text), problem)


def test_a_mean_over_parts_is_tested_as_a_share_of_fewer_items():
    """Of parts times the items of the smallest: the intervals of two such means cover, however unequal the parts."""
    rng = np.random.default_rng(3)
    sizes, rates = np.array([20, 400, 400]), np.array([[0.5, 0.5, 0.5], [0.3, 0.8, 0.4]])
    means = (rng.binomial(sizes, rates[:, None], (2, 1000, 3)) / sizes).mean(axis=2)

    def covered(items):
        counts = np.rint(means * items).astype(int)
        found = [unpaired_difference(int(a), items, int(b), items) for a, b in counts.T]
        return np.mean([i.low <= 0.0 <= i.high for i in found])

    assert rates.mean(axis=1) == pytest.approx([0.5, 0.5])
    assert covered(3 * 20) >= 0.93
    assert covered(int(sizes.sum())) < 0.8
    rows = [r for r in read_published(DATA) if r.metric == "macro_accuracy"]
    assert {r.items for r in rows} == {27 * 146}


def test_an_adaptive_rule_has_forwards_instead_of_steps():
    points = [replace(ROW, steps=None, nfe=n, commit="threshold", value=v) for n, v in ((36.5, 40.0), (78.8, 60.0))]
    assert [p.steps for p in outcome(*points).points] == [37, 79]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("value", "nan"),
        ("value", "-1"),
        ("value", "101"),
        ("value", "much"),
        ("items", "0"),
        ("role", "judge"),
        ("steps", "1.5"),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path, column, value):
    good = {k: "" if v is None else str(v) for k, v in asdict(ROW).items()}
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        table.writeheader()
        table.writerows([good, good | {column: value}])
    with pytest.raises(BenchError, match=rf"line 3: .*{column}"):
        read_published(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\xff\xfe\x00", "could not be read"),
        (b"model,role\nx,target\n", "lacks the columns"),
        (b"\x00" * 50, ""),
        (",".join(COLUMNS).encode() + b"\n", "has no rows"),
    ],
)
def test_a_file_that_is_no_such_table(tmp_path, content, says):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=rf"rows\.csv.*{says}"):
        read_published(path)


def test_one_score_has_one_row(tmp_path):
    good = {k: "" if v is None else str(v) for k, v in asdict(ROW).items()}
    path = tmp_path / "rows.csv"
    for change, says in (({}, "repeats line 2"), ({"value": "12"}, "gives 12 for what is .* in line 2"), (None, "")):
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            table.writeheader()
            table.writerows([good, good | {"steps": "7"}, good | ({"source": "another"} if change is None else change)])
        if says:
            with pytest.raises(BenchError, match=f"line 4: {says}"):
                read_published(path)
        else:
            assert len(read_published(path)) == 3


def test_the_committed_rows_are_few_whole_and_lead_to_the_stated_outcomes():
    rows = read_published(DATA)
    assert len(rows) <= 200
    assert all(r.source and r.provenance for r in rows)
    assert not [r for r in rows if r.problem and "second hand" not in r.problem]
    found = {c.points[0].task: c.parity for c in curves(rows) if c.points[0].variant == "base"}
    assert {task: (p.outcome, p.low_steps, p.steps) for task, p in found.items()} == {
        "gsm8k": ("reached", 64, 64),
        "math": ("reached", 64, 128),
        "humaneval": ("undecided", 128, None),
        "mbpp": ("undecided", 256, None),
        "bbh": ("not_reached", None, None),
    }
