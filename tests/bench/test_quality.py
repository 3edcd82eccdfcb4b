"""What is scored, what is refused and why, and aggregates of few texts: what they cannot tell is unknown, and not 0."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlmbench.bench import quality
from dlmbench.bench.quality import aggregate, score_run
from dlmbench.bench.worker import Failed
from dlmbench.results import Store, read_text_results
from dlmbench.results.records import GENERATIONS, TEXT_SCORES
from dlmbench.types import (
    CellStatus,
    MetricRequest,
    Plan,
    Prompt,
    PromptBatch,
    StoredGeneration,
    TextScore,
    Unscored,
    WholeScore,
)
from support.synthetic_run import ENVIRONMENT, baseline_cell, target_cell

CELL = target_cell(16)


def scores(*columns: tuple[float, float]) -> list[TextScore]:
    return [
        TextScore(CELL.id, "elbo", i, total, weight, size_bytes=4 * int(weight))
        for i, (total, weight) in enumerate(columns)
    ]


@pytest.mark.parametrize("columns", [((60.0, 64),), ((60.0, 64), (0.0, 0))])
def test_one_text_has_neither_a_standard_error_nor_an_interval(columns):
    (score,) = aggregate({CELL.id: CELL}, scores(*columns))
    assert score.value == pytest.approx(60 / 64)
    assert (score.stderr, score.low, score.high) == (None, None, None)
    assert score.in_other_units
    assert all((r.low, r.high) == (None, None) for r in score.in_other_units)


def test_two_texts_have_both():
    (score,) = aggregate({CELL.id: CELL}, scores((60.0, 64), (90.0, 64)))
    assert score.stderr is not None
    assert score.stderr > 0
    assert score.low is not None
    assert score.high is not None
    assert score.low < score.value < score.high


def test_metrics_without_a_value_or_a_plugin_and_cells_that_are_gone_have_no_aggregate():
    reason = Unscored(CELL.id, "elbo", None, "no reference")
    gone = TextScore("gone", "elbo", 0, 1.0, 1)
    assert list(aggregate({CELL.id: CELL}, [reason, gone, TextScore(CELL.id, "uninstalled", 0, 1.0, 1)])) == []


# ---------------------------------------------------------------- scoring

TARGET, BASELINE = (replace(c, prompts="wikitext-103 n=2 seed=0") for c in (CELL, baseline_cell()))
BATCH = PromptBatch((Prompt(0, (1, 2)), Prompt(1, (3, 4))), "hash")
UNTRAINED = replace(TARGET, model=replace(TARGET.model, weights="random"))
TEXT = StoredGeneration(TARGET.id, 0, "hash", (5, 6, 6), "a b b", 16, None, 5)
TEXTS = (TEXT, replace(TEXT, prompt_index=1, text="a b c", output_ids=(5, 6, 7)))


class Scorers:
    """A pool whose workers answer with `replies`; `log` gets what was asked of which worker."""

    device = "cpu"

    def __init__(self, replies=(), log=None):
        self.replies, self.log = replies, [] if log is None else log

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def stop(self, keys):
        self.log.extend(("stop", key) for key in keys)

    def worker(self, key):
        return Scorer(self, key)


class Scorer:
    def __init__(self, pool, key):
        self.pool, self.key = pool, key

    def ask(self, request):
        self.pool.log.append((request.metric, self.key))
        return iter(self.pool.replies)


class Failures:
    """Progress that keeps what failed."""

    def __init__(self):
        self.failures = []

    def cell(self, *_):
        pass

    def failed(self, cell, reason):
        self.failures.append(reason)


def scored(monkeypatch, folder, metric, texts=TEXTS, cells=(TARGET,), replies=(), judge=None, ended=("ok", "")):
    """What a pass over `cells` records in `folder`, what it asked of the workers, and what failed."""
    pool, progress = Scorers(replies), Failures()
    monkeypatch.setattr(quality, "Pool", lambda keys, device: Scorers(replies, pool.log))
    plan = Plan(cells)
    with Store.open(folder, ENVIRONMENT, "study", plan) as store:
        for cell in cells:
            store.append(CellStatus(cell.id, *ended))
        store.add_generations(texts)
        batches = {(c.model.key, c.prompt_tokens, c.new_tokens): BATCH for c in cells}
        score_run(plan, [MetricRequest(metric, judge=judge)], store, pool, lambda: batches, progress)
    return list(read_text_results(folder)), pool.log, progress.failures


@pytest.mark.parametrize(
    ("cell", "metric", "reason"),
    [
        (
            replace(TARGET, model=replace(TARGET.model, weights="random")),
            "distinct_1",
            "random weights have no quality",
        ),
        (BASELINE, "elbo", "only a masked diffusion model has it"),
        (TARGET, "oracle_validity", "only the embedded corpus has an oracle"),
    ],
)
def test_a_metric_that_does_not_apply_is_refused_once_with_the_reason(monkeypatch, tmp_path, cell, metric, reason):
    for _ in range(2):
        found, asked, failures = scored(monkeypatch, tmp_path, metric, cells=(cell,), texts=())
        assert found == [Unscored(cell.id, metric, None, reason)]
        assert asked == failures == []
    assert len((tmp_path / TEXT_SCORES).read_text().splitlines()) == 1


def test_a_cell_that_was_not_measured_says_so(monkeypatch, tmp_path):
    found, _, failures = scored(monkeypatch, tmp_path, "distinct_1", ended=("oom", "too large"))
    assert [r.reason for r in found] == ["the cell was not measured: oom (too large)"]
    assert failures == []


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (TEXTS[:1], "no stored text for 1 of 2 prompts"),
        (tuple(replace(t, prompt_hash="other") for t in TEXTS), "its stored texts continue other prompts"),
    ],
)
def test_missing_texts_and_texts_of_other_prompts_are_refused_and_tried_again(monkeypatch, tmp_path, texts, reason):
    found, _, failures = scored(monkeypatch, tmp_path, "distinct_1", texts)
    assert len(found) == len(failures) == 1
    assert reason in found[0].reason
    found, _, failures = scored(monkeypatch, tmp_path, "distinct_1")
    assert {r.prompt_index for r in found if isinstance(r, TextScore)} == {0, 1}
    assert failures == []


def test_scores_on_record_are_not_computed_again(monkeypatch, tmp_path):
    first = scored(monkeypatch, tmp_path, "distinct_1")[0]
    lines = (tmp_path / TEXT_SCORES).read_text()
    assert {r.prompt_index for r in first} == {0, 1}
    # Without its texts a second computation would fail.
    (tmp_path / GENERATIONS).unlink()
    assert scored(monkeypatch, tmp_path, "distinct_1", texts=())[2] == []
    assert (tmp_path / TEXT_SCORES).read_text() == lines


def test_a_judge_gets_the_memory_of_the_runs_models_and_a_text_it_left_out_has_a_reason(monkeypatch, tmp_path):
    reply = TextScore(TARGET.id, "judge_likelihood", 0, 6.0, 3)
    found, asked, _ = scored(monkeypatch, tmp_path, "judge_likelihood", replies=[reply], judge="gpt2")
    assert asked == [("stop", TARGET.model.key), ("judge_likelihood", quality.METRIC_WORKER)]
    assert sorted(found, key=lambda r: r.prompt_index) == [
        replace(reply, judge="gpt2"),
        Unscored(TARGET.id, "judge_likelihood", 1, "the metric gave no value", "gpt2"),
    ]


def test_a_value_of_all_texts_together_leaves_none_out(monkeypatch, tmp_path):
    whole = WholeScore(TARGET.id, "mauve", 0.9, 2)
    assert scored(monkeypatch, tmp_path, "mauve", replies=[whole])[0] == [whole]


def test_a_models_own_worker_scores_references_once_for_all_batch_sizes(monkeypatch, tmp_path):
    cells = tuple(replace(TARGET, batch_size=b, precision="bfloat16") for b in (1, 4))
    replies = [TextScore(cells[0].id, "elbo", i, 3.0, 2) for i in (0, 1)]
    found, asked, _ = scored(monkeypatch, tmp_path, "elbo", texts=(), cells=cells, replies=replies)
    assert asked == [("elbo", TARGET.model.key)]
    assert {(r.cell_id, r.prompt_index, r.total) for r in found} == {(c.id, i, 3.0) for c in cells for i in (0, 1)}


def test_a_metric_that_fails_is_recorded_for_its_cell(monkeypatch, tmp_path):
    found, _, failures = scored(monkeypatch, tmp_path, "elbo", texts=(), replies=[Failed("oom", "out of memory")])
    assert [(r.prompt_index, r.reason) for r in found] == [
        (None, "out of memory. The other metrics are still computed")
    ]
    assert failures == ["elbo: out of memory. The other metrics are still computed"]
