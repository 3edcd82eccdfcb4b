"""From values of texts to aggregates: units, intervals, errors, and every text that is not in them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from dlmbench.bench.quality import aggregate
from dlmbench.cli.console import remarks, scores
from dlmbench.results import Store, read_run
from dlmbench.types import ModelSpec, Plan, TextScore, Unscored, UnscoredText, WholeScore
from support.synthetic_run import ENVIRONMENT, baseline_cell, target_cell

CELL = target_cell(16)
NATS, TOKENS, BYTES, WORDS = (60.0, 90.0, 30.0), (64, 64, 32), (250, 300, 120), (50, 62, 25)


def one(metric: str = "elbo", judge: str | None = None, **more) -> list[TextScore]:
    columns = zip(NATS, TOKENS, BYTES, WORDS, strict=True)
    return [
        TextScore(CELL.id, metric, i, n, t, size_bytes=b, words=w, judge=judge, **more)
        for i, (n, t, b, w) in enumerate(columns)
    ]


def only(results, cells=None):
    (score,) = aggregate(cells or {CELL.id: CELL}, results)
    return score


def test_nats_are_also_given_as_perplexities_and_bits_per_byte_of_the_same_spans():
    score = only(one(stderr=0.5))
    assert score.value == pytest.approx(180 / 160)
    units = {r.unit: r for r in score.in_other_units}
    assert units["bits/byte"].value == pytest.approx(180 / math.log(2) / 670)
    assert units["perplexity/word"].value == pytest.approx(math.exp(180 / 137))
    assert units["perplexity/token"].value == pytest.approx(math.exp(180 / 160))
    assert score.monte_carlo_stderr == pytest.approx(math.sqrt(3 * 0.5**2) / 160)
    # The interval in every unit comes from the same resamples: recomputed here by a loop.
    rng = np.random.default_rng(0)
    picks = rng.integers(0, 3, size=(2000, 3))
    bits = [sum(NATS[i] for i in row) / math.log(2) / sum(BYTES[i] for i in row) for row in picks]
    assert (units["bits/byte"].low, units["bits/byte"].high) == pytest.approx(tuple(np.quantile(bits, (0.025, 0.975))))


def test_a_unit_whose_sizes_are_not_known_for_every_text_is_not_given():
    texts = one()
    score = only([replace(texts[0], size_bytes=None), *texts[1:]])
    assert [r.unit for r in score.in_other_units] == ["perplexity/token", "perplexity/word"]
    assert score.monte_carlo_stderr is None
    assert only([replace(t, metric="repetition") for t in texts]).in_other_units == ()


def test_texts_without_a_value_are_named_in_the_aggregate():
    score = only([*one("judge_likelihood", "j"), Unscored(CELL.id, "judge_likelihood", 3, "empty text", "j")])
    assert (score.n, score.unscored) == (3, (UnscoredText(3, "empty text"),))


def test_remarks_are_counted_and_the_self_judge_is_flagged():
    texts = one("judge_likelihood", CELL.model.source)
    score = only([replace(texts[0], remark="cut"), *texts[1:]])
    assert score.self_judged
    assert "1 of 3 texts: cut" in score.note
    assert not only(one("judge_likelihood", "another")).self_judged


def test_a_folder_is_the_same_judge_by_any_of_its_names(tmp_path):
    (tmp_path / "m").mkdir()
    own = replace(CELL, model=ModelSpec("m", "llada", str(tmp_path / "m"), "target"))
    texts = [replace(t, cell_id=own.id) for t in one("judge_likelihood", str(tmp_path / "x" / ".." / "m"))]
    (tmp_path / "x").mkdir()
    assert only(texts, {own.id: own}).self_judged


def test_values_of_an_earlier_judge_are_not_mixed_in():
    old = [replace(t, total=1e6) for t in one("judge_likelihood", "old")]
    score = only([*old[2:], *one("judge_likelihood", "new")[:2]])
    assert (score.judge, score.n) == ("new", 2)
    assert score.value == pytest.approx(150 / 128)


def test_a_judge_that_failed_leaves_the_earlier_ones_values():
    failed = Unscored(CELL.id, "judge_likelihood", None, "the model's process died", "new")
    score = only([*one("judge_likelihood", "old"), failed])
    assert (score.judge, score.n) == ("old", 3)


def test_a_value_over_all_texts_has_no_interval():
    score = only([WholeScore(CELL.id, "mauve", 0.7, 120, "j", "12 clusters")])
    assert (score.value, score.low, score.high, score.stderr, score.n) == (0.7, None, None, None, 120)
    assert score.note == "12 clusters"


def test_the_folder_says_what_was_not_scored_and_why(tmp_path, capsys):
    base = baseline_cell()
    with Store.open(tmp_path, ENVIRONMENT, "t") as store:
        store.add_plan(Plan((base, CELL)))
        store.add_text_scores(
            [
                *one("judge_likelihood", "j"),
                Unscored(CELL.id, "judge_likelihood", 3, "empty text", "j"),
                Unscored(base.id, "judge_likelihood", None, "the cell was not measured: oom", "j"),
            ]
        )
        store.write_scores(aggregate({c.id: c for c in (base, CELL)}, read_run(tmp_path).text_scores))
        store.write_scores([replace(s, unscored=(UnscoredText(3, "empty text"),)) for s in read_run(tmp_path).scores])
    document = json.loads((tmp_path / "quality_metrics.json").read_text())
    (entry,) = document["scores"]
    assert entry["unscored"] == [{"prompt_index": 3, "reason": "empty text"}]
    assert (entry["n"], entry["steps"], entry["judge"], entry["unit"]) == (3, 16, "j", "nats/token")
    assert {r["unit"] for r in entry["in_other_units"]} == {"perplexity/token", "perplexity/word", "bits/byte"}
    (missing,) = document["unscored_cells"]
    assert (missing["model"], missing["reason"]) == (base.model.key, "the cell was not measured: oom")
    run = read_run(tmp_path)
    assert run.scores[0].in_other_units[0].unit == "perplexity/token"
    assert {u.prompt_index for u in run.unscored} == {3, None}
    assert scores(run, ["judge_likelihood"]).row_count == 2
    assert "1 texts not scored: empty text" in remarks(run, ["judge_likelihood"])[0]
    # A cell that was scored after all is no longer named.
    with Store.open(tmp_path, ENVIRONMENT, "t") as store:
        store.add_text_scores([replace(t, cell_id=base.id) for t in one("judge_likelihood", "j")])
        store.write_scores(read_run(tmp_path).scores)
    assert json.loads((tmp_path / "quality_metrics.json").read_text())["unscored_cells"] == []
