"""Runs of one or two prompts, or one scored text: answered, drawn and reported without an invented interval."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from dlmbench import registry
from dlmbench.analysis.compare import as_record, compare
from dlmbench.analysis.cost import cheapest, costs, goal_of
from dlmbench.analysis.study import analyse
from dlmbench.charts.figure import caption, specification, svg
from dlmbench.charts.frames import why_missing
from dlmbench.report import document, page
from dlmbench.report.answer import answer_of
from dlmbench.report.source import Source
from dlmbench.report.tables import cell_table
from dlmbench.report.text import spread
from dlmbench.types import Run, Score
from support.report_values import values_of
from support.synthetic_run import target_cell, tiny_run

NOT_A_NUMBER = re.compile(r"\b(nan|None|NaN)\b")


def few(prompts: int, repetitions: int = 5, **more) -> Run:
    return tiny_run((1, 8), (None,), (4, 16), prompts=prompts, repetitions=repetitions, **more)


def one_scored_text(run: Run) -> Run:
    """The same, but of every cell's repetition only the first text has any weight."""

    def bare(score):
        lost = score.metric == "repetition" and score.prompt_index
        return replace(score, total=0.0, weight=0.0) if lost else score

    return replace(run, text_scores=tuple(map(bare, run.text_scores)))


def only(role: str) -> Run:
    return few(1, roles=(role,))


RUNS = {
    "one prompt": few(1),
    "two prompts": few(2),
    "one scored text": one_scored_text(few(8)),
    "one repetition": few(2, repetitions=1),
    "no baseline": only("target"),
    "only the baseline": only("baseline"),
}


@pytest.mark.parametrize("name", RUNS)
def test_no_text_contains_a_missing_number(name):
    run = RUNS[name]
    study = analyse(run, 200)
    texts = [" ".join(values_of(answer_of(study)).values()), document.compose(Source(run, study))]
    texts += [f.message for f in study.findings]
    for figure in registry.names("figures"):
        module = registry.load("figures", figure)
        frame = module.points(run, study)
        if why := why_missing(frame):
            texts.append(why)
            continue
        spec = specification(module, frame)
        texts += [*re.findall(r"<text[^>]*>([^<]*)", svg(spec)), caption(module, frame, spec)]
        tips = [v for rows in spec["datasets"].values() for row in rows for c, v in row.items() if "tooltip" in c]
        texts += map(str, tips)
    texts.append(re.sub(r"(?s)<(script|style)\b.*?</\1>|<[^>]*>", " ", page.compose(Source(run, study))))
    priced = costs(study, 2.0)
    texts += [c.goal for c in cheapest(priced, study, goal_of(None, study))] if study.curves else []
    assert len("".join(texts)) > 1000
    found = [m.group() for text in texts for m in re.finditer(rf".{{0,60}}{NOT_A_NUMBER.pattern}.{{0,30}}", text)]
    assert not found


def test_one_text_has_no_interval_and_decides_nothing():
    study = analyse(RUNS["one prompt"], 200)
    assert {(q.low, q.high, q.n) for c in study.cells for q in c.quality} == {(None, None, 1)}
    for curve in study.curves:
        for parity in (p.parity for p in curve.parities):
            assert parity.outcome == "undecided"
            assert (parity.low_steps, parity.steps) == (4, None)
            assert not parity.decides
            assert not any(p.gap.is_known for p in parity.points)
    frame = registry.load("figures", "quality_vs_steps").points(RUNS["one prompt"], study)
    assert len(frame)
    assert {v.outcome for v in study.verdicts} == {"undecided"}
    assert "1 prompts are too few for a verdict on quality" in " ".join(values_of(answer_of(study)).values())
    assert any("it has no interval" in f.message for f in study.findings)


def test_a_text_without_weight_does_not_narrow_an_interval():
    study = analyse(RUNS["one scored text"], 200)
    own = {q.metric.name: q for q in study.curves[0].points[0].quality}
    assert (own["repetition"].low, own["repetition"].high, own["repetition"].n) == (None, None, 1)
    assert own["likelihood"].low < own["likelihood"].value < own["likelihood"].high
    assert own["likelihood"].n == 8
    assert study.curves[0].parity("repetition") is None, "a diagnostic has no parity"
    assert study.curves[0].parity("likelihood").parity.n == 8


@pytest.mark.parametrize("prompts", [1, 2, 8, 40])
def test_a_comparison_needs_as_many_prompts_as_parity_does(prompts):
    one = few(prompts)
    better = {target_cell(16, None, b).id for b in (1, 8)}
    scores = tuple(
        replace(s, total=s.total - s.weight * (1 + s.prompt_index / 100))
        if s.metric == "likelihood" and s.cell_id in better
        else s
        for s in one.text_scores
    )
    found = compare(one, replace(one, text_scores=scores))
    changes = [c for p in found.pairs for c in p.quality if c.metric.name == "likelihood" and c.verdict != "equal"]
    assert changes
    assert {c.verdict for c in changes} == {"better" if prompts == 40 else "no difference shown"}
    assert all((c.change is None) == (prompts == 1) for c in changes)
    json.dumps(as_record(found), allow_nan=False)


def test_a_comparison_of_single_repetitions_is_written_as_json():
    run = RUNS["one repetition"]
    record = as_record(compare(run, run))
    assert record["pairs"][0]["speedup"] == {"value": 1.0, "low": None, "high": None}
    json.dumps(record, allow_nan=False)


def test_a_metric_of_one_whole_set_of_one_text_has_no_interval():
    run = RUNS["one prompt"]
    cell = run.cells[0]
    for n, ends in ((1, (None, None)), (2, (0.6, 0.8))):
        score = Score(cell.id, "mauve", 0.7, 0.6, 0.8, 0.05, n, "share", True)
        found = analyse(replace(run, scores=(score,)), 50).cells[0].quality_in("mauve")
        assert (found.low, found.high) == ends


def test_the_cost_of_a_single_repetition_has_no_interval():
    run = RUNS["one repetition"]
    assert {(c.low, c.high) for c in costs(analyse(run, 50), 2.0)} == {(None, None)}
    columns = {c["key"]: c for c in json.loads(cell_table(analyse(run, 50)).as_json())["columns"]}
    assert not {"low", "high"} & {*columns["latency"], *columns["speedup"]}


def test_a_single_value_is_printed_without_ends():
    points = analyse(RUNS["one repetition"], 50).curves[0].points
    assert spread(points[0].latency.interval, " s").endswith(" s (no interval)")
    assert spread(points[0].speedup, "x").endswith("x (no interval)")


def test_the_caption_says_which_metric_rests_on_one_text():
    figure = registry.load("figures", "quality_metrics_vs_steps")
    for name, expected in (("one scored text", True), ("two prompts", False)):
        caption = figure.caption(figure.points(RUNS[name], analyse(RUNS[name], 50)))
        assert ("A single text was scored by repetition: there is no interval." in caption) == expected
